//! Finding tests in folders, and running them.

use super::compare::{Tolerance, difference};
use crate::failure::Failure;
use millstream::{
    DType, Error, Model, Session, Tensor, Value,
    kernel::{
        engine::{CompileError, RunError},
        onnx::{self, ValueKind},
    },
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// One test.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// The folder's name, or the model file's without its ending.
    pub(crate) name: String,
    model: PathBuf,
    /// Folders of inputs and outputs; none for the loose form.
    data_sets: Vec<PathBuf>,
}

/// What became of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Fail(String),
    Unsupported(String),
}

/// A verdict, and what was computed: the values of each data set.
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) outputs: Vec<Vec<Value>>,
}

/// All tests in a folder: the folder itself, its subfolders, or loose models, sorted by name.
pub(crate) fn find(folder: &Path) -> Result<Vec<Case>, Failure> {
    if folder.join("model.onnx").is_file() {
        return Ok(vec![Case::in_folder(folder)?]);
    }
    let mut cases = Vec::new();
    for entry in fs::read_dir(folder).map_err(Failure::io(folder))? {
        let path = entry.map_err(Failure::io(folder))?.path();
        if path.join("model.onnx").is_file() {
            cases.push(Case::in_folder(&path)?);
        } else if path.extension().is_some_and(|e| e == "onnx") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            cases.push(Case { name, model: path, data_sets: Vec::new() });
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

impl Case {
    fn in_folder(folder: &Path) -> Result<Case, Failure> {
        let mut data_sets: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(folder).map_err(Failure::io(folder))? {
            let path = entry.map_err(Failure::io(folder))?.path();
            if path.is_dir() && path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("test_data_set_")) {
                data_sets.push(path);
            }
        }
        data_sets.sort();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Case { name, model: folder.join("model.onnx"), data_sets })
    }

    /// Runs the test.
    pub(crate) fn run(&self, session: &Session) -> Outcome {
        let mut outputs = Vec::new();
        let verdict = match self.checked(session, &mut outputs) {
            Ok(None) => Verdict::Pass,
            Ok(Some(difference)) => Verdict::Fail(difference),
            Err(Stop::Unsupported(reason)) => Verdict::Unsupported(reason),
            Err(Stop::Failed(reason)) => Verdict::Fail(reason),
        };
        Outcome { verdict, outputs }
    }

    fn checked(&self, session: &Session, outputs: &mut Vec<Vec<Value>>) -> Result<Option<String>, Stop> {
        let read = session.read(&self.model)?;
        let kinds = |ports: &[onnx::Port]| ports.iter().map(|p| p.kind).collect::<Vec<ValueKind>>();
        let (input_kinds, output_kinds) = (kinds(&read.inputs), kinds(&read.outputs));
        let model = session.compile(read.graph)?;
        let tolerance = Tolerance::of(&self.name);
        let mut sets = Vec::new();
        if self.data_sets.is_empty() {
            let expected = self.model.with_file_name(format!("{}_output_0.pb", self.name));
            sets.push((vec![ramp(&model)?], vec![value(&expected, output_kinds.first())?]));
        }
        for folder in &self.data_sets {
            sets.push((values(folder, "input", &input_kinds)?, values(folder, "output", &output_kinds)?));
        }
        for (inputs, expected) in sets {
            let given: Vec<Value> = model.run_values(&inputs)?.into_iter().map(|(_, v)| v).collect();
            let differs =
                expected.iter().zip(&given).enumerate().find_map(|(i, (want, got))| Some(format!("output {i}: {}", difference(got, want, tolerance)?)));
            let missing = (given.len() < expected.len()).then(|| format!("{} outputs, {} are expected", given.len(), expected.len()));
            outputs.push(given);
            if let Some(reason) = differs.or(missing) {
                return Ok(Some(reason));
            }
        }
        Ok(None)
    }
}

/// Why a test did not come to a comparison.
enum Stop {
    Unsupported(String),
    Failed(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        let reason = error.to_string();
        match &error {
            Error::Load { error: onnx::LoadError::Unsupported(problems), .. } => Stop::Unsupported(problems.first().map_or(reason, ToString::to_string)),
            Error::Compile(CompileError::Unsupported(_)) | Error::Run(RunError::DataDependent(_)) => Stop::Unsupported(reason),
            _ => Stop::Failed(reason),
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure.to_string())
    }
}

/// The ramp 0…n−1 over n in the shape of the model's only input.
fn ramp(model: &Model) -> Result<Value, Failure> {
    let port = model.signature().inputs.first().ok_or_else(|| Failure::Usage("the model has no input".into()))?;
    let dims: Vec<usize> = port.dims.iter().flatten().map(|d| *d.as_ref().unwrap_or(&1)).collect();
    if port.dtype != Some(DType::F32) {
        return Err(Failure::Usage(format!("the input is {port}, a ramp of float32 does not fit")));
    }
    let n: usize = dims.iter().product();
    let values: Vec<f32> = (0..n).map(|i| i as f32 / n as f32).collect();
    Ok(Value::Tensor(Tensor::from_slice(&dims, &values)?))
}

/// The values `<what>_<i>.pb` of a data set, one for each of the model's ports.
fn values(folder: &Path, what: &str, kinds: &[ValueKind]) -> Result<Vec<Value>, Stop> {
    kinds.iter().enumerate().map(|(i, kind)| value(&folder.join(format!("{what}_{i}.pb")), Some(kind))).collect()
}

fn value(path: &Path, kind: Option<&ValueKind>) -> Result<Value, Stop> {
    let bytes = fs::read(path).map_err(Failure::io(path))?;
    onnx::tensor_from_pb(&bytes, kind.copied().unwrap_or_default()).map_err(|e| match e {
        onnx::LoadError::Unsupported(_) => Stop::Unsupported(format!("{}: {e}", path.display())),
        _ => Stop::Failed(format!("{}: {e}", path.display())),
    })
}
