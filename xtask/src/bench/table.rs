//! The rows of the table: what each is beside, how far it should reach, and whether it does.
use std::io::IsTerminal as _;

use serde::Serialize;

use super::{Figure, Found, Report};

/// A row as this project wants it.
struct Row {
    /// The guest's name of it.
    name: &'static str,
    title: &'static str,
    /// The same operation without Syshold; its peers have the same name.
    bare: Option<&'static str>,
    reach: Option<f64>,
}

const fn beside(name: &'static str, bare: &'static str, reach: f64, title: &'static str) -> Row {
    Row {
        name,
        title,
        bare: Some(bare),
        reach: Some(reach),
    }
}

const fn alone(name: &'static str, reach: Option<f64>, title: &'static str) -> Row {
    Row {
        name,
        title,
        bare: None,
        reach,
    }
}

const ROWS: &[Row] = &[
    beside(
        "ungoverned_open",
        "open_plain",
        250.0,
        "open+close, ungoverned process",
    ),
    Row {
        name: "ungoverned_connect",
        title: "connect, ungoverned process",
        bare: Some("connect"),
        reach: None,
    },
    beside(
        "governed_open",
        "open_plain",
        2_500.0,
        "open+close, governed, 6 levels deep",
    ),
    Row {
        name: "governed_read",
        title: "read of one byte, governed, 6 levels deep",
        bare: Some("read_plain"),
        reach: None,
    },
    beside(
        "connect_allowed",
        "connect",
        1_500.0,
        "connect allowed by a rule in the kernel",
    ),
    beside(
        "hold_policy",
        "open_candidate",
        9_500.0,
        "hold → policy in user space → resume",
    ),
    beside(
        "hold_grant",
        "open_pii",
        9_500.0,
        "hold → grant in user space → resume",
    ),
    beside(
        "hold_grant_connect",
        "connect",
        9_500.0,
        "the same, a connect",
    ),
    Row {
        name: "hold_grant_busy",
        title: "the same, opens back to back",
        bare: Some("open_pii"),
        reach: None,
    },
    alone(
        "commit",
        None,
        "of these: one commit of the ledger, in memory",
    ),
    beside(
        "hold_parked",
        "open_pii",
        40_000.0,
        "hold → described, parked, decided, thawed",
    ),
    beside(
        "hold_parked_favored",
        "open_pii",
        40_000.0,
        "the same, cgroup2 with favordynmods",
    ),
    alone(
        "pending_daemon",
        Some(4096.0),
        "held: daemon's memory a hold",
    ),
    alone(
        "pending_kernel",
        Some(4096.0),
        "held: kernel's memory a hold",
    ),
    alone("pending_cpu", Some(1.0), "held: CPU of the daemon"),
    alone(
        "pending_cpu_held",
        Some(0.1),
        "held: CPU of the held process",
    ),
    alone(
        "release_alone",
        None,
        "CPU of the daemon for one hold, alone",
    ),
    alone("release_crowded", None, "the same, with the others pending"),
    alone(
        "release_all",
        None,
        "CPU of the daemon to release all, a hold",
    ),
    alone(
        "idle_rss",
        Some(20.0 * 1_048_576.0),
        "idle: daemon's memory",
    ),
    alone("idle_wakeups", None, "idle: wake-ups"),
    alone("idle_cpu", None, "idle: CPU of the daemon"),
];

/// A row as it was measured.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    row: &'static str,
    pub(super) title: &'static str,
    unit: String,
    value: Option<f64>,
    /// Half the distance from the 10th to the 90th of a hundred, in percent of the value.
    spread_percent: Option<f64>,
    bare: Option<f64>,
    added: Option<f64>,
    reach: Option<f64>,
    reached: Option<bool>,
    /// What small supervisors of other mechanisms add to the bare run.
    fanotify_adds: Option<f64>,
    seccomp_adds: Option<f64>,
    not_measured: Option<String>,
}

impl Line {
    pub(super) fn is_measured(&self) -> bool {
        self.not_measured.is_none()
    }
}

pub(super) fn lines(figures: &[Figure]) -> Vec<Line> {
    let find = |row: &str, subject: &str| {
        let mut found = figures
            .iter()
            .filter(|figure| figure.row == row && figure.subject == subject);
        found.next_back().map(|figure| &figure.found)
    };
    let value = |row: &str, subject: &str| match find(row, subject) {
        Some(Found::Value { value, .. }) => Some(*value),
        _ => None,
    };
    ROWS.iter()
        .map(|row| {
            let bare = row.bare.and_then(|name| value(name, "bare"));
            let peer = |name| Some(value(row.bare?, name)? - bare?);
            let mine = value(row.name, "syshold");
            let added = mine.zip(bare).map(|(mine, bare)| mine - bare);
            let counts = if row.bare.is_some() { added } else { mine };
            let (unit, spread) = match find(row.name, "syshold") {
                Some(Found::Value { unit, spread, .. }) => (unit.clone(), *spread),
                _ => (String::new(), None),
            };
            Line {
                row: row.name,
                title: row.title,
                unit,
                value: mine,
                spread_percent: spread
                    .zip(mine)
                    .map(|(spread, mine)| (spread.high - spread.low) / 2.0 / mine * 100.0),
                bare,
                added,
                reach: row.reach,
                reached: counts.zip(row.reach).map(|(counts, reach)| counts <= reach),
                fanotify_adds: peer("fanotify"),
                seccomp_adds: peer("seccomp"),
                not_measured: match find(row.name, "syshold") {
                    Some(Found::Missing { missing }) => Some(missing.clone()),
                    None => Some("the guest ended before it".to_owned()),
                    Some(Found::Value { .. }) => None,
                },
            }
        })
        .collect()
}

pub(super) fn print(report: &Report) {
    let paint = Paint(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let holds =
        "added is to the bare run; ± is half of what lies between the 10th and 90th percentile";
    println!(
        "\n{}\n{}",
        paint.bold(&format!("Kernel {}: guest instructions", report.release)),
        paint.dim(holds)
    );
    for line in aligned(&report.rows, &paint) {
        println!("{line}");
    }
}

const COLUMNS: usize = 9;
const HEAD: [&str; COLUMNS] = [
    "", "bare", "Syshold", "±", "added", "reach", "", "fanotify", "seccomp",
];
/// Whether a row is within its reach.
const MARK: usize = 6;

/// The head and every row, each column as wide as its widest cell.
fn aligned(rows: &[Line], paint: &Paint) -> Vec<String> {
    let rows: Vec<_> = rows.iter().map(|line| (line, cells(line))).collect();
    let mut widths = HEAD.map(wide);
    for (line, cells) in &rows {
        // A row that says why it has no figures has a title only.
        let columns = if line.is_measured() { COLUMNS } else { 1 };
        for (width, cell) in widths.iter_mut().zip(cells).take(columns) {
            *width = (*width).max(wide(cell));
        }
    }
    let title = widths[0];
    let join = |cells: &[String; COLUMNS], mark: &dyn Fn(&str) -> String| {
        let mut line = format!("{:title$}", cells[0]);
        for (index, (cell, width)) in cells.iter().zip(widths).enumerate().skip(1) {
            let cell = format!("{cell:>width$}");
            line.push(' ');
            line.push_str(&if index == MARK { mark(&cell) } else { cell });
        }
        line
    };
    let head = join(&HEAD.map(str::to_owned), &str::to_owned);
    let mut lines = vec![paint.bold(&head)];
    for (line, cells) in &rows {
        lines.push(match (&line.not_measured, line.reached) {
            (Some(why), _) => {
                let why = paint.red(&format!("not measured: {why}"));
                format!("{:title$} {why}", cells[0])
            }
            (None, Some(false)) => join(cells, &|mark| paint.red(mark)),
            (None, _) => join(cells, &|mark| paint.green(mark)),
        });
    }
    lines
}

fn wide(text: &str) -> usize {
    text.chars().count()
}

fn cells(line: &Line) -> [String; COLUMNS] {
    let mark = match line.reached {
        Some(true) => "✓",
        Some(false) => "✗",
        None => "",
    };
    [
        line.title.to_owned(),
        cell(line.bare, grouped),
        cell(line.value, |value| shown(value, &line.unit)),
        cell(line.spread_percent, |percent| format!("{percent:.1} %")),
        cell(line.added, signed),
        cell(line.reach, |reach| {
            format!("≤ {}{}", plus(line), shown(reach, &line.unit))
        }),
        mark.to_owned(),
        cell(line.fanotify_adds, signed),
        cell(line.seccomp_adds, signed),
    ]
}

fn plus(line: &Line) -> &'static str {
    if line.bare.is_some() { "+" } else { "" }
}

fn cell(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map(show).unwrap_or_default()
}

fn shown(value: f64, unit: &str) -> String {
    match unit {
        "instructions" => grouped(value),
        "bytes" if value >= 1_048_576.0 => format!("{:.1} MiB", value / 1_048_576.0),
        "bytes" => format!("{} B", grouped(value)),
        "percent" => format!("{value:.2} %"),
        "per second" => format!("{value:.1} /s"),
        other => format!("{value} {other}"),
    }
}

fn signed(value: f64) -> String {
    let sign = if value < 0.0 { "-" } else { "+" };
    format!("{sign}{}", grouped(value.abs()))
}

/// 12345.6 is `12,346`.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

struct Paint(bool);

impl Paint {
    fn bold(&self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(&self, text: &str) -> String {
        self.with("2", text)
    }

    fn green(&self, text: &str) -> String {
        self.with("32", text)
    }

    fn red(&self, text: &str) -> String {
        self.with("31", text)
    }

    fn with(&self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(lines: &[&str]) -> Vec<Figure> {
        lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_row_that_failed_or_never_came_is_not_measured() {
        let rows = lines(&figures(&[
            r#"{"row":"open_plain","subject":"bare","unit":"instructions","value":1000}"#,
            r#"{"row":"governed_open","subject":"syshold","unit":"instructions","value":3600}"#,
            r#"{"row":"hold_grant","subject":"syshold","missing":"nobody was asked"}"#,
        ]));
        let row = |name| rows.iter().find(|line| line.row == name).unwrap();
        assert!(row("governed_open").is_measured());
        assert_eq!(row("governed_open").added, Some(2600.0));
        assert_eq!(row("governed_open").reached, Some(false));
        assert!(!row("hold_grant").is_measured());
        assert!(!row("idle_rss").is_measured());
    }

    #[test]
    fn columns_stand_below_each_other_however_wide_a_number_is() {
        let rows = lines(&figures(&[
            r#"{"row":"open_plain","subject":"bare","unit":"instructions","value":1000}"#,
            r#"{"row":"governed_open","subject":"syshold","unit":"instructions","value":3600,"low":3500,"high":3700,"count":9}"#,
            r#"{"row":"open_pii","subject":"bare","unit":"instructions","value":7000}"#,
            r#"{"row":"open_pii","subject":"fanotify","unit":"instructions","value":22000}"#,
            r#"{"row":"hold_parked","subject":"syshold","unit":"instructions","value":1234567890,"low":1,"high":9876543210,"count":9}"#,
            r#"{"row":"idle_rss","subject":"syshold","unit":"bytes","value":20971520}"#,
        ]));
        let shown = aligned(&rows, &Paint(false));
        // Where the cell of a column ends, in every line that has one.
        let ends = |cell: &str| {
            let line = shown.iter().find(|line| line.contains(cell)).unwrap();
            wide(line.split(cell).next().unwrap()) + wide(cell)
        };
        for (head, cells) in [
            ("bare", ["1,000", "7,000"].as_slice()),
            ("Syshold", &["3,600", "1,234,567,890", "20.0 MiB"]),
            ("±", &["2.8 %", "400.0 %"]),
            ("added", &["+2,600", "+1,234,560,890"]),
            ("reach", &["≤ +2,500", "≤ +40,000", "≤ 20.0 MiB"]),
            ("fanotify", &["+15,000"]),
        ] {
            for cell in cells {
                assert_eq!(ends(cell), ends(head), "{cell}:\n{}", shown.join("\n"));
            }
        }
        let measured = |line: &&String| !line.contains("not measured");
        let ends: Vec<_> = shown
            .iter()
            .filter(measured)
            .map(|line| wide(line))
            .collect();
        assert_eq!(ends, [ends[0]; 4], "\n{}", shown.join("\n"));
    }
}
