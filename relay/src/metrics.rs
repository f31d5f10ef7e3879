//! Figures for a monitor, over HTTP (`[metrics]`): those of `status` at `/metrics`, as Prometheus reads them, and whether
//! the relay lives (`/healthz`) and can take mail (`/readyz`).
//!
//! Names in it are those of the configuration, never a peer's: nobody outside can make it grow. A connection is for one
//! request, and is cut when it takes too long.

mod figures;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::connections::{Caps, Service};
use crate::control::{Context, Status};
use crate::limits::Side;
use crate::queue::{Disk, Room};

/// Monitors are few; there is no log-in here.
const CONNECTIONS_MAX: usize = 16;
/// For the request.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// From accept to close.
const CONNECTION_TIME: Duration = Duration::from_secs(15);
/// Octets of a request; that of Prometheus has some 300.
const REQUEST_OCTETS: usize = 16 * 1024;

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The service behind `metrics.listen`.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    context: Context,
}

impl Metrics {
    /// Of the daemon that `context` is of.
    pub(crate) fn new(context: Context) -> Self {
        Self { context }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
            refused
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok"),
            "/metrics" => self.figures().await,
            "/readyz" => self.readiness().await,
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /metrics, /healthz and /readyz",
            ),
        }
    }

    async fn figures(&self) -> Response<Full<Bytes>> {
        let written = match self.status().await {
            Ok(status) => figures::text(status).map_err(|error| error.to_string()),
            Err(problem) => Err(problem),
        };
        match written {
            Ok(figures) => response(StatusCode::OK, OPEN_METRICS, figures),
            Err(problem) => text(StatusCode::SERVICE_UNAVAILABLE, &problem),
        }
    }

    async fn readiness(&self) -> Response<Full<Bytes>> {
        let problem = match self.status().await {
            Ok(status) => no_room(status.disk),
            Err(problem) => Some(problem),
        };
        match problem {
            None => text(StatusCode::OK, "ready"),
            Some(problem) => text(StatusCode::SERVICE_UNAVAILABLE, &problem),
        }
    }

    async fn status(&self) -> Result<Status, String> {
        self.context.status().await.map_err(|error| {
            error!(%error, "no figures for the monitor");
            format!("the queue cannot be read: {error}")
        })
    }
}

fn no_room(disk: Option<Disk>) -> Option<String> {
    disk.filter(|disk| disk.room == Room::Full)
        .map(|disk| format!("the disk is nearly full: {} octets are free", disk.free))
}

impl Service for Metrics {
    const SIDE: Side = Side::Metrics;

    fn hostname(&self) -> String {
        String::new()
    }

    fn caps(&self, _: IpAddr) -> Option<Caps> {
        Some(Caps {
            total: CONNECTIONS_MAX,
            per_address: None,
        })
    }

    /// What is said to those that are too many is SMTP.
    fn begins_in_clear(&self) -> bool {
        false
    }

    async fn serve(self, stream: TcpStream, peer: SocketAddr, shutdown: CancellationToken) {
        let answer =
            service_fn(|request| async { Ok::<_, Infallible>(self.answer(request).await) });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .max_buf_size(REQUEST_OCTETS)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), answer);
        tokio::select! {
            ended = tokio::time::timeout(CONNECTION_TIME, connection) => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%peer, %error, "a monitor's connection broke off"),
                Err(_) => debug!(%peer, "a monitor's connection took too long"),
            },
            () = shutdown.cancelled() => {}
        }
    }
}

/// One line.
fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    response(
        status,
        TEXT,
        format!("{}\n", line.replace(['\r', '\n'], " ")),
    )
}

fn response(status: StatusCode, kind: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_takes_no_mail() {
        let of = |room| no_room(Some(Disk { free: 4096, room }));
        assert_eq!(
            (no_room(None), of(Room::Ample), of(Room::Low)),
            (None, None, None)
        );
        assert_eq!(
            of(Room::Full).unwrap(),
            "the disk is nearly full: 4096 octets are free"
        );
    }
}
