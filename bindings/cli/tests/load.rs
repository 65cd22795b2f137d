//! The program as a process: `load` sends what it says, and counts from when a request was due.

use serde_json::Value as Json;
use std::process::Command;

fn load(arguments: &[&str]) -> Json {
    let output = Command::new(env!("CARGO_BIN_EXE_millstream")).arg("load").args(arguments).arg("--json").output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn a_model_that_keeps_up_answers_all() {
    let report = load(&["--simulate", "500+10", "--rate", "500", "--seconds", "1"]);
    let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name} in {report}"));
    assert!((350.0..650.0).contains(&number("sent")), "{report}");
    assert_eq!((number("ok"), number("rejected")), (number("sent"), 0.0));
    assert!(number("p50_ms") >= 0.5 && number("p50_ms") <= number("p99_ms") && number("p99_ms") <= number("max_ms"), "{report}");
}

/// A model that takes 20 ms a batch of one cannot do 500 a second: the door rejects, and those let in wait for as long as
/// the line before them takes.
#[test]
fn overload_is_rejected_and_waiting_counts() {
    let report = load(&["--simulate", "20000+0", "--rate", "500", "--seconds", "1", "--batch", "1", "--queue", "4", "--inside", "4"]);
    let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name} in {report}"));
    assert!(number("rejected") > 100.0, "{report}");
    assert_eq!(number("ok") + number("rejected"), number("sent"), "{report}");
    assert!(number("p99_ms") >= 40.0, "{report}");
}

#[test]
fn the_embedded_model_bears_a_load() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/language-model/language.onnx");
    let report = load(&[model, "--rate", "50", "--seconds", "0.5"]);
    assert_eq!(report["ok"], report["sent"]);
    assert!(report["mean_batch"].as_f64().is_some_and(|n| n >= 1.0));
}
