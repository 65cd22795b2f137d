//! Whole models, on one thread and on all: each folder of `MILLSTREAM_MODELS` that holds `model.onnx` and a `manifest.json` with
//! inputs, as `make_models.py` writes them.
//!
//! `MILLSTREAM_MODELS=FOLDER cargo bench -p millstream-benches --bench models [-- NAME]`
#![allow(missing_docs, clippy::print_stderr)]

use std::{env, error::Error, fs, hint::black_box, path::Path, thread, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use millstream::{DType, Model, Session, Tensor, Value};
use npyz::{NpyFile, TypeChar};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The array of an `.npy` file.
fn array(path: &Path) -> Result<Tensor> {
    let bytes = fs::read(path)?;
    let npy = NpyFile::new(&bytes[..])?;
    let dims: Vec<usize> = npy.shape().iter().map(|&d| d as usize).collect();
    let npyz::DType::Plain(kind) = npy.dtype() else { return Err("records are not supported".into()) };
    let dtype = match (kind.type_char(), kind.size_field()) {
        (TypeChar::Float, 4) => DType::F32,
        (TypeChar::Int, 8) => DType::I64,
        (TypeChar::Int, 4) => DType::I32,
        (TypeChar::Uint, 1) => DType::U8,
        _ => return Err(format!("arrays of {kind} are not supported").into()),
    };
    let start = bytes.len().checked_sub(dims.iter().product::<usize>() * dtype.size()).ok_or("the file is too short")?;
    Ok(Tensor::from_bytes(dtype, &dims, &bytes[start..])?)
}

/// The model of a folder and its inputs in the model's order.
fn open(folder: &Path, threads: usize) -> Result<(Model, Vec<Value>)> {
    let model = Session::builder().threads(threads).build().open(folder.join("model.onnx"))?;
    let manifest: serde_json::Value = serde_json::from_str(&fs::read_to_string(folder.join("manifest.json"))?)?;
    let listed = manifest["inputs"].as_array().ok_or("the manifest lists no inputs")?;
    let mut inputs = Vec::new();
    for port in &model.signature().inputs {
        let entry = listed.iter().find(|entry| entry["name"] == *port.name).ok_or("the manifest lacks an input")?;
        inputs.push(Value::Tensor(array(&folder.join(entry["file"].as_str().ok_or("an input has no file")?))?));
    }
    model.run_values(&inputs)?;
    Ok((model, inputs))
}

fn models(c: &mut Criterion) {
    let Some(root) = env::var_os("MILLSTREAM_MODELS") else {
        eprintln!("models: skipped. MILLSTREAM_MODELS has to name a folder of models, such as benches/make_models.py makes.");
        return;
    };
    let mut folders: Vec<_> = fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    folders.retain(|folder| folder.join("manifest.json").is_file());
    folders.sort();
    if folders.is_empty() {
        eprintln!("models: {} has no folder with a manifest.json", Path::new(&root).display());
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
                let (model, inputs) = opened.get_or_insert_with(|| open(folder, threads).unwrap_or_else(|e| panic!("{name}: {e}")));
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
