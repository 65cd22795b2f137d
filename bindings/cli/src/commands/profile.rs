//! `millstream bench --profile`: where a run's time goes, by kind of kernel, step by step, and as a trace for a browser.

use crate::{failure::Failure, output};
use millstream::{
    Model, Value,
    cpu::{Peaks, StdClock},
    kernel::{
        engine::{Clock, Profiler, Request, StepRecord, Workspace},
        graph::Cost,
    },
};
use serde_json::{Value as Json, json};
use std::{collections::BTreeMap, fs, path::Path, time::Duration};

/// Runs that are profiled at most; a step's time is the median over them.
const RUNS: usize = 25;
/// How long profiling takes at most, once every step was seen.
const LIMIT: Duration = Duration::from_secs(2);

/// One step of a plan.
struct Step {
    path: String,
    op: String,
    kernel: String,
    cost: Cost,
    times: Vec<Duration>,
}

impl Step {
    fn median(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }
}

/// Steps by their position in the plan: branches that are not taken leave gaps.
#[derive(Default)]
struct Steps {
    clock: StdClock,
    steps: BTreeMap<usize, Step>,
}

impl Profiler for Steps {
    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    fn step(&mut self, r: StepRecord<'_>) {
        let new = || Step { path: r.path.into(), op: r.op.into(), kernel: r.kernel.into(), cost: r.cost, times: Vec::new() };
        self.steps.entry(r.index).or_insert_with(new).times.push(r.time);
    }
}

/// The steps of a model's plan for some inputs, with their times.
pub(crate) struct Profile {
    steps: Vec<Step>,
    peaks: Peaks,
}

/// The columns of [`Profile::rates`].
const RATES: [&str; 5] = ["ms", "GFLOP/s", "% peak", "GB/s", "% peak"];

impl Profile {
    /// Runs the model until the times of its steps are known well.
    pub(crate) fn of(model: &Model, inputs: &[Value], workspace: &mut Workspace, peaks: Peaks) -> Result<Profile, Failure> {
        let mut steps = Steps::default();
        let begun = steps.clock.now();
        for _ in 0..RUNS {
            let request = Request { inputs, outputs: &mut [], cancel: None, profiler: Some(&mut steps) };
            model.executable().run(workspace, request).map_err(millstream::Error::from)?;
            if steps.clock.now().saturating_sub(begun) > LIMIT {
                break;
            }
        }
        Ok(Profile { steps: steps.steps.into_values().collect(), peaks })
    }

    /// Prints time and rates of each kind of kernel, the longest first.
    pub(crate) fn print_kinds(&self) {
        let mut kinds: BTreeMap<(&str, &str), (usize, Duration, Cost)> = BTreeMap::new();
        for step in &self.steps {
            let (steps, time, cost) = kinds.entry((&step.op, &step.kernel)).or_insert((0, Duration::ZERO, Cost { flops: 0.0, bytes: 0.0 }));
            *steps += 1;
            *time += step.median();
            *cost = Cost { flops: cost.flops + step.cost.flops, bytes: cost.bytes + step.cost.bytes };
        }
        let mut rows: Vec<_> = kinds.into_iter().collect();
        rows.sort_by_key(|(_, (_, time, _))| std::cmp::Reverse(*time));
        let row = |((op, kernel), (steps, time, cost))| [vec![format!("{op} {kernel}"), format!("{steps}")], self.rates(time, cost)].concat();
        println!("{}", output::table(&[&["kernel", "steps"], &RATES[..]].concat(), rows.into_iter().map(row), true));
    }

    /// Prints time and rates of each step in the order of execution.
    pub(crate) fn print_steps(&self) {
        let row = |s: &Step| [vec![format!("{} {} {}", s.path, s.op, s.kernel)], self.rates(s.median(), s.cost)].concat();
        println!("{}", output::table(&[&["step"], &RATES[..]].concat(), self.steps.iter().map(row), true));
    }

    /// Writes the steps, one behind the other, as trace events that Chrome (`chrome://tracing`) and Perfetto show.
    pub(crate) fn write_trace(&self, path: &Path) -> Result<(), Failure> {
        let mut at = 0.0;
        let event = |s: &Step| {
            let micros = s.median().as_secs_f64() * 1e6;
            let args = json!({ "kernel": s.kernel, "flops": s.cost.flops, "bytes": s.cost.bytes });
            let event = json!({ "name": s.path, "cat": s.op, "ph": "X", "ts": at, "dur": micros, "pid": 1, "tid": 1, "args": args });
            at += micros;
            event
        };
        let events: Vec<Json> = self.steps.iter().map(event).collect();
        let trace = json!({ "traceEvents": events, "displayTimeUnit": "ms" });
        fs::write(path, trace.to_string()).map_err(Failure::io(path))
    }

    /// Milliseconds, operations a second in billions and as a share of the machine's for f32, and the same of bytes. What lies in caches, or
    /// runs on bytes, may exceed the peak.
    fn rates(&self, time: Duration, cost: Cost) -> Vec<String> {
        let s = time.as_secs_f64().max(1e-9);
        let rate = |amount: f64, peak: f64| [format!("{:.1}", amount / s / 1e9), format!("{:.0}", 100.0 * amount / s / peak)];
        [vec![format!("{:.3}", s * 1e3)], rate(cost.flops, self.peaks.flops).into(), rate(cost.bytes, self.peaks.bytes).into()].concat()
    }
}
