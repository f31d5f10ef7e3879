//! Parameters of MAIL and RCPT: SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531), DSN (RFC 3461) and our own
//! XDELIVERYID (`docs/protocol.md`). Read strictly, printed from the parsed values, so that a peer's bytes never pass through.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::limits::{DELIVERY_ID_OCTETS, ENVID_OCTETS, ORCPT_OCTETS};

/// Why a parameter was refused (R5321-12).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParameterError {
    /// A keyword given twice.
    #[error("a parameter given twice")]
    Twice,
    /// A keyword that nobody offered.
    #[error("unsupported parameter")]
    Unknown,
    /// A known keyword with a bad value, or no keyword at all.
    #[error("bad parameter value")]
    Value,
}

/// `BODY=` (RFC 6152). BINARYMIME is not offered (R3030-2).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum BodyType {
    /// `7BIT`
    SevenBit,
    /// `8BITMIME`
    EightBitMime,
}

/// `RET=`: how much of the message a report returns (RFC 3461 §4.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Ret {
    /// `FULL`
    Full,
    /// `HDRS`
    Headers,
}

/// `NOTIFY=`: when the sender wants a report (RFC 3461 §4.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Notify {
    /// `NEVER`
    Never,
    /// Any of `SUCCESS`, `FAILURE`, `DELAY`; at least one.
    On {
        /// `SUCCESS`
        success: bool,
        /// `FAILURE`
        failure: bool,
        /// `DELAY`
        delay: bool,
    },
}

/// `XDELIVERYID=`: the name of one delivery, given once and never again, so that a server that took it can say so
/// when it is offered a second time (R-DUP). 1 to 128 letters, digits, dots, underscores and hyphens.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct DeliveryId(Box<str>);

impl DeliveryId {
    /// The id as it stands on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DeliveryId {
    type Err = ParameterError;

    fn from_str(text: &str) -> Result<Self, ParameterError> {
        let is_legal = |octet: u8| octet.is_ascii_alphanumeric() || b"._-".contains(&octet);
        let valid = (1..=DELIVERY_ID_OCTETS).contains(&text.len()) && text.bytes().all(is_legal);
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(ParameterError::Value)
        }
    }
}

/// What came with MAIL beside the reverse-path.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct MailParameters {
    /// `SIZE=`: the sender's estimate in octets.
    pub size: Option<u64>,
    /// `BODY=`
    pub body: Option<BodyType>,
    /// `SMTPUTF8`
    pub smtputf8: bool,
    /// `RET=`
    pub ret: Option<Ret>,
    /// `ENVID=`, still in xtext.
    pub envid: Option<String>,
    /// `XDELIVERYID=`. It names a delivery on one hop, so it is not stored with a message.
    #[serde(skip)]
    pub delivery_id: Option<DeliveryId>,
}

impl MailParameters {
    /// Reads what follows the reverse-path.
    ///
    /// # Errors
    /// [`ParameterError`] names which reply is due.
    pub fn parse(text: &str) -> Result<Self, ParameterError> {
        let mut parameters = Self::default();
        for (keyword, value) in keywords(text) {
            match (keyword.to_ascii_uppercase().as_str(), value) {
                ("SIZE", Some(value)) => set(&mut parameters.size, parse_size(value))?,
                ("BODY", Some(value)) => set(&mut parameters.body, parse_body(value))?,
                ("SMTPUTF8", None) if parameters.smtputf8 => return Err(ParameterError::Twice),
                ("SMTPUTF8", None) => parameters.smtputf8 = true,
                ("RET", Some(value)) => set(&mut parameters.ret, parse_ret(value))?,
                ("ENVID", Some(value)) => {
                    let envid = Some(value).filter(|text| is_xtext(text, ENVID_OCTETS));
                    set(&mut parameters.envid, envid.map(str::to_owned))?;
                }
                ("XDELIVERYID", Some(value)) => {
                    set(&mut parameters.delivery_id, value.parse().ok())?;
                }
                ("SIZE" | "BODY" | "SMTPUTF8" | "RET" | "ENVID" | "XDELIVERYID", _) => {
                    return Err(ParameterError::Value);
                }
                _ => return Err(ParameterError::Unknown),
            }
        }
        Ok(parameters)
    }
}

impl fmt::Display for MailParameters {
    /// Each parameter with a space before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(size) = self.size {
            write!(f, " SIZE={size}")?;
        }
        match self.body {
            Some(BodyType::SevenBit) => f.write_str(" BODY=7BIT")?,
            Some(BodyType::EightBitMime) => f.write_str(" BODY=8BITMIME")?,
            None => {}
        }
        if self.smtputf8 {
            f.write_str(" SMTPUTF8")?;
        }
        match self.ret {
            Some(Ret::Full) => f.write_str(" RET=FULL")?,
            Some(Ret::Headers) => f.write_str(" RET=HDRS")?,
            None => {}
        }
        if let Some(envid) = &self.envid {
            write!(f, " ENVID={envid}")?;
        }
        if let Some(delivery_id) = &self.delivery_id {
            write!(f, " XDELIVERYID={delivery_id}")?;
        }
        Ok(())
    }
}

/// What came with RCPT beside the forward-path.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct RcptParameters {
    /// `NOTIFY=`
    pub notify: Option<Notify>,
    /// `ORCPT=`: `addr-type;address`, the address still in xtext.
    pub orcpt: Option<String>,
}

impl RcptParameters {
    /// Reads what follows the forward-path.
    ///
    /// # Errors
    /// [`ParameterError`] names which reply is due.
    pub fn parse(text: &str) -> Result<Self, ParameterError> {
        let mut parameters = Self::default();
        for (keyword, value) in keywords(text) {
            match (keyword.to_ascii_uppercase().as_str(), value) {
                ("NOTIFY", Some(value)) => set(&mut parameters.notify, parse_notify(value))?,
                ("ORCPT", Some(value)) => set(&mut parameters.orcpt, parse_orcpt(value))?,
                ("NOTIFY" | "ORCPT", None) => return Err(ParameterError::Value),
                _ => return Err(ParameterError::Unknown),
            }
        }
        Ok(parameters)
    }
}

impl fmt::Display for RcptParameters {
    /// Each parameter with a space before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.notify {
            None => {}
            Some(Notify::Never) => f.write_str(" NOTIFY=NEVER")?,
            Some(Notify::On {
                success,
                failure,
                delay,
            }) => {
                let wanted = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
                let names: Vec<_> = wanted
                    .iter()
                    .filter(|(on, _)| *on)
                    .map(|(_, name)| *name)
                    .collect();
                write!(f, " NOTIFY={}", names.join(","))?;
            }
        }
        if let Some(orcpt) = &self.orcpt {
            write!(f, " ORCPT={orcpt}")?;
        }
        Ok(())
    }
}

/// `KEYWORD` or `KEYWORD=value`, separated by blanks.
fn keywords(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(' ')
        .filter(|word| !word.is_empty())
        .map(|word| match word.split_once('=') {
            Some((keyword, value)) => (keyword, Some(value)),
            None => (word, None),
        })
}

fn set<T>(place: &mut Option<T>, value: Option<T>) -> Result<(), ParameterError> {
    let value = value.ok_or(ParameterError::Value)?;
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(ParameterError::Twice),
    }
}

/// 1 to 20 digits (RFC 1870 §4). What does not fit is over every limit all the same.
fn parse_size(value: &str) -> Option<u64> {
    let valid =
        (1..=20).contains(&value.len()) && value.bytes().all(|octet| octet.is_ascii_digit());
    valid.then(|| value.parse().unwrap_or(u64::MAX))
}

fn parse_body(value: &str) -> Option<BodyType> {
    match value.to_ascii_uppercase().as_str() {
        "7BIT" => Some(BodyType::SevenBit),
        "8BITMIME" => Some(BodyType::EightBitMime),
        _ => None,
    }
}

fn parse_ret(value: &str) -> Option<Ret> {
    match value.to_ascii_uppercase().as_str() {
        "FULL" => Some(Ret::Full),
        "HDRS" => Some(Ret::Headers),
        _ => None,
    }
}

fn parse_notify(value: &str) -> Option<Notify> {
    if value.eq_ignore_ascii_case("NEVER") {
        return Some(Notify::Never);
    }
    let (mut success, mut failure, mut delay) = (false, false, false);
    for word in value.split(',') {
        let flag = match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => &mut success,
            "FAILURE" => &mut failure,
            "DELAY" => &mut delay,
            _ => return None,
        };
        if std::mem::replace(flag, true) {
            return None;
        }
    }
    Some(Notify::On {
        success,
        failure,
        delay,
    })
}

fn parse_orcpt(value: &str) -> Option<String> {
    let (kind, address) = value.split_once(';')?;
    let is_kind = !kind.is_empty()
        && kind
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
    // RFC 6533 lets a utf-8 address stand beside xtext.
    let is_address = is_xtext(address, ORCPT_OCTETS)
        || (kind.eq_ignore_ascii_case("utf-8") && is_utf8_address(address));
    (is_kind && is_address && value.len() <= ORCPT_OCTETS).then(|| value.to_owned())
}

fn is_utf8_address(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|character| !character.is_control() && character != ' ')
}

/// `xtext` of RFC 3461 §4: printable ASCII without `+` and `=`, and `+HH`.
fn is_xtext(text: &str, limit: usize) -> bool {
    if text.is_empty() || text.len() > limit {
        return false;
    }
    let is_hex =
        |octet: Option<u8>| octet.is_some_and(|octet| matches!(octet, b'0'..=b'9' | b'A'..=b'F'));
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        match octet {
            b'+' if is_hex(octets.next()) && is_hex(octets.next()) => {}
            b'+' | b'=' => return false,
            b'!'..=b'~' => {}
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: R1870-2, R3461-1, R6152-1, R3030-2, R5321-12, R-DUP
    #[test]
    fn mail_parameters_print_as_they_parse() {
        for text in [
            "",
            " SIZE=0",
            " SIZE=18446744073709551615 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+2B314159",
            " BODY=7BIT RET=FULL",
            " XDELIVERYID=01HRT000000.12.3-a_Z",
        ] {
            assert_eq!(MailParameters::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            MailParameters::parse(" size=5 body=7bit").unwrap().size,
            Some(5)
        );
        let huge = MailParameters::parse(" SIZE=99999999999999999999").unwrap();
        assert_eq!(huge.size, Some(u64::MAX));
        for (text, error) in [
            (" SIZE=", ParameterError::Value),
            (" SIZE", ParameterError::Value),
            (" SIZE=-1", ParameterError::Value),
            (" SIZE=999999999999999999999", ParameterError::Value),
            (" BODY=BINARYMIME", ParameterError::Value),
            (" SMTPUTF8=1", ParameterError::Value),
            (" RET=ALL", ParameterError::Value),
            (" ENVID=a=b", ParameterError::Value),
            (" ENVID=a+2", ParameterError::Value),
            (" SIZE=1 SIZE=1", ParameterError::Twice),
            (" SMTPUTF8 SMTPUTF8", ParameterError::Twice),
            (" XDELIVERYID", ParameterError::Value),
            (" XDELIVERYID=", ParameterError::Value),
            (" XDELIVERYID=a/b", ParameterError::Value),
            (" XDELIVERYID=a+b", ParameterError::Value),
            (" XDELIVERYID=grüße", ParameterError::Value),
            (" XDELIVERYID=a XDELIVERYID=a", ParameterError::Twice),
            (" AUTH=<>", ParameterError::Unknown),
            (" NOTIFY=NEVER", ParameterError::Unknown),
        ] {
            assert_eq!(MailParameters::parse(text), Err(error), "{text}");
        }
        let long = format!(" ENVID={}", "a".repeat(ENVID_OCTETS + 1));
        assert_eq!(MailParameters::parse(&long), Err(ParameterError::Value));
        let longest = format!(" XDELIVERYID={}", "a".repeat(DELIVERY_ID_OCTETS));
        assert_eq!(
            MailParameters::parse(&longest).unwrap().to_string(),
            longest
        );
        let long = format!("{longest}a");
        assert_eq!(MailParameters::parse(&long), Err(ParameterError::Value));
    }

    // covers: R3461-1, R5321-12
    #[test]
    fn rcpt_parameters_print_as_they_parse() {
        for text in [
            "",
            " NOTIFY=NEVER",
            " NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;user+2Btag@example.com",
            " ORCPT=utf-8;grüße@example.com",
        ] {
            assert_eq!(RcptParameters::parse(text).unwrap().to_string(), text);
        }
        for (text, error) in [
            (" NOTIFY=", ParameterError::Value),
            (" NOTIFY=NEVER,DELAY", ParameterError::Value),
            (" NOTIFY=DELAY,DELAY", ParameterError::Value),
            (" ORCPT=user@example.com", ParameterError::Value),
            (" ORCPT=;user", ParameterError::Value),
            (" ORCPT=rfc822;a+zz", ParameterError::Value),
            (" ORCPT=rfc822;a ORCPT=rfc822;a", ParameterError::Twice),
            (" SIZE=1", ParameterError::Unknown),
        ] {
            assert_eq!(RcptParameters::parse(text), Err(error), "{text}");
        }
    }
}
