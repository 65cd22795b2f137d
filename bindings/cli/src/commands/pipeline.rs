//! `millstream run PIPELINE.toml`: runs a pipeline from a file, or says what it would do.

use crate::{
    failure::Failure,
    output,
    stopping::{self, Ended},
};
use millstream::{
    Session,
    runtime::{
        PipelineError, Report, StageSnapshot,
        pipefile::{FileError, Models, Opened, PipelineFile, Plot, RunError},
        telemetry::ExportCounts,
    },
};
use serde_json::json;
use std::{
    error::Error,
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

/// What can be done with a pipeline beside running it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run nothing: print the pipeline's stages, its budgets, what each edge can hold, and what its models take.
    #[arg(long)]
    dry: bool,
    /// Run nothing: draw the pipeline's graph, as a picture (.svg) or as text for Mermaid (.mmd).
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Send spans of sampled records to this OpenTelemetry collector, as OTLP over HTTP: http://localhost:4318.
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
    /// Show all figures while it runs, as `millstream top` does, on a screen of their own.
    #[arg(long)]
    top: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Options {
    pub(crate) fn is_given(&self) -> bool {
        self.dry || self.plot.is_some() || self.json || self.top || self.otlp.is_some()
    }
}

/// How many dead letters a report shows.
const LETTERS: usize = 5;

pub(crate) fn run(path: &Path, arguments: &Options) -> Result<ExitCode, Failure> {
    let mut file = match PipelineFile::open(path) {
        Ok(file) => file,
        Err(FileError::Problems(problems)) => return Ok(refused(&problems)),
        Err(error) => return Err(Failure::Usage(error.to_string())),
    };
    if let Some(url) = &arguments.otlp {
        file = file.otlp(url).map_err(|error| Failure::Usage(format!("--otlp {error}")))?;
    }
    if let Some(plot) = &arguments.plot {
        let form = match plot.extension().and_then(|extension| extension.to_str()) {
            Some("mmd") => Plot::Mermaid,
            Some("svg") => Plot::Svg,
            _ => return Err(Failure::Usage(format!("--plot {}: a file ending in .svg or .mmd is expected", plot.display()))),
        };
        fs::write(plot, file.plot(form)).map_err(Failure::io(plot))?;
    }
    let session = Session::builder().threads(1).build();
    let models: Arc<dyn Models> = Arc::new(move |path: &Path| open(&session, path));
    if arguments.dry {
        match file.describe(&models) {
            Ok(description) if arguments.json => println!("{}", json!(description)),
            Ok(description) => print!("{description}"),
            Err(problems) => return Ok(refused(&problems)),
        }
    }
    if arguments.dry || arguments.plot.is_some() {
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.top && !io::stdout().is_terminal() {
        return Err(Failure::Usage("--top draws on a terminal, and standard output is none".into()));
    }
    let running = match file.spawn(&models) {
        Ok(running) => running,
        Err(RunError::File(problems)) => return Ok(refused(&problems)),
        Err(error) => return Err(Failure::Usage(error.to_string())),
    };
    if let Some(address) = running.metrics() {
        eprintln!("metrics at http://{address}/metrics");
    }
    let ended = match arguments.top {
        true => stopping::watch_live(running.handle(), file.name())?,
        false => stopping::watch(running.handle(), "records")?,
    };
    let tracer = running.tracer().cloned();
    let joined = running.join();
    if let Some(spans) = tracer.map(|tracer| tracer.counts()).filter(|spans| spans.lost() > 0) {
        let ExportCounts { exported, rejected, dropped, failed, .. } = spans;
        eprintln!("{} spans are lost: {rejected} rejected, {dropped} dropped, {failed} failed; {exported} exported", spans.lost());
    }
    match joined {
        Ok(report) => {
            print(arguments, ended.name(), &report);
            Ok(if ended == Ended::Aborted { ExitCode::from(2) } else { ExitCode::SUCCESS })
        }
        Err(PipelineError::Failed { cause, report }) => {
            print(arguments, "failed", &report);
            Err(Failure::Usage(cause.to_string()))
        }
        Err(error) => Err(Failure::Usage(error.to_string())),
    }
}

fn open(session: &Session, path: &Path) -> Result<Opened, Box<dyn Error + Send + Sync>> {
    let read = session.read(path)?;
    let properties = read.metadata_props.clone();
    let executable = session.compile(read.graph)?.executable().clone();
    Ok(Opened { executable, properties, memory_limit: usize::MAX })
}

/// The problems have their own form.
fn refused(problems: &millstream::runtime::pipefile::Problems) -> ExitCode {
    eprintln!("{problems}");
    ExitCode::from(2)
}

fn print(arguments: &Options, ended: &str, report: &Report) {
    let counts = &report.counts;
    if arguments.json {
        let stage = |s: &StageSnapshot| {
            json!({
                "name": s.name, "replicas": s.replicas, "in": s.records_in, "out": s.records_out, "consumed": s.consumed, "dead_letters": s.dead_letters,
                "retries": s.retries, "restarts": s.restarts, "busy_seconds": s.busy.as_secs_f64(), "mean_batch": s.batch_size.mean(),
            })
        };
        let object = json!({
            "ended": ended, "records": counts.ended(), "ok": counts.ok, "dead_letters": counts.dead_lettered, "cancelled": counts.cancelled,
            "expired": counts.expired, "rejected": counts.rejected, "seconds": report.elapsed.as_secs_f64(),
            "records_per_second": report.records_per_second(), "stages": report.snapshot.stages.iter().map(stage).collect::<Vec<_>>(),
        });
        println!("{object}");
        return;
    }
    let stage = |s: &StageSnapshot| {
        let batch = if s.batch_size.count() > 0 { format!("{:.1}", s.batch_size.mean()) } else { "-".into() };
        let numbers = [s.replicas as u64, s.records_in, s.records_out, s.dead_letters].map(|n| n.to_string());
        [vec![s.name.clone()], numbers.to_vec(), vec![format!("{:.1}", s.busy.as_secs_f64() * 1e3), batch]].concat()
    };
    let head = ["stage", "replicas", "in", "out", "dead letters", "busy ms", "mean batch"];
    println!("{}\n", output::table(&head, report.snapshot.stages.iter().map(stage), true));
    for letter in report.dead_letters.iter().take(LETTERS) {
        println!("dead letter: {letter}");
    }
    println!(
        "{ended}: {} records in {:.2} s, {:.0}/s; {} ok, {} dead letters, {} cancelled",
        counts.ended(),
        report.elapsed.as_secs_f64(),
        report.records_per_second(),
        counts.ok,
        counts.dead_lettered,
        counts.cancelled
    );
}
