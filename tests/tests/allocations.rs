//! A run allocates nothing once its plan is bound: the arena is there, and outputs go into the caller's buffers.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use millstream::{
    DType, Session, Tensor, Value,
    kernel::engine::{Request, Workspace},
};
use millstream_tests::language::{fixture, open, windows};

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator under a counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that the system's allocator wants.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above; what `alloc` gave came from the system's allocator.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Alone in its program: the counter counts for all threads.
#[test]
fn a_warm_run_allocates_nothing() {
    let (labels, samples) = fixture();
    let texts: Vec<&str> = samples.iter().take(3).map(|s| s.text.as_str()).collect();
    let inputs = [Value::from(windows(texts.iter().copied()))];
    for threads in [1, 2] {
        let model = open(&Session::builder().threads(threads).build()).expect("the model loads");
        let mut workspace = Workspace::new();
        let mut output = Tensor::zeros(DType::F32, &[texts.len(), labels.len()]).expect("memory");
        let mut run = || {
            let mut buffers = [Some(output.view_mut().expect("nobody else holds it"))];
            let before = COUNT.load(Ordering::Relaxed);
            let request = Request { outputs: &mut buffers, ..Request::new(&inputs) };
            model.executable().run(&mut workspace, request).expect("it runs");
            COUNT.load(Ordering::Relaxed) - before
        };
        run();
        assert_eq!(run(), 0, "allocations of a warm run on {threads} threads");
    }
}
