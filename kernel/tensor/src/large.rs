//! What the host does with large memory before it is first written.
//!
//! The kernel knows no operating system. One that has larger pages than ordinary ones (a hundred thousand page faults are a third of the time
//! that a large model takes to load) is told of large memory through a function that whoever knows it leaves here.

use core::mem::{MaybeUninit, transmute};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

/// Bytes from which on memory is large.
const LARGE: usize = 1 << 20;

/// Sees large memory before its first use.
pub type Prepare = fn(&mut [MaybeUninit<u8>]);

/// A [`Prepare`], or null.
static PREPARE: AtomicPtr<()> = AtomicPtr::new(null_mut());

/// From now on `prepare` sees memory of at least a mebibyte that this process takes for tensors, packed weights and workspaces, before its first use.
/// The last one that was given counts.
pub fn prepare_large_memory(prepare: Prepare) {
    PREPARE.store(prepare as *mut (), Ordering::Release);
}

pub(crate) fn prepare(room: &mut [MaybeUninit<u8>]) {
    let known = PREPARE.load(Ordering::Acquire);
    if room.len() >= LARGE && !known.is_null() {
        // SAFETY: what is not null was stored by `prepare_large_memory`, from a function of this type.
        unsafe { transmute::<*mut (), Prepare>(known)(room) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AlignedBytes;
    use core::sync::atomic::AtomicUsize;

    /// A length that no other test of this process asks for.
    const MINE: usize = LARGE + 12_345;
    static SEEN: AtomicUsize = AtomicUsize::new(0);

    fn count(room: &mut [MaybeUninit<u8>]) {
        if (MINE..MINE + 100).contains(&room.len()) {
            room.fill(MaybeUninit::new(1));
            SEEN.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn large_memory_is_seen_before_its_first_use() {
        prepare_large_memory(count);
        let bytes = AlignedBytes::zeroed(MINE).unwrap();
        assert_eq!(SEEN.load(Ordering::Relaxed), 1);
        assert!(bytes.as_ref().iter().all(|&b| b == 0), "what was left in the memory is gone");
    }
}
