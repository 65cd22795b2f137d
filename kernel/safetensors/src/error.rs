//! What can go wrong with a file, a graph that it does not fit, and tensors that cannot be written.

use alloc::{string::String, vec::Vec};
use core::fmt;
use millstream_tensor::{DType, TensorError};

/// A file that cannot be opened.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No safetensors file.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// A header that does not say what a header must say.
    #[error("malformed header: {0}")]
    Header(String),
    /// More than [`Limits`](crate::Limits) allow.
    #[error("the file has more than {limit} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The most that is allowed.
        limit: usize,
    },
    /// Tensors that this library cannot hold, all of them.
    #[error("{}", Lines("tensors that are not supported:", .0))]
    Unsupported(Vec<Problem>),
}

/// One tensor that is not supported.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The tensor's name.
    pub name: String,
    /// Why.
    pub reason: Reason,
}

/// Why a tensor is not supported.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// An element type that this library does not have.
    #[error("element type {0} is not supported")]
    ElementType(String),
    /// A shape or elements that cannot be.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// A graph that weights do not fit; it is as it was before.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Weights of another type or shape than the graph's values, all of them.
    #[error("{}", Lines("weights that do not fit the graph:", .0))]
    Mismatch(Vec<Mismatch>),
}

/// One weight that does not fit.
#[derive(Debug, Clone, PartialEq)]
pub struct Mismatch {
    /// The name.
    pub name: String,
    /// Type and dims in the graph; `None` for what the graph leaves open.
    pub wanted: (Option<DType>, Vec<Option<usize>>),
    /// Type and dims in the file.
    pub found: (DType, Vec<usize>),
}

/// Tensors that cannot be written.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Strings, which the format does not have.
    #[error("tensor `{0}` holds {1}, which safetensors files do not have")]
    ElementType(String, DType),
    /// Two tensors of one name, or one called `__metadata__`.
    #[error("two tensors are called `{0}`, or the name is reserved")]
    Name(String),
    /// A copy of a strided tensor failed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The format's own refusal: a header that is too large.
    #[error("{0}")]
    Format(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the graph has ", self.name)?;
        match self.wanted.0 {
            Some(dtype) => write!(f, "{dtype}[")?,
            None => f.write_str("?[")?,
        }
        for (i, d) in self.wanted.1.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { ", " })?;
            match d {
                Some(d) => write!(f, "{d}")?,
                None => f.write_str("?")?,
            }
        }
        write!(f, "], the file {}{:?}", self.found.0, self.found.1)
    }
}

/// A headline and one line an item.
struct Lines<'a, T>(&'static str, &'a [T]);

impl<T: fmt::Display> fmt::Display for Lines<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)?;
        self.1.iter().try_for_each(|item| write!(f, "\n  {item}"))
    }
}
