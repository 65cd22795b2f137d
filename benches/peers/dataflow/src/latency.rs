//! How long records take through four hops, at a rate far below what any of these ways can carry.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use crossbeam::channel::bounded;
use millstream_runtime::{Pipeline, Record, channel, for_each};

use crate::tasks::runtime;

const HOPS: usize = 256;
const BURST: u32 = 20;
const EVERY: Duration = Duration::from_millis(1);
const BURSTS: u32 = 1_000;

type Way = (&'static str, fn() -> Vec<Duration>);

/// Sends bursts when they are due, each record being the instant of that.
fn feed(mut send: impl FnMut(Instant)) {
    let start = Instant::now() + EVERY;
    for burst in 0..BURSTS {
        let due = start + EVERY * burst;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // Sleeping too long is the timer's doing.
        let due = Instant::now();
        (0..BURST).for_each(|_| send(due));
    }
}

fn crossbeam() -> Vec<Duration> {
    thread::scope(|scope| {
        let (to, mut from) = bounded(HOPS);
        scope.spawn(move || feed(|due| assert!(to.send(due).is_ok(), "the next stage takes everything")));
        for _ in 0..3 {
            let (to, next) = bounded(HOPS);
            let all = std::mem::replace(&mut from, next);
            scope.spawn(move || all.iter().for_each(|due| assert!(to.send(due).is_ok(), "the next stage takes everything")));
        }
        from.iter().map(|due: Instant| due.elapsed()).collect()
    })
}

fn tokio() -> Vec<Duration> {
    let runtime = runtime();
    let (to, mut from) = tokio::sync::mpsc::channel(HOPS);
    let feeder = thread::spawn(move || feed(|due| assert!(to.blocking_send(due).is_ok(), "the next stage takes everything")));
    for _ in 0..3 {
        let (to, next) = tokio::sync::mpsc::channel(HOPS);
        let mut all = std::mem::replace(&mut from, next);
        runtime.spawn(async move {
            while let Some(due) = all.recv().await {
                assert!(to.send(due).await.is_ok(), "the next stage takes everything");
            }
        });
    }
    let times = runtime.spawn(async move {
        let mut times = Vec::new();
        while let Some(due) = from.recv().await {
            times.push(Instant::elapsed(&due));
        }
        times
    });
    let times = runtime.block_on(times).expect("it is timed");
    feeder.join().expect("it feeds");
    times
}

fn pipeline() -> Vec<Duration> {
    let times = Arc::new(Mutex::new(Vec::with_capacity((BURST * BURSTS) as usize)));
    let (push, source) = channel(HOPS);
    let to = times.clone();
    let handle = Pipeline::from(source)
        .map("first", |due: Instant| due)
        .map("second", |due| due)
        .map("third", |due| due)
        .sink(for_each(move |due: Instant| to.lock().expect("nobody panics").push(due.elapsed())))
        .edge_records(HOPS as u32)
        .spawn()
        .expect("it starts");
    feed(|due| assert!(push.send(Record::new(due)).is_ok(), "the pipeline takes everything"));
    drop(push);
    handle.join().expect("nothing in it fails");
    std::mem::take(&mut times.lock().expect("nobody panics"))
}

/// Prints the round of the lowest median of each way.
pub(crate) fn print(rounds: usize) {
    let ways: [Way; 3] = [("crossbeam, single records", crossbeam), ("millstream's pipeline", pipeline), ("tokio::mpsc", tokio)];
    let mut best = [[Duration::MAX; 3]; 3];
    for _ in 0..rounds {
        for ((name, way), best) in ways.iter().zip(&mut best) {
            let mut times = way();
            assert_eq!(times.len(), (BURST * BURSTS) as usize, "{name} loses records");
            times.sort_unstable();
            let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
            *best = (*best).min([at(0.5), at(0.99), at(0.999)]);
        }
    }
    println!("\nfour hops, 20,000 records a second in bursts of 20: microseconds at 50, 99 and 99.9 %");
    for ((name, _), times) in ways.iter().zip(best) {
        let [median, high, highest] = times.map(|t| t.as_secs_f64() * 1e6);
        println!("  {name:28} {median:7.0} {high:7.0} {highest:7.0}");
    }
}
