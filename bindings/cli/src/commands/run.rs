//! `millstream run`: a model on inputs from files, or a pipeline from a file.

use super::pipeline;
use crate::{arrays, failure::Failure};
use millstream::{Device, Session, Value};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Runs a pipeline from a .toml file; or a model once, on inputs from .npy files.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The pipeline (.toml), or the ONNX model.
    file: PathBuf,
    /// An input of a model: its name and a .npy file.
    #[arg(long = "input", value_name = "NAME=FILE")]
    inputs: Vec<String>,
    /// The folder that a model's outputs are written to, each as NAME.npy.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Threads of a model; 0 is one a core. In a pipeline, each stage has its replicas.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Where a model runs: cpu, cuda, cuda:N (counted from 0), or auto, which takes a GPU if there is one.
    #[arg(long, value_name = "DEVICE")]
    device: Option<Device>,
    #[command(flatten)]
    pipeline: pipeline::Options,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if arguments.file.extension().is_some_and(|extension| extension == "toml") {
        if !arguments.inputs.is_empty() || arguments.output.is_some() || arguments.threads != 0 || arguments.device.is_some() {
            return Err(Failure::Usage("--input, --output, --threads and --device are for models; a pipeline's file says what it reads and writes".into()));
        }
        return pipeline::run(&arguments.file, &arguments.pipeline);
    }
    if arguments.pipeline.is_given() {
        return Err(Failure::Usage("--dry, --plot, --top, --otlp and --json are for pipelines, which are .toml files".into()));
    }
    let output = arguments.output.as_ref().ok_or_else(|| Failure::Usage("--output DIR says where a model's outputs are written to".into()))?;
    run_model(arguments, output)
}

fn run_model(arguments: &Arguments, output: &Path) -> Result<ExitCode, Failure> {
    let model = Session::builder().threads(arguments.threads).device(arguments.device.as_ref().unwrap_or(&Device::Cpu))?.build().open(&arguments.file)?;
    let mut inputs = Vec::new();
    for input in &arguments.inputs {
        let (name, file) = input.split_once('=').ok_or_else(|| Failure::Usage(format!("--input {input}: NAME=FILE is expected")))?;
        inputs.push((name, arrays::read(file.as_ref())?));
    }
    let outputs = model.run(&inputs)?;
    fs::create_dir_all(output).map_err(Failure::io(output))?;
    for (name, value) in outputs.iter() {
        let Value::Tensor(tensor) = value else {
            return Err(Failure::Usage(format!("output `{name}` is {}, which a .npy file cannot hold", value.kind())));
        };
        // Names are the model's own words: only what is no path stays.
        let file: String = name.chars().map(|c| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
        let path = output.join(format!("{file}.npy"));
        arrays::write(&path, tensor)?;
        println!("{name}: {}[{}] -> {}", tensor.dtype(), tensor.shape(), path.display());
    }
    Ok(ExitCode::SUCCESS)
}
