//! What can be wrong with a call.

use thiserror::Error;

/// An impossible argument. Nothing was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GemmError {
    /// A slice is too short for the dims and strides that go with it.
    #[error("{what} has {found} elements, {needed} are needed")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Elements that the dims and strides reach.
        needed: usize,
        /// Elements that it has.
        found: usize,
    },
    /// Two operands do not agree.
    #[error("{what} is {found}, expected {expected}")]
    Mismatch {
        /// Which dimension.
        what: &'static str,
        /// What the job says.
        expected: usize,
        /// What the operand says.
        found: usize,
    },
    /// The output's tiles are not those of this job, or the grain ran already.
    #[error("grain {0} does not exist in these tiles or ran already")]
    Grain(usize),
    /// No memory for packed weights.
    #[error("out of memory: {0} bytes for packed weights")]
    OutOfMemory(usize),
    /// Weights of few bits whose scales are for so many rows.
    #[error("a scale for {0} rows: 16, a multiple of 32, or all are expected")]
    Group(usize),
    /// The dims' product exceeds the address space.
    #[error("dims overflow")]
    Overflow,
}

/// Checks the length of one slice.
pub(crate) fn require(what: &'static str, needed: usize, found: usize) -> Result<(), GemmError> {
    if found < needed { Err(GemmError::Length { what, needed, found }) } else { Ok(()) }
}

/// Checks the agreement of one dimension.
pub(crate) fn agree(what: &'static str, expected: usize, found: usize) -> Result<(), GemmError> {
    if found != expected { Err(GemmError::Mismatch { what, expected, found }) } else { Ok(()) }
}

/// Elements that a strided matrix reaches.
pub(crate) fn span(rows: usize, row_stride: usize, cols: usize, col_stride: usize) -> Result<usize, GemmError> {
    if rows == 0 || cols == 0 {
        return Ok(0);
    }
    let down = (rows - 1).checked_mul(row_stride).ok_or(GemmError::Overflow)?;
    let across = (cols - 1).checked_mul(col_stride).ok_or(GemmError::Overflow)?;
    down.checked_add(across).and_then(|x| x.checked_add(1)).ok_or(GemmError::Overflow)
}
