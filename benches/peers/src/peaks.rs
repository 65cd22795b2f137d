//! What the machine can do at most, measured in the same run as the engines.

use millstream_simd::{Level, Simd, SimdF32, dispatch};
use serde_json::json;
use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

/// Multiply-adds in registers only, as many chains as hide their latency.
#[inline(always)]
fn chains<S: Simd>(s: S, rounds: usize) -> f64 {
    let (x, y) = (S::F32::splat(s, black_box(0.999)), S::F32::splat(s, black_box(0.001)));
    let mut sums = [S::F32::splat(s, 1.0); 12];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = sum.mul_add(x, y);
        }
    }
    black_box(sums.map(|sum| sum.reduce_add()));
    (2 * 12 * rounds * S::F32::LANES) as f64
}

/// Units of work per second at best, done by so many threads at once; `work` does a piece and says how much it was.
fn rate<W: FnMut() -> f64>(threads: usize, seconds: f64, make: impl Fn() -> W + Sync) -> f64 {
    let one = || {
        let (mut work, mut best) = (make(), 0.0_f64);
        work();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs_f64(seconds) {
            let start = Instant::now();
            let done = work();
            best = best.max(done / start.elapsed().as_secs_f64());
        }
        best
    };
    thread::scope(|scope| {
        let others: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        others.into_iter().map(|other| other.join().unwrap_or(0.0)).sum()
    })
}

/// Prints one line of JSON: fp32 GFLOP/s and GB/s copied (read and written), on one thread and on all.
pub(crate) fn print(seconds: f64) {
    let level = Level::detect();
    let all = thread::available_parallelism().map_or(1, |n| n.get());
    let flops = |threads| rate(threads, seconds, || || dispatch!(level, s => chains(s, 100_000))) / 1e9;
    // Far more than any cache holds.
    const BYTES: usize = 256 << 20;
    let copy = |threads: usize| {
        rate(threads, seconds, || {
            let (from, mut to) = (vec![1_u8; BYTES / threads], vec![0_u8; BYTES / threads]);
            move || {
                to.copy_from_slice(black_box(&from));
                black_box(&mut to);
                2.0 * to.len() as f64
            }
        }) / 1e9
    };
    println!("{}", json!({ "level": level.to_string(), "threads": all, "gflops": [flops(1), flops(all)], "copy_gbs": [copy(1), copy(all)] }));
}
