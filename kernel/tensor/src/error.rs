//! What can go wrong with shapes, views and memory.

use crate::DType;
use alloc::boxed::Box;

/// An operation on shapes, views or tensor memory that cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// More axes than [`crate::MAX_RANK`].
    #[error("rank {0} is more than {max}", max = crate::MAX_RANK)]
    Rank(usize),
    /// The product of the dims does not fit in `usize`, or the bytes do not.
    #[error("a shape of {0:?} has too many elements")]
    TooManyElements(Box<[usize]>),
    /// Data that does not have as many elements or bytes as the layout needs.
    #[error("{needed} elements are needed, there are {found}")]
    Length {
        /// What the layout addresses.
        needed: usize,
        /// What the data holds.
        found: usize,
    },
    /// A typed access with another element type.
    #[error("the tensor holds {found}, {wanted} was asked for")]
    DType {
        /// The type that was asked for.
        wanted: DType,
        /// The type that the tensor has.
        found: DType,
    },
    /// Bytes that do not begin at a multiple of the element's alignment.
    #[error("the data is not aligned for {0}")]
    Unaligned(DType),
    /// Two shapes that do not broadcast together.
    #[error("shapes {0:?} and {1:?} do not broadcast together")]
    Broadcast(Box<[usize]>, Box<[usize]>),
    /// A contiguous slice was asked of a strided view.
    #[error("the view is strided, contiguous memory was asked for")]
    Strided,
    /// The allocator had no memory.
    #[error("no memory for {0} bytes")]
    OutOfMemory(usize),
    /// A byte that is neither 0 nor 1 in a tensor of booleans.
    #[error("a boolean is stored as {0}")]
    Boolean(u8),
    /// Borrowed ranges of an arena overlap or end past it: the plan is wrong.
    #[error("arena ranges overlap or end past {0} bytes")]
    Overlap(usize),
    /// A value is a sequence, an optional or text where a plain tensor was expected.
    #[error("expected {wanted}, found {found}")]
    Kind {
        /// What was expected.
        wanted: &'static str,
        /// What was there.
        found: &'static str,
    },
}
