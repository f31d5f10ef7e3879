//! The notation: text to [`Transcript`], strictly, with the number of a bad line.

use super::{Against, Room, Transcript};
use crate::inside::Step as InsideStep;
use crate::world::Tls;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// `C:`, the puller, or the sender on the edge.
    Customer,
    /// `P:`, the relay.
    Provider,
}

/// A line of a party.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Who says it.
    pub party: Party,
    /// What: literal text and placeholders.
    pub text: String,
    /// Where it stands in the file.
    pub number: usize,
}

/// One step of a dialogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Somebody says a line, or ends the connection.
    Line(Line),
    /// The roles are reversed.
    Reversed,
    /// The TLS handshake; its client is whoever connected.
    Tls,
}

/// A kind of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of 200 KiB.
    Big,
    /// Lines with leading dots.
    Dots,
    /// UTF-8 text sent with BODY=8BITMIME.
    EightBit,
    /// A sender whose address needs SMTPUTF8.
    International,
    /// ASCII text.
    Plain,
}

/// A line of set-up: `@ word …`.
#[derive(Clone, Debug, PartialEq)]
pub enum Directive {
    /// `@ against relay|puller`: only one party is ours; the other one misbehaves.
    Against(Against),
    /// `@ ask DOMAIN…`: what the puller is configured for; `@ ask` alone for nothing.
    Ask(Vec<String>),
    /// `@ domain NAME`: one more domain of the relay, not the account's.
    Domain(String),
    /// `@ exit CODE`: how the real puller must end.
    Exit(i32),
    /// `@ got COUNT`: so many messages must have reached the corporate server.
    Got(usize),
    /// `@ inside STEP [TEXT] REPLY`: the corporate server's answer at a step, where the
    /// argument contains the text.
    Inside(InsideStep, String, String),
    /// `@ left COUNT [STATE]`: so many deliveries must be in the relay's queue at the end.
    Left(usize, Option<String>),
    /// `@ mail KIND DOMAIN`: a message that waits at the relay.
    Mail(Kind, String),
    /// `@ offer KEYWORD | …`: what the corporate server offers.
    Offer(Vec<String>),
    /// `@ pair`: both machines together must speak exactly so.
    Pair,
    /// `@ pair only`: and no script can, as it would have to prove or to know something.
    PairOnly,
    /// `@ set relay|puller PATH VALUE`: a setting; the value is TOML.
    Set(Against, String, toml::Value),
    /// `@ tls implicit|starttls|optional|off`: TLS on the ODMR listener.
    Tls(Tls),
    /// `@ whole`: not octet by octet, because segments are what it is about.
    Whole,
}

pub(super) fn parse(name: &str, room: Room, text: &str) -> Result<Transcript, String> {
    let mut transcript = Transcript {
        name: name.to_owned(),
        room,
        covers: Vec::new(),
        directives: Vec::new(),
        steps: Vec::new(),
    };
    for (number, line) in (1..).zip(text.lines()) {
        parse_line(&mut transcript, number, line)
            .map_err(|error| format!("line {number}: {error}"))?;
    }
    if transcript.steps.is_empty() {
        return Err("no dialogue".to_owned());
    }
    Ok(transcript)
}

fn parse_line(transcript: &mut Transcript, number: usize, line: &str) -> Result<(), String> {
    if let Some(ids) = line.strip_prefix("# covers:") {
        transcript
            .covers
            .extend(ids.split(',').map(|id| id.trim().to_owned()));
    } else if let Some(words) = line.strip_prefix("@ ") {
        transcript.directives.push(directive(words)?);
    } else if line == "--- reversed" {
        transcript.steps.push(Step::Reversed);
    } else if line == "--- tls" {
        transcript.steps.push(Step::Tls);
    } else if let Some(text) = line.strip_prefix("P:") {
        transcript.steps.push(said(Party::Provider, text, number));
    } else if let Some(text) = line.strip_prefix("C:") {
        transcript.steps.push(said(Party::Customer, text, number));
    } else if !line.is_empty() && !line.starts_with('#') {
        return Err(format!("{line:?} is no line of a transcript"));
    }
    Ok(())
}

fn said(party: Party, text: &str, number: usize) -> Step {
    let text = text.strip_prefix(' ').unwrap_or(text).to_owned();
    Step::Line(Line {
        party,
        text,
        number,
    })
}

fn directive(words: &str) -> Result<Directive, String> {
    let (word, rest) = words.split_once(' ').unwrap_or((words, ""));
    Ok(match word {
        "against" => Directive::Against(against(rest)?),
        "ask" => Directive::Ask(rest.split_whitespace().map(str::to_owned).collect()),
        "domain" => Directive::Domain(rest.to_owned()),
        "exit" => Directive::Exit(number(rest)?),
        "got" => Directive::Got(number(rest)?),
        "inside" => inside(rest)?,
        "left" => {
            let (count, state) = rest.split_once(' ').unwrap_or((rest, ""));
            let state = Some(state.to_owned()).filter(|state| !state.is_empty());
            Directive::Left(number(count)?, state)
        }
        "mail" => {
            let (kind, domain) = rest.split_once(' ').ok_or("mail KIND DOMAIN")?;
            Directive::Mail(mail_kind(kind)?, domain.to_owned())
        }
        "offer" => Directive::Offer(
            rest.split('|')
                .map(|word| word.trim().to_owned())
                .filter(|word| !word.is_empty())
                .collect(),
        ),
        "pair" if rest.is_empty() => Directive::Pair,
        "pair" if rest == "only" => Directive::PairOnly,
        "set" => set(rest)?,
        "tls" => Directive::Tls(match rest {
            "implicit" => Tls::Implicit,
            "off" => Tls::Off,
            "optional" => Tls::Optional,
            "starttls" => Tls::StartTls,
            _ => return Err(format!("{rest:?} is no way of TLS")),
        }),
        "whole" => Directive::Whole,
        _ => return Err(format!("{word:?} is no directive")),
    })
}

fn set(rest: &str) -> Result<Directive, String> {
    let mut words = rest.splitn(3, ' ');
    let who = against(words.next().unwrap_or_default())?;
    let (Some(path), Some(value)) = (words.next(), words.next()) else {
        return Err("set relay|puller PATH VALUE".to_owned());
    };
    let table: toml::Table = format!("v = {value}")
        .parse()
        .map_err(|error| format!("{error}"))?;
    Ok(Directive::Set(who, path.to_owned(), table["v"].clone()))
}

fn inside(rest: &str) -> Result<Directive, String> {
    let (step, rest) = rest.split_once(' ').ok_or("inside STEP [TEXT] REPLY")?;
    let step = match step {
        "greeting" => InsideStep::Greeting,
        "ehlo" => InsideStep::Ehlo,
        "mail" => InsideStep::Mail,
        "rcpt" => InsideStep::Rcpt,
        "data" => InsideStep::Data,
        "content" => InsideStep::Content,
        "end" => InsideStep::EndOfData,
        _ => return Err(format!("{step:?} is no step")),
    };
    // A reply begins with its code; what stands before that is the text.
    let is_code = |word: &str| word.len() == 3 && word.bytes().all(|octet| octet.is_ascii_digit());
    let (first, after) = rest.split_once(' ').unwrap_or((rest, ""));
    let (text, reply) = if is_code(first) {
        ("", rest)
    } else {
        (first, after)
    };
    Ok(Directive::Inside(step, text.to_owned(), reply.to_owned()))
}

fn against(word: &str) -> Result<Against, String> {
    match word {
        "puller" => Ok(Against::Puller),
        "relay" => Ok(Against::Relay),
        _ => Err(format!("{word:?} is neither relay nor puller")),
    }
}

fn mail_kind(word: &str) -> Result<Kind, String> {
    Ok(match word {
        "big" => Kind::Big,
        "dots" => Kind::Dots,
        "eight-bit" => Kind::EightBit,
        "international" => Kind::International,
        "plain" => Kind::Plain,
        _ => return Err(format!("{word:?} is no kind of message")),
    })
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word:?} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_is_read() {
        let text = "# About it.\n# covers: R2645-9, OWN-1\n@ mail plain example.org\n@ tls off\n\
                    @ inside rcpt bob@ 550 5.1.1 no\n\nC: ATRN example.org\nP:\n--- reversed\n";
        let transcript = parse("x", Room::Odmr, text).unwrap();
        assert_eq!(transcript.covers, ["R2645-9", "OWN-1"]);
        let rule = (
            InsideStep::Rcpt,
            "bob@".to_owned(),
            "550 5.1.1 no".to_owned(),
        );
        assert_eq!(
            transcript.directives,
            [
                Directive::Mail(Kind::Plain, "example.org".to_owned()),
                Directive::Tls(Tls::Off),
                Directive::Inside(rule.0, rule.1, rule.2),
            ]
        );
        let line = |party, text: &str, number| {
            Step::Line(Line {
                party,
                text: text.to_owned(),
                number,
            })
        };
        assert_eq!(
            transcript.steps,
            [
                line(Party::Customer, "ATRN example.org", 7),
                line(Party::Provider, "", 8),
                Step::Reversed
            ]
        );
    }

    #[test]
    fn a_bad_line_is_named() {
        for text in [
            "S: hello\n",
            "@ frobnicate\n",
            "@ tls maybe\n",
            "@ exit soon\n",
            "# nothing\n",
        ] {
            let error = parse("x", Room::Edge, text).unwrap_err();
            assert!(
                error.starts_with("line 1: ") || error == "no dialogue",
                "{error}"
            );
        }
    }
}
