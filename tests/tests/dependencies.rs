//! `deny.toml` held without `cargo-deny`, which takes longer to build than all of this project:
//! licences, banned crates and sources of everything that is compiled here.

use std::process::Command;

use atrn_tests::conformance::root;

/// A crate as `cargo tree` prints it.
struct Crate {
    name: String,
    source: String,
    license: String,
}

fn crates() -> Vec<Crate> {
    let output = Command::new(env!("CARGO"))
        .current_dir(root())
        .args([
            "tree",
            "--workspace",
            "--locked",
            "--edges",
            "normal,build,dev",
            "--no-dedupe",
        ])
        .args(["--prefix", "none", "--format", "{p}|{l}"])
        .output()
        .expect("cargo tree");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    lines.sort_unstable();
    lines.dedup();
    lines
        .into_iter()
        .map(|line| {
            let (package, license) = line.rsplit_once('|').expect("package|licence");
            let mut words = package.splitn(3, ' ');
            let name = words.next().unwrap_or_default().to_owned();
            let source = words.nth(1).unwrap_or_default().to_owned();
            Crate {
                name,
                source,
                license: license.to_owned(),
            }
        })
        .collect()
}

fn deny() -> toml::Table {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    text.parse().expect("deny.toml is TOML")
}

#[test]
fn every_licence_is_allowed() {
    let deny = deny();
    let allowed: Vec<&str> = deny["licenses"]["allow"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(toml::Value::as_str)
        .collect();
    let crates = crates();
    assert!(
        crates.len() > 100,
        "only {} crates: is this the whole tree?",
        crates.len()
    );
    let refused: Vec<String> = crates
        .iter()
        .filter(|one| !is_allowed(&one.license, &allowed))
        .map(|one| format!("{}: {:?}", one.name, one.license))
        .collect();
    assert!(
        refused.is_empty(),
        "licences that deny.toml does not allow:\n{}",
        refused.join("\n")
    );
}

#[test]
fn no_banned_crate_is_compiled() {
    let deny = deny();
    let crates = crates();
    for ban in deny["bans"]["deny"].as_array().expect("a list") {
        let name = ban["crate"].as_str().expect("a name");
        let count = crates.iter().filter(|one| one.name == name).count();
        let most = usize::from(ban.get("deny-multiple-versions").is_some());
        assert!(
            count <= most,
            "{name}: {count} in the tree, at most {most} allowed"
        );
    }
}

#[test]
fn every_crate_comes_from_the_registry_or_from_here() {
    for one in crates() {
        let is_ours = one.name.starts_with("atrn-");
        let foreign = one.source.contains("://") || (one.source.starts_with("(/") && !is_ours);
        assert!(!foreign, "{} comes from {}", one.name, one.source);
    }
}

/// An SPDX expression: `A OR B`, `A AND B`, brackets, and the old `A/B`.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (fits, rest) = any_of(&words, allowed);
    fits && rest.is_empty() && !words.is_empty()
}

fn any_of<'w, 'a>(words: &'w [&'a str], allowed: &[&str]) -> (bool, &'w [&'a str]) {
    let (mut fits, mut rest) = all_of(words, allowed);
    while let Some((&"OR", after)) = rest.split_first() {
        let (other, behind) = all_of(after, allowed);
        fits |= other;
        rest = behind;
    }
    (fits, rest)
}

fn all_of<'w, 'a>(words: &'w [&'a str], allowed: &[&str]) -> (bool, &'w [&'a str]) {
    let (mut fits, mut rest) = one(words, allowed);
    while let Some((&"AND", after)) = rest.split_first() {
        let (other, behind) = one(after, allowed);
        fits &= other;
        rest = behind;
    }
    (fits, rest)
}

fn one<'w, 'a>(words: &'w [&'a str], allowed: &[&str]) -> (bool, &'w [&'a str]) {
    match words {
        ["(", rest @ ..] => {
            let (fits, rest) = any_of(rest, allowed);
            match rest {
                [")", rest @ ..] => (fits, rest),
                _ => (false, rest),
            }
        }
        [name, "WITH", exception, rest @ ..] => (
            allowed.contains(&&*format!("{name} WITH {exception}")),
            rest,
        ),
        [name, rest @ ..] => (allowed.contains(name), rest),
        [] => (false, words),
    }
}

#[test]
fn licence_expressions_are_read_as_spdx_has_them() {
    let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"];
    let table = [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("GPL-3.0/MIT", true),
        ("ISC AND (GPL-3.0 OR MIT)", true),
        ("(GPL-3.0 OR BSD-3-Clause) AND MIT", false),
        ("GPL-3.0 OR ISC AND MIT", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
        ("", false),
    ];
    for (expression, expected) in table {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}
