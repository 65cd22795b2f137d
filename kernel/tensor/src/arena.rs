//! Borrowing several disjoint parts of one memory at once.
//!
//! A plan's step reads some ranges of the arena and writes others. [`Arena`] grants them one by one and refuses a range
//! that would alias a granted one mutably, so that a wrong plan is an error and never undefined behaviour.

use crate::TensorError;
use alloc::vec::Vec;
use core::{marker::PhantomData, ops::Range, slice};

/// What has been granted: ranges, and whether they are mutable. Kept by the caller so that no run allocates.
#[derive(Debug, Default)]
pub struct Grants(Vec<(usize, usize, bool)>);

/// One memory, lent out in parts for `'m`.
#[derive(Debug)]
pub struct Arena<'m, 'g> {
    base: *mut u8,
    len: usize,
    grants: &'g mut Grants,
    memory: PhantomData<&'m mut [u8]>,
}

impl<'m, 'g> Arena<'m, 'g> {
    /// Lends out `memory`; earlier grants in `grants` are forgotten, for they ended with their memory's borrow.
    pub fn new(memory: &'m mut [u8], grants: &'g mut Grants) -> Arena<'m, 'g> {
        grants.0.clear();
        Arena { base: memory.as_mut_ptr(), len: memory.len(), grants, memory: PhantomData }
    }

    fn grant(&mut self, range: &Range<usize>, mutable: bool) -> Result<(), TensorError> {
        if range.start > range.end || range.end > self.len {
            return Err(TensorError::Overlap(self.len));
        }
        let clash = |&&(start, end, m): &&(usize, usize, bool)| (m || mutable) && start < range.end && range.start < end;
        if self.grants.0.iter().find(clash).is_some() {
            return Err(TensorError::Overlap(self.len));
        }
        if !range.is_empty() {
            self.grants.0.push((range.start, range.end, mutable));
        }
        Ok(())
    }

    /// Lends a range to be read; it may overlap other ranges that are read.
    pub fn read(&mut self, range: Range<usize>) -> Result<&'m [u8], TensorError> {
        self.grant(&range, false)?;
        // SAFETY: `grant` proved the range inside the memory and disjoint from every mutable grant; the memory is
        // exclusively borrowed for 'm, and later mutable grants are checked against this one.
        Ok(unsafe { slice::from_raw_parts(self.base.add(range.start), range.len()) })
    }

    /// Lends a range to be written; it must overlap no other.
    pub fn write(&mut self, range: Range<usize>) -> Result<&'m mut [u8], TensorError> {
        self.grant(&range, true)?;
        // SAFETY: `grant` proved the range inside the memory and disjoint from every other grant; the memory is
        // exclusively borrowed for 'm, and later grants are checked against this one.
        Ok(unsafe { slice::from_raw_parts_mut(self.base.add(range.start), range.len()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_alias_only_reads() {
        let mut memory = [0u8; 64];
        let mut grants = Grants::default();
        let mut arena = Arena::new(&mut memory, &mut grants);
        let a = arena.read(0..16).unwrap();
        let b = arena.read(8..24).unwrap();
        let w = arena.write(24..32).unwrap();
        assert!(arena.write(20..28).is_err());
        assert!(arena.write(15..16).is_err());
        assert!(arena.read(31..33).is_err());
        assert!(arena.read(60..65).is_err());
        assert!(arena.write(24..24).is_ok(), "empty ranges overlap nothing");
        w[0] = 1;
        assert_eq!((a[0], b[0], w[0]), (0, 0, 1));
    }
}
