//! The embedded model: the language of a source file from its first bytes.

use crate::failure::Failure;
use millstream::{Session, Tensor, TensorError, kernel::engine::Executable};
use std::sync::Arc;

/// The model's file, part of the program.
static MODEL: &[u8] = include_bytes!("../../../examples/language-model/language.onnx");

/// How many bytes of a file the model reads.
pub(crate) const HEAD: usize = 2048;

/// What stands for the bytes after a short file's end.
const PADDING: i32 = 256;

/// The model, compiled, and the names of its classes.
pub(crate) struct LanguageModel {
    pub(crate) executable: Arc<dyn Executable>,
    pub(crate) labels: Vec<String>,
}

/// Compiles the embedded model for one thread: inside a pipeline, replicas fill the cores.
pub(crate) fn load() -> Result<LanguageModel, Failure> {
    let session = Session::builder().threads(1).build();
    let read = session.read_bytes(MODEL)?;
    let labels = read.metadata_props.iter().find(|(key, _)| key == "labels").map(|(_, names)| names.split(',').map(str::to_owned).collect());
    let labels = labels.ok_or_else(|| Failure::Usage("the embedded model has no labels".into()))?;
    Ok(LanguageModel { executable: session.compile(read.graph)?.executable().clone(), labels })
}

/// The model's input for a file's first bytes: int32, without the batch axis.
pub(crate) fn example(head: &[u8]) -> Result<Vec<Tensor>, TensorError> {
    let mut bytes = [PADDING; HEAD];
    for (to, &from) in bytes.iter_mut().zip(head) {
        *to = from.into();
    }
    Ok(vec![Tensor::from_slice(&[HEAD], &bytes)?])
}

/// The likeliest class and its probability.
pub(crate) fn best(probabilities: &[f32]) -> (usize, f32) {
    probabilities.iter().copied().enumerate().fold((0, 0.0), |best, (i, p)| if p > best.1 { (i, p) } else { best })
}
