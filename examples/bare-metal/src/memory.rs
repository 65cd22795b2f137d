//! A bump allocator over a static region: what a device without an operating system has. The newest block can be freed
//! and grown in place; everything else stays taken.

use core::{
    alloc::{GlobalAlloc, Layout},
    cell::UnsafeCell,
    ptr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

const REGION: usize = 256 << 20;

#[repr(align(4096))]
struct Region(UnsafeCell<[u8; REGION]>);

// SAFETY: bytes of the region are only reached through blocks that the allocator handed out, which do not overlap.
unsafe impl Sync for Region {}

static MEMORY: Region = Region(UnsafeCell::new([0; REGION]));

/// Bytes of the region in use; blocks lie below it. The program has one thread, so that relaxed loads and stores do.
static TOP: AtomicUsize = AtomicUsize::new(0);

struct Bump;

#[global_allocator]
static ALLOCATOR: Bump = Bump;

/// Bytes in use.
pub fn used() -> usize {
    TOP.load(Relaxed)
}

fn base() -> *mut u8 {
    MEMORY.0.get().cast()
}

// SAFETY: `alloc` hands out disjoint, aligned parts of the region: each starts at or above TOP, which then lies at its end.
// TOP only sinks to the start of the newest block, when that block is given back. Running out gives null.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // The region is aligned to 4096; more is never asked for, and refused.
        let start = TOP.load(Relaxed).next_multiple_of(layout.align());
        match start.checked_add(layout.size()) {
            Some(end) if end <= REGION && layout.align() <= 4096 => {
                TOP.store(end, Relaxed);
                // SAFETY: start ≤ REGION, so the pointer stays within the region or at its end.
                unsafe { base().add(start) }
            }
            _ => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let start = block as usize - base() as usize;
        if start + layout.size() == TOP.load(Relaxed) {
            TOP.store(start, Relaxed);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let start = block as usize - base() as usize;
        if start + layout.size() == TOP.load(Relaxed) && start.checked_add(size).is_some_and(|end| end <= REGION) {
            TOP.store(start + size, Relaxed);
            return block;
        }
        // SAFETY: the caller gives a valid size for the layout's alignment.
        let new = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !new.is_null() {
            // SAFETY: both blocks hold at least the smaller size, and a new block does not overlap an old one.
            unsafe { ptr::copy_nonoverlapping(block, new, layout.size().min(size)) };
        }
        new
    }
}
