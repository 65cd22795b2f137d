//! `window`: gathers the records of each key into windows, and makes a record of each.
//!
//! Numbers are taken as SQL takes them: what is missing, or no number, counts for nothing. A window holds its figures and no
//! records, so that its size does not depend on how many there are.

use std::{fmt, time::Duration};

use millstream_runtime::{Aggregate, Flow, StageOptions, Windowed, Windows};
use serde_json::{Value as Json, json};

use super::{StagePart, event_time::Unit};
use crate::{
    build::Workshop,
    copies::Meeting,
    figure::figure,
    problem::Findings,
    row::{Datum, Found, Path, Row},
    table::{At, Pairs, Table},
};

struct Gather {
    windows: Windows,
    values: Vec<(String, Value)>,
    unit: Unit,
    replicas: usize,
}

/// A figure of a window.
#[derive(Clone)]
struct Value {
    function: Function,
    field: Path,
}

#[derive(Clone, Copy)]
enum Function {
    Count,
    Sum,
    Mean,
    Min,
    Max,
    First,
    Last,
}

const FUNCTIONS: [(&str, Function); 7] = [
    ("count", Function::Count),
    ("sum", Function::Sum),
    ("mean", Function::Mean),
    ("min", Function::Min),
    ("max", Function::Max),
    ("first", Function::First),
    ("last", Function::Last),
];

/// What is known of a figure: how many records had the field, and what was made of it.
type Known = (u64, Json);

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn StagePart>> {
    let (size, every) = (table.read::<Duration>("size"), table.read::<Duration>("every"));
    let (session, count) = (table.read::<Duration>("session"), table.read_if::<u64>("count", |count| *count > 0, "at least 1"));
    let unit = Unit::read(table);
    let replicas = table.count("replicas").unwrap_or(1);
    let values = table.read::<Pairs<At<String>>>("values").map(|pairs| pairs.value.0).unwrap_or_default();
    let values: Option<Vec<_>> = values.iter().map(|(name, text)| Some((name.value.clone(), value(text, table.findings)?))).collect();
    let windows = match (size, every, session, count) {
        (Some(size), None, None, None) => Windows::Tumbling(size.value),
        (Some(size), Some(every), None, None) => Windows::Sliding { size: size.value, every: every.value },
        (None, None, Some(pause), None) => Windows::Session(pause.value),
        (None, None, None, Some(count)) => Windows::Count(count.value),
        _ => {
            table.findings.hint(&table.span, "which windows?", "give `size`, `size` and `every`, `session`, or `count`");
            return None;
        }
    };
    Some(Box::new(Gather { windows, values: values?, unit, replicas }))
}

fn value(text: &At<String>, findings: &Findings) -> Option<Value> {
    let (function, field) = figure(text, &FUNCTIONS, |function| matches!(function, Function::Count), findings)?;
    Some(Value { function, field })
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = FUNCTIONS[self.function as usize].0;
        let field = self.field.to_string();
        if field.is_empty() { f.write_str(word) } else { write!(f, "{word} {field}") }
    }
}

impl Value {
    fn add(&self, (count, known): &mut Known, row: &Row) {
        if self.field.to_string().is_empty() {
            *count += 1;
            return;
        }
        let json = match self.field.find(row) {
            Some(Found::Json(Json::Null)) | None => return,
            Some(Found::Json(json)) => json.clone(),
            Some(Found::Datum(datum)) => serde_json::to_value(datum).unwrap_or_default(),
        };
        self.merge((count, known), 1, json);
    }

    /// Adds what so many records had.
    fn merge(&self, (count, known): (&mut u64, &mut Json), more: u64, json: Json) {
        if more == 0 {
            return;
        }
        match self.function {
            Function::Count => {}
            Function::First if *count > 0 => {}
            Function::First | Function::Last => *known = json,
            Function::Sum | Function::Mean | Function::Min | Function::Max => {
                let Some(number) = json.as_f64() else { return };
                let own = known.as_f64();
                *known = json!(match (self.function, own) {
                    (_, None) => number,
                    (Function::Min, Some(own)) => own.min(number),
                    (Function::Max, Some(own)) => own.max(number),
                    (_, Some(own)) => own + number,
                });
            }
        }
        *count += more;
    }

    fn result(&self, (count, known): Known) -> Json {
        match self.function {
            Function::Count => json!(count),
            Function::Mean => known.as_f64().map_or(Json::Null, |sum| json!(sum / count as f64)),
            _ => known,
        }
    }
}

/// The figures of a window.
struct Figures(Vec<(String, Value)>);

impl Aggregate<Row> for Figures {
    type State = Vec<Known>;
    type Output = Vec<(String, Json)>;

    fn start(&self) -> Vec<Known> {
        vec![(0, Json::Null); self.0.len()]
    }

    fn add(&self, state: &mut Vec<Known>, row: &Row) {
        self.0.iter().zip(state).for_each(|((_, value), known)| value.add(known, row));
    }

    fn merge(&self, state: &mut Vec<Known>, other: Vec<Known>) {
        for (((_, value), (count, known)), (more, json)) in self.0.iter().zip(state).zip(other) {
            value.merge((count, known), more, json);
        }
    }

    fn encode(&self, state: &Vec<Known>) -> Option<Vec<u8>> {
        serde_json::to_vec(state).ok()
    }

    fn decode(&self, bytes: &[u8]) -> Option<Vec<Known>> {
        serde_json::from_slice(bytes).ok().filter(|state: &Vec<Known>| state.len() == self.0.len())
    }

    fn finish(&self, state: Vec<Known>) -> Self::Output {
        self.0.iter().zip(state).map(|((name, value), known)| (name.clone(), value.result(known))).collect()
    }
}

impl StagePart for Gather {
    fn detail(&self) -> String {
        let windows = match self.windows {
            Windows::Tumbling(size) => format!("{size:?}"),
            Windows::Sliding { size, every } => format!("{size:?} every {every:?}"),
            Windows::Session(pause) => format!("sessions with pauses up to {pause:?}"),
            Windows::Count(count) => format!("{count} records"),
            _ => String::new(),
        };
        let values = self.values.iter().map(|(name, value)| format!("; {name} = {value}"));
        windows + &values.collect::<String>()
    }

    fn meeting(&self) -> Option<Meeting> {
        Some(Meeting::Anew)
    }

    fn ways(&self) -> Option<Vec<String>> {
        Some(vec!["windows".to_owned(), "late".to_owned()])
    }

    fn attach(&self, name: &str, flow: Flow<Row>, _: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        let options = StageOptions::new().replicas(self.replicas);
        let (windows, late) = flow.window_with(name, self.windows, Figures(self.values.clone()), options);
        let unit = self.unit;
        let row = move |window: Windowed<Vec<(String, Json)>>| {
            let head = Row::new().with("start", Datum::Json(unit.number(window.start))).with("end", Datum::Json(unit.number(window.end)));
            let head = head.with("count", Datum::Json(json!(window.count)));
            window.value.into_iter().fold(head, |row, (name, value)| row.with(&name, Datum::Json(value)))
        };
        Some(vec![windows.map(&format!("{name}.rows"), row), late])
    }
}
