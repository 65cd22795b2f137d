//! Every model of a folder parses: `MILLSTREAM_MODELS=DIR cargo test -p millstream-onnx --test real_models -- --ignored --nocapture`.
#![allow(clippy::print_stdout, missing_docs)]

mod stub;

use millstream_onnx::{LoadOptions, load};
use std::{path::PathBuf, sync::Arc, time::Instant};

fn models(dir: PathBuf, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            models(path, found);
        } else if path.extension().is_some_and(|e| e == "onnx") {
            found.push(path);
        }
    }
}

#[test]
#[ignore = "needs a folder of models"]
fn every_model_parses() {
    let Some(dir) = std::env::var_os("MILLSTREAM_MODELS") else { return };
    let mut paths = Vec::new();
    models(dir.into(), &mut paths);
    assert!(!paths.is_empty());
    paths.sort();
    let mut failures = 0;
    for path in paths {
        let bytes = Arc::new(std::fs::read(&path).unwrap());
        let (size, options) = (bytes.len(), LoadOptions::default());
        match stub::load_learning(bytes.clone(), &options) {
            Ok((m, registry)) => {
                let start = Instant::now();
                let again = load(bytes, &registry, &options).unwrap();
                let (took, nodes) = (start.elapsed(), again.graph.nodes().count());
                println!("{path:?}: {size} bytes, {nodes} nodes, opsets {:?}, {} to {} values, {took:?}", m.opsets, m.inputs.len(), m.outputs.len());
            }
            Err(e) => {
                println!("{path:?}: {e}");
                failures += 1;
            }
        }
    }
    assert_eq!(failures, 0);
}
