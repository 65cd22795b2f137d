//! Why a model cannot be loaded.

use alloc::{
    boxed::Box,
    string::{String, ToString},
    vec::Vec,
};
use core::{error::Error, fmt};
use hashbrown::HashMap;
use millstream_graph::{BuildError, VerifyError};
use millstream_tensor::TensorError;

/// A model that cannot become a graph.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Bytes that are no ONNX model.
    #[error("malformed at byte {offset}: {what}")]
    Malformed {
        /// Where, counted from the file's first byte.
        offset: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// More than [`Limits`](crate::Limits) allow.
    #[error("the model has more than {limit} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The most that is allowed.
        limit: u64,
    },
    /// Everything that the registry or the reader does not support, all at once.
    #[error("{}", Listing(.0))]
    Unsupported(Vec<Problem>),
    /// A name that two producers claim.
    #[error("value `{name}` is defined twice (in {scope})")]
    Duplicate {
        /// The name.
        name: String,
        /// The graph or function in which it happens.
        scope: String,
    },
    /// A name that nothing defines.
    #[error("{path} reads `{name}`, which nothing defines")]
    Undefined {
        /// The node that reads it, or the graph of which it is an output.
        path: String,
        /// The name.
        name: String,
    },
    /// A tensor that contradicts itself.
    #[error("tensor `{name}`: {error}")]
    Tensor {
        /// The tensor's name.
        name: String,
        /// What is wrong.
        error: TensorError,
    },
    /// A tensor whose data lies in another file that cannot be had.
    #[error("external data `{location}`: {error}")]
    External {
        /// The location as the model gives it.
        location: String,
        /// What is wrong.
        error: ExternalError,
    },
    /// A graph that is not whole: nodes that need each other, for one.
    #[error("the model's graph is broken: {0}")]
    Graph(#[from] VerifyError),
}

/// Why external data cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExternalError {
    /// The location is absolute, or leads out of the model's folder.
    #[error("the location may not leave the model's folder")]
    Location,
    /// The caller gave no [`ExternalData`](crate::ExternalData).
    #[error("the model was loaded without access to other files")]
    Unavailable,
    /// Offset and length lie outside of the file, or are no numbers, or are not what the tensor's dims need.
    #[error("offset and length do not fit the file and the tensor")]
    Range,
    /// The caller's [`ExternalData`](crate::ExternalData) failed.
    #[error("{0}")]
    Open(Box<dyn Error + Send + Sync>),
}

/// One thing that is not supported.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The node's path, or the name of the input or tensor.
    pub path: String,
    /// The operator; empty where there is none.
    pub op: String,
    /// The operator's domain; empty for the default one.
    pub domain: String,
    /// Why.
    pub reason: Reason,
}

/// Why something is not supported.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The operator, its version, or its attributes.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The default domain's opset is out of range.
    #[error("opset {0} is not supported (7 to 26 are)")]
    Opset(i64),
    /// The model imports no opset of the node's domain.
    #[error("the model imports no opset of domain `{0}`")]
    NoOpset(String),
    /// An element type without kernels.
    #[error("element type {0} is not supported")]
    ElementType(&'static str),
    /// Sparse tensors.
    #[error("sparse tensors are not supported")]
    Sparse,
    /// Tensors in segments.
    #[error("tensors in segments are not supported")]
    Segment,
    /// An input or output that is no tensor, sequence or optional.
    #[error("values of type {0} are not supported")]
    ValueType(&'static str),
    /// An attribute of a kind that no operator takes.
    #[error("attribute `{name}` is {kind}, which is not supported")]
    AttributeKind {
        /// The attribute's name.
        name: String,
        /// Its kind in words.
        kind: &'static str,
    },
    /// An initializer for an input of a subgraph.
    #[error("the subgraph's input `{0}` has a default value")]
    SubgraphDefault(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path)?;
        if !self.op.is_empty() {
            let dot = if self.domain.is_empty() { "" } else { "." };
            write!(f, "{}{dot}{}: ", self.domain, self.op)?;
        }
        self.reason.fmt(f)
    }
}

/// Problems, one a line; those that differ in their path alone share a line.
struct Listing<'a>(&'a [Problem]);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups: Vec<(&Problem, usize)> = Vec::new();
        let mut known: HashMap<(&str, &str, String), usize> = HashMap::new();
        for p in self.0 {
            let at = *known.entry((&p.op, &p.domain, p.reason.to_string())).or_insert(groups.len());
            match groups.get_mut(at) {
                Some((_, n)) => *n += 1,
                None => groups.push((p, 1)),
            }
        }
        f.write_str("the model needs what is not supported:")?;
        for (p, n) in groups {
            write!(f, "\n  {p}")?;
            if n > 1 {
                write!(f, " (and {} more)", n - 1)?;
            }
        }
        Ok(())
    }
}

/// What stops one tensor, attribute or node: an error of the file, or something unsupported that joins the list.
#[derive(Debug)]
pub(crate) enum Fault {
    Load(LoadError),
    Unsupported(Reason),
}

impl From<LoadError> for Fault {
    fn from(e: LoadError) -> Fault {
        Fault::Load(e)
    }
}

impl From<Reason> for Fault {
    fn from(r: Reason) -> Fault {
        Fault::Unsupported(r)
    }
}
