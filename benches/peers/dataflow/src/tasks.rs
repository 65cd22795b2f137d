//! A task for each stage on two of tokio's threads, its bounded channels between them.

use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc::channel,
};

use crate::{CAPACITY, RECORDS, map};

/// A runtime of two threads.
pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).build().expect("two threads")
}

/// The sum of what comes out.
pub(crate) fn run(maps: usize) -> u64 {
    let runtime = runtime();
    let (to, mut from) = channel(CAPACITY);
    runtime.spawn(async move {
        for x in 0..RECORDS {
            assert!(to.send(x).await.is_ok(), "the next stage takes everything");
        }
    });
    for _ in 0..maps {
        let (to, next) = channel(CAPACITY);
        let mut all = std::mem::replace(&mut from, next);
        runtime.spawn(async move {
            while let Some(x) = all.recv().await {
                assert!(to.send(map(x)).await.is_ok(), "the next stage takes everything");
            }
        });
    }
    let sum = runtime.spawn(async move {
        let mut sum = 0u64;
        while let Some(x) = from.recv().await {
            sum = sum.wrapping_add(x);
        }
        sum
    });
    runtime.block_on(sum).expect("it adds up")
}
