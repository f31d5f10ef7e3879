//! Whether a log is whole: a line begins where the program began it, and nothing in it steers a terminal.

/// Every line begins with a time, and none has a character that a reader does not see for what it is.
///
/// # Panics
/// With the line that is not as it should be, or when there is none.
#[track_caller]
pub fn assert_log_is_whole(log: &str) {
    assert!(!log.is_empty(), "there is no log");
    for line in log.lines() {
        assert!(!line.chars().any(is_deceptive), "{line:?}");
        let is_own = line.starts_with("20") && line.as_bytes().get(4) == Some(&b'-');
        assert!(is_own, "a line that nobody began: {line}");
        // The time, and then the level in its column.
        let level = line.split_whitespace().nth(1);
        let levels = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
        assert!(level.is_some_and(|level| levels.contains(&level)), "{line}");
    }
}

fn is_deceptive(character: char) -> bool {
    let steers = matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    character.is_control() || steers
}
