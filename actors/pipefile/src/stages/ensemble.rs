//! `ensemble`: makes one record of a record and of what those say who were asked about it, as soon as enough answers have
//! come.

use std::{fmt, time::Duration};

use millstream_runtime::{Answers, Flow};
use millstream_tensor::Tensor;
use serde_json::{Value as Json, json};

use super::{StagePart, identity};
use crate::{
    build::Workshop,
    copies::Meeting,
    figure::figure,
    row::{Datum, Path, Row},
    table::{At, Pairs, Table},
    tensors::floats,
};

struct Ensemble {
    with: At<Vec<At<String>>>,
    enough: usize,
    within: Duration,
    /// What becomes of the answers' fields; all fields of the first answer that has them, without it.
    values: Option<Vec<(String, Value)>>,
}

/// A figure of the answers.
#[derive(Clone)]
struct Value {
    function: Function,
    field: Path,
}

#[derive(Clone, Copy, PartialEq)]
enum Function {
    Count,
    Mean,
    Min,
    Max,
    Majority,
    First,
    List,
}

const FUNCTIONS: [(&str, Function); 7] = [
    ("count", Function::Count),
    ("mean", Function::Mean),
    ("min", Function::Min),
    ("max", Function::Max),
    ("majority", Function::Majority),
    ("first", Function::First),
    ("list", Function::List),
];

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn StagePart>> {
    let values = table.read::<Pairs<At<String>>>("values").map(|pairs| {
        let value = |text| figure(text, &FUNCTIONS, |function| function == Function::Count, table.findings).map(|(function, field)| Value { function, field });
        pairs.value.0.iter().map(|(name, text)| Some((name.value.clone(), value(text)?))).collect::<Option<Vec<_>>>()
    });
    let within = table.need::<Duration>("within");
    let with = table.need::<Vec<At<String>>>("with");
    let enough = table.read::<usize>("enough");
    let (with, within) = (with?, within?.value);
    let asked = with.value.len();
    if let Some(enough) = enough.as_ref().filter(|enough| enough.value == 0 || enough.value > asked) {
        table.findings.add(&enough.span, format!("`enough` must be from 1 to {asked}, as many as are asked"));
    }
    let enough = enough.map_or(asked, |enough| enough.value);
    // Where a value was wrong, the stage is one all the same: others know then what it takes from.
    Some(Box::new(Ensemble { with, enough, within, values: values.map(Option::unwrap_or_default) }))
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = FUNCTIONS[self.function as usize].0;
        write!(f, "{}", format!("{word} {}", self.field).trim_end())
    }
}

impl Value {
    /// Of these answers. What is missing counts for nothing.
    fn of(&self, answers: &[Row]) -> Datum {
        if self.field.to_string().is_empty() {
            return Datum::Json(json!(answers.len()));
        }
        let found: Vec<Datum> = answers.iter().filter_map(|row| Some(self.field.find(row)?.to_datum())).collect();
        let none = || Datum::Json(Json::Null);
        match self.function {
            Function::Count => Datum::Json(json!(found.len())),
            Function::First => found.into_iter().next().unwrap_or_else(none),
            Function::List => Datum::Json(found.iter().map(|datum| serde_json::to_value(datum).unwrap_or_default()).collect()),
            Function::Majority => self.majority(answers).unwrap_or_else(none),
            Function::Mean | Function::Min | Function::Max => self.numbers(&found).unwrap_or_else(none),
        }
    }

    /// What most say; of several, what the first of them says.
    fn majority(&self, answers: &[Row]) -> Option<Datum> {
        let said: Vec<_> = answers.iter().filter_map(|row| Some((identity(row, &self.field)?, row))).collect();
        let votes = |own: &[u8]| said.iter().filter(|(other, _)| other == own).count();
        let most = said.iter().map(|(own, _)| votes(own)).max()?;
        let (_, row) = said.iter().find(|(own, _)| votes(own) == most)?;
        Some(self.field.find(row)?.to_datum())
    }

    /// Of numbers, or of each element of tensors that have one shape.
    fn numbers(&self, found: &[Datum]) -> Option<Datum> {
        let together = |numbers: &[f64]| match self.function {
            Function::Min => numbers.iter().copied().fold(f64::INFINITY, f64::min),
            Function::Max => numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            _ => numbers.iter().sum::<f64>() / numbers.len() as f64,
        };
        if let Some(Datum::Tensor(first)) = found.first() {
            let tensor = |datum: &Datum| match datum {
                Datum::Tensor(tensor) if tensor.shape() == first.shape() => floats(tensor),
                _ => None,
            };
            let columns: Vec<Vec<f32>> = found.iter().map(tensor).collect::<Option<_>>()?;
            let element = |at: usize| together(&columns.iter().map(|column| f64::from(column[at])).collect::<Vec<_>>()) as f32;
            let elements: Vec<f32> = (0..first.shape().elements()).map(element).collect();
            return Tensor::from_slice(first.shape().dims(), &elements).ok().map(Datum::Tensor);
        }
        let number = |datum: &Datum| match datum {
            Datum::Json(json) => json.as_f64(),
            Datum::Bytes(_) | Datum::Tensor(_) => None,
        };
        let numbers: Vec<f64> = found.iter().filter_map(number).collect();
        (!numbers.is_empty()).then(|| Datum::Json(json!(together(&numbers))))
    }
}

impl StagePart for Ensemble {
    fn detail(&self) -> String {
        let values = self.values.iter().flatten().map(|(name, value)| format!("; {name} = {value}"));
        format!("{} of {} within {:?}", self.enough, self.with.value.len(), self.within) + &values.collect::<String>()
    }

    fn partners(&self) -> Option<&At<Vec<At<String>>>> {
        Some(&self.with)
    }

    fn meeting(&self) -> Option<Meeting> {
        Some(Meeting::Answers)
    }

    fn join(&self, name: &str, flow: Flow<Row>, partners: Vec<Flow<Row>>) -> Option<Vec<Flow<Row>>> {
        let values = self.values.clone();
        let combine = move |asked: Answers<Row, Row>| {
            let Answers { example: mut row, answers, .. } = asked;
            let answers: Vec<Row> = answers.into_iter().map(|(_, answer)| answer).collect();
            match &values {
                Some(values) => values.iter().for_each(|(name, value)| row.set(name, value.of(&answers))),
                None => answers.into_iter().for_each(|answer| row.adopt(answer)),
            }
            row
        };
        Some(vec![flow.answers(name, partners, (self.enough, self.within), combine)])
    }

    fn attach(&self, _: &str, _: Flow<Row>, _: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        None
    }
}
