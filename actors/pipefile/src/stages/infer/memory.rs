//! `sequence`: a model whose state is an input and an output. The records of a key are a sequence, and each takes up the
//! state that the one before it left.

use std::time::Duration;

use millstream_runtime::{Carried, EngineModel, EngineSequence, RunInference, SequenceOptions, Sequences, StageError, WhenFull};
use millstream_tensor::Tensor;

use super::loading::Refused;
use crate::{
    condition::Condition,
    problem::Span,
    row::Row,
    table::{At, Pairs, Size, Table},
};

/// What a model remembers, and for how long.
pub(super) struct Remembered {
    /// Inputs of the model, and the outputs that they are taken from.
    state: Vec<(At<String>, String)>,
    /// The batch axes of inputs for which that is another than the model says.
    axes: Vec<(At<String>, usize)>,
    pub(super) options: SequenceOptions,
    last: Option<Condition>,
    place: Span,
}

impl Remembered {
    /// The table `sequence`, if there is one; `None` within for one that was wrong.
    pub(super) fn read(table: &Table<'_>) -> Option<Option<Self>> {
        let table = table.table("sequence")?;
        let mut options = SequenceOptions::new();
        if let Some(most) = table.count("most") {
            options = options.most(most);
        }
        if let Some(bytes) = table.read_if::<Size>("bytes", |size| size.0 > 0, "more than nothing") {
            options = options.bytes(bytes.value.0);
        }
        if let Some(time) = table.read_if::<Duration>("timeout", |time| !time.is_zero(), "more than nothing") {
            options = options.timeout(time.value);
        }
        if let Some(what) = table.choice("when_full", &[("evict", WhenFull::Evict), ("refuse", WhenFull::Refuse)]) {
            options = options.when_full(what);
        }
        let last = table.read::<Vec<At<String>>>("last").map(|texts| Condition::read(&texts, table.findings));
        let axes = table.read::<Pairs<usize>>("axis").map(|pairs| pairs.value.0).unwrap_or_default();
        let state = table.need::<Pairs<String>>("state").map(|pairs| pairs.value.0);
        table.done();
        if let Some((name, _)) = axes.iter().find(|(name, _)| state.as_ref().is_some_and(|state| state.iter().all(|(input, _)| input.value != name.value))) {
            table.findings.add(&name.span, format!("`axis`: `{}` is no input of the `state`", name.value));
        }
        Some(match (state, last) {
            (None, _) | (_, Some(None)) => None,
            (Some(state), last) => Some(Remembered { state, axes, options, last: last.flatten(), place: table.key_span("state") }),
        })
    }

    /// Whether a model's input is a part of the state.
    pub(super) fn takes(&self, input: &str) -> bool {
        self.state.iter().any(|(name, _)| name.value == input)
    }

    /// Whether a model's output is a part of the state.
    pub(super) fn gives(&self, output: &str) -> bool {
        self.state.iter().any(|(_, name)| name == output)
    }

    /// The model with its state.
    pub(super) fn model(&self, model: EngineModel) -> Result<EngineSequence, Refused> {
        let carried = self.state.iter().map(|(input, output)| {
            let axis = self.axes.iter().find(|(name, _)| name.value == input.value);
            axis.map_or_else(|| Carried::new(&input.value, output), |(_, axis)| Carried::new(&input.value, output).batch_axis(*axis))
        });
        EngineSequence::new(model, carried).map_err(|error| Refused { key: "state", place: self.place.clone(), error })
    }

    /// A stage of such a model, as `prepare` makes its examples.
    pub(super) fn run<E: Into<StageError>>(
        &self,
        model: EngineSequence,
        prepare: impl Fn(&Row) -> Result<Vec<Tensor>, E> + Send + Sync + 'static,
    ) -> RunInference<Row, Sequences<EngineSequence>> {
        let run = RunInference::sequences(model, self.options.clone()).preprocess(prepare);
        match self.last.clone() {
            Some(last) => run.last(move |row: &Row| last.holds(row)),
            None => run,
        }
    }
}
