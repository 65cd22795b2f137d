//! `millstream demo`: the language of every source file of a folder, through a whole pipeline.

use crate::{
    failure::Failure,
    language::{self, HEAD},
    output,
    stopping::{self, Ended},
};
use millstream::{
    Tensor,
    runtime::{
        EngineModel, ModelId, Pipeline, PipelineError, Prediction, Report, RunInference, StageError, StageOptions, collect,
        io::{FileBytes, read_head, walk},
        ms,
    },
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    thread,
};

/// Names the language of every source file of a folder with the model that is part of this program.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The folder; hidden and ignored files are passed over.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Print each file with its language, too.
    #[arg(long)]
    files: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Below this probability a file counts as unsure: the model knows no class for other text.
const SURE: f32 = 0.6;

/// What all records on their way may hold.
const MEMORY: u64 = 256 << 20;

/// A file and what it was taken for.
struct Named {
    path: PathBuf,
    /// `None` if the model was not sure.
    language: Option<String>,
    probability: f32,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if !arguments.path.exists() {
        return Err(Failure::Usage(format!("{}: there is no such folder", arguments.path.display())));
    }
    let failed = |e: PipelineError| Failure::Usage(e.to_string());
    let model = language::load()?;
    let labels = Arc::new(model.labels);
    let cores = thread::available_parallelism().map_or(1, |n| n.get());
    let handler = EngineModel::new(ModelId::new("language", env!("CARGO_PKG_VERSION")), model.executable);
    let inference = RunInference::new(handler).batch(1..=32).max_delay(ms(2)).replicas(cores).preprocess(|file: &FileBytes| language::example(&file.bytes));
    let (sink, results) = collect();
    let handle = Pipeline::from(walk(&arguments.path))
        .try_map_with("read", StageOptions::new().measure(|file: &FileBytes| file.bytes.len() as u64), read_head(HEAD))
        .filter("text", |file: &FileBytes| !file.bytes.is_empty() && !file.bytes.contains(&0))
        .infer("language", inference)
        .try_map("name", move |p: Prediction<FileBytes, Vec<Tensor>>| {
            let probabilities = p.inference.first().map_or(Ok(&[][..]), |t| t.as_slice::<f32>())?;
            let (class, probability) = language::best(probabilities);
            let language = labels.get(class).filter(|_| probability >= SURE).cloned();
            Ok::<_, StageError>(Named { path: p.example.path, language, probability })
        })
        .sink(sink)
        .memory_budget(MEMORY)
        .spawn()
        .map_err(failed)?;
    let ended = stopping::watch(&handle, "files")?;
    let report = handle.join().map_err(failed)?;
    print(arguments, &report, results.take());
    Ok(if ended == Ended::Aborted { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

fn print(arguments: &Arguments, report: &Report, mut named: Vec<Named>) {
    named.sort_by(|a, b| a.path.cmp(&b.path));
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for n in &named {
        *counts.entry(n.language.as_deref().unwrap_or("(unsure)")).or_default() += 1;
    }
    let name = |path: &Path| path.strip_prefix(&arguments.path).unwrap_or(path).display().to_string();
    let skipped = report.counts.ok.saturating_sub(named.len() as u64);
    if arguments.json {
        let files: Vec<_> = named.iter().map(|n| json!({ "path": name(&n.path), "language": n.language, "probability": n.probability })).collect();
        let stages: Vec<_> =
            report.snapshot.stages.iter().map(|s| json!({ "name": s.name, "records": s.records_in, "busy_seconds": s.busy.as_secs_f64() })).collect();
        let mut object = json!({
            "languages": counts, "files": named.len(), "skipped": skipped, "dead_letters": report.counts.dead_lettered,
            "seconds": report.elapsed.as_secs_f64(), "files_per_second": report.records_per_second(), "stages": stages,
        });
        if arguments.files {
            object["results"] = json!(files);
        }
        println!("{object}");
        return;
    }
    if arguments.files {
        let row = |n: &Named| vec![name(&n.path), n.language.clone().unwrap_or_else(|| "(unsure)".into()), format!("{:.2}", n.probability)];
        println!("{}\n", output::table(&["file", "language", "probability"], named.iter().map(row), false));
    }
    let mut rows: Vec<(&str, usize)> = counts.into_iter().collect();
    rows.sort_by_key(|&(language, n)| (std::cmp::Reverse(n), language));
    println!("{}\n", output::table(&["language", "files"], rows.into_iter().map(|(l, n)| vec![l.into(), n.to_string()]), true));
    let stage = |s: &millstream::runtime::StageSnapshot| {
        let batch = if s.batch_size.count() > 0 { format!("{:.1}", s.batch_size.mean()) } else { "-".into() };
        vec![s.name.clone(), s.replicas.to_string(), s.records_in.to_string(), format!("{:.1}", s.busy.as_secs_f64() * 1e3), batch]
    };
    println!("{}\n", output::table(&["stage", "replicas", "records", "busy ms", "mean batch"], report.snapshot.stages.iter().map(stage), true));
    for letter in report.dead_letters.iter().take(5) {
        println!("not read: {letter}");
    }
    println!(
        "{} files in {:.2} s, {:.0} files/s; {skipped} empty or binary files passed over, {} could not be read",
        named.len(),
        report.elapsed.as_secs_f64(),
        report.records_per_second(),
        report.counts.dead_lettered
    );
}
