//! What stages of all kinds can be told: replicas, errors, growth.

use std::{fmt, ops::RangeInclusive, time::Duration};

use millstream_runtime::{ModelHandler, RunInference, SinkOptions, StageOptions};

use crate::{row::Row, table::Table};

/// What happens to a record on which a stage fails.
#[derive(Clone, Copy)]
enum Failing {
    Skip,
    Retry { times: u32, backoff: Duration },
    Fail,
}

/// Options of a stage.
#[derive(Clone)]
pub(crate) struct NodeOptions {
    replicas: RangeInclusive<usize>,
    failing: Failing,
    /// Records go into dead letters as JSON.
    letter_payload: bool,
    expansion: Option<f64>,
}

impl NodeOptions {
    /// For a stage.
    pub(crate) fn for_stage(table: &Table<'_>) -> Self {
        let mut options = NodeOptions::with_replicas(table, replicas(table));
        options.expansion = table.read_if::<f64>("expansion", |factor| *factor >= 0.0, "at least 0").map(|factor| factor.value);
        options
    }

    /// For a sink, from which nothing goes on.
    pub(crate) fn for_sink(table: &Table<'_>) -> Self {
        let replicas = table.count("replicas").unwrap_or(1);
        NodeOptions::with_replicas(table, replicas..=replicas)
    }

    fn with_replicas(table: &Table<'_>, replicas: RangeInclusive<usize>) -> Self {
        let letter_payload = table.read("letter_payload").is_some_and(|keep| keep.value);
        NodeOptions { replicas, failing: failing(table), letter_payload, expansion: None }
    }

    /// As the options of a stage from records to records.
    pub(crate) fn stage(&self) -> StageOptions<Row, Row> {
        let mut options = StageOptions::new().replicas(self.replicas.clone()).measure(Row::bytes);
        if let Some(factor) = self.expansion {
            options = options.expansion(factor);
        }
        if self.letter_payload {
            options = options.letter_payload(as_json);
        }
        match self.failing {
            Failing::Skip => options,
            Failing::Retry { times, backoff } => options.retry(times, backoff),
            Failing::Fail => options.fail_on_error(),
        }
    }

    /// As the options of a sink.
    pub(crate) fn sink(&self) -> SinkOptions<Row> {
        let mut options = SinkOptions::new().replicas(*self.replicas.end());
        if self.letter_payload {
            options = options.letter_payload(as_json);
        }
        match self.failing {
            Failing::Skip => options,
            Failing::Retry { times, backoff } => options.retry(times, backoff),
            Failing::Fail => options.fail_on_error(),
        }
    }

    /// As options of a stage that runs a model.
    pub(crate) fn infer<H: ModelHandler>(&self, run: RunInference<Row, H>) -> RunInference<Row, H> {
        let mut run = run.replicas(self.replicas.clone());
        if let Some(factor) = self.expansion {
            run = run.expansion(factor);
        }
        if self.letter_payload {
            run = run.letter_payload(as_json);
        }
        match self.failing {
            Failing::Skip => run,
            Failing::Retry { times, backoff } => run.retry(times, backoff),
            Failing::Fail => run.fail_on_error(),
        }
    }
}

/// How many threads run it, where it is not one.
impl fmt::Display for NodeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (*self.replicas.start(), *self.replicas.end()) {
            (1, 1) => Ok(()),
            (fewest, most) if fewest == most => write!(f, "× {most}"),
            (fewest, most) => write!(f, "× {fewest} to {most}"),
        }
    }
}

/// `replicas = 2`, or `[1, 4]` for a stage that follows its load.
fn replicas(table: &Table<'_>) -> RangeInclusive<usize> {
    let Some(replicas) = table.read::<Vec<usize>>("replicas") else { return 1..=1 };
    match replicas.value[..] {
        [replicas] if replicas > 0 => replicas..=replicas,
        [fewest, most] if fewest > 0 && fewest <= most => fewest..=most,
        _ => {
            table.findings.hint(&replicas.span, "`replicas` must be a number of threads, or the fewest and the most", "as in 2, or [1, 4]");
            1..=1
        }
    }
}

/// `on_error = "skip" | "fail"`, or `retry` and `backoff`.
fn failing(table: &Table<'_>) -> Failing {
    let policy = table.choice("on_error", &[("skip", Failing::Skip), ("fail", Failing::Fail)]);
    let retry = table.read_if::<u64>("retry", |times| (1..=u64::from(u32::MAX)).contains(times), "from 1 to 4294967295");
    let backoff = table.read::<Duration>("backoff");
    match (policy, retry) {
        (Some(_), Some(retry)) => {
            table.findings.hint(&retry.span, "`retry` and `on_error` exclude each other", "a record that still fails goes to the dead letters");
            Failing::Skip
        }
        (_, Some(retry)) => {
            let backoff = backoff.map_or(Duration::from_millis(100), |backoff| backoff.value);
            Failing::Retry { times: u32::try_from(retry.value).unwrap_or(u32::MAX), backoff }
        }
        (policy, None) => {
            if backoff.is_some() {
                table.findings.hint(&table.key_span("backoff"), "`backoff` needs `retry`", "how many times is a record tried again?");
            }
            policy.unwrap_or(Failing::Skip)
        }
    }
}

fn as_json(row: &Row) -> Vec<u8> {
    serde_json::to_vec(row).unwrap_or_default()
}
