//! `millstream run`: a model on inputs from files.

use crate::{arrays, failure::Failure};
use millstream::{Session, Value};
use std::{fs, path::PathBuf, process::ExitCode};

/// Runs a model once on inputs from .npy files and writes its outputs.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The ONNX model.
    model: PathBuf,
    /// An input: its name and a .npy file.
    #[arg(long = "input", value_name = "NAME=FILE")]
    inputs: Vec<String>,
    /// The folder that outputs are written to, each as NAME.npy.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Threads; 0 is one a core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let model = Session::builder().threads(arguments.threads).build().open(&arguments.model)?;
    let mut inputs = Vec::new();
    for input in &arguments.inputs {
        let (name, file) = input.split_once('=').ok_or_else(|| Failure::Usage(format!("--input {input}: NAME=FILE is expected")))?;
        inputs.push((name, arrays::read(file.as_ref())?));
    }
    let outputs = model.run(&inputs)?;
    fs::create_dir_all(&arguments.output).map_err(Failure::io(&arguments.output))?;
    for (name, value) in outputs.iter() {
        let Value::Tensor(tensor) = value else {
            return Err(Failure::Usage(format!("output `{name}` is {}, which a .npy file cannot hold", value.kind())));
        };
        // Names are the model's own words: only what is no path stays.
        let file: String = name.chars().map(|c| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
        let path = arguments.output.join(format!("{file}.npy"));
        arrays::write(&path, tensor)?;
        println!("{name}: {}[{}] -> {}", tensor.dtype(), tensor.shape(), path.display());
    }
    Ok(ExitCode::SUCCESS)
}
