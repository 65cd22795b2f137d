//! Errors of sources and sinks; each names what it was about.

use std::{io, path::PathBuf};

/// What went wrong with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// The operating system refused.
    #[error("{path}: {error}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A line that is no text.
    #[error("{name}:{line}: not UTF-8")]
    Text {
        /// The stream's name.
        name: String,
        /// The line's number, from 1.
        line: u64,
    },
    /// A file that should hold offsets and holds something else.
    #[error("{path}: no offsets", path = path.display())]
    Offsets {
        /// The file.
        path: PathBuf,
    },
    /// A folder with checkpoints that another pipeline uses at present.
    #[error("{path}: another pipeline uses these checkpoints", path = path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A folder with checkpoints, none of which is whole.
    #[error("{path}: no checkpoint is whole", path = path.display())]
    Checkpoints {
        /// The folder.
        path: PathBuf,
    },
    /// A file that is shorter than what a checkpoint says was written.
    #[error("{path}: {found} bytes, the checkpoint has {committed}", path = path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: u64,
        /// What it held.
        committed: u64,
    },
    /// A pattern that cannot be understood.
    #[error("the pattern `{pattern}`: {message}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        message: String,
    },
    /// A folder that cannot be walked.
    #[error("{0}")]
    Walk(#[from] ignore::Error),
    /// No thread could be started.
    #[error("no thread: {0}")]
    Thread(#[source] io::Error),
    /// A record that cannot be written as JSON.
    #[error("the record cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl IoError {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> IoError {
        let path = path.into();
        move |error| IoError::File { path, error }
    }
}
