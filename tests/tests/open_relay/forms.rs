//! The forms: each asks the relay, in a way of its own, to take mail for somebody who is not ours.

/// What becomes of a form.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// Refused for good; the reply begins so.
    Refused(&'static str),
    /// Taken: to us it is a local part of our domain, and goes to that domain's queue and nowhere else.
    Ours,
}

use Fate::{Ours, Refused};

/// The argument of `RCPT TO:`, and its fate. Ours are `example.org` and `xn--bcher-kva.example`.
pub(crate) const FORMS: &[(&[u8], Fate)] = &[
    // Plainly somebody else's.
    (b"<user@foreign.example>", RELAYING),
    (b"<USER@FOREIGN.EXAMPLE>", RELAYING),
    (b"<\"user\"@foreign.example>", RELAYING),
    (b"<user@sub.example.org>", RELAYING),
    (b"<user@org>", RELAYING),
    (b"<user@example>", RELAYING),
    (b"<user@example.org.foreign.example>", RELAYING),
    (b"<user@foreign-example.org>", RELAYING),
    (b"<user@example.orgg>", RELAYING),
    (b"<user@localhost>", RELAYING),
    (b"<user@localhost.example.org>", RELAYING),
    // The relay's own name is none of its domains.
    (b"<user@relay.example.net>", RELAYING),
    (b"<user@bcher-kva.example>", RELAYING),
    // Trailing and leading dots.
    (b"<user@example.org.>", SYNTAX),
    (b"<user@foreign.example.>", SYNTAX),
    (b"<user@.example.org>", SYNTAX),
    (b"<user@example..org>", SYNTAX),
    // Percent hack and bang path.
    (b"<user%foreign.example@example.org>", ROUTE),
    (b"<user%foreign.example@relay.example.net>", ROUTE),
    (b"<user%example.org@foreign.example>", ROUTE),
    (b"<user%foreign.example>", SYNTAX),
    (b"<user%foreign.example%other.example@example.org>", ROUTE),
    (b"<foreign.example!user@example.org>", ROUTE),
    (b"<foreign.example!user>", SYNTAX),
    (b"<foreign.example!user@foreign.example>", ROUTE),
    (b"<example.org!user@foreign.example>", ROUTE),
    (b"<foreign.example!user%other.example@example.org>", ROUTE),
    // Source routes.
    (b"<@example.org:user@foreign.example>", SOURCE_ROUTE),
    (b"<@foreign.example:user@example.org>", SOURCE_ROUTE),
    (
        b"<@example.org,@foreign.example:user@foreign.example>",
        SOURCE_ROUTE,
    ),
    (
        b"<@example.org:@foreign.example:user@example.org>",
        SOURCE_ROUTE,
    ),
    (b"<@example.org user@foreign.example>", SOURCE_ROUTE),
    (b"<@foreign.example>", SOURCE_ROUTE),
    (b"<@:user@foreign.example>", SOURCE_ROUTE),
    (b"<example.org:user@foreign.example>", SYNTAX),
    (b"<smtp:user@foreign.example>", SYNTAX),
    // Quoted local parts with an address inside.
    (b"<\"user@foreign.example\"@example.org>", ROUTE),
    (b"<\"user%foreign.example\"@example.org>", ROUTE),
    (b"<\"foreign.example!user\"@example.org>", ROUTE),
    (b"<\"@foreign.example:user\"@example.org>", ROUTE),
    (b"<\"user\\@foreign.example\"@example.org>", ROUTE),
    (b"<\"us\\er\"@example.org>", ROUTE),
    (b"<\"user@example.org\"@foreign.example>", ROUTE),
    (b"<\"user@foreign.example\">", SYNTAX),
    (b"<user@\"foreign.example\">", SYNTAX),
    (b"<\"user\"@\"example.org\">", SYNTAX),
    (b"<\"user\"foreign@example.org>", SYNTAX),
    (b"<user\\@foreign.example@example.org>", SYNTAX),
    // Two at-signs.
    (b"<user@foreign.example@example.org>", SYNTAX),
    (b"<user@example.org@foreign.example>", SYNTAX),
    (b"<user@@foreign.example>", SYNTAX),
    (b"<user@example.org@>", SYNTAX),
    // Address literals and numbers.
    (b"<user@[127.0.0.1]>", RELAYING),
    (b"<user@[192.0.2.1]>", RELAYING),
    (b"<user@[IPv6:::1]>", RELAYING),
    (b"<user@[ipv6:2001:db8::1]>", RELAYING),
    (b"<user@[IPv6:::ffff:127.0.0.1]>", RELAYING),
    (b"<user@127.0.0.1>", RELAYING),
    (b"<user@2130706433>", RELAYING),
    (b"<user@[2130706433]>", SYNTAX),
    (b"<user@[0x7f.0.0.1]>", SYNTAX),
    (b"<user@#2130706433>", SYNTAX),
    (b"<user@[foreign.example]>", SYNTAX),
    (b"<user@[example.org]>", SYNTAX),
    (b"<user@[127.0.0.1>", SYNTAX),
    (b"<user@[127.0.0.1]foreign.example>", SYNTAX),
    (b"<user@[]>", SYNTAX),
    // Two paths, and brackets in odd places.
    (b"<user@example.org>,<user@foreign.example>", SYNTAX),
    (b"<user@example.org,user@foreign.example>", SYNTAX),
    (b"<user@example.org,foreign.example>", SYNTAX),
    (b"<user@example.org;foreign.example>", SYNTAX),
    (b"<user@example.org> <user@foreign.example>", PARAMETER),
    (b"<user@foreign.example> <user@example.org>", PARAMETER),
    (b"<<user@example.org>user@foreign.example>", SYNTAX),
    (b"<<user@foreign.example>>", SYNTAX),
    (b"<user@example.org>@foreign.example", SYNTAX),
    (b"<user@ours@foreign.example>", SYNTAX),
    (b"user@foreign.example", SYNTAX),
    (b"<user@foreign.example", SYNTAX),
    (b"user@foreign.example>", SYNTAX),
    (b"User <user@foreign.example>", SYNTAX),
    (b"<>", SYNTAX),
    (b"<user>", SYNTAX),
    (b"<user@>", SYNTAX),
    (b"<@>", SOURCE_ROUTE),
    (b"<user@example.org:25>", SYNTAX),
    (b"<user@example.org/foreign.example>", SYNTAX),
    // Comments, blanks, tabs, control octets.
    (b"<user(comment)@foreign.example>", SYNTAX),
    (b"<user@foreign.example(example.org)>", SYNTAX),
    (b"<(@example.org)user@foreign.example>", SYNTAX),
    (b"< user@foreign.example>", SYNTAX),
    (b"<user@foreign.example >", SYNTAX),
    (b"<user @foreign.example>", SYNTAX),
    (b"<user@ foreign.example>", SYNTAX),
    (b" <user@foreign.example>", RELAYING),
    (b"  <user@foreign.example>", SYNTAX),
    (b"<user@foreign.example> \t", RELAYING),
    (b"<user\t@foreign.example>", SYNTAX),
    (b"<user@example.org\t@foreign.example>", SYNTAX),
    (b"<user@example.org>\t<user@foreign.example>", SYNTAX),
    (b"<\"user\t\"@example.org>", SYNTAX),
    (b"<user@foreign.example\0@example.org>", LINE),
    (b"<user@foreign.example\0>", LINE),
    (b"<user@foreign.example\0.example.org>", LINE),
    (b"<user@foreign.example\x7f@example.org>", LINE),
    (b"<user@example.org\rRCPT TO:<user@foreign.example>", LINE),
    (b"<user@example.org>\nRCPT TO:<user@foreign.example>", LINE),
    // 8-bit octets that are no UTF-8.
    (b"<user\xff@example.org>", ARGUMENT),
    (b"<user@foreign.example\xff>", ARGUMENT),
    (b"<user@example.org\xc0\xae>", ARGUMENT),
    (b"<user\xc0\x80@foreign.example>", ARGUMENT),
    // What looks like ours: Cyrillic, full-width, invisible.
    ("<user@еxample.org>".as_bytes(), RELAYING),
    ("<user@example.оrg>".as_bytes(), RELAYING),
    ("<user@ｅxample.org>".as_bytes(), LOOK_ALIKE),
    ("<user@ｅｘａｍｐｌｅ．ｏｒｇ>".as_bytes(), LOOK_ALIKE),
    ("<user@example。org>".as_bytes(), LOOK_ALIKE),
    ("<user@example．org>".as_bytes(), LOOK_ALIKE),
    ("<user@exam\u{ad}ple.org>".as_bytes(), LOOK_ALIKE),
    ("<user@exam\u{200b}ple.org>".as_bytes(), LOOK_ALIKE),
    ("<user@exam\u{200c}ple.org>".as_bytes(), LOOK_ALIKE),
    ("<user@exam\u{200d}ple.org>".as_bytes(), LOOK_ALIKE),
    ("<user@\u{202e}example.org>".as_bytes(), LOOK_ALIKE),
    ("<user@\u{feff}example.org>".as_bytes(), LOOK_ALIKE),
    ("<user@EXAMPLE.OR\u{260}>".as_bytes(), ANY),
    ("<user@example\u{2028}.org>".as_bytes(), LOOK_ALIKE),
    ("<user@bücher.foreign.example>".as_bytes(), RELAYING),
    ("<user@bucher.example>".as_bytes(), RELAYING),
    ("<user@b\u{75}\u{308}cher.example>".as_bytes(), LOOK_ALIKE),
    ("<user@xn--bücher-kva.example>".as_bytes(), ANY),
    ("<user@xn--example-.org>".as_bytes(), ANY),
    ("<user@xn--example.org>".as_bytes(), ANY),
    ("<user＠foreign.example>".as_bytes(), SYNTAX),
    ("<user＠foreign.example@example.org>".as_bytes(), ROUTE),
    ("<user﹫foreign.example@example.org>".as_bytes(), ROUTE),
    ("<user％foreign.example@example.org>".as_bytes(), ROUTE),
    ("<foreign.example！user@example.org>".as_bytes(), ROUTE),
    (
        "<user@example.org\u{2028}@foreign.example>".as_bytes(),
        LOOK_ALIKE,
    ),
    ("<user\u{2028}foreign@example.org>".as_bytes(), SYNTAX),
    // Postmaster.
    (b"<postmaster@foreign.example>", RELAYING),
    (b"<Postmaster@[127.0.0.1]>", RELAYING),
    (b"<postmaster@>", SYNTAX),
    (b"<postmaster%foreign.example>", SYNTAX),
    (b"<postmaster%foreign.example@example.org>", ROUTE),
    (b"<postmaster@foreign.example@example.org>", SYNTAX),
    (b"<\"postmaster\">", SYNTAX),
    (b"<@foreign.example:postmaster>", SOURCE_ROUTE),
    // Pipes, files, options.
    (b"<|cat@example.org>", ROUTE),
    (b"<\"|cat /etc/passwd\"@example.org>", ROUTE),
    (b"</etc/passwd@example.org>", ROUTE),
    (b"<-oQ@example.org>", ROUTE),
    (b"<-f@foreign.example>", ROUTE),
    // Parameters that would move the recipient.
    (
        b"<user@foreign.example> ORCPT=rfc822;user@example.org",
        RELAYING,
    ),
    (b"<user@foreign.example> NOTIFY=NEVER", RELAYING),
    (
        b"<user@foreign.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;user@example.org",
        RELAYING,
    ),
    (b"<user@example.org> RCPT=<user@foreign.example>", PARAMETER),
    (b"<user@foreign.example> AUTH=<>", PARAMETER),
    (b"<user@foreign.example> AUTH=corp", PARAMETER),
    (b"<user@foreign.example> XDELIVERYID=1", PARAMETER),
    (b"<user@foreign.example> SIZE=1", PARAMETER),
    (b"<user@example.org> ORCPT=user@foreign.example", VALUE),
    (
        b"<user@example.org> ORCPT=rfc822;a+0D+0ARCPT TO:<user@foreign.example>",
        PARAMETER,
    ),
    // To us these are names of mailboxes. Only our domain's own server knows what they mean.
    (b"<user@example.org>", Ours),
    (b"<user@EXAMPLE.ORG>", Ours),
    (b"<Postmaster>", Ours),
    (b"<user+foreign.example@example.org>", Ours),
    (b"<user=foreign.example@example.org>", Ours),
    (b"<SRS0=hash=tt=foreign.example=user@example.org>", Ours),
    (b"<user#foreign.example@example.org>", Ours),
    (b"<user*foreign.example@example.org>", Ours),
    (b"<user^foreign.example@example.org>", Ours),
    (b"<\"user foreign.example\"@example.org>", Ours),
    (b"<\"user,foreign\"@example.org>", Ours),
    (b"<\"<user>\"@example.org>", Ours),
    (b"<\"foreign.example:user\"@example.org>", Ours),
    (
        b"<user@example.org> ORCPT=rfc822;user@foreign.example",
        Ours,
    ),
    (
        b"<user@example.org> ORCPT=rfc822;a+0D+0ARCPT+20TO:<user@foreign.example>",
        Ours,
    ),
    (b"<user@example.org> NOTIFY=SUCCESS,FAILURE,DELAY", Ours),
    ("<user@bücher.example>".as_bytes(), Ours),
    (b"<user@XN--BCHER-KVA.example>", Ours),
];

/// A local part and a path, each longer than it may be (RFC 5321 §4.5.3.1).
pub(crate) fn over_long() -> Vec<(Vec<u8>, Fate)> {
    let local = "l".repeat(65);
    let label = "a".repeat(63);
    vec![
        (format!("<{local}@example.org>").into_bytes(), SYNTAX),
        (format!("<{local}@foreign.example>").into_bytes(), SYNTAX),
        (
            format!("<u@{label}.{label}.{label}.{label}.example.org>").into_bytes(),
            SYNTAX,
        ),
        (format!("<u@{label}a.example.org>").into_bytes(), SYNTAX),
        (
            format!("<user@foreign.example> {}", "X".repeat(5000)).into_bytes(),
            LINE,
        ),
        (
            format!("<{}@example.org>", "u".repeat(5000)).into_bytes(),
            LINE,
        ),
    ]
}

const RELAYING: Fate = Refused("550 5.7.1");
const ROUTE: Fate = Refused("550 5.1.1");
const SOURCE_ROUTE: Fate = Refused("550 5.1.3");
const LOOK_ALIKE: Fate = Refused("550 5.1.2");
const SYNTAX: Fate = Refused("501 5.1.3");
const PARAMETER: Fate = Refused("555 5.5.4");
const VALUE: Fate = Refused("501 5.5.4");
const ARGUMENT: Fate = Refused("501 5.5.4");
const LINE: Fate = Refused("500 5.5.2");
/// It depends on tables of Unicode whether it is no name at all, or another one.
const ANY: Fate = Refused("5");
