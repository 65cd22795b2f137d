//! The program as a process: `bench` says what it measured in a form that other programs read.

use serde_json::Value as Json;
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

fn bench(arguments: &[&str]) -> Output {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/language-model/language.onnx");
    Command::new(env!("CARGO_BIN_EXE_millstream"))
        .arg("bench")
        .arg(model)
        .args(["--threads", "1", "--seconds", "0.05"])
        .args(arguments)
        .output()
        .expect("the program runs")
}

#[test]
fn json_is_one_object_with_all_figures() {
    let output = bench(&["--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Json = serde_json::from_slice(&output.stdout).expect("one JSON object");
    for figure in ["median_ms", "min_ms", "p99_ms", "load_ms", "first_run_ms", "runs", "threads", "arena_bytes"] {
        assert!(report[figure].is_number(), "{figure}");
    }
    assert!(report["level"].is_string() && report["max_error"].is_null());
}

#[test]
fn a_trace_has_an_event_for_each_step() {
    let path = std::env::temp_dir().join(format!("millstream-trace-{}.json", std::process::id()));
    let output = bench(&["--steps", "--profile", "--trace", path.to_str().expect("a path of text")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let trace: Json = serde_json::from_slice(&fs::read(&path).expect("the trace was written")).expect("JSON");
    fs::remove_file(&path).expect("the trace was there");
    let events = trace["traceEvents"].as_array().expect("a list of events");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(!events.is_empty());
    let mut end = 0.0;
    for event in events {
        let (ts, dur) = (event["ts"].as_f64().expect("a start"), event["dur"].as_f64().expect("a duration"));
        // What a reader makes of the digits may differ in the last one.
        assert!(ts >= end - 1e-6 && dur >= 0.0 && event["ph"] == "X");
        end = ts + dur;
        assert!(printed.contains(event["name"].as_str().expect("a name")), "every event is a step that was printed");
    }
}
