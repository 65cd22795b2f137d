//! A thread for each stage, crossbeam's channels between them.

use std::thread;

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::{CAPACITY, CHUNK, RECORDS, map};

/// Records one by one; the sum of what comes out.
pub(crate) fn single(maps: usize) -> u64 {
    thread::scope(|scope| {
        let (to, mut from) = bounded(CAPACITY);
        scope.spawn(move || (0..RECORDS).for_each(|x| send(&to, x)));
        for _ in 0..maps {
            let (to, next) = bounded(CAPACITY);
            let all = std::mem::replace(&mut from, next);
            scope.spawn(move || all.iter().for_each(|x| send(&to, map(x))));
        }
        from.iter().fold(0, u64::wrapping_add)
    })
}

/// Records in vectors, of which as many wait as makes the same bound.
pub(crate) fn chunks(maps: usize) -> u64 {
    let channel = || bounded::<Vec<u64>>(CAPACITY / CHUNK);
    thread::scope(|scope| {
        let (to, mut from): (_, Receiver<Vec<u64>>) = channel();
        scope.spawn(move || (0..RECORDS).step_by(CHUNK).for_each(|start| send(&to, (start..RECORDS.min(start + CHUNK as u64)).collect())));
        for _ in 0..maps {
            let (to, next) = channel();
            let all = std::mem::replace(&mut from, next);
            scope.spawn(move || all.iter().for_each(|chunk| send(&to, chunk.into_iter().map(map).collect())));
        }
        from.iter().flatten().fold(0, u64::wrapping_add)
    })
}

fn send<T>(to: &Sender<T>, x: T) {
    assert!(to.send(x).is_ok(), "the next stage takes everything");
}
