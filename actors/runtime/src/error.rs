//! What can go wrong: in a record, in a stage, in a pipeline.

use std::{error::Error, fmt, sync::Arc};

use crate::metrics::Report;

/// Any error of user code.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What kind of failure an error is: it decides what the runtime may do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The record is at fault: the same again would fail again.
    Permanent,
    /// The circumstances are at fault: the same may succeed later.
    Transient,
    /// The batch did not fit into memory: smaller ones may.
    OutOfMemory,
    /// There was no answer within the time limit: whoever works on it was left behind. It is not tried again.
    TimedOut,
    /// Nothing can go on: the pipeline ends.
    Fatal,
}

/// An error from user code in a stage, a source, a sink or a model.
///
/// Any `std::error::Error` becomes a permanent one by `?`.
pub struct StageError {
    kind: ErrorKind,
    source: BoxError,
}

impl StageError {
    /// An error of some kind.
    pub fn new(kind: ErrorKind, source: impl Into<BoxError>) -> Self {
        StageError { kind, source: source.into() }
    }

    /// See [`ErrorKind::Permanent`].
    pub fn permanent(source: impl Into<BoxError>) -> Self {
        Self::new(ErrorKind::Permanent, source)
    }

    /// See [`ErrorKind::Transient`].
    pub fn transient(source: impl Into<BoxError>) -> Self {
        Self::new(ErrorKind::Transient, source)
    }

    /// See [`ErrorKind::OutOfMemory`].
    pub fn out_of_memory(source: impl Into<BoxError>) -> Self {
        Self::new(ErrorKind::OutOfMemory, source)
    }

    /// See [`ErrorKind::Fatal`].
    pub fn fatal(source: impl Into<BoxError>) -> Self {
        Self::new(ErrorKind::Fatal, source)
    }

    /// Some examples of a batch fail, by their places in it, and only they: their neighbours are run again without them.
    pub fn of_examples(errors: impl IntoIterator<Item = (usize, StageError)>) -> Self {
        let errors = ExampleErrors(errors.into_iter().collect());
        let kind = if errors.0.iter().any(|(_, error)| error.kind == ErrorKind::Fatal) { ErrorKind::Fatal } else { ErrorKind::Permanent };
        Self::new(kind, errors)
    }

    /// The errors of a batch's examples one by one, if it knows them.
    pub(crate) fn into_examples(self) -> Result<Vec<(usize, StageError)>, StageError> {
        match self.source.downcast::<ExampleErrors>() {
            Ok(errors) => Ok(errors.0),
            Err(source) => Err(StageError { kind: self.kind, source }),
        }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The error behind it.
    pub fn source(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.source
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for StageError {
    fn from(source: E) -> Self {
        StageError { kind: ErrorKind::Permanent, source: Box::new(source) }
    }
}

/// The error behind it: for functions that return any error.
impl From<StageError> for BoxError {
    fn from(error: StageError) -> Self {
        error.source
    }
}

/// As for errors that are sent between threads.
impl From<StageError> for Box<dyn Error> {
    fn from(error: StageError) -> Self {
        error.source
    }
}

impl fmt::Debug for StageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({:?})", self.kind, self.source)
    }
}

/// With all the causes behind it.
impl fmt::Display for StageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        let mut cause = self.source.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Errors of some examples of a batch, by their places.
#[derive(Debug)]
struct ExampleErrors(Vec<(usize, StageError)>);

impl fmt::Display for ExampleErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of a batch's examples failed", self.0.len())?;
        self.0.iter().try_for_each(|(place, error)| write!(f, "; example {place}: {error}"))
    }
}

impl Error for ExampleErrors {}

/// What happened to a record or a stage, in a form that can be kept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// User code panicked.
    Panic {
        /// The panic's message.
        message: String,
        /// `file:line:column`, where known.
        location: Option<String>,
        /// The backtrace, where the process captures them (`RUST_BACKTRACE=1`).
        backtrace: Option<String>,
    },
    /// User code returned an error.
    Error {
        /// Its kind.
        kind: ErrorKind,
        /// Its message, with all causes.
        message: String,
    },
}

impl From<StageError> for Fault {
    fn from(error: StageError) -> Self {
        Fault::Error { kind: error.kind, message: error.to_string() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Panic { message, location: Some(location), .. } => write!(f, "panicked at {location}: {message}"),
            Fault::Panic { message, .. } => write!(f, "panicked: {message}"),
            Fault::Error { message, .. } => f.write_str(message),
        }
    }
}

/// Why a pipeline ended before its input did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Cause {
    /// A stage panicked more often than its supervision allows.
    RestartsExceeded {
        /// The stage.
        stage: Arc<str>,
        /// How often it was restarted within the window.
        restarts: u32,
        /// The last failure.
        fault: Fault,
    },
    /// A stage met an error that its policy does not forgive.
    StageFailed {
        /// The stage.
        stage: Arc<str>,
        /// The error.
        fault: Fault,
    },
    /// Dead letters could not be stored.
    DeadLettersFailed {
        /// The stage whose record it was.
        stage: Arc<str>,
        /// The sink's error.
        message: String,
    },
    /// A checkpoint could not be stored.
    CheckpointFailed {
        /// The store's error.
        fault: Fault,
    },
    /// A thread could not be started.
    Thread {
        /// The stage.
        stage: Arc<str>,
        /// The system's error.
        message: String,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::RestartsExceeded { stage, restarts, fault } => {
                write!(f, "stage `{stage}` failed again after {restarts} restarts: {fault}")
            }
            Cause::StageFailed { stage, fault } => write!(f, "stage `{stage}` failed: {fault}"),
            Cause::DeadLettersFailed { stage, message } => {
                write!(f, "a dead letter of stage `{stage}` could not be stored: {message}")
            }
            Cause::CheckpointFailed { fault } => write!(f, "a checkpoint could not be stored: {fault}"),
            Cause::Thread { stage, message } => write!(f, "no thread for stage `{stage}`: {message}"),
        }
    }
}

/// Why a running pipeline was not told to do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// It has no stage of this name.
    #[error("the pipeline has no stage `{0}`")]
    NoSuchStage(String),
    /// The stage was not given a range of replicas that holds this many.
    #[error("stage `{stage}` has from {fewest} to {most} replicas, not {asked}")]
    OutOfRange {
        /// The stage.
        stage: String,
        /// How many were asked for.
        asked: usize,
        /// The fewest.
        fewest: usize,
        /// The most.
        most: usize,
    },
}

/// Why a pipeline could not be built or did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// What was built cannot work; every problem is listed.
    #[error("the pipeline cannot be built: {}", .0.join("; "))]
    Invalid(Vec<String>),
    /// The control thread could not be started.
    #[error("the control thread cannot be started")]
    Control(#[from] std::io::Error),
    /// The pipeline failed while it ran.
    #[error("{cause}")]
    Failed {
        /// Why.
        cause: Cause,
        /// What it did until then.
        report: Box<Report>,
    },
}
