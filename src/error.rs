//! Everything that can go wrong between a file and a result.

use crate::DeviceError;
use millstream_engine::{CompileError, RunError};
use millstream_onnx::LoadError;
use millstream_tensor::TensorError;
use std::{io, path::PathBuf};

/// A model that cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be read.
    #[error("{path}: {error}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A file that is no model, or a model that is not supported.
    #[error("{path}: {error}", path = .path.display())]
    Load {
        /// The file, or a name for bytes in memory.
        path: PathBuf,
        /// What is wrong, all problems at once.
        error: LoadError,
    },
    /// A device that cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A model that cannot be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A run that failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A tensor that cannot be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// An output that the model does not have.
    #[error("the model has no output `{0}`")]
    UnknownOutput(String),
}
