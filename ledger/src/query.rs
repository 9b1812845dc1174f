//! What an auditor asks for: which leaves, of which time, in which form.
use std::ops::ControlFlow;
use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan as _};

use crate::clock;
use crate::controls::{self, Control};
use crate::reader::{Filter, Leaf, ReadError, Reader};
use crate::record::Record;

/// A filter with the words it was asked for in.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub filter: Filter,
    pub control: Option<&'static Control>,
    /// For the head of a report; empty for everything.
    pub words: Vec<String>,
}

/// Why a query makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("{0:?} is no time; write 2026-05-01, 2026-05-01T10:00:00Z, or 7d for seven days ago")]
    Time(String),
    #[error("{0:?} is no year, month or day; write 2026, 2026-05 or 2026-05-01")]
    Period(String),
    #[error("no control {0:?}; the report lists those that are known")]
    Control(String),
}

impl Query {
    /// Adds a condition in words: `agent = support-bot`.
    pub fn say(&mut self, name: &str, value: &str) {
        self.words.push(format!("{name} = {value}"));
    }

    /// Leaves of that year, month or day in UTC.
    pub fn during(&mut self, period: &str) -> Result<(), QueryError> {
        let (from, to) = period_of(period).ok_or_else(|| QueryError::Period(period.to_owned()))?;
        self.filter.since = Some(clock::format(from));
        self.filter.until = Some(clock::format(to));
        self.say("during", period);
        Ok(())
    }

    /// Leaves from that time on.
    pub fn since(&mut self, time: &str, now: Timestamp) -> Result<(), QueryError> {
        self.filter.since = Some(clock::format(time_of(time, now)?));
        self.say("since", time);
        Ok(())
    }

    /// Leaves before that time.
    pub fn until(&mut self, time: &str, now: Timestamp) -> Result<(), QueryError> {
        self.filter.until = Some(clock::format(time_of(time, now)?));
        self.say("until", time);
        Ok(())
    }

    /// Leaves that support a control.
    pub fn control(&mut self, id: &str) -> Result<(), QueryError> {
        let found = controls::find(id).ok_or_else(|| QueryError::Control(id.to_owned()))?;
        self.control = Some(found);
        self.say("control", id);
        Ok(())
    }

    /// Whether nothing is left out.
    pub fn is_everything(&self) -> bool {
        self.words.is_empty()
    }

    /// The conditions in one line.
    pub fn text(&self) -> String {
        if self.words.is_empty() {
            "every leaf".to_owned()
        } else {
            self.words.join(", ")
        }
    }

    /// Hands over every leaf that is asked for, oldest first.
    pub fn run(
        &self,
        reader: &Reader,
        mut each: impl FnMut(&Leaf, &Record) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let mut trouble = Ok(());
        reader.scan(&self.filter, |leaf| {
            let record = match Record::opened(&leaf, reader) {
                Ok(record) => record,
                Err(error) => {
                    trouble = Err(error);
                    return ControlFlow::Break(());
                }
            };
            match self.control {
                Some(control) if !control.supports(&record) => ControlFlow::Continue(()),
                _ => each(&leaf, &record),
            }
        })?;
        trouble
    }
}

impl Query {
    /// The same, going on with leaves as they are committed, until told to stop.
    pub fn follow(
        &self,
        reader: &Reader,
        pause: Duration,
        mut each: impl FnMut(&Leaf, &Record) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        reader.follow(&self.filter, pause, |leaf| {
            let record = Record::of(&leaf);
            match self.control {
                Some(control) if !control.supports(&record) => ControlFlow::Continue(()),
                _ => each(&leaf, &record),
            }
        })
    }
}

fn midnight(date: Date) -> Option<Timestamp> {
    let zoned = DateTime::from(date).to_zoned(TimeZone::UTC).ok()?;
    Some(zoned.timestamp())
}

fn period_of(text: &str) -> Option<(Timestamp, Timestamp)> {
    let number = |part: &str| part.parse::<i16>().ok();
    let parts: Vec<&str> = text.split('-').collect();
    let (first, length): (Date, Span) = match parts[..] {
        [year] => (Date::new(number(year)?, 1, 1).ok()?, 1.year()),
        [year, month] => (
            Date::new(number(year)?, month.parse().ok()?, 1).ok()?,
            1.month(),
        ),
        [year, month, day] => (
            Date::new(number(year)?, month.parse().ok()?, day.parse().ok()?).ok()?,
            1.day(),
        ),
        _ => return None,
    };
    Some((midnight(first)?, midnight(first.checked_add(length).ok()?)?))
}

fn time_of(text: &str, now: Timestamp) -> Result<Timestamp, QueryError> {
    let ago = || -> Option<Timestamp> {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let number: i64 = number.parse().ok()?;
        let seconds = match unit {
            "d" => 86_400,
            "h" => 3600,
            "m" => 60,
            _ => return None,
        };
        now.checked_sub(number.checked_mul(seconds)?.seconds()).ok()
    };
    text.parse()
        .ok()
        .or_else(|| midnight(text.parse().ok()?))
        .or_else(ago)
        .ok_or_else(|| QueryError::Time(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let now: Timestamp = "2026-05-10T12:00:00Z".parse().unwrap();
        let mut query = Query::default();
        query.during("2026-05").unwrap();
        let bounds = |query: &Query| {
            let filter = query.filter.clone();
            (filter.since.unwrap(), filter.until.unwrap())
        };
        let may = ("2026-05-01T00:00:00.000Z", "2026-06-01T00:00:00.000Z");
        assert_eq!(bounds(&query), (may.0.to_owned(), may.1.to_owned()));
        query.during("2024-02-29").unwrap();
        assert_eq!(bounds(&query).1, "2024-03-01T00:00:00.000Z");
        query.since("7d", now).unwrap();
        query.until("2026-05-09T01:02:03Z", now).unwrap();
        let found = bounds(&query);
        assert_eq!(found.0, "2026-05-03T12:00:00.000Z");
        assert_eq!(found.1, "2026-05-09T01:02:03.000Z");
        for bad in ["", "yesterday", "2026-13-01", "7x", "d"] {
            assert_eq!(query.since(bad, now), Err(QueryError::Time(bad.into())));
        }
        for bad in ["", "May", "2026-5-1-1", "2026-02-30"] {
            assert_eq!(query.during(bad), Err(QueryError::Period(bad.into())));
        }
    }
}
