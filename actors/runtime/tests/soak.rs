//! Every kind of fault at once, for as long as one likes: each record has one outcome, nothing is left behind, and memory does
//! not grow.
//!
//! ```text
//! MILLSTREAM_SOAK=3600 cargo test --release -p millstream-runtime --test soak -- --nocapture
//! ```
//!
//! Without the variable, which gives seconds, it runs for a few of them; and memory is judged only where there is
//! enough of it to see a slope.

#![allow(clippy::print_stdout, reason = "who waits for an hour wants to see figures")]

mod oracle;

use std::{
    collections::BTreeSet,
    env, fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use millstream_runtime::{
    CancelToken, Deployment, Join, Key, LoadModel, Observer, Outcome, Pipeline, Record, Report, Residue, RunInference, StageError, StageOptions, Supervision,
    Terminal, Watermarks, Windows, channel, fold, for_each, handler, ms, within,
};
use oracle::Dice;

/// Records a second.
const RATE: u64 = 2_000;
const KEYS: u64 = 64;
/// Seconds between two looks at memory, of which those of the first part are not judged.
const LOOK: u64 = 5;
/// What the memory of a run of at least ten minutes may grow by in ten minutes.
const SLOPE: f64 = 1024.0 * 1024.0;

/// How often each record ended, in memory that does not grow: ids are given in order.
#[derive(Default)]
struct Ended(Mutex<(u64, BTreeSet<u64>)>);

impl Observer for Ended {
    fn ended(&self, terminal: Terminal) {
        if terminal.outcome == Outcome::Rejected {
            return;
        }
        let (below, beyond) = &mut *self.0.lock().unwrap();
        assert!(terminal.id >= *below && beyond.insert(terminal.id), "record {} ended twice", terminal.id);
        while beyond.remove(below) {
            *below += 1;
        }
    }
}

/// A die that many threads throw: one in so many.
struct Chance(Mutex<Dice>);

impl Chance {
    fn one_in(&self, sides: u64) -> bool {
        self.0.lock().unwrap().roll(sides) == 0
    }
}

#[test]
fn faults_of_every_kind_lose_nothing_and_leave_nothing() {
    let seconds: u64 = env::var("MILLSTREAM_SOAK").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(4);
    let seed = env::var("MILLSTREAM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let threads = count("/proc/self/task");
    let files = count("/proc/self/fd");
    let ended = Arc::new(Ended::default());
    let (memory, report) = soak(Duration::from_secs(seconds), seed, ended.clone());
    println!("{report}");

    let (below, beyond) = &*ended.0.lock().unwrap();
    let counts = report.counts;
    assert!(beyond.is_empty(), "records without an end below {:?}", beyond.last());
    assert_eq!(*below, counts.ended() - counts.rejected);
    assert_eq!(counts.in_flight(), 0);
    assert_eq!(report.residue, Residue::default(), "something was not given back");
    for (outcome, number) in [("ok", counts.ok), ("dead", counts.dead_lettered), ("cancelled", counts.cancelled)] {
        assert!(number > 0, "no record ended {outcome}: {counts:?}");
    }
    if threads > 0 {
        // A thread that was left behind ends when it comes back.
        let patience = Instant::now();
        while count("/proc/self/task") > threads && patience.elapsed() < Duration::from_secs(5) {
            thread::sleep(ms(10));
        }
        assert_eq!((count("/proc/self/task"), count("/proc/self/fd")), (threads, files), "threads, files");
    }
    let judged = &memory[memory.len() / 5..];
    if let Some(slope) = slope(judged) {
        let ten_minutes = slope * 600.0;
        println!(
            "memory: {} looks, from {:.1} to {:.1} MiB, {:+.3} MiB in ten minutes",
            judged.len(),
            mib(judged[0].1),
            mib(judged[judged.len() - 1].1),
            mib(ten_minutes)
        );
        assert!(seconds < 600 || ten_minutes < SLOPE, "memory grows by {:.1} MiB in ten minutes", mib(ten_minutes));
    }
}

/// Runs for so long; memory as it was now and then, and the report.
fn soak(time: Duration, seed: u64, ended: Arc<Ended>) -> (Vec<(f64, f64)>, Report) {
    let chance = |n: u64| Arc::new(Chance(Mutex::new(Dice::new(seed.wrapping_mul(31).wrapping_add(n)))));
    let (parsing, copying, modelling, sinking) = (chance(1), chance(2), chance(3), chance(4));
    let started = Instant::now();

    let hung = Arc::new(AtomicU64::new(0));
    let version = move |number: u64| {
        let (dice, hung) = (modelling.clone(), hung.clone());
        LoadModel::new(move || {
            let (dice, hung) = (dice.clone(), hung.clone());
            let run = move |batch: &[&u64]| {
                if batch.len() > 4 && dice.one_in(200) {
                    return Err(StageError::out_of_memory("too large"));
                }
                if dice.one_in(300) {
                    return Err(StageError::transient("busy"));
                }
                if dice.one_in(500) {
                    return Err(StageError::permanent("broken"));
                }
                assert!(!dice.one_in(400), "the model panics");
                // Now and then it hangs: seldom enough for the thread before to have come back.
                let now = started.elapsed().as_secs();
                if dice.one_in(2_000) && now > hung.swap(now, Ordering::SeqCst) + 3 {
                    thread::sleep(ms(1_000));
                }
                Ok(batch.iter().map(|x| **x + number).collect())
            };
            Ok(within(ms(600), handler("model", run).version(number.to_string())))
        })
    };
    let deployment = Deployment::new(version(0)).unwrap();

    let latest: Arc<Vec<AtomicU64>> = Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
    let (push, source) = channel(512);
    let parsed = Pipeline::from(source.keyed())
        .map_with("parse", StageOptions::new().replicas(2), move |x: u64| {
            assert!(!parsing.one_in(5_000), "no parsing this");
            x
        })
        .filter("some", |x| x % 97 != 0);
    let (main, shadow) = parsed.shadow("watch");
    let [to_model, to_pair] = main.tee("copies");
    let run = RunInference::new(deployment.handler()).batch(1..=32).max_delay(ms(2)).replicas(2).retry(2, ms(1));
    let inferred = to_model.infer("model", run);
    let pair = to_pair.try_map("other", move |x| if copying.one_in(3_000) { Err(StageError::permanent("no copy")) } else { Ok(x) });
    let pairs = inferred.join("pair", pair, Join::by_record(Duration::from_secs(2)));
    let [results, for_windows] = pairs
        .map("result", |(prediction, x)| {
            assert_eq!(prediction.example, x, "a pair of two records");
            x
        })
        .tee("both");
    let (windows, late) = for_windows.event_time("time", Watermarks::bounded(ms(50)), |x| (x * 1_000_000 / RATE) as i64).window(
        "window",
        Windows::Tumbling(Duration::from_secs(1)),
        fold(|| 0u64, |count, _: &u64| *count += 1, |count, other| *count += other),
    );
    let store = move |x: u64| {
        assert!(!sinking.one_in(5_000), "the sink panics");
        // Records of one key come in order. Behind a join this is so for what came through in time.
        latest[(x % KEYS) as usize].fetch_max(x, Ordering::Relaxed);
    };
    let mut supervision = Supervision::default();
    (supervision.restarts, supervision.backoff, supervision.max_backoff, supervision.healthy) = (10_000, ms(1), ms(50), ms(20));
    let handle = results
        .map("store", store)
        .sink(for_each(|()| {}))
        .and(windows.sink(for_each(|_| {})))
        .and(late.sink(for_each(|_| {})))
        .and(shadow.sink(for_each(|_| thread::sleep(Duration::from_micros(300)))))
        .memory_budget(8 << 20)
        .supervision(supervision)
        .observe(ended)
        .spawn()
        .unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, mut dice) = (stop.clone(), Dice::new(seed));
    let feeder = thread::spawn(move || {
        let (start, mut sent) = (Instant::now(), 1u64);
        while !stopped.load(Ordering::SeqCst) {
            let mut record = Record::new(sent).key(Key(sent % KEYS)).bytes(64 + dice.roll(4_000)).priority(dice.roll(3) as u8);
            match dice.roll(200) {
                0 => record = record.deadline(Instant::now() + Duration::from_micros(dice.roll(3_000))),
                1 => {
                    let token = CancelToken::new();
                    record = record.cancel(token.clone());
                    token.cancel();
                }
                _ => {}
            }
            if push.send(record).is_err() {
                break;
            }
            sent += 1;
            // In bursts: what a burst is over is waited for.
            let due = Duration::from_micros(sent / 100 * 100 * 1_000_000 / RATE);
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
    });
    let (mut memory, mut number) = (Vec::new(), 0);
    while started.elapsed() < time {
        thread::sleep(Duration::from_millis(500).min(time - started.elapsed().min(time)));
        assert!(!handle.has_ended(), "the pipeline failed: {:?}", handle.join().map(|_| ()));
        number += 1;
        deployment.swap(version(number)).unwrap();
        if number % (2 * LOOK) == 0
            && let Some(bytes) = resident()
        {
            memory.push((started.elapsed().as_secs_f64(), bytes));
        }
    }
    stop.store(true, Ordering::SeqCst);
    feeder.join().unwrap();
    (memory, handle.join().unwrap())
}

/// How many entries a folder of the system's has; none, where there is no such folder.
fn count(folder: &str) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// The memory that the process has, in bytes, where the system says so.
fn resident() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? * 1024.0)
}

/// The slope of the line through these points that has the least squares.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    (points.len() > 2).then(|| points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>() / spread)
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}
