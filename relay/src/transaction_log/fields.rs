//! The fields of a record: their names in each format, and which of them a file has.

/// How records are written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Format {
    /// One object a line.
    Json,
    /// The common log format, as SMTP services write it.
    Ncsa,
    /// W3C Extended Log File Format.
    #[default]
    W3c,
}

/// In the order in which they are named to people.
pub const FORMATS: [(&str, Format); 3] = [
    ("w3c", Format::W3c),
    ("ncsa", Format::Ncsa),
    ("json", Format::Json),
];

/// One field of a record.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Field {
    /// UTC
    Date,
    /// UTC, with milliseconds
    Time,
    /// The peer's address.
    ClientIp,
    /// The peer's port.
    ClientPort,
    /// Our address on this connection.
    ServerIp,
    /// Our port on this connection.
    ServerPort,
    /// Our host name.
    ComputerName,
    /// The service: `smtp`, `odmr`, or `relay` for what no connection asked for.
    SiteName,
    /// The account once it is proven, else the name in the client's hello.
    Username,
    /// A verb in capitals as it was said, or the name of an event.
    Method,
    /// The delivery or the message that the record is about.
    UriStem,
    /// The argument of a command; of content the Message-ID.
    UriQuery,
    /// The code of the reply.
    Status,
    /// The enhanced code of the reply.
    Substatus,
    /// Octets that we sent.
    SentBytes,
    /// Octets that came.
    ReceivedBytes,
    /// Milliseconds.
    TimeTaken,
    /// The protocol.
    Version,
    /// The name in the client's hello.
    Host,
    /// Names the connection.
    Session,
    /// Counts the transactions of a session.
    Transaction,
    /// The message.
    QueueId,
    /// The delivery.
    DeliveryId,
    /// The account of a puller.
    Account,
    /// The words of a refusal, or the reason of an end.
    Text,
}

impl Field {
    /// All there are: the field, its name in a W3C file, its key in JSON.
    pub const ALL: [(Self, &'static str, &'static str); 25] = [
        (Self::Date, "date", "time"),
        (Self::Time, "time", "time"),
        (Self::ClientIp, "c-ip", "client_ip"),
        (Self::ClientPort, "c-port", "client_port"),
        (Self::ServerIp, "s-ip", "server_ip"),
        (Self::ServerPort, "s-port", "server_port"),
        (Self::ComputerName, "s-computername", "hostname"),
        (Self::SiteName, "s-sitename", "service"),
        (Self::Username, "cs-username", "username"),
        (Self::Method, "cs-method", "event"),
        (Self::UriStem, "cs-uri-stem", "subject"),
        (Self::UriQuery, "cs-uri-query", "argument"),
        (Self::Status, "sc-status", "code"),
        (Self::Substatus, "sc-substatus", "enhanced"),
        (Self::SentBytes, "sc-bytes", "sent"),
        (Self::ReceivedBytes, "cs-bytes", "received"),
        (Self::TimeTaken, "time-taken", "milliseconds"),
        (Self::Version, "cs-version", "protocol"),
        (Self::Host, "cs-host", "hello"),
        (Self::Session, "x-session", "session"),
        (Self::Transaction, "x-transaction", "transaction"),
        (Self::QueueId, "x-queue-id", "queue_id"),
        (Self::DeliveryId, "x-delivery-id", "delivery_id"),
        (Self::Account, "x-account", "account"),
        (Self::Text, "x-text", "text"),
    ];

    /// What is written unless somebody says otherwise: all that a trace needs, and what programs for such logs ask for.
    pub const DEFAULT: [Self; 18] = [
        Self::Date,
        Self::Time,
        Self::ClientIp,
        Self::ClientPort,
        Self::SiteName,
        Self::Username,
        Self::Session,
        Self::Transaction,
        Self::Method,
        Self::UriQuery,
        Self::Status,
        Self::Substatus,
        Self::SentBytes,
        Self::ReceivedBytes,
        Self::TimeTaken,
        Self::QueueId,
        Self::DeliveryId,
        Self::Text,
    ];

    /// The field of this W3C name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, w3c, _)| *w3c == name)?;
        Some(found.0)
    }

    /// Its name in a W3C file and in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Its key in JSON.
    #[must_use]
    pub fn key(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> (Self, &'static str, &'static str) {
        // In the order of the variants; a test holds it to that.
        Self::ALL[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_its_own_name() {
        for (field, name, key) in Field::ALL {
            assert_eq!(Field::named(name), Some(field));
            assert_eq!((field.name(), field.key()), (name, key));
        }
        assert_eq!(Field::named("cs-nothing"), None);
    }
}
