//! The PROXY protocol (HAProxy, versions 1 and 2): a load balancer in front of the relay says first whose connection it
//! passes on.
//!
//! Only networks that the settings name are listened to, and those must say it (RPROXY-1). What is read is the header
//! and nothing behind it: the client's own octets stay in the socket, where a client that spoke too early is found.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How long the header may take; a load balancer sends it at once.
const PATIENCE: Duration = Duration::from_secs(3);
/// Octets of a header of version 1 with its CRLF, by its definition.
const V1_OCTETS: usize = 107;
/// Octets of a header of version 2: its addresses, and some more that nobody asks for.
const V2_OCTETS: usize = 536;
/// The fixed part of version 2.
const V2_FIXED: usize = 16;
/// Fewer than any header has.
const FIRST_OCTETS: usize = 12;
const V1_BEGINS: &[u8] = b"PROXY ";
const V2_BEGINS: &[u8; FIRST_OCTETS] = b"\r\n\r\n\0\r\nQUIT\n";

/// Why it is not known whose connection it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("not a PROXY header")]
    Malformed,
    #[error("it did not come in time")]
    TimedOut,
    #[error("it is too long")]
    TooLong,
}

/// Reads the header that a load balancer at `proxy` sends, and gives the client's address: its own, where it says that
/// the connection is its own, or that it does not know.
pub(crate) async fn client<S: AsyncRead + Unpin>(
    stream: &mut S,
    proxy: SocketAddr,
) -> Result<SocketAddr, HeaderError> {
    let header = tokio::time::timeout(PATIENCE, read(stream)).await;
    let header = header.map_err(|_| HeaderError::TimedOut)??;
    Ok(parse(&header)?.unwrap_or(proxy))
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Vec<u8>, HeaderError> {
    let mut header = vec![0; FIRST_OCTETS];
    stream.read_exact(&mut header).await?;
    if header == V2_BEGINS {
        header.resize(V2_FIXED, 0);
        stream.read_exact(&mut header[FIRST_OCTETS..]).await?;
        let length = V2_FIXED + usize::from(u16::from_be_bytes([header[14], header[15]]));
        if length > V2_OCTETS {
            return Err(HeaderError::TooLong);
        }
        header.resize(length, 0);
        stream.read_exact(&mut header[V2_FIXED..]).await?;
    } else if header.starts_with(V1_BEGINS) {
        // One by one: where it ends is known when it has ended.
        while !header.ends_with(b"\n") {
            if header.len() == V1_OCTETS {
                return Err(HeaderError::TooLong);
            }
            header.push(stream.read_u8().await?);
        }
    } else {
        return Err(HeaderError::Malformed);
    }
    Ok(header)
}

/// The client's address; `None` where the load balancer speaks for itself.
fn parse(header: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    let is_v1 = header.starts_with(V1_BEGINS);
    if is_v1 && !is_plain(header) {
        return Err(HeaderError::Malformed);
    }
    let (parsed, length) =
        ProxyHeader::parse(header, ParseConfig::default()).map_err(|_| HeaderError::Malformed)?;
    if length != header.len() {
        return Err(HeaderError::Malformed);
    }
    match parsed.proxied_address() {
        Some(address) if address.protocol != Protocol::Stream => Err(HeaderError::Malformed),
        // Nobody can connect from there; it would also be an exempt one for many.
        Some(address) if is_nobody(address.source.ip()) => Err(HeaderError::Malformed),
        Some(address) => Ok(Some(address.source)),
        None => Ok(None),
    }
}

/// Version 1 has no signs in its addresses and numbers but these. What follows `UNKNOWN` is not looked at.
fn is_plain(header: &[u8]) -> bool {
    let rest = &header[V1_BEGINS.len()..];
    match rest.strip_prefix(b"UNKNOWN") {
        Some(rest) => matches!(rest.first(), Some(b' ' | b'\r')),
        None => header
            .iter()
            .all(|octet| octet.is_ascii_alphanumeric() || b" .:\r\n".contains(octet)),
    }
}

fn is_nobody(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_unspecified() || address.is_multicast()
}

/// For the fuzz target: the client and the octets of the header, if these octets begin with one. What it waits for is
/// there or never comes.
#[must_use]
pub fn header_in(octets: &[u8]) -> Option<(Option<SocketAddr>, usize)> {
    let mut rest = octets;
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(header)) = pin!(read(&mut rest)).poll(&mut context) else {
        return None;
    };
    let client = parse(&header).ok()?;
    Some((client, octets.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "192.0.2.250:4711";

    /// What a header says, and what is left in the stream.
    fn heard(octets: &[u8]) -> (Result<String, String>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let mut stream = octets;
        let proxy = PROXY.parse().unwrap();
        let heard = runtime.block_on(client(&mut stream, proxy));
        let heard = heard.map(|peer| peer.to_string());
        (heard.map_err(|error| error.to_string()), stream.to_vec())
    }

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [V2_BEGINS.as_slice(), &[command, family], &length, addresses].concat()
    }

    const IPV4: [u8; 12] = [203, 0, 113, 7, 192, 0, 2, 1, 0x30, 0x39, 0, 25];

    // covers: RPROXY-1
    #[test]
    fn the_client_is_who_the_load_balancer_says() {
        let mut ipv6 = [0; 36];
        ipv6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        ipv6[15] = 7;
        ipv6[31] = 1;
        ipv6[32..34].copy_from_slice(&12345_u16.to_be_bytes());
        let with_more = [IPV4.as_slice(), &[0x02, 0, 3, b'a', b'.', b'b']].concat();
        for (header, expected) in [
            (
                b"PROXY TCP4 203.0.113.7 192.0.2.1 12345 25\r\n".to_vec(),
                "203.0.113.7:12345",
            ),
            (
                b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 25\r\n".to_vec(),
                "[2001:db8::7]:12345",
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), PROXY),
            (
                b"PROXY UNKNOWN ffff::1 whatever it says\r\n".to_vec(),
                PROXY,
            ),
            (v2(0x21, 0x11, &IPV4), "203.0.113.7:12345"),
            (v2(0x21, 0x11, &with_more), "203.0.113.7:12345"),
            (v2(0x21, 0x21, &ipv6), "[2001:db8::7]:12345"),
            // LOCAL: a health check of the load balancer itself.
            (v2(0x20, 0x00, &[]), PROXY),
            (v2(0x20, 0x11, &IPV4), PROXY),
            (v2(0x21, 0x00, &[]), PROXY),
        ] {
            let text = header.escape_ascii().to_string();
            let (said, rest) = heard(&[header.as_slice(), b"EHLO a\r\n"].concat());
            assert_eq!(said.as_deref(), Ok(expected), "{text}");
            assert_eq!(rest, b"EHLO a\r\n", "{text}");
        }
    }

    // covers: RPROXY-1
    #[test]
    fn hostile_headers_end_soon() {
        let long_v1 = format!("PROXY UNKNOWN {}\r\n", "x".repeat(200));
        let cut_short = &v2(0x21, 0x11, &IPV4)[..20];
        let mut huge = v2(0x21, 0x11, &IPV4);
        huge[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        huge.resize(70_000, 0);
        let malformed = "not a PROXY header";
        let broken = "the connection broke: ";
        let mut cases: Vec<(Vec<u8>, &str)> = vec![
            (b"EHLO client.example\r\n".to_vec(), malformed),
            (
                b"PROXYxTCP4 203.0.113.7 192.0.2.1 1 25\r\n".to_vec(),
                malformed,
            ),
            (
                b"PROXY TCP4 203.0.113.7 192.0.2.1 +1 25\r\n".to_vec(),
                malformed,
            ),
            (
                b"PROXY TCP4 203.0.113.777 192.0.2.1 1 25\r\n".to_vec(),
                malformed,
            ),
            (
                b"PROXY TCP4 2001:db8::7 192.0.2.1 1 25\r\n".to_vec(),
                malformed,
            ),
            (
                b"PROXY TCP4 203.0.113.7 192.0.2.1 65536 25\r\n".to_vec(),
                malformed,
            ),
            (
                b"PROXY TCP4 203.0.113.7 192.0.2.1 1 25\n".to_vec(),
                malformed,
            ),
            (
                b"PROXY TCP4 203.0.113.7 192.0.2.1 1\r\n".to_vec(),
                malformed,
            ),
            (b"PROXY TCP4 0.0.0.0 192.0.2.1 1 25\r\n".to_vec(), malformed),
            (
                b"PROXY UDP4 203.0.113.7 192.0.2.1 1 25\r\n".to_vec(),
                malformed,
            ),
            (b"PROXY UNKNOWNS\r\n".to_vec(), malformed),
            (long_v1.into_bytes(), "it is too long"),
            (huge, "it is too long"),
            (v2(0x21, 0x12, &IPV4), malformed),
            (v2(0x21, 0x11, &IPV4[..5]), malformed),
            (v2(0x31, 0x11, &IPV4), malformed),
            (v2(0x2f, 0x11, &IPV4), malformed),
            (cut_short.to_vec(), broken),
            (b"PROXY TCP4".to_vec(), broken),
            (Vec::new(), broken),
        ];
        for (header, expected) in &mut cases {
            let (said, _) = heard(header);
            let said = said.unwrap_err();
            assert!(
                said.starts_with(*expected),
                "{}: {said}",
                header.escape_ascii()
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_balancer_that_says_nothing_is_not_waited_for() {
        let (mut ours, theirs) = tokio::io::duplex(64);
        let heard = client(&mut ours, PROXY.parse().unwrap()).await;
        assert!(matches!(heard, Err(HeaderError::TimedOut)), "{heard:?}");
        drop(theirs);
    }
}
