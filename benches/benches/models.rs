//! Whole models, on one thread and on all: each folder of `MILLSTREAM_MODELS` that holds `model.onnx` and a `manifest.json` with
//! inputs, as `make_models.py` writes them.
//!
//! `MILLSTREAM_MODELS=FOLDER cargo bench -p millstream-benches --bench models [-- NAME]`
#![allow(missing_docs, clippy::print_stderr)]

use std::{hint::black_box, thread, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use millstream::Session;
use millstream_benches::stored::{folders, open};

fn models(c: &mut Criterion) {
    let Some(folders) = folders() else {
        eprintln!("models: skipped. MILLSTREAM_MODELS has to name a folder of models, such as benches/make_models.py makes.");
        return;
    };
    if folders.is_empty() {
        eprintln!("models: the folder has none with a manifest.json");
    }
    let mut group = c.benchmark_group("models");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    let all = thread::available_parallelism().map_or(1, |n| n.get());
    for folder in &folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        for threads in [1, all] {
            // Opened when its turn comes, so that models that a filter leaves out are not read.
            let mut opened = None;
            group.bench_function(format!("{name}/threads_{threads}"), |bench| {
                let open = || open(&Session::builder().threads(threads).build(), folder).unwrap_or_else(|e| panic!("{name}: {e}"));
                let (model, inputs) = opened.get_or_insert_with(open);
                bench.iter(|| black_box(model.run_values(inputs)));
            });
            if all == 1 {
                break;
            }
        }
    }
    group.finish();
}

criterion_group!(benches, models);
criterion_main!(benches);
