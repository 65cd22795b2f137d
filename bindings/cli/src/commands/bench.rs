//! `millstream bench`: how long a model takes, and whether it is right.

use super::profile::Profile;
use crate::{arrays, failure::Failure, memory, output};
use millstream::{
    DType, Device, Model, Session, Tensor, Value,
    cpu::{self, Peaks},
    kernel::engine::{Port, Request, Workspace},
};
use serde_json::{Value as Json, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

/// Times a model: warms up, then runs for some seconds. Outputs are compared where expected ones are given.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The ONNX model.
    model: PathBuf,
    /// A folder with manifest.json, in_<i>.npy and out_<i>.npy; without it inputs are zeroes, 1 for every open dim.
    #[arg(long, value_name = "DIR")]
    inputs: Option<PathBuf>,
    /// Threads; 0 is one a core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Where the model runs: cpu, cuda, cuda:N (counted from 0), or auto, which takes a GPU if there is one.
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu)]
    device: Device,
    /// How long to run after warming up.
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    seconds: f64,
    /// Print the time of each kind of kernel, its rates, and what share of the machine's peaks they are.
    #[arg(long, conflicts_with = "json")]
    profile: bool,
    /// The same for each step.
    #[arg(long, conflicts_with = "json")]
    steps: bool,
    /// Write the steps' times as trace events, for chrome://tracing or Perfetto.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// How long each of the machine's peaks is measured.
const PEAK_TIME: Duration = Duration::from_millis(200);

/// A value by the name that a manifest gives it.
type Named = (String, Tensor);

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let start = Instant::now();
    let threads = if arguments.threads == 0 { std::thread::available_parallelism().map_or(1, |n| n.get()) } else { arguments.threads };
    let model = Session::builder().threads(threads).device(&arguments.device)?.build().open(&arguments.model)?;
    let load = start.elapsed();
    let (inputs, expected) = match &arguments.inputs {
        Some(folder) => (listed(folder, "inputs")?, listed(folder, "outputs")?),
        None => (zeroes(&model)?, Vec::new()),
    };
    let values = ordered(&model, inputs)?;
    let mut workspace = Workspace::new();
    let run = |workspace: &mut Workspace| model.executable().run(workspace, Request::new(&values)).map_err(millstream::Error::from);
    let start = Instant::now();
    let outputs = run(&mut workspace)?;
    let first = start.elapsed();
    let names = model.signature().outputs.iter().map(|p| p.name.to_string());
    let max_error = greatest_error(names.zip(outputs.into_iter().flatten()), &expected)?;
    let times = timed(Duration::from_secs_f64(arguments.seconds.clamp(0.0, 86400.0)), || run(&mut workspace).map(|_| ()))?;
    let at = |q: f64| times[((times.len() - 1) as f64 * q).round() as usize].as_secs_f64() * 1e3;
    let report = json!({
        "median_ms": at(0.5), "min_ms": at(0.0), "p99_ms": at(0.99), "load_ms": load.as_secs_f64() * 1e3, "first_run_ms": first.as_secs_f64() * 1e3,
        "runs": times.len(), "threads": threads, "level": cpu::level().name(), "arena_bytes": workspace.arena_bytes(),
        "peak_rss_mb": memory::peak_resident().map(|b| b as f64 / 1e6), "max_error": max_error,
    });
    if arguments.json {
        println!("{report}");
    } else {
        let Json::Object(fields) = &report else { return Ok(ExitCode::SUCCESS) };
        println!("{}", output::table(&["figure", "value"], fields.iter().map(|(k, v)| vec![k.clone(), shown(v)]), true));
    }
    if arguments.profile || arguments.steps || arguments.trace.is_some() {
        let peaks = Peaks::measure(cpu::level(), threads, PEAK_TIME);
        let profile = Profile::of(&model, &values, &mut workspace, peaks)?;
        if arguments.profile {
            profile.print_kinds();
        }
        if arguments.steps {
            profile.print_steps();
        }
        if let Some(path) = &arguments.trace {
            profile.write_trace(path)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(value: &Json) -> String {
    match value {
        Json::Number(n) if n.is_f64() => {
            n.as_f64().map_or_else(String::new, |x| if x.abs() < 1e-2 && x != 0.0 { format!("{x:.2e}") } else { format!("{x:.3}") })
        }
        Json::String(s) => s.clone(),
        Json::Null => "-".into(),
        other => other.to_string(),
    }
}

/// Run times in ascending order, after a warm-up of a tenth of the time (one run at least).
fn timed(duration: Duration, mut run: impl FnMut() -> Result<(), millstream::Error>) -> Result<Vec<Duration>, Failure> {
    let warm = Instant::now();
    while warm.elapsed() < duration / 10 {
        run()?;
    }
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.is_empty() || start.elapsed() < duration {
        let one = Instant::now();
        run()?;
        times.push(one.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

/// The arrays that a manifest lists under `kind`.
fn listed(folder: &Path, kind: &str) -> Result<Vec<Named>, Failure> {
    let path = folder.join("manifest.json");
    let text = fs::read_to_string(&path).map_err(Failure::io(&path))?;
    let broken = |what: &str| Failure::File(path.clone(), what.into());
    let manifest: Json = serde_json::from_str(&text).map_err(|e| broken(&e.to_string()))?;
    let rows = manifest[kind].as_array().ok_or_else(|| broken("a list is missing"))?;
    rows.iter()
        .map(|row| {
            let (Some(name), Some(file)) = (row["name"].as_str(), row["file"].as_str()) else { return Err(broken("an entry has no name or no file")) };
            Ok((name.into(), arrays::read(&folder.join(file))?))
        })
        .collect()
}

fn zeroes(model: &Model) -> Result<Vec<Named>, Failure> {
    let zero = |p: &Port| {
        let dims: Vec<usize> = p.dims.iter().flatten().map(|d| *d.as_ref().unwrap_or(&1)).collect();
        Ok((p.name.to_string(), Tensor::zeros(p.dtype.unwrap_or(DType::F32), &dims)?))
    };
    model.signature().inputs.iter().map(zero).collect()
}

fn ordered(model: &Model, mut inputs: Vec<Named>) -> Result<Vec<Value>, Failure> {
    let take = |p: &Port| {
        let at = inputs.iter().position(|(name, _)| **name == *p.name).ok_or_else(|| Failure::Usage(format!("there is no value for input `{}`", p.name)))?;
        Ok(Value::Tensor(inputs.swap_remove(at).1))
    };
    model.signature().inputs.iter().map(take).collect()
}

/// The greatest absolute difference over the greatest absolute expected value, over all outputs; infinite where types or
/// shapes differ. `None` if nothing is expected.
fn greatest_error(outputs: impl Iterator<Item = (String, Value)>, expected: &[Named]) -> Result<Option<f64>, Failure> {
    let outputs: BTreeMap<String, Value> = outputs.collect();
    let mut worst: Option<f64> = None;
    for (name, want) in expected {
        let error = match outputs.get(name) {
            Some(Value::Tensor(got)) if got.shape() == want.shape() && got.dtype() == want.dtype() => difference(got, want)?,
            _ => f64::INFINITY,
        };
        worst = Some(worst.map_or(error, |w| w.max(error)));
    }
    Ok(worst)
}

fn difference(got: &Tensor, want: &Tensor) -> Result<f64, Failure> {
    let (got, want) = (crate::conformance::numbers(got), crate::conformance::numbers(want));
    let scale = want.iter().filter(|x| x.is_finite()).fold(0.0f64, |m, x| m.max(x.abs()));
    let mut worst = 0.0f64;
    for (g, w) in got.iter().zip(&want) {
        let d = if g == w || (g.is_nan() && w.is_nan()) { 0.0 } else { (g - w).abs() };
        worst = if d.is_nan() { f64::INFINITY } else { worst.max(d) };
    }
    Ok(if worst == 0.0 { 0.0 } else { worst / scale })
}
