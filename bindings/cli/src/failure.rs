//! What makes the program stop.

use std::{io, path::PathBuf};

/// Something that could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{path}: {error}", path = .0.display(), error = .1)]
    Io(PathBuf, io::Error),
    #[error("{path}: {what}", path = .0.display(), what = .1)]
    File(PathBuf, String),
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Model(#[from] millstream::Error),
    #[error(transparent)]
    Tensor(#[from] millstream::TensorError),
    #[error(transparent)]
    Device(#[from] millstream::DeviceError),
}

impl Failure {
    /// Names the file of an I/O error.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Failure {
        let path = path.into();
        move |error| Failure::Io(path, error)
    }
}
