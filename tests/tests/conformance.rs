//! Every requirement has a test, and `docs/testing.md` says which.

use atrn_tests::conformance::{Page, coverage, root};

#[test]
fn every_requirement_has_a_test_and_the_table_says_which() {
    let path = root().join("docs/testing.md");
    let coverage = coverage().expect("covers: lines");
    let page = Page::read(&path).expect("docs/testing.md");
    let page = if std::env::var_os("ATRN_UPDATE_DOCS").is_some() {
        let page = page.renewed(&coverage);
        std::fs::write(&path, page.text()).expect("docs/testing.md is written");
        page
    } else {
        page
    };
    let problems = page.problems(&coverage);
    assert!(
        problems.is_empty(),
        "{}\nto renew the table: ATRN_UPDATE_DOCS=1 cargo test -p atrn-tests --test conformance",
        problems.join("\n")
    );
}
