//! A pool of real threads that runs grains in an order of its own, to catch grains that depend on each other.

use millstream_graph::Parallel;
use std::thread;

/// Four threads, each taking every fourth grain, the last grain first.
#[derive(Debug)]
pub(crate) struct FourThreads;

impl Parallel for FourThreads {
    fn workers(&self) -> usize {
        4
    }

    fn run(&self, grains: usize, body: &(dyn Fn(usize, usize) + Sync)) {
        thread::scope(|s| {
            for worker in 0..4 {
                s.spawn(move || (0..grains).rev().filter(|g| g % 4 == worker).for_each(|g| body(g, worker)));
            }
        });
    }
}
