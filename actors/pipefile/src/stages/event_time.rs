//! `event_time`: records get their times from a field, and from then on it is known how far event time has come.

use std::time::Duration;

use millstream_runtime::{Flow, Watermarks};
use serde_json::Value as Json;

use super::StagePart;
use crate::{
    build::Workshop,
    row::{DataError, Found, Path, Row, needed},
    table::Table,
};

struct EventTime {
    field: Path,
    unit: Unit,
    disorder: Duration,
    idle_after: Option<Duration>,
}

/// What the numbers of a field count, since 1970.
#[derive(Clone, Copy)]
pub(super) struct Unit {
    word: &'static str,
    /// How many microseconds it is.
    micros: f64,
}

const UNITS: [Unit; 3] = [Unit { word: "ms", micros: 1e3 }, Unit { word: "s", micros: 1e6 }, Unit { word: "us", micros: 1.0 }];

impl Unit {
    pub(super) fn read(table: &Table<'_>) -> Unit {
        table.choice("unit", &UNITS.map(|unit| (unit.word, unit))).unwrap_or(UNITS[0])
    }

    /// A moment in microseconds since 1970 as a number of this unit; whole, where it is.
    pub(super) fn number(self, micros: i64) -> Json {
        let whole = self.micros as i64;
        if micros % whole == 0 { Json::from(micros / whole) } else { Json::from(micros as f64 / self.micros) }
    }
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn StagePart>> {
    let unit = Unit::read(table);
    let disorder = table.read::<Duration>("disorder").map_or(Duration::ZERO, |disorder| disorder.value);
    let idle_after = table.read::<Duration>("idle_after").map(|idle| idle.value);
    Some(Box::new(EventTime { field: Path::new(table.need::<String>("field")?.value), unit, disorder, idle_after }))
}

/// A record's time in microseconds.
fn time(row: &Row, field: &Path, unit: Unit) -> Result<i64, DataError> {
    let number = match needed(row, field)? {
        Found::Json(Json::Number(number)) => number.as_i64().and_then(|whole| whole.checked_mul(unit.micros as i64)).or_else(|| {
            let micros = number.as_f64()? * unit.micros;
            (micros.abs() < i64::MAX as f64).then_some(micros as i64)
        }),
        _ => None,
    };
    number.ok_or_else(|| DataError::Kind { field: field.to_string(), expected: "a time as a number", found: "something else" })
}

impl StagePart for EventTime {
    fn detail(&self) -> String {
        format!("{} in {}, up to {:?} late", self.field, self.unit.word, self.disorder)
    }

    fn attach(&self, name: &str, flow: Flow<Row>, _: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        let (field, unit) = (self.field.clone(), self.unit);
        let mut watermarks = Watermarks::bounded(self.disorder);
        if let Some(idle_after) = self.idle_after {
            watermarks = watermarks.idle_after(idle_after);
        }
        Some(vec![flow.try_event_time(name, watermarks, move |row: &Row| time(row, &field, unit))])
    }
}
