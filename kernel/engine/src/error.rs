//! Errors of compiling and running a model. Each names the node, and the types and shapes that it met.

use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};
use core::fmt;
use millstream_graph::{EvalError, InferError, Spec};
use millstream_tensor::{DType, TensorError};

/// A node that contradicts its operator or the backend.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeError {
    /// The node's path.
    pub path: Arc<str>,
    /// Its operator.
    pub op: Arc<str>,
    /// What is wrong.
    pub error: InferError,
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.path, self.op, self.error)
    }
}

/// A graph that cannot be compiled. All problems are listed at once.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// Nodes that contradict their operators.
    #[error("{}", List(.0))]
    Nodes(Vec<NodeError>),
    /// Operators or types that this backend does not run.
    #[error("the backend does not run: {}", .0.join(", "))]
    Unsupported(Vec<String>),
    /// The graph itself is broken.
    #[error(transparent)]
    Graph(#[from] millstream_graph::VerifyError),
    /// An output was asked for by a name that no value has.
    #[error("no value is named `{0}`")]
    UnknownValue(String),
    /// No memory for a constant, or a broken one.
    #[error("constant `{name}`: {error}")]
    Constant {
        /// The constant's name.
        name: Arc<str>,
        /// What is wrong.
        error: TensorError,
    },
}

struct List<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, x) in self.0.iter().enumerate() {
            write!(f, "{}{x}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// A run that did not finish.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Not as many inputs as the model has.
    #[error("the model takes {wanted} inputs, {found} were given")]
    InputCount {
        /// What the model takes.
        wanted: usize,
        /// What was given.
        found: usize,
    },
    /// An input of another type than the model takes.
    #[error("input `{name}` is {wanted}, {found} was given")]
    InputType {
        /// The input's name.
        name: Arc<str>,
        /// The model's type.
        wanted: DType,
        /// The given type.
        found: DType,
    },
    /// An input of another shape than the model takes.
    #[error("input `{name}` is {wanted}, a shape of {found} was given")]
    InputShape {
        /// The input's name.
        name: Arc<str>,
        /// The model's port, with the sizes that other inputs gave to named dims.
        wanted: String,
        /// The given shape.
        found: String,
    },
    /// An input's name that the model does not have, or one that was not given.
    #[error("input `{0}` is unknown or missing")]
    InputName(String),
    /// A node that contradicts the shapes of this run's inputs.
    #[error(transparent)]
    Shape(#[from] Box<ShapeError>),
    /// A kernel failed.
    #[error(transparent)]
    Step(#[from] Box<StepError>),
    /// The plan needs more memory than the workspace may take.
    #[error("the run needs {needed} bytes, {limit} are allowed")]
    MemoryLimit {
        /// The plan's bytes.
        needed: usize,
        /// The workspace's limit.
        limit: usize,
    },
    /// There is no memory.
    #[error("no memory for {0} bytes")]
    OutOfMemory(usize),
    /// The run was cancelled.
    #[error("the run was cancelled")]
    Cancelled,
    /// A caller's output buffer of another type or shape than the output.
    #[error("output {index}: the buffer is for {found}, the output is {wanted}")]
    OutputBuffer {
        /// The output's position.
        index: usize,
        /// The output's type and shape.
        wanted: String,
        /// The buffer's.
        found: String,
    },
    /// An output could not be told from the inputs' shapes alone.
    #[error("memory cannot be told from shapes alone: {0}")]
    DataDependent(Arc<str>),
    /// A backend's own failure.
    #[error("{0}")]
    Backend(String),
    /// A tensor could not be made or read.
    #[error(transparent)]
    Tensor(TensorError),
}

impl From<TensorError> for RunError {
    fn from(e: TensorError) -> RunError {
        match e {
            TensorError::OutOfMemory(n) => RunError::OutOfMemory(n),
            other => RunError::Tensor(other),
        }
    }
}

/// A node whose operator refuses the shapes that reach it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{path} ({op}) on {inputs}: {error}")]
pub struct ShapeError {
    /// The node's path.
    pub path: Arc<str>,
    /// Its operator.
    pub op: Arc<str>,
    /// Types and dims of its inputs.
    pub inputs: String,
    /// What the operator says.
    pub error: InferError,
}

/// A step whose kernel failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{path} ({op}) on {inputs}: {error}")]
pub struct StepError {
    /// The node's path.
    pub path: Arc<str>,
    /// Its operator.
    pub op: Arc<str>,
    /// Types and shapes of its inputs.
    pub inputs: String,
    /// What the kernel says.
    pub error: EvalError,
}

/// Types and shapes as text, for messages.
pub fn describe(specs: impl Iterator<Item = Option<Spec>>) -> String {
    let mut text = String::new();
    for (i, spec) in specs.enumerate() {
        if i > 0 {
            text.push_str(", ");
        }
        match spec {
            Some(s) => text.push_str(&alloc::format!("{}[{}]", s.dtype, s.shape())),
            None => text.push('-'),
        }
    }
    text
}
