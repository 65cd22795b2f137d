//! Owned bytes aligned for any vector load.

use crate::TensorError;
use alloc::vec::Vec;
use bytemuck::{Pod, Zeroable};
use core::fmt;

/// The alignment of owned memory in bytes: a cache line, and the widest vector register.
pub const ALIGN: usize = 64;

/// `n` rounded up to a multiple of [`ALIGN`].
pub const fn align_up(n: usize) -> usize {
    n.div_ceil(ALIGN) * ALIGN
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; ALIGN]);

/// Owned, zero-initialised bytes that begin at a multiple of [`ALIGN`].
#[derive(Clone, Default)]
pub struct AlignedBytes {
    lines: Vec<Line>,
    len: usize,
}

impl AlignedBytes {
    /// `len` zeroes; an error instead of an abort where there is no memory.
    pub fn zeroed(len: usize) -> Result<AlignedBytes, TensorError> {
        let mut bytes = AlignedBytes::default();
        bytes.grow(len)?;
        Ok(bytes)
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Result<AlignedBytes, TensorError> {
        let mut out = AlignedBytes::zeroed(bytes.len())?;
        out.as_mut().copy_from_slice(bytes);
        Ok(out)
    }

    /// Makes the buffer at least `len` bytes long. What it held is kept, the rest is zero.
    pub fn grow(&mut self, len: usize) -> Result<(), TensorError> {
        if len > self.len {
            let lines = len.div_ceil(ALIGN);
            let more = lines - self.lines.len();
            self.lines.try_reserve_exact(more).map_err(|_| TensorError::OutOfMemory(len))?;
            self.lines.resize(lines, Line([0; ALIGN]));
            self.len = len;
        }
        Ok(())
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl AsMut<[u8]> for AlignedBytes {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({})", self.len)
    }
}
