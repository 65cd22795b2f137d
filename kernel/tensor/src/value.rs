//! What flows along a graph's edge: a tensor, a sequence, or an optional.

use crate::{Tensor, TensorError};
use alloc::{boxed::Box, vec::Vec};

/// A value of a graph.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// A tensor.
    Tensor(Tensor),
    /// A sequence of values of one type.
    Sequence(Vec<Value>),
    /// A value that may be absent.
    Optional(Option<Box<Value>>),
}

impl Value {
    /// What kind of value this is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Tensor(_) => "a tensor",
            Value::Sequence(_) => "a sequence",
            Value::Optional(_) => "an optional",
        }
    }

    /// The tensor; an error if the value is something else.
    pub fn as_tensor(&self) -> Result<&Tensor, TensorError> {
        match self {
            Value::Tensor(t) => Ok(t),
            other => Err(TensorError::Kind { wanted: "a tensor", found: other.kind() }),
        }
    }

    /// The tensor; an error if the value is something else.
    pub fn into_tensor(self) -> Result<Tensor, TensorError> {
        match self {
            Value::Tensor(t) => Ok(t),
            other => Err(TensorError::Kind { wanted: "a tensor", found: other.kind() }),
        }
    }
}

impl From<Tensor> for Value {
    fn from(t: Tensor) -> Value {
        Value::Tensor(t)
    }
}
