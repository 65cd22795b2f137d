//! Owned bytes aligned for any vector load.

use crate::{TensorError, large};
use alloc::vec::Vec;
use bytemuck::{Pod, Zeroable};
use core::fmt;

/// The alignment of owned memory in bytes: a cache line, and the widest vector register.
pub const ALIGN: usize = 64;

/// `n` rounded up to a multiple of [`ALIGN`].
pub const fn align_up(n: usize) -> usize {
    n.div_ceil(ALIGN) * ALIGN
}

/// Owned, zero-initialised bytes that begin at a multiple of [`ALIGN`].
///
/// The memory is asked for at ordinary alignment, with room to begin where it suits: allocators find freed memory again for
/// ordinary requests, which glibc does not for aligned ones.
#[derive(Default)]
pub struct AlignedBytes {
    /// Padding, then the bytes.
    memory: Vec<u8>,
    padding: usize,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; ALIGN]);

impl AlignedBytes {
    /// `len` zeroes; an error instead of an abort where there is no memory.
    pub fn zeroed(len: usize) -> Result<AlignedBytes, TensorError> {
        let mut bytes = AlignedBytes::room(len)?;
        bytes.memory.resize(bytes.padding + len, 0);
        Ok(bytes)
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Result<AlignedBytes, TensorError> {
        let mut out = AlignedBytes::room(bytes.len())?;
        out.memory.extend_from_slice(bytes);
        Ok(out)
    }

    /// No bytes, and room for `len` of them that are not moved as they come.
    fn room(len: usize) -> Result<AlignedBytes, TensorError> {
        if len == 0 {
            return Ok(AlignedBytes::default());
        }
        let mut memory: Vec<u8> = Vec::new();
        let whole = len.checked_add(ALIGN - 1).ok_or(TensorError::OutOfMemory(len))?;
        memory.try_reserve_exact(whole).map_err(|_| TensorError::OutOfMemory(len))?;
        large::prepare(memory.spare_capacity_mut());
        let padding = memory.as_ptr().addr().wrapping_neg() % ALIGN;
        memory.resize(padding, 0);
        Ok(AlignedBytes { memory, padding })
    }

    /// Makes the buffer at least `len` bytes long. What it held is kept, the rest is zero.
    pub fn grow(&mut self, len: usize) -> Result<(), TensorError> {
        if len > self.len() {
            let mut grown = AlignedBytes::room(len)?;
            grown.memory.extend_from_slice(self.as_ref());
            grown.memory.resize(grown.padding + len, 0);
            *self = grown;
        }
        Ok(())
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.memory.len() - self.padding
    }

    /// True if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        // No bytes are aligned too: they can be seen as elements of any type.
        if self.is_empty() { bytemuck::cast_slice::<Line, u8>(&[]) } else { &self.memory[self.padding..] }
    }
}

impl AsMut<[u8]> for AlignedBytes {
    fn as_mut(&mut self) -> &mut [u8] {
        if self.is_empty() { bytemuck::cast_slice_mut::<Line, u8>(&mut []) } else { &mut self.memory[self.padding..] }
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_buffers_are_aligned_and_keep_their_bytes() {
        for len in [0usize, 1, 63, 64, 65, 1000, 1 << 20] {
            let mut bytes = AlignedBytes::zeroed(len).unwrap();
            assert_eq!((bytes.len(), bytes.as_ref().as_ptr().addr() % ALIGN, bytes.as_mut().as_ptr().addr() % ALIGN), (len, 0, 0));
            assert!(bytes.as_ref().iter().all(|&b| b == 0));
            bytes.as_mut().fill(7);
            let copy = AlignedBytes::copy_of(bytes.as_ref()).unwrap();
            assert_eq!((copy.as_ref(), copy.as_ref().as_ptr().addr() % ALIGN), (bytes.as_ref(), 0));
            bytes.grow(len + 100).unwrap();
            assert_eq!((&bytes.as_ref()[..len], &bytes.as_ref()[len..]), (copy.as_ref(), &[0; 100][..]));
            assert_eq!(bytes.as_ref().as_ptr().addr() % ALIGN, 0);
        }
        assert!(AlignedBytes::zeroed(usize::MAX).is_err() && AlignedBytes::zeroed(isize::MAX as usize - 10).is_err());
    }
}
