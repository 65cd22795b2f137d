//! A million records from a source through two maps to a sink, with chunks, credits, tickets and metrics on; beside it,
//! threads that pass the same numbers along bare crossbeam channels, one by one and in chunks.
//!
//! `cargo bench -p millstream-benches --bench pipeline`

#![allow(missing_docs, clippy::print_stderr)]

use std::{hint::black_box, thread, time::Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossbeam::channel::{Receiver, bounded};
use millstream_runtime::{Pipeline, RunInference, StageError, for_each, from_iter, handler};

const RECORDS: u64 = 1_000_000;
const CAPACITY: usize = 1_024;
const CHUNK: usize = 32;

fn pipeline() -> u64 {
    let report = Pipeline::from(from_iter(0..RECORDS))
        .map("add", |x| x + 1)
        .map("double", |x| x * 2)
        .sink(for_each(|x: u64| {
            black_box(x);
        }))
        .memory_budget(64 << 20)
        .run()
        .expect("nothing in it fails");
    assert_eq!(report.counts.ok, RECORDS);
    report.counts.ok
}

fn no_op_model(batch: usize) -> u64 {
    let model = handler("no-op", |batch: &[&u64]| Ok::<_, StageError>(vec![(); batch.len()]));
    let report = Pipeline::from(from_iter(0..RECORDS))
        .infer("no-op", RunInference::new(model).batch(1..=batch))
        .sink(for_each(|x| {
            black_box(&x);
        }))
        .run()
        .expect("nothing in it fails");
    report.counts.ok
}

fn stage<T: Send>(from: Receiver<T>, f: impl Fn(T) -> T + Send) -> impl FnOnce(crossbeam::channel::Sender<T>) + Send {
    move |to| {
        for item in from {
            if to.send(f(item)).is_err() {
                return;
            }
        }
    }
}

fn raw_single() -> u64 {
    let (a, from_source) = bounded(CAPACITY);
    let (b, from_add) = bounded(CAPACITY);
    let (c, from_double) = bounded(CAPACITY);
    thread::scope(|scope| {
        scope.spawn(move || (0..RECORDS).for_each(|x| a.send(x).expect("the next thread takes everything")));
        scope.spawn(move || stage(from_source, |x| x + 1)(b));
        scope.spawn(move || stage(from_add, |x| x * 2)(c));
        from_double.iter().map(|x| black_box(x).min(1)).sum()
    })
}

fn raw_chunks() -> u64 {
    let (a, from_source) = bounded::<Vec<u64>>(CAPACITY / CHUNK);
    let (b, from_add) = bounded(CAPACITY / CHUNK);
    let (c, from_double) = bounded(CAPACITY / CHUNK);
    thread::scope(|scope| {
        scope.spawn(move || {
            for start in (0..RECORDS).step_by(CHUNK) {
                a.send((start..(start + CHUNK as u64).min(RECORDS)).collect()).expect("the next thread takes everything");
            }
        });
        scope.spawn(move || stage(from_source, |chunk| chunk.into_iter().map(|x| x + 1).collect())(b));
        scope.spawn(move || stage(from_add, |chunk| chunk.into_iter().map(|x| x * 2).collect())(c));
        from_double.iter().flatten().map(|x| black_box(x).min(1)).sum()
    })
}

fn benches(criterion: &mut Criterion) {
    let cases: [(&str, fn() -> u64); 5] = [
        ("pipeline", pipeline),
        ("no_op_model_batch_1", || no_op_model(1)),
        ("no_op_model_batch_64", || no_op_model(64)),
        ("crossbeam_single", raw_single),
        ("crossbeam_chunks", raw_chunks),
    ];
    // By turns first, so that the figures of one run compare.
    for (name, run) in cases {
        let best = (0..3).map(|_| {
            let start = Instant::now();
            black_box(run());
            start.elapsed()
        });
        let best = best.min().expect("three runs");
        eprintln!("{name:22} {:6.2} M records/s at best of 3", RECORDS as f64 / best.as_secs_f64() / 1e6);
    }
    let mut group = criterion.benchmark_group("million_records");
    group.throughput(Throughput::Elements(RECORDS)).sample_size(10);
    for (name, run) in cases {
        group.bench_function(name, |bencher| bencher.iter(run));
    }
    group.finish();
}

criterion_group!(pipelines, benches);
criterion_main!(pipelines);
