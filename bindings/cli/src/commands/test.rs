//! `millstream test`: the ONNX project's backend tests, or others in their form.

use crate::{
    conformance::{Case, Outcome, Verdict, find},
    failure::Failure,
    output,
};
use millstream::{Device, Session, kernel::onnx};
use serde_json::json;
use std::{fs, panic, path::PathBuf, process::ExitCode};

/// Runs folders in the form of the ONNX project's backend tests. Exit status 1 if one did not pass.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A test's folder, or a folder of tests.
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// Write what was computed as OUT/<test>/output_<i>.pb.
    #[arg(long, value_name = "OUT")]
    write_outputs: Option<PathBuf>,
    /// Threads; 0 is one a core.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Where models run: cpu, cuda, cuda:N (counted from 0), or auto, which takes a GPU if there is one.
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu)]
    device: Device,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let session = Session::builder().threads(arguments.threads).device(&arguments.device)?.build();
    let mut cases = Vec::new();
    for folder in &arguments.folders {
        cases.extend(find(folder)?);
    }
    if cases.is_empty() {
        return Err(Failure::Usage("there are no tests in these folders".into()));
    }
    let bar = output::progress(cases.len() as u64, "tests");
    let mut results = Vec::new();
    for case in &cases {
        let outcome = guarded(case, &session);
        if let Some(folder) = &arguments.write_outputs {
            write(folder, case, &outcome)?;
        }
        if !arguments.json {
            bar.suspend(|| println!("{}", line(case, &outcome.verdict)));
        }
        results.push((case.name.clone(), outcome.verdict));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let count = |f: fn(&Verdict) -> bool| results.iter().filter(|(_, v)| f(v)).count();
    let (pass, fail) = (count(|v| *v == Verdict::Pass), count(|v| matches!(v, Verdict::Fail(_))));
    let unsupported = results.len() - pass - fail;
    if arguments.json {
        let tests: Vec<_> = results
            .iter()
            .map(|(name, verdict)| match verdict {
                Verdict::Pass => json!({ "name": name, "result": "pass" }),
                Verdict::Fail(reason) => json!({ "name": name, "result": "fail", "reason": reason }),
                Verdict::Unsupported(reason) => json!({ "name": name, "result": "unsupported", "reason": reason }),
            })
            .collect();
        println!("{}", json!({ "tests": tests, "pass": pass, "fail": fail, "unsupported": unsupported }));
    } else {
        println!("{pass} pass, {fail} fail, {unsupported} unsupported, {} in all", results.len());
    }
    Ok(ExitCode::from(u8::from(pass < results.len())))
}

/// Runs a test; a panic, which would be a defect of ours, fails that test alone.
fn guarded(case: &Case, session: &Session) -> Outcome {
    panic::catch_unwind(panic::AssertUnwindSafe(|| case.run(session)))
        .unwrap_or_else(|_| Outcome { verdict: Verdict::Fail("a panic".into()), outputs: Vec::new() })
}

fn line(case: &Case, verdict: &Verdict) -> String {
    match verdict {
        Verdict::Pass => format!("pass         {}", case.name),
        Verdict::Fail(reason) => format!("fail         {}: {reason}", case.name),
        Verdict::Unsupported(reason) => format!("unsupported  {}: {reason}", case.name),
    }
}

/// Writes the outputs of the first data set, as the test's own files are numbered.
fn write(folder: &std::path::Path, case: &Case, outcome: &Outcome) -> Result<(), Failure> {
    let folder = folder.join(&case.name);
    let Some(outputs) = outcome.outputs.first() else { return Ok(()) };
    fs::create_dir_all(&folder).map_err(Failure::io(&folder))?;
    for (i, value) in outputs.iter().enumerate() {
        let path = folder.join(format!("output_{i}.pb"));
        fs::write(&path, onnx::tensor_to_pb(value, "")).map_err(Failure::io(&path))?;
    }
    Ok(())
}
