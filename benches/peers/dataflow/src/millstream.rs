//! millstream: bare edges with their credits, and whole pipelines with envelopes, outcomes, budget and metrics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use millstream_edge::{Cost, Edge, EdgeOptions, Limits, Received, Receiver, Sender};
use millstream_runtime::{Pipeline, for_each, from_iter};

use crate::{CAPACITY, CHUNK, RECORDS, map};

fn edge() -> Arc<Edge<u64>> {
    Edge::new(EdgeOptions::new(Limits { records: CAPACITY as u32, bytes: 1 << 20 }))
}

fn send(to: &Sender<u64>, chunk: Vec<u64>) {
    let cost = Cost { records: chunk.len() as u32, bytes: size_of_val(&chunk[..]) as u64 };
    assert!(to.send(0, chunk, cost).is_ok(), "the next stage takes everything");
}

fn each(from: &Receiver<u64>, mut f: impl FnMut(Vec<u64>)) {
    while let Received::Chunk(chunk) = from.recv(None) {
        // Credits go back when a chunk goes into execution.
        let (items, _) = chunk.into_parts();
        f(items);
    }
}

/// A thread for each stage, edges between them; the sum of what comes out.
pub(crate) fn edges(maps: usize) -> u64 {
    thread::scope(|scope| {
        let mut edges = edge();
        let to = edges.sender();
        scope.spawn(move || {
            (0..RECORDS).step_by(CHUNK).for_each(|start| send(&to, (start..RECORDS.min(start + CHUNK as u64)).collect()));
            to.finish();
        });
        for _ in 0..maps {
            let next = edge();
            let (from, to) = (edges.receiver(0), next.sender());
            scope.spawn(move || {
                each(&from, |chunk| send(&to, chunk.into_iter().map(map).collect()));
                to.finish();
            });
            edges = next;
        }
        let mut sum = 0u64;
        each(&edges.receiver(0), |chunk| sum = chunk.into_iter().fold(sum, u64::wrapping_add));
        sum
    })
}

/// A source, three maps and a sink; the sum of what comes out.
pub(crate) fn pipeline() -> u64 {
    let sum = Arc::new(AtomicU64::new(0));
    let to = sum.clone();
    let report = Pipeline::from(from_iter(0..RECORDS))
        .map("first", map)
        .map("second", map)
        .map("third", map)
        .sink(for_each(move |x: u64| {
            to.fetch_add(x, Ordering::Relaxed);
        }))
        .edge_records(CAPACITY as u32)
        .memory_budget(64 << 20)
        .run()
        .expect("nothing in it fails");
    assert_eq!(report.counts.ok, RECORDS);
    sum.load(Ordering::Relaxed)
}
