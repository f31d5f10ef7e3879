//! Names of messages and deliveries: short, printable, and never given twice.
//!
//! A queue id is a number whose upper bits are the time and whose lower bits are a counter, so it is
//! at once the name of a message, its row in the database and its place in the order of arrival. The
//! clock is only a hint: ids always grow, and a mark in the database keeps a restart or a clock that
//! was set back from giving one again.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Ids that one millisecond has room for; when they are used up, the next millisecond's are taken.
const COUNTER_BITS: u32 = 10;
/// Digits of a queue id: 55 bits, enough until the year 3084 with the counter above.
const QUEUE_ID_DIGITS: usize = 11;
/// Digits of the store's own random part of a delivery id: 30 bits (`schema.sql`).
const INSTANCE_DIGITS: usize = 6;
/// Crockford's base 32: no I, L, O, U, so that an id can be read out over a telephone.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Names a message in the queue; the sender learns it from the `250`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct QueueId(pub(super) i64);

/// Names one delivery for ever: also after it is gone, and among all relays that a puller asks.
///
/// Its form is `<queue id>.<number>.<store>`. What can still be sent of a delivery keeps its number as long as
/// it lives: the puller's journal says of each recipient whether he has it. Who was refused for good, while others
/// go on, is kept under a new one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DeliveryId {
    pub(super) key: DeliveryKey,
    pub(super) instance: u32,
}

/// A delivery inside one store.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct DeliveryKey {
    pub(super) message: QueueId,
    pub(super) number: u32,
}

/// What an admin names on the command line: a message with all its deliveries, or one delivery.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Reference {
    /// `ID.number` or the whole delivery id, as the puller logs it.
    Delivery {
        /// The message.
        message: QueueId,
        /// The delivery's number in it.
        number: u32,
    },
    /// `ID`
    Message(QueueId),
}

/// Not an id of this queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a queue id (11 letters and digits) or delivery id (queue id, dot, number)")]
pub struct IdError;

/// The store's own part of delivery ids. It changes when a queue is restored, so that no id is given again that the
/// lost queue gave after its backup: the pullers' journals may know it, and would settle other mail by it.
#[derive(Debug)]
pub(super) struct Instances {
    /// Of messages behind all others.
    current: u32,
    /// Each of the messages up to this one, and behind the one before.
    former: BTreeMap<QueueId, u32>,
}

/// Gives ids that only grow.
#[derive(Debug)]
pub(super) struct IdSource {
    last: AtomicI64,
}

impl DeliveryId {
    /// The message that this is a part of.
    #[must_use]
    pub fn queue_id(&self) -> QueueId {
        self.key.message
    }

    /// Its number inside the message.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.key.number
    }
}

impl QueueId {
    /// A number below `places`, different for ids that follow each other: by time, and by the counter.
    pub(super) fn spread(self, places: i64) -> i64 {
        (self.0 + (self.0 >> COUNTER_BITS)).rem_euclid(places)
    }

    /// The id that stands `millis` milliseconds after this one.
    pub(super) fn later(self, millis: i64) -> Self {
        Self(self.0 + (millis << COUNTER_BITS))
    }
}

impl Instances {
    pub(super) fn new(current: u32, former: impl IntoIterator<Item = (QueueId, u32)>) -> Self {
        let former = former.into_iter().collect();
        Self { current, former }
    }

    /// A message keeps what it was accepted with, over any number of restores.
    pub(super) fn of(&self, message: QueueId) -> u32 {
        let former = self.former.range(message..).next();
        former.map_or(self.current, |(_, instance)| *instance)
    }
}

impl IdSource {
    /// `mark` is an id that no id given before was greater than.
    pub(super) fn after(mark: QueueId) -> Self {
        Self {
            last: AtomicI64::new(mark.0),
        }
    }

    /// The next id: the time, or one more than the last where the clock stands still or runs back.
    pub(super) fn next(&self, now: Timestamp) -> QueueId {
        let wanted = now.as_millisecond() << COUNTER_BITS;
        let step = |last: i64| wanted.max(last + 1);
        let last = self.last.update(Ordering::Relaxed, Ordering::Relaxed, step);
        QueueId(step(last))
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_digits(f, self.0.cast_unsigned(), QUEUE_ID_DIGITS)
    }
}

impl fmt::Display for DeliveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.message, self.number)
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.", self.key)?;
        write_digits(f, u64::from(self.instance), INSTANCE_DIGITS)
    }
}

impl FromStr for QueueId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        read_digits(text, QUEUE_ID_DIGITS).map(Self)
    }
}

impl FromStr for Reference {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut parts = text.split('.');
        let message = parts.next().ok_or(IdError)?.parse()?;
        let Some(number) = parts.next() else {
            return Ok(Self::Message(message));
        };
        let number = number.parse().map_err(|_| IdError)?;
        match (parts.next(), parts.next()) {
            (None, _) => Ok(Self::Delivery { message, number }),
            (Some(store), None) if store.len() == INSTANCE_DIGITS => {
                Ok(Self::Delivery { message, number })
            }
            _ => Err(IdError),
        }
    }
}

impl FromStr for DeliveryId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (key, store) = text.rsplit_once('.').ok_or(IdError)?;
        let (message, number) = key.split_once('.').ok_or(IdError)?;
        let key = DeliveryKey {
            message: message.parse()?,
            number: number.parse().map_err(|_| IdError)?,
        };
        let instance = read_digits(store, INSTANCE_DIGITS)?;
        let instance = u32::try_from(instance).map_err(|_| IdError)?;
        Ok(Self { key, instance })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delivery { message, number } => write!(f, "{message}.{number}"),
            Self::Message(message) => message.fmt(f),
        }
    }
}

impl Serialize for QueueId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for DeliveryId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for QueueId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for DeliveryId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

fn from_text<'de, T: FromStr<Err = IdError>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

/// At most 60 bits, so that nothing overflows.
fn read_digits(text: &str, digits: usize) -> Result<i64, IdError> {
    if text.len() != digits {
        return Err(IdError);
    }
    let mut value: i64 = 0;
    for octet in text.bytes() {
        let digit = DIGITS
            .iter()
            .position(|digit| *digit == octet.to_ascii_uppercase());
        value = value << 5 | i64::try_from(digit.ok_or(IdError)?).map_err(|_| IdError)?;
    }
    Ok(value)
}

fn write_digits(f: &mut fmt::Formatter<'_>, value: u64, digits: usize) -> fmt::Result {
    for place in (0..digits).rev() {
        let digit = (value >> (5 * place)) & 31;
        fmt::Write::write_char(f, char::from(DIGITS[digit as usize]))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    #[test]
    fn ids_grow_when_the_clock_stands_still_or_runs_back() {
        let source = IdSource::after(QueueId(0));
        let first = source.next(at(1_700_000_000_000));
        let same_moment = source.next(at(1_700_000_000_000));
        let set_back = source.next(at(1_600_000_000_000));
        let onward = source.next(at(1_700_000_000_001));
        assert!(first < same_moment && same_moment < set_back && set_back < onward);
    }

    #[test]
    fn ids_stay_behind_no_mark() {
        let mark = QueueId(at(1_900_000_000_000).as_millisecond() << COUNTER_BITS);
        let source = IdSource::after(mark);
        assert!(source.next(at(1_700_000_000_000)) > mark);
    }

    #[test]
    fn printed_ids_read_back() {
        for value in [0, 1, 31, 32, 1_700_000_000_000 << 10, (1 << 55) - 1] {
            let id = QueueId(value);
            assert_eq!(id.to_string().len(), QUEUE_ID_DIGITS);
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(id.to_string().to_ascii_lowercase().parse(), Ok(id));
        }
    }

    #[test]
    fn references_name_a_message_or_one_delivery() {
        let message = QueueId(1_700_000_000_000 << 10);
        let key = DeliveryKey { message, number: 2 };
        let id = DeliveryId {
            key,
            instance: 0x3fff_ffff,
        };
        let one = Reference::Delivery { message, number: 2 };
        assert_eq!(message.to_string().parse(), Ok(Reference::Message(message)));
        assert_eq!(key.to_string().parse(), Ok(one));
        assert_eq!(id.to_string().parse(), Ok(one));
        for text in [
            "",
            "x",
            "1.2.3",
            "01HRT0000000",
            "!!!!!!!!!!!",
            "01HRT000000.x",
        ] {
            assert_eq!(text.parse::<Reference>(), Err(IdError), "{text}");
        }
    }

    #[test]
    fn messages_keep_the_instance_under_which_they_came() {
        let instances = Instances::new(9, [(QueueId(200), 2), (QueueId(100), 1)]);
        let of = [1, 100, 101, 200, 201].map(|key| instances.of(QueueId(key)));
        assert_eq!(of, [1, 1, 2, 2, 9]);
        assert_eq!(Instances::new(7, []).of(QueueId(1)), 7);
    }

    #[test]
    fn delivery_ids_keep_to_the_characters_of_the_wire() {
        let key = DeliveryKey {
            message: QueueId(i64::MAX >> 8),
            number: u32::MAX,
        };
        let text = DeliveryId { key, instance: 1 }.to_string();
        assert!(text.len() <= 128);
        let legal = |octet: u8| octet.is_ascii_alphanumeric() || b"._-".contains(&octet);
        assert!(text.bytes().all(legal), "{text}");
        assert_eq!(text.parse(), Ok(DeliveryId { key, instance: 1 }));
    }
}
