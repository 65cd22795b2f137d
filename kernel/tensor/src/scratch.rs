//! Scratch memory for kernels that run on several workers: each worker has its own part.

use core::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
    slice,
    sync::atomic::{AtomicU64, Ordering},
};

const WORDS: usize = 4;

/// Memory cut into equal parts, one a worker, each lent to one holder at a time.
#[derive(Debug)]
pub struct WorkerScratch<'m> {
    base: *mut u8,
    part: usize,
    workers: usize,
    taken: [AtomicU64; WORDS],
    memory: PhantomData<&'m mut [u8]>,
}

// SAFETY: the parts are disjoint and `claim` lends each to one holder at a time (an atomic flag a part), so that threads
// sharing a `WorkerScratch` never reach the same byte at once; u8 is Send.
unsafe impl Sync for WorkerScratch<'_> {}
// SAFETY: as above; the memory is borrowed exclusively for 'm and may move between threads with its borrower.
unsafe impl Send for WorkerScratch<'_> {}

impl<'m> WorkerScratch<'m> {
    /// The most workers that can have a part.
    pub const MAX_WORKERS: usize = WORDS * 64;

    /// Cuts `memory` into `workers` parts of `part` bytes (fewer workers if it is too short for all).
    pub fn new(memory: &'m mut [u8], part: usize, workers: usize) -> WorkerScratch<'m> {
        let fit = memory.len().checked_div(part).unwrap_or(workers);
        WorkerScratch {
            base: memory.as_mut_ptr(),
            part,
            workers: workers.min(fit).min(Self::MAX_WORKERS),
            taken: [const { AtomicU64::new(0) }; WORDS],
            memory: PhantomData,
        }
    }

    /// Worker `worker`'s part, until the guard is dropped. `None` if there is no such part or it is held already.
    pub fn claim(&self, worker: usize) -> Option<ScratchGuard<'_>> {
        if worker >= self.workers {
            return None;
        }
        let (word, bit) = (&self.taken[worker / 64], 1u64 << (worker % 64));
        if word.fetch_or(bit, Ordering::Acquire) & bit != 0 {
            return None;
        }
        // SAFETY: the part lies inside the memory (`workers` was clamped to what fits), no other part overlaps it, and
        // the flag just set keeps every other claim of it out until the guard's drop clears the flag.
        let bytes = unsafe { slice::from_raw_parts_mut(self.base.add(worker * self.part), self.part) };
        Some(ScratchGuard { bytes, word, bit })
    }
}

/// A worker's scratch memory; see [`WorkerScratch::claim`].
#[derive(Debug)]
pub struct ScratchGuard<'s> {
    bytes: &'s mut [u8],
    word: &'s AtomicU64,
    bit: u64,
}

impl Deref for ScratchGuard<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl DerefMut for ScratchGuard<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes
    }
}

impl Drop for ScratchGuard<'_> {
    fn drop(&mut self) {
        self.word.fetch_and(!self.bit, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_one_holder() {
        let mut memory = [0u8; 100];
        let scratch = WorkerScratch::new(&mut memory, 32, 4);
        let mut a = scratch.claim(0).unwrap();
        a[31] = 7;
        assert!(scratch.claim(0).is_none());
        assert!(scratch.claim(2).is_some());
        assert!(scratch.claim(3).is_none(), "100 bytes hold three parts of 32");
        drop(a);
        assert_eq!(scratch.claim(0).unwrap()[31], 7);
    }
}
