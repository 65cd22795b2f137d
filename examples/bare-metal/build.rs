//! Turns the model's fixture into a table that a program without an operating system can include, and asks the linker for
//! a static program without start files.

use std::{env, fmt::Write, fs, path::Path};

use serde_json::Value;

const FIXTURE: &str = "../language-model/fixture.json";

fn main() {
    println!("cargo::rerun-if-changed={FIXTURE}");
    println!("cargo::rerun-if-changed=build.rs");
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--gc-sections"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }

    let fixture: Value = serde_json::from_str(&fs::read_to_string(FIXTURE).expect("the model's fixture")).expect("the fixture is JSON");
    let labels: Vec<&str> = array(&fixture["labels"]).iter().map(|l| l.as_str().expect("a label is text")).collect();
    let mut table = format!("const LABELS: &[&str] = &{labels:?};\nconst SAMPLES: &[Sample] = &[\n");
    for sample in array(&fixture["samples"]) {
        let text = sample["text"].as_str().expect("a sample has a text");
        let probabilities: Vec<f32> = array(&sample["probabilities"]).iter().map(|p| p.as_f64().expect("a probability is a number") as f32).collect();
        writeln!(table, "    Sample {{ text: {text:?}, probabilities: &{probabilities:?} }},").expect("writing to a string works");
    }
    table.push_str("];\n");
    let out = env::var_os("OUT_DIR").expect("cargo names the output folder");
    fs::write(Path::new(&out).join("samples.rs"), table).expect("the output folder can be written");
}

fn array(value: &Value) -> &[Value] {
    value.as_array().expect("a list in the fixture")
}
