//! Borrowing several disjoint parts of a run's memory at once.
//!
//! A plan's step reads some ranges and writes others, of the arena and of the caller's output buffers. [`Memory`] holds
//! these regions for a run, and [`Arena`] grants one step its ranges one by one: it refuses a range that would alias a
//! granted one mutably, so that a wrong plan is an error and never undefined behaviour.

use crate::TensorError;
use alloc::vec::Vec;
use core::{marker::PhantomData, ops::Range, slice};
use smallvec::SmallVec;

/// The regions of memory of one run, borrowed for `'m`.
#[derive(Debug, Default)]
pub struct Memory<'m> {
    regions: SmallVec<[(*mut u8, usize); 4]>,
    memory: PhantomData<&'m mut [u8]>,
}

#[derive(Debug, Clone)]
struct Grant {
    region: usize,
    start: usize,
    end: usize,
    mutable: bool,
}

/// What a step has been granted. Kept by the caller from step to step so that no step allocates.
#[derive(Debug, Default)]
pub struct Grants(Vec<Grant>);

impl<'m> Memory<'m> {
    /// No regions.
    pub fn new() -> Memory<'m> {
        Memory::default()
    }

    /// Adds a region and returns its number.
    pub fn push(&mut self, region: &'m mut [u8]) -> usize {
        self.regions.push((region.as_mut_ptr(), region.len()));
        self.regions.len() - 1
    }

    /// Lends the regions to one step. What an earlier step was granted has been given back: it borrowed `self`.
    pub fn step<'s>(&'s mut self, grants: &'s mut Grants) -> Arena<'s> {
        grants.0.clear();
        Arena { regions: &self.regions, grants, memory: PhantomData }
    }
}

/// The memory of one step, lent out in parts for `'s`.
#[derive(Debug)]
pub struct Arena<'s> {
    regions: &'s [(*mut u8, usize)],
    grants: &'s mut Grants,
    memory: PhantomData<&'s mut [u8]>,
}

impl<'s> Arena<'s> {
    fn grant(&mut self, region: usize, range: &Range<usize>, mutable: bool) -> Result<*mut u8, TensorError> {
        let (base, len) = self.regions.get(region).copied().ok_or(TensorError::Overlap(0))?;
        if range.start > range.end || range.end > len {
            return Err(TensorError::Overlap(len));
        }
        let clash = |g: &Grant| g.region == region && (g.mutable || mutable) && g.start < range.end && range.start < g.end;
        if self.grants.0.iter().any(clash) {
            return Err(TensorError::Overlap(len));
        }
        if !range.is_empty() {
            self.grants.0.push(Grant { region, start: range.start, end: range.end, mutable });
        }
        // SAFETY: the range lies inside the region that the pointer was made from.
        Ok(unsafe { base.add(range.start) })
    }

    /// Lends a range to be read; it may overlap other ranges that are read.
    pub fn read(&mut self, region: usize, range: Range<usize>) -> Result<&'s [u8], TensorError> {
        let base = self.grant(region, &range, false)?;
        // SAFETY: `grant` proved the range inside its region and disjoint from every mutable grant; regions are distinct
        // exclusive borrows that outlive 's, the memory of a step is borrowed exclusively for 's, and later mutable grants
        // are checked against this one.
        Ok(unsafe { slice::from_raw_parts(base, range.len()) })
    }

    /// Lends a range to be written; it must overlap no other.
    pub fn write(&mut self, region: usize, range: Range<usize>) -> Result<&'s mut [u8], TensorError> {
        let base = self.grant(region, &range, true)?;
        // SAFETY: as in `read`, and `grant` proved the range disjoint from every other grant.
        Ok(unsafe { slice::from_raw_parts_mut(base, range.len()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_alias_only_reads() {
        let (mut one, mut two) = ([0u8; 64], [0u8; 8]);
        let mut grants = Grants::default();
        let mut memory = Memory::new();
        assert_eq!((memory.push(&mut one), memory.push(&mut two)), (0, 1));
        let mut arena = memory.step(&mut grants);
        let a = arena.read(0, 0..16).unwrap();
        let b = arena.read(0, 8..24).unwrap();
        let w = arena.write(0, 24..32).unwrap();
        assert!(arena.write(0, 20..28).is_err());
        assert!(arena.write(0, 15..16).is_err());
        assert!(arena.read(0, 31..33).is_err());
        assert!(arena.read(0, 60..65).is_err());
        assert!(arena.read(2, 0..0).is_err());
        assert!(arena.write(0, 24..24).is_ok(), "empty ranges overlap nothing");
        assert!(arena.write(1, 0..8).is_ok(), "regions are apart");
        w[0] = 1;
        assert_eq!((a[0], b[0], w[0]), (0, 0, 1));
        let mut next = memory.step(&mut grants);
        assert_eq!(next.write(0, 0..64).unwrap()[24], 1);
    }
}
