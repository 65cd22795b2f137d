//! `label`: the likeliest of a model's classes, by name, or the `top` most likely with their scores.

use std::sync::Arc;

use millstream_runtime::Flow;
use serde_json::{Value as Json, json};

use super::{StagePart, each};
use crate::{
    build::Workshop,
    node_options::NodeOptions,
    row::{DataError, Datum, Row},
    table::{At, Table},
    tensors::floats,
};

struct Label {
    field: At<String>,
    labels: Labels,
    softmax: bool,
    /// How many; the likeliest alone without it.
    top: Option<usize>,
    into: String,
    score: String,
    options: NodeOptions,
}

/// Where the classes' names come from.
enum Labels {
    Here(Vec<String>),
    /// The property `labels` of this stage's model.
    Model(At<String>),
    /// Classes are called by their numbers.
    None,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn StagePart>> {
    let options = NodeOptions::for_stage(table);
    let here = table.read::<Vec<String>>("labels");
    let model = table.read::<String>("labels_of");
    let softmax = table.read("softmax").is_some_and(|softmax| softmax.value);
    let top = table.count("top");
    let into = table.read::<String>("into").map_or_else(|| "label".to_owned(), |into| into.value);
    let score = table.read::<String>("score");
    let labels = match (here, model) {
        (Some(here), Some(_)) => {
            table.findings.add(&here.span, "`labels` and `labels_of` exclude each other");
            Labels::Here(here.value)
        }
        (Some(here), None) => Labels::Here(here.value),
        (None, Some(model)) => Labels::Model(model),
        (None, None) => Labels::None,
    };
    if let Some(score) = score.as_ref().filter(|_| top.is_some()) {
        table.findings.add(&score.span, "`score` and `top` exclude each other: each of the top has its score with it");
    }
    let score = score.map_or_else(|| "score".to_owned(), |score| score.value);
    Some(Box::new(Label { field: table.need("field")?, labels, softmax, top, into, score, options }))
}

impl StagePart for Label {
    fn detail(&self) -> String {
        let most = self.top.map_or_else(|| "the likeliest".to_owned(), |top| format!("the top {top}"));
        format!("{most} of {}", self.field.value)
    }

    fn options(&self) -> Option<&NodeOptions> {
        Some(&self.options)
    }

    fn attach(&self, name: &str, flow: Flow<Row>, workshop: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        let labels: Option<Arc<[String]>> = match &self.labels {
            Labels::Here(labels) => Some(labels.clone().into()),
            Labels::None => None,
            Labels::Model(stage) => Some(workshop.labels(stage)?.into()),
        };
        let (field, into, score) = (self.field.value.clone(), self.into.clone(), self.score.clone());
        let (softmax, top) = (self.softmax, self.top);
        each(name, &self.options, flow, move |row| {
            let mut scores = match row.take(&field) {
                None => return Err(DataError::Missing(field.clone())),
                Some(Datum::Tensor(tensor)) => floats(&tensor),
                Some(_) => None,
            }
            .ok_or(DataError::Kind { field: field.clone(), expected: "a tensor of floats", found: "something else" })?;
            if let Some(labels) = labels.as_ref().filter(|labels| labels.len() != scores.len()) {
                return Err(DataError::Labels { field: field.clone(), found: scores.len(), labels: labels.len() });
            }
            if softmax {
                to_probabilities(&mut scores);
            }
            let label = |class: usize| labels.as_ref().map_or_else(|| json!(class), |labels| json!(labels[class]));
            let mut order: Vec<usize> = (0..scores.len()).collect();
            // Equal scores in the order of the classes; what is no number comes last.
            order.sort_by(|a, b| key(scores[*b]).total_cmp(&key(scores[*a])).then(a.cmp(b)));
            match top {
                None => {
                    let best = order.first().copied();
                    row.set(&into, Datum::Json(best.map_or(Json::Null, label)));
                    row.set(&score, Datum::Json(best.map_or(Json::Null, |best| number(scores[best]))));
                }
                Some(top) => {
                    let best = order.iter().take(top).map(|class| json!({ "label": label(*class), "score": number(scores[*class]) }));
                    row.set(&into, Datum::Json(best.collect()));
                }
            }
            Ok(())
        })
    }
}

fn key(score: f32) -> f32 {
    if score.is_nan() { f32::NEG_INFINITY } else { score }
}

/// With as few digits as tell the number from its neighbours of 32 bits.
fn number(score: f32) -> Json {
    score.to_string().parse::<f64>().map_or(Json::Null, |score| json!(score))
}

fn to_probabilities(scores: &mut [f32]) {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = (*score - most).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_survives_large_scores() {
        let mut scores = [1000.0, 1000.0, f32::NEG_INFINITY];
        to_probabilities(&mut scores);
        assert_eq!(scores, [0.5, 0.5, 0.0]);
        assert_eq!(number(0.1).to_string(), "0.1");
    }
}
