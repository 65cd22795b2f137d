//! Errors of building, inferring and evaluating operators. Whoever knows the node adds its path.

use alloc::{string::String, vec::Vec};
use millstream_tensor::{DType, TensorError};

/// A node of the model that cannot become an operator.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No operator of this name is registered.
    #[error("operator {domain}.{name} is not supported")]
    UnknownOperator {
        /// The operator's domain, `ai.onnx` for the default one.
        domain: String,
        /// The operator's name.
        name: String,
    },
    /// The operator exists, but not in this version.
    #[error("operator {name} is not supported in opset {opset} (supported since versions: {since:?})")]
    UnsupportedVersion {
        /// The operator's name.
        name: String,
        /// The opset that the model asks for.
        opset: u32,
        /// The versions that are supported.
        since: Vec<u32>,
    },
    /// An attribute that must be there is not.
    #[error("attribute `{0}` is missing")]
    MissingAttribute(&'static str),
    /// An attribute of another kind than the operator's schema says.
    #[error("attribute `{name}` should be {wanted}")]
    AttributeKind {
        /// The attribute's name.
        name: String,
        /// The kind in the schema.
        wanted: &'static str,
    },
    /// An attribute that the operator's schema does not have.
    #[error("attribute `{0}` is unknown")]
    UnknownAttribute(String),
    /// A value of an attribute that no kernel handles, or that the schema forbids.
    #[error("attribute `{name}` = {value} is not supported")]
    UnsupportedAttribute {
        /// The attribute's name.
        name: &'static str,
        /// Its value as text.
        value: String,
    },
    /// Too few or too many inputs or outputs.
    #[error("{found} {what}, the operator takes {min} to {max}")]
    Arity {
        /// "inputs" or "outputs".
        what: &'static str,
        /// What the node has.
        found: usize,
        /// The fewest that the operator takes.
        min: usize,
        /// The most that it takes.
        max: usize,
    },
    /// A tensor attribute that is broken.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// Facts about a node's inputs that do not fit its operator, or do not suffice.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InferError {
    /// The outputs' shapes depend on this input's elements, which are not known yet.
    #[error("the shape depends on the elements of input {0}, which are not known yet")]
    NeedsValue(usize),
    /// An input's dim is needed as a number and is symbolic yet.
    #[error("a dim of input {0} is not known yet")]
    NeedsDims(usize),
    /// An input that must be there is absent.
    #[error("input {0} is missing")]
    MissingInput(usize),
    /// An input of an element type that the operator does not take.
    #[error("input {input} has type {found}, which the operator does not take")]
    DType {
        /// The input's position.
        input: usize,
        /// Its type.
        found: DType,
    },
    /// An input of a rank that the operator does not take.
    #[error("input {input} has rank {found}, {wanted}")]
    Rank {
        /// The input's position.
        input: usize,
        /// Its rank.
        found: usize,
        /// What would fit, in words.
        wanted: &'static str,
    },
    /// Dims or values that contradict each other.
    #[error("{what}: {left} against {right}")]
    Mismatch {
        /// What does not match.
        what: &'static str,
        /// One side.
        left: String,
        /// The other side.
        right: String,
    },
    /// Anything else that the operator's definition forbids.
    #[error("{0}")]
    Invalid(&'static str),
    /// A shape that cannot exist.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// A failure while an operator runs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// An input that must be there is absent.
    #[error("input {0} is missing")]
    MissingInput(usize),
    /// An output was asked for twice, or is not of the kind that the operator writes.
    #[error("output {0} cannot be written")]
    Output(usize),
    /// An element type for which there is no kernel.
    #[error("there is no kernel for {0}")]
    DType(DType),
    /// An element that the operator's definition forbids (an index out of range, a division by zero).
    #[error("{what}: {value}")]
    Element {
        /// What is wrong.
        what: &'static str,
        /// The element.
        value: i64,
    },
    /// A grain of a phase failed: a kernel's own bookkeeping is wrong.
    #[error("grain {0} failed")]
    Grain(usize),
    /// Anything else that the operator's definition forbids.
    #[error("{0}")]
    Invalid(&'static str),
    /// A broken view or a lack of memory.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Shapes that were found wrong only when elements were known.
    #[error(transparent)]
    Infer(#[from] InferError),
}
