//! An inference engine behind a protocol that is the same for all: `millstream-peers ENGINE FOLDER THREADS [spin]` loads
//! the model of a folder that make_models.py wrote, runs it once and prints one line of JSON: the version, `load_ms`,
//! `first_run_ms`, `peak_rss_mb`, `max_error` and, from millstream, the `operations` of a run. From then on it answers each
//! line of its input, seconds, with a line of JSON: `median_ms` and `min_ms` over so many seconds of runs. Who drives it
//! stops it between its turns.
//!
//! `millstream-peers peaks SECONDS` measures the machine instead.

#![forbid(unsafe_code)]

#[cfg(feature = "candle")]
mod candle_engine;
mod case;
mod millstream_engine;
mod onnxruntime;
mod peaks;
#[cfg(feature = "rten")]
mod rten_engine;
#[cfg(feature = "tract")]
mod tract_engine;

use case::Case;
use millstream::Tensor;
use serde_json::json;
use std::{
    env, fs,
    io::{self, BufRead, Write},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

/// Whatever an engine says is wrong.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A loaded model with its inputs.
trait Engine {
    /// Which engine and which version of it.
    fn version(&self) -> String;

    /// Floating point (or integer) operations of a run, a multiply-add being two, if the engine counts them.
    fn operations(&mut self) -> Result<Option<f64>> {
        Ok(None)
    }

    /// Runs once and drops what comes of it.
    fn run(&mut self) -> Result<()>;

    /// Runs once: the outputs in the model's order, as floats.
    fn outputs(&mut self) -> Result<Vec<Vec<f64>>>;
}

fn load(engine: &str, model: &Path, inputs: &[(String, Tensor)], threads: usize, spin: bool) -> Result<Box<dyn Engine>> {
    Ok(match engine {
        "millstream" => Box::new(millstream_engine::Millstream::load(model, inputs, threads)?),
        "onnxruntime" => Box::new(onnxruntime::OnnxRuntime::load(model, inputs, threads, spin)?),
        #[cfg(feature = "rten")]
        "rten" => Box::new(rten_engine::Rten::load(model, inputs, threads)?),
        #[cfg(feature = "tract")]
        "tract" => Box::new(tract_engine::Tract::load(model, inputs, threads)?),
        #[cfg(feature = "candle")]
        "candle" => Box::new(candle_engine::Candle::load(model, inputs)?),
        other => return Err(format!("no engine {other}").into()),
    })
}

fn serve(engine: &str, folder: &Path, threads: usize, spin: bool) -> Result<()> {
    let case = Case::read(folder)?;
    let milliseconds = |start: Instant| start.elapsed().as_secs_f64() * 1e3;
    let start = Instant::now();
    let mut loaded = load(engine, &folder.join("model.onnx"), &case.inputs, threads, spin)?;
    let load_ms = milliseconds(start);
    let start = Instant::now();
    loaded.run()?;
    let first_run_ms = milliseconds(start);
    let peak_rss_mb = peak_rss_mb();
    let max_error = case.max_error(&loaded.outputs()?)?;
    let start = json!({
        "version": loaded.version(), "load_ms": load_ms, "first_run_ms": first_run_ms, "peak_rss_mb": peak_rss_mb,
        "max_error": max_error, "operations": loaded.operations()?,
    });
    let mut out = io::stdout().lock();
    writeln!(out, "{start}")?;
    for line in io::stdin().lock().lines() {
        let seconds = Duration::try_from_secs_f64(line?.trim().parse()?)?;
        for _ in 0..2 {
            loaded.run()?;
        }
        let (begun, mut times) = (Instant::now(), Vec::new());
        while begun.elapsed() < seconds || times.len() < 3 {
            let start = Instant::now();
            loaded.run()?;
            times.push(milliseconds(start));
        }
        times.sort_by(f64::total_cmp);
        writeln!(out, "{}", json!({ "median_ms": times[times.len() / 2], "min_ms": times[0], "runs": times.len() }))?;
    }
    Ok(())
}

/// A package's name and the version of it that this program was built with.
fn locked(package: &str) -> String {
    let lines = include_str!("../Cargo.lock").lines();
    let version = lines.skip_while(|line| *line != format!("name = \"{package}\"")).nth(1).and_then(|line| line.split('"').nth(1));
    format!("{package} {}", version.unwrap_or("of unknown version"))
}

/// The most memory that this process has had resident, in 10^6 bytes; 0 where the system does not tell.
fn peak_rss_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|rest| rest.split_whitespace().next());
    line.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0 / 1e6
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["peaks", seconds] => seconds.parse().map_err(Into::into).map(|seconds: f64| peaks::print(Duration::from_secs_f64(seconds.clamp(0.0, 60.0)))),
        [engine, folder, threads, rest @ ..] => {
            threads.parse().map_err(Into::into).and_then(|threads| serve(engine, Path::new(folder), threads, rest == ["spin"]))
        }
        _ => Err("ENGINE FOLDER THREADS [spin], or peaks SECONDS".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
