//! The options of a model's batcher.

use std::{fmt, time::Duration};

use millstream_runtime::{Key, ModelHandler, RunInference, Sizing};

use crate::{
    row::{Path, Row},
    stages::identity,
    table::{Size, Table},
};

/// How batches are formed. What is left out is the runtime's default.
#[derive(Clone, Default)]
pub(crate) struct Batching {
    items: Option<(usize, usize)>,
    max_delay: Option<Duration>,
    max_bytes: Option<u64>,
    max_tokens: Option<u64>,
    max_padding: Option<f64>,
    idle_dispatch: Option<bool>,
    pool: Option<usize>,
    aging: Option<Duration>,
    sizing: Option<Sizing>,
    part: Option<Part>,
    hold_until: Option<usize>,
    memory: Option<u64>,
}

/// Who may share a batch.
#[derive(Clone)]
enum Part {
    Key,
    Field(Path),
}

/// What the runtime takes where the file says nothing.
const MOST: usize = 32;

impl Batching {
    pub(crate) fn read(table: &Table<'_>) -> Self {
        let items = table.read::<Vec<usize>>("batch").and_then(|batch| match batch.value[..] {
            [most] if most > 0 => Some((1, most)),
            [fewest, most] if fewest > 0 && fewest <= most => Some((fewest, most)),
            _ => {
                table.findings.hint(&batch.span, "`batch` must be the most items of a batch, or the fewest and the most", "as in 32, or [8, 32]");
                None
            }
        });
        let per_key = table.read::<bool>("batch_per_key");
        let by = table.read::<String>("batch_by");
        let part = match (by, per_key.as_ref().is_some_and(|on| on.value)) {
            (Some(by), true) => {
                table.findings.add(&by.span, "`batch_by` and `batch_per_key` exclude each other");
                None
            }
            (Some(by), false) => Some(Part::Field(Path::new(by.value))),
            (None, on) => on.then_some(Part::Key),
        };
        let size = |key| table.read::<Size>(key).map(|size| size.value.0);
        let time = |key| table.read::<Duration>(key).map(|time| time.value);
        Batching {
            items,
            max_delay: time("max_delay"),
            max_bytes: size("max_bytes"),
            max_tokens: table.count("max_tokens").map(|tokens| tokens as u64),
            max_padding: table.read_if::<f64>("max_padding", |part| *part >= 0.0, "at least 0").map(|part| part.value),
            idle_dispatch: table.read("idle_dispatch").map(|on| on.value),
            pool: table.count("pool"),
            aging: time("aging"),
            sizing: sizing(table),
            part,
            hold_until: table.count("hold_until"),
            memory: size("memory"),
        }
    }

    /// The most items of a batch.
    pub(crate) fn most(&self) -> usize {
        self.items.map_or(MOST, |(_, most)| most)
    }

    pub(crate) fn apply<H: ModelHandler>(&self, mut run: RunInference<Row, H>) -> RunInference<Row, H> {
        let (fewest, most) = self.items.unwrap_or((1, MOST));
        run = run.batch(fewest..=most);
        macro_rules! set {
            ($($option:ident),*) => { $( if let Some(value) = self.$option { run = run.$option(value); } )* };
        }
        set!(max_delay, max_bytes, max_tokens, max_padding, idle_dispatch, pool, aging, sizing, hold_until, memory);
        match self.part.clone() {
            Some(Part::Key) => run.batch_per_key(),
            Some(Part::Field(field)) => run.batch_by(move |row| Key::of(&identity(row, &field)).0),
            None => run,
        }
    }
}

impl fmt::Display for Batching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.items {
            Some((fewest, most)) if fewest > 1 => write!(f, "batches of {fewest} to {most}"),
            _ => write!(f, "batches up to {}", self.most()),
        }
    }
}

/// `sizing = "fixed" | "throughput"`, or a table `{ p99 }` or `{ overhead, duration }`.
fn sizing(table: &Table<'_>) -> Option<Sizing> {
    if !table.is_table("sizing") {
        return table.choice("sizing", &[("fixed", Sizing::Fixed), ("throughput", Sizing::throughput())]);
    }
    let options = table.table("sizing")?;
    let p99 = options.read::<Duration>("p99");
    let overhead = options.read_if::<f64>("overhead", |part| *part > 0.0 && *part < 1.0, "between 0 and 1");
    let duration = options.read::<Duration>("duration");
    options.done();
    match (p99, overhead, duration) {
        (Some(p99), None, None) => Some(Sizing::latency(p99.value)),
        (None, Some(overhead), Some(duration)) => Some(Sizing::Throughput { overhead: overhead.value, duration: duration.value }),
        _ => {
            options.findings.hint(&options.span, "`sizing` must have either `p99`, or `overhead` and `duration`", "as in { p99 = \"20 ms\" }");
            None
        }
    }
}
