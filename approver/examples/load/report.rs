//! What was found: a table as it comes, or JSON at the end.
use std::time::Duration;

use serde::Serialize;

use crate::Error;

/// One line.
#[derive(Serialize)]
struct Row {
    row: String,
    value: f64,
    unit: &'static str,
    /// How much it may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    reach: Option<f64>,
}

impl Row {
    fn well(&self) -> bool {
        self.reach.is_none_or(|reach| self.value <= reach)
    }
}

/// All of them.
pub(crate) struct Report {
    json: bool,
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        if !json {
            println!("| | found | reach | |\n|---|---:|---:|---|");
        }
        Self { json, rows: vec![] }
    }

    pub(crate) fn say(&mut self, row: &str, value: f64, unit: &'static str) {
        self.add(row, value, unit, None);
    }

    /// With the most it may be.
    pub(crate) fn within(&mut self, row: &str, value: f64, unit: &'static str, reach: f64) {
        self.add(row, value, unit, Some(reach));
    }

    /// The median, the 99th of a hundred, which may have a reach, and the longest.
    pub(crate) fn times(&mut self, what: &str, mut took: Vec<Duration>, reach: Option<f64>) {
        took.sort();
        for (name, percent) in [("p50", 50), ("p99", 99), ("longest", 100)] {
            let index = (took.len() * percent).div_ceil(100).saturating_sub(1);
            let value = took.get(index).map_or(f64::NAN, |time| ms(*time));
            let reach = reach.filter(|_| percent == 99);
            self.add(&format!("{what}, {name}"), value, "ms", reach);
        }
    }

    /// How busy the machine is: processes that run or want to, over the last minute.
    pub(crate) fn machine(&mut self, when: &str) -> Result<(), Error> {
        let text = std::fs::read_to_string("/proc/loadavg")?;
        let load = text.split(' ').next().ok_or("/proc/loadavg is empty")?;
        self.say(&format!("the machine's load {when}"), load.parse()?, "");
        Ok(())
    }

    /// Whether everything is within its reach.
    pub(crate) fn finish(self) -> Result<bool, Error> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(&self.rows)?);
        }
        Ok(self.rows.iter().all(Row::well))
    }

    fn add(&mut self, row: &str, value: f64, unit: &'static str, reach: Option<f64>) {
        let row = Row {
            row: row.to_owned(),
            value,
            unit,
            reach,
        };
        if !self.json {
            let shown = |value: f64| match (unit, value.fract() == 0.0) {
                ("", true) => format!("{value}"),
                ("", false) => format!("{value:.2}"),
                _ => format!("{value:.1} {unit}"),
            };
            let mark = match (reach, row.well()) {
                (None, _) => "",
                (Some(_), true) => "✓",
                (Some(_), false) => "✗",
            };
            let reach = reach.map_or_else(String::new, |reach| format!("≤ {}", shown(reach)));
            println!("| {} | {} | {reach} | {mark} |", row.row, shown(value));
        }
        self.rows.push(row);
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
