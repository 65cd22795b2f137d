//! millstream's edges and pipelines beside tokio's channels, kameo's actors and bare crossbeam, by turns in one process.
//!
//!     cargo run --release --manifest-path benches/peers/dataflow/Cargo.toml [ROUNDS]
//!
//! Throughput: numbers through one hop and through four (a source, three maps, a sink), all bounded at 1,024 records, the best round of
//! each. Latency: four hops bounded at 256, 20,000 records a second in bursts of 20, counted from the instant at which a burst is due,
//! however long sending it takes.

mod actors;
mod latency;
mod millstream;
mod tasks;
mod threads;

use std::{
    env,
    time::{Duration, Instant},
};

/// Records of a round of throughput.
pub(crate) const RECORDS: u64 = 1_000_000;
/// What a hop holds.
pub(crate) const CAPACITY: usize = 1_024;
/// Records that travel together where they do.
pub(crate) const CHUNK: usize = 32;

/// What a stage does with a number.
pub(crate) fn map(x: u64) -> u64 {
    x.wrapping_mul(3).wrapping_add(1)
}

/// The sum of all numbers after `maps` maps, which every way must give.
fn expected(maps: usize) -> u64 {
    (0..RECORDS).map(|x| (0..maps).fold(x, |x, _| map(x))).fold(0, u64::wrapping_add)
}

type Way = (&'static str, fn() -> u64);

fn throughput(title: &str, maps: usize, ways: &[Way], rounds: usize) {
    let expected = expected(maps);
    let mut best = vec![Duration::MAX; ways.len()];
    for _ in 0..rounds {
        for ((name, way), best) in ways.iter().zip(&mut best) {
            let start = Instant::now();
            assert_eq!(way(), expected, "{name} loses or changes records");
            *best = start.elapsed().min(*best);
        }
    }
    println!("\n{title}: million records a second, and how many times the first's");
    let rate = |time: &Duration| RECORDS as f64 / time.as_secs_f64() / 1e6;
    for ((name, _), time) in ways.iter().zip(&best) {
        println!("  {name:28} {:7.2} {:6.2}", rate(time), rate(time) / rate(&best[0]));
    }
}

fn main() {
    let rounds = env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(5);
    throughput(
        "one hop",
        0,
        &[
            ("crossbeam, single records", || threads::single(0)),
            ("crossbeam, chunks", || threads::chunks(0)),
            ("millstream's edges", || millstream::edges(0)),
            ("tokio::mpsc", || tasks::run(0)),
        ],
        rounds,
    );
    throughput(
        "four hops",
        3,
        &[
            ("crossbeam, single records", || threads::single(3)),
            ("crossbeam, chunks", || threads::chunks(3)),
            ("millstream's edges", || millstream::edges(3)),
            ("millstream's pipeline", millstream::pipeline),
            ("tokio::mpsc", || tasks::run(3)),
            ("kameo, bounded mailboxes", actors::run),
        ],
        rounds,
    );
    latency::print(rounds);
}
