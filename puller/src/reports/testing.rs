//! A report as a relay sends it, for the tests of this room.

use atrn_shared::smtp::address::Domain;

/// One recipient of ours failed.
pub(super) const REPORT: &str = "From: Buy now <buy@now.example>\r\n\
To: a@source.example\r\n\
Subject: Buy now\r\n\
MIME-Version: 1.0\r\n\
Content-Type: multipart/report; report-type=delivery-status; boundary=\"b1\"\r\n\
\r\n\
Buy now, says the preamble\r\n\
--b1\r\n\
Content-Type: text/plain\r\n\
\r\n\
Words of the relay: buy now\r\n\
--b1\r\n\
Content-Type: message/delivery-status\r\n\
\r\n\
Reporting-MTA: dns; relay.example.net\r\n\
Original-Envelope-Id: QQ314159\r\n\
Arrival-Date: Thu, 1 Jan 2026 12:00:00 +0000\r\n\
X-Buy: buy now\r\n\
\r\n\
Final-Recipient: rfc822; ann@example.org\r\n\
Action: failed\r\n\
Status: 5.1.1\r\n\
Remote-MTA: dns; buy-now.example\r\n\
Diagnostic-Code: smtp; 550 5.1.1 buy now\r\n\
\r\n\
--b1\r\n\
Content-Type: text/rfc822-headers\r\n\
\r\n\
Received: buy now\r\n\
From: Buy now <buy@now.example>\r\n\
Subject: buy now\r\n\
Message-ID: <m1@source.example>\r\n\
Date: Thu, 1 Jan 2026 11:59:58 +0000\r\n\
\r\n\
Buy now\r\n\
--b1--\r\n";

/// The domains that were asked for.
pub(super) fn asked() -> Vec<Domain> {
    vec![Domain::parse("example.org").unwrap()]
}

/// The same in the form of these parts: fields of the message, of a recipient, of the original.
pub(super) fn report(message: &str, recipient: &str, original: &str) -> String {
    format!(
        "Content-Type: multipart/report; report-type=delivery-status; boundary=b1\r\n\r\n--b1\r\n\r\n\r\n--b1\r\n\
         Content-Type: message/delivery-status\r\n\r\n{message}\r\n\r\n{recipient}\r\n\r\n--b1\r\n\
         Content-Type: text/rfc822-headers\r\n\r\n{original}\r\n--b1--\r\n"
    )
}
