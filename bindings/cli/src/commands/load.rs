//! `millstream load`: what a stage does under load that comes by itself.
//!
//! Arrivals follow a schedule of random gaps that was drawn beforehand; a late one is sent at once and its latency counts
//! from when it was due. So a stall counts for everything that came meanwhile, not for one request (no coordinated
//! omission).

use crate::{failure::Failure, output};
use millstream::{
    DType, Session, Tensor,
    runtime::{ModelHandler, Pipeline, PipelineError, PushError, Record, Report, RunInference, Sizing, StageError, channel, for_each, handler},
};
use serde_json::json;
use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Sends requests to a model at a rate, whatever it does, and says how long they took.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The ONNX model; its examples are zeroes, 1 for every open dim but the batch.
    #[arg(required_unless_present = "simulate")]
    model: Option<PathBuf>,
    /// No model: a batch of n takes so many microseconds and so many more for each of its n.
    #[arg(long, value_name = "FIXED+EACH", conflicts_with = "model", value_parser = line)]
    simulate: Option<(u64, u64)>,
    /// Requests a second, on average.
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// How long to send.
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    seconds: f64,
    /// The largest batch.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// The longest that a request waits for company, in microseconds, where nobody is idle.
    #[arg(long, value_name = "US", default_value_t = 0)]
    delay: u64,
    /// An idle replica waits for a full batch or the delay, too.
    #[arg(long)]
    no_idle_dispatch: bool,
    /// Choose the size of batches for this latency at the 99th percentile, in milliseconds.
    #[arg(long, value_name = "MS")]
    p99: Option<f64>,
    /// Threads that run the model.
    #[arg(long, default_value_t = 1)]
    replicas: usize,
    /// Requests that may wait at the door; others are rejected.
    #[arg(long, default_value_t = 64)]
    queue: usize,
    /// Requests that may be under way beyond the door.
    #[arg(long, default_value_t = 128)]
    inside: u32,
    /// The schedule's seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn line(text: &str) -> Result<(u64, u64), String> {
    let parts = text.split_once('+').and_then(|(fixed, each)| Some((fixed.trim().parse().ok()?, each.trim().parse().ok()?)));
    parts.ok_or_else(|| "two numbers of microseconds are expected, as 2000+100".to_owned())
}

/// A request: when it was due.
#[derive(Clone, Copy)]
struct Arrival(Instant);

/// What came of the load.
struct Outcome {
    report: Report,
    /// From due to done, in nanoseconds, in rising order.
    latencies: Vec<u64>,
    /// The longest that a rejection took.
    rejection: Duration,
    sent: u64,
    elapsed: Duration,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let outcome = match (&arguments.model, arguments.simulate) {
        (_, Some((fixed, each))) => {
            let model = handler("simulated", move |batch: &[&()]| {
                thread::sleep(Duration::from_micros(fixed + each * batch.len() as u64));
                Ok::<_, StageError>(vec![(); batch.len()])
            });
            drive(arguments, RunInference::new(model).preprocess(|_: &Arrival| Ok::<_, StageError>(())))?
        }
        (Some(path), None) => {
            let model = Session::builder().threads(1).build().open(path)?;
            let mut example = Vec::new();
            for port in &model.signature().inputs {
                let dims: Vec<usize> = port.dims.iter().flatten().skip(1).map(|dim| *dim.as_ref().unwrap_or(&1)).collect();
                example.push(Tensor::zeros(port.dtype.unwrap_or(DType::F32), &dims)?);
            }
            drive(arguments, RunInference::new(model).preprocess(move |_: &Arrival| Ok::<_, StageError>(example.clone())))?
        }
        (None, None) => return Err(Failure::Usage("a model or --simulate is needed".to_owned())),
    };
    print(arguments, &outcome);
    Ok(ExitCode::SUCCESS)
}

fn drive<H: ModelHandler>(arguments: &Arguments, inference: RunInference<Arrival, H>) -> Result<Outcome, Failure> {
    let failed = |e: PipelineError| Failure::Usage(e.to_string());
    let sizing = arguments.p99.map_or(Sizing::Fixed, |ms| Sizing::latency(Duration::from_secs_f64(ms.clamp(0.001, 1e6) / 1e3)));
    let inference = inference
        .batch(1..=arguments.batch.max(1))
        .max_delay(Duration::from_micros(arguments.delay))
        .idle_dispatch(!arguments.no_idle_dispatch)
        .sizing(sizing)
        .replicas(arguments.replicas);
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let done = latencies.clone();
    let (push, source) = channel(arguments.queue);
    // The replicas' batches, those that wait to be, and one in the making.
    let inside = arguments.inside.max(u32::try_from(arguments.batch.saturating_mul(arguments.replicas + 1)).unwrap_or(u32::MAX));
    let handle = Pipeline::from(source)
        .infer("model", inference)
        .sink(for_each(move |prediction: millstream::runtime::Prediction<Arrival, H::Output>| {
            let nanos = u64::try_from(prediction.example.0.elapsed().as_nanos()).unwrap_or(u64::MAX);
            done.lock().unwrap_or_else(PoisonError::into_inner).push(nanos);
        }))
        .edge_records(inside)
        .spawn()
        .map_err(failed)?;
    let mut gaps = Gaps::new(arguments.seed, arguments.rate);
    let (start, mut due, mut sent, mut rejection) = (Instant::now(), 0.0, 0, Duration::ZERO);
    while due < arguments.seconds {
        let at = start + Duration::from_secs_f64(due);
        thread::sleep(at.saturating_duration_since(Instant::now()));
        let begun = Instant::now();
        match push.try_send(Record::new(Arrival(at))) {
            Ok(()) => {}
            Err(PushError::Full(_)) => rejection = rejection.max(begun.elapsed()),
            Err(PushError::Closed(_)) => break,
        }
        sent += 1;
        due += gaps.next();
    }
    drop(push);
    let report = handle.join().map_err(failed)?;
    let elapsed = start.elapsed();
    let mut latencies = std::mem::take(&mut *latencies.lock().unwrap_or_else(PoisonError::into_inner));
    latencies.sort_unstable();
    Ok(Outcome { report, latencies, rejection, sent, elapsed })
}

/// Exponential gaps: arrivals that know nothing of each other.
struct Gaps {
    dice: u64,
    mean: f64,
}

impl Gaps {
    fn new(seed: u64, rate: f64) -> Self {
        Gaps { dice: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, mean: 1.0 / rate.max(1e-3) }
    }

    fn next(&mut self) -> f64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        let unit = ((self.dice >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
        -unit.ln() * self.mean
    }
}

fn print(arguments: &Arguments, outcome: &Outcome) {
    let Outcome { report, latencies, rejection, sent, elapsed } = outcome;
    let at = |q: f64| latencies.get(((latencies.len().max(1) - 1) as f64 * q).round() as usize).map_or(0.0, |nanos| *nanos as f64 / 1e6);
    let model = report.snapshot.stages.iter().find(|stage| stage.name == "model");
    let batch = model.map_or(0.0, |stage| stage.batch_size.mean());
    let counts = &report.counts;
    let rate = counts.ok as f64 / elapsed.as_secs_f64().max(1e-9);
    let releases: serde_json::Map<_, _> =
        model.iter().flat_map(|stage| &stage.releases).filter(|(_, n)| *n > 0).map(|(reason, n)| (reason.name().to_owned(), json!(n))).collect();
    if arguments.json {
        let object = json!({
            "sent": sent, "ok": counts.ok, "rejected": counts.rejected, "failed": counts.dead_lettered, "seconds": elapsed.as_secs_f64(),
            "per_second": rate, "p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "p999_ms": at(0.999), "max_ms": at(1.0),
            "slowest_rejection_ms": rejection.as_secs_f64() * 1e3, "mean_batch": batch, "releases": releases,
        });
        println!("{object}");
        return;
    }
    let rows = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];
    println!("{}\n", output::table(&["latency", "ms"], rows.iter().map(|(name, q)| vec![(*name).to_owned(), format!("{:.3}", at(*q))]), true));
    let reasons: Vec<String> = releases.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    println!(
        "{sent} sent at {:.0}/s, {} done at {rate:.0}/s, {} rejected (slowest in {:.3} ms), {} failed; batches of {batch:.1} ({})",
        arguments.rate,
        counts.ok,
        counts.rejected,
        rejection.as_secs_f64() * 1e3,
        counts.dead_lettered,
        reasons.join(", ")
    );
}
