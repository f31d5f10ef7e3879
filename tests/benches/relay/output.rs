//! What was measured as a table for people, as Markdown, and as JSON.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::chart::Chart;
use crate::figures::{Measured, Named, Row, Samples, Unit, Wanted};
use crate::party::Plan;

const COLUMNS: [&str; 8] = [
    "",
    "unit",
    "atrn",
    "beside it",
    "ratio",
    "of the limit",
    "wanted",
    "also seen",
];

/// Where and how it was measured: names and values.
pub(crate) fn setting(folder: &Path, plan: &Plan) -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    vec![
        ("cores", cores.to_string()),
        ("processor", processor()),
        ("kernel", said_by("uname", &["-sr"])),
        ("file system", file_system(folder)),
        ("load before", load.join(" ")),
        (
            "Postfix",
            said_by("postconf", &["-d", "-h", "mail_version"]),
        ),
        ("runs of each row", plan.runs.to_string()),
        (
            "length of a run",
            format!("about {:.1} s", plan.run_length.as_secs_f64()),
        ),
    ]
}

pub(crate) fn heading(setting: &[(&'static str, String)]) -> String {
    setting.iter().fold(String::new(), |text, (name, value)| {
        text + &format!("{name:>16}: {value}\n")
    })
}

/// Aligned, for a terminal.
pub(crate) fn table(rows: &[Row]) -> String {
    let cells: Vec<[String; 8]> = rows.iter().map(cells).collect();
    let width = |column: usize| {
        let cells = cells.iter().map(|row| row[column].chars().count());
        cells.chain([COLUMNS[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let line = |row: &[String]| {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Words to the left, figures to the right. Writing to a String cannot fail.
            match column {
                0 | 1 | 6 | 7 => write!(line, "{cell:<width$}  "),
                _ => write!(line, "{cell:>width$}  "),
            }
            .ok();
        }
        line.trim_end().to_owned() + "\n"
    };
    let heads = COLUMNS.map(str::to_owned);
    let body = cells.iter().map(|row| line(row));
    std::iter::once(line(&heads)).chain(body).collect()
}

pub(crate) fn markdown(setting: &[(&'static str, String)], rows: &[Row]) -> String {
    let mut text = String::new();
    for (name, value) in setting {
        writeln!(text, "* {name}: {value}").ok();
    }
    writeln!(text, "\n| {} |", COLUMNS.join(" | ")).ok();
    writeln!(text, "|---|---|---:|---:|---:|---:|---|---|").ok();
    for row in rows {
        writeln!(text, "| {} |", cells(row).join(" | ")).ok();
    }
    text
}

pub(crate) fn json(setting: &[(&'static str, String)], measured: &Measured) -> Value {
    let setting: serde_json::Map<String, Value> = setting
        .iter()
        .map(|(name, value)| (name.replace(' ', "_"), json!(value)))
        .collect();
    let rows: Vec<Value> = measured.rows.iter().map(object).collect();
    let charts: Vec<Value> = measured.charts.iter().map(Chart::json).collect();
    json!({"setting": setting, "rows": rows, "charts": charts})
}

fn object(row: &Row) -> Value {
    let named = |(what, samples): &Named| json!({"what": what, "figures": figures(samples)});
    json!({
        "name": row.name,
        "unit": row.unit.name(),
        "atrn": figures(&row.ours),
        "beside": row.beside.as_ref().map(named),
        "ratio": row.ratio(),
        "limit": row.limit.as_ref().map(named),
        "share": row.share(),
        "wanted": row.wanted.iter().copied().map(wanted).collect::<Vec<_>>(),
        "met": row.met(),
        "goals": row.goals.iter().copied().map(wanted).collect::<Vec<_>>(),
        "note": row.note,
    })
}

/// The kind of file system that a folder is on, and how it is mounted.
pub(crate) fn file_system(folder: &Path) -> String {
    let folder = folder.display().to_string();
    said_by("findmnt", &["-no", "FSTYPE,OPTIONS", "-T", &folder])
}

fn cells(row: &Row) -> [String; 8] {
    let named = |(what, samples): &Named| format!("{what} {}", shown(samples, row.unit));
    let share = row
        .share()
        .map(|share| format!("{:.0} % of ", share * 100.0));
    let limit = row.limit.as_ref().map(named);
    let verdict = |verdict: &Wanted| {
        let mark = if row.meets(*verdict) { "✓" } else { "✗" };
        format!("{} {mark}", wanted(*verdict))
    };
    let goal = |goal: &Wanted| format!("goal {}", verdict(goal));
    let verdicts = row.wanted.iter().map(verdict);
    let verdicts: Vec<String> = verdicts.chain(row.goals.iter().map(goal)).collect();
    [
        row.name.clone(),
        row.unit.name().to_owned(),
        shown(&row.ours, row.unit),
        row.beside.as_ref().map_or_else(String::new, named),
        row.ratio()
            .map_or_else(String::new, |ratio| format!("{ratio:.2}")),
        share.unwrap_or_default() + &limit.unwrap_or_default(),
        verdicts.join(", "),
        row.note.clone(),
    ]
}

fn wanted(wanted: Wanted) -> String {
    match wanted {
        Wanted::AtMost(most) => format!("≤ {most}"),
        Wanted::RatioAtLeast(least) => format!("≥ {least} ×"),
        Wanted::RatioAtMost(most) => format!("≤ {most} ×"),
        Wanted::ShareAtLeast(least) => format!("≥ {:.0} %", least * 100.0),
    }
}

/// The median, and from the lowest to the highest.
fn shown(samples: &Samples, unit: Unit) -> String {
    let digits = match unit {
        Unit::Millis => 2,
        _ if samples.highest() < 10.0 => 2,
        Unit::Mebibytes => 1,
        _ => 0,
    };
    format!(
        "{:.digits$} ({:.digits$}–{:.digits$})",
        samples.median(),
        samples.lowest(),
        samples.highest()
    )
}

fn figures(samples: &Samples) -> Value {
    json!({"median": samples.median(), "lowest": samples.lowest(), "highest": samples.highest()})
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == "model name").then(|| value.trim().to_owned())
    });
    model.unwrap_or_else(|| "unknown".to_owned())
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |error| format!("unknown ({program}: {error})"),
        |output| {
            let text = String::from_utf8_lossy(&output.stdout);
            // A mount on top of another is listed after it.
            let last = text.trim().lines().last().unwrap_or_default();
            last.split_whitespace().collect::<Vec<_>>().join(" ")
        },
    )
}
