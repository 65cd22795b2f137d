//! Typed parts of a step's scratch memory.

use bytemuck::Pod;
use millstream_tensor::{ALIGN, align_up};

/// Bytes that [`carve`] takes at the most for `n` elements of `T`, wherever the memory begins.
pub(crate) fn carved<T>(n: usize) -> usize {
    align_up(n.saturating_mul(size_of::<T>()).min(usize::MAX - 2 * ALIGN)).saturating_add(ALIGN)
}

/// Takes `n` elements, aligned to a cache line, off the front of `bytes`. `None` if there are not so many. What they hold is
/// left over from other steps.
pub(crate) fn carve<'s, T: Pod>(bytes: &mut &'s mut [u8], n: usize) -> Option<&'s mut [T]> {
    let skip = bytes.as_ptr().align_offset(ALIGN);
    let len = n.checked_mul(size_of::<T>())?;
    if n == 0 {
        return Some(&mut []);
    }
    if skip.checked_add(len)? > bytes.len() {
        return None;
    }
    let (part, rest) = core::mem::take(bytes)[skip..].split_at_mut(len);
    *bytes = rest;
    bytemuck::try_cast_slice_mut(part).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn parts_are_disjoint_and_sized_as_promised() {
        let mut memory = vec![0u8; carved::<u32>(5) + carved::<f64>(3) + 1];
        let mut bytes = &mut memory[1..];
        carve::<u32>(&mut bytes, 5).unwrap().fill(1);
        carve::<f64>(&mut bytes, 3).unwrap().fill(2.0);
        assert!(carve::<u64>(&mut bytes, 100).is_none());
        assert!(carve::<u64>(&mut bytes, usize::MAX).is_none());
        assert_eq!(carve::<u64>(&mut bytes, 0).unwrap().len(), 0);
        assert_eq!(memory.iter().filter(|&&b| b == 1).count(), 5);
    }
}
