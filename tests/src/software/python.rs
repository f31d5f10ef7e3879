//! Python's `email` package, which reads messages by the RFCs and says what it finds wrong.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::Software;

/// What Python reads in a report: `defects`, `type`, `report_type`, `headers`, the types of its `parts`, the `text` for
/// people, the fields of `message` and of each of the `recipients`, and the `original` header section as far as there
/// is one. `None` when Python is not installed.
///
/// # Panics
/// When it does not parse at all.
#[must_use]
pub fn read_report(content: &[u8]) -> Option<Value> {
    let program = Software::Python.find()?;
    let mut python = Command::new(program)
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    let mut input = python.stdin.take().expect("its input");
    input.write_all(content).expect("it reads");
    drop(input);
    let output = python.wait_with_output().expect("it ends");
    assert!(
        output.status.success(),
        "Python cannot read this:\n{}",
        String::from_utf8_lossy(content)
    );
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

const SCRIPT: &str = r#"
import email, email.policy, json, sys

message = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
# Reading a header finds its defects, and those of addresses and dates.
def fields(part):
    return {name: str(value) for name, value in part.items()}

def defects(part):
    found = [repr(defect) for defect in part.defects]
    for name, value in part.items():
        found += [f"{name}: {defect!r}" for defect in getattr(value, "defects", [])]
    return found

found = {
    "defects": [defect for part in message.walk() for defect in defects(part)],
    "type": message.get_content_type(),
    "report_type": message.get_param("report-type"),
    "headers": fields(message),
    "parts": [],
    "recipients": [],
    "original": {},
}
for part in message.iter_parts():
    found["parts"].append(part.get_content_type())
    kind = part.get_content_type()
    if kind == "text/plain":
        found["text"] = part.get_content()
    elif kind == "message/delivery-status":
        groups = [fields(group) for group in part.get_payload()]
        # Python takes the end of the part for one more group.
        groups = [group for group in groups if group]
        found["message"], found["recipients"] = groups[0], groups[1:]
    elif kind == "text/rfc822-headers":
        original = email.message_from_string(part.get_content(), policy=email.policy.default)
        found["original"] = fields(original)
    elif kind == "message/rfc822":
        original = part.get_content()
        found["original"], found["body"] = fields(original), original.get_content()
json.dump(found, sys.stdout)
"#;
