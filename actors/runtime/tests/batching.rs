//! What goes into a batch together, in which order, and how large batches get.

mod oracle;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use millstream_runtime::{
    CancelToken, Key, ModelHandler, Pipeline, Record, ReleaseReason, Report, RunInference, Sizing, StageError, channel, collect, for_each, from_iter, handler,
    ms,
};
use oracle::Ends;

/// Every batch that the model saw.
#[derive(Clone, Default)]
struct Batches(Arc<Mutex<Vec<Vec<u64>>>>);

impl Batches {
    fn model(&self) -> impl ModelHandler<Input = u64, Output = u64> + use<> {
        let seen = self.0.clone();
        handler("seen", move |batch: &[&u64]| {
            seen.lock().unwrap().push(batch.iter().map(|x| **x).collect());
            Ok::<_, StageError>(batch.iter().map(|x| **x).collect())
        })
    }

    fn take(&self) -> Vec<Vec<u64>> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn run(items: impl Iterator<Item = u64> + Send + 'static, inference: RunInference<u64, impl ModelHandler<Input = u64, Output = u64>>) -> Report {
    let ends = Ends::new();
    let report =
        Pipeline::from(from_iter(items).keyed_by(|x| Key(x % 3))).infer("model", inference).sink(for_each(|_| {})).observe(ends.clone()).run().unwrap();
    ends.check(&report);
    report
}

#[test]
fn batches_hold_one_part_one_key_or_one_bucket_where_asked() {
    let seen = Batches::default();
    run(0..60, RunInference::new(seen.model()).batch(1..=8).hold_until(60).batch_by(|x| x / 10 % 2));
    let batches = seen.take();
    assert!(batches.iter().all(|b| b.iter().all(|x| x / 10 % 2 == b[0] / 10 % 2)) && batches.len() < 20, "{batches:?}");

    run(0..60, RunInference::new(seen.model()).batch(1..=8).hold_until(60).batch_per_key());
    let batches = seen.take();
    assert!(batches.iter().all(|b| b.iter().all(|x| x % 3 == b[0] % 3)) && batches.len() < 20, "{batches:?}");

    run(0..60, RunInference::new(seen.model()).batch(1..=8).hold_until(60).bucket(|x| x % 2));
    let batches = seen.take();
    assert!(batches.iter().all(|b| b.iter().all(|x| x % 2 == b[0] % 2)), "{batches:?}");
}

#[test]
fn what_is_urgent_goes_first_and_what_waits_gets_older() {
    let seen = Batches::default();
    let (push, source) = channel(16);
    // No keys: only priority orders them.
    let inference = RunInference::new(seen.model()).batch(1..=2).hold_until(6).aging(Duration::from_secs(3600));
    let handle = Pipeline::from(source).infer("model", inference).sink(for_each(|_| {})).spawn().unwrap();
    for (x, priority) in [(0, 0), (1, 0), (2, 2), (3, 1), (4, 0), (5, 2)] {
        push.send(Record::new(x).priority(priority)).unwrap();
    }
    drop(push);
    handle.join().unwrap();
    assert_eq!(seen.take(), [[2, 5], [3, 0], [1, 4]]);

    // A level is worth a nanosecond: everything is older than that.
    let (push, source) = channel(16);
    let inference = RunInference::new(seen.model()).batch(1..=2).hold_until(4).aging(Duration::from_nanos(1));
    let handle = Pipeline::from(source).infer("model", inference).sink(for_each(|_| {})).spawn().unwrap();
    for (x, priority) in [(0, 0), (1, 0), (2, 9), (3, 9)] {
        push.send(Record::new(x).priority(priority)).unwrap();
        thread::sleep(ms(2));
    }
    drop(push);
    handle.join().unwrap();
    assert_eq!(seen.take(), [[0, 1], [2, 3]]);
}

#[test]
fn padding_is_counted_and_stays_within_its_limit() {
    let model = handler("lengths", |batch: &[&u64]| Ok::<_, StageError>(batch.iter().map(|x| **x).collect())).measured(|x| 1 + x % 40);
    let inference = RunInference::new(model).batch(1..=16).pool(256).max_tokens(512).max_padding(0.1).idle_dispatch(false);
    // No keys: their order would keep lengths apart.
    let report = Pipeline::from(from_iter(0..2_000u64)).infer("model", inference).sink(for_each(|_| {})).run().unwrap();
    let stage = &report.snapshot.stages[1];
    assert_eq!(stage.tokens, (0..2_000u64).map(|x| 1 + x % 40).sum::<u64>());
    assert!(stage.padded_tokens >= stage.tokens && stage.padded_tokens as f64 <= stage.tokens as f64 * 1.1, "{} for {}", stage.padded_tokens, stage.tokens);
    assert!(stage.batch_size.mean() > 4.0, "batches of {}", stage.batch_size.mean());
}

#[test]
fn a_token_budget_closes_batches() {
    let seen = Batches::default();
    let model = seen.model();
    let report = run(0..100, RunInference::new(model).batch(1..=64).max_tokens(10).hold_until(50));
    assert!(seen.take().iter().all(|b| b.len() <= 10));
    assert!(report.snapshot.stages[1].released(ReleaseReason::Tokens) >= 5);
}

/// A record that waits for company is let go at its deadline: its payload is dropped, not only its account closed.
#[test]
fn a_record_that_waits_is_dropped_at_its_deadline() {
    struct Alive(Arc<AtomicUsize>);
    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let (ends, alive, executed) = (Ends::new(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let runs = executed.clone();
    let model = handler("count", move |batch: &[&Alive]| {
        runs.fetch_add(batch.len(), Ordering::SeqCst);
        Ok::<_, StageError>(vec![(); batch.len()])
    });
    let (push, source) = channel(64);
    let inference = RunInference::new(model).batch(1..=64).hold_until(50);
    let handle = Pipeline::from(source).infer("model", inference).sink(for_each(|_| {})).observe(ends.clone()).spawn().unwrap();
    let record = || {
        alive.fetch_add(1, Ordering::SeqCst);
        Record::new(Alive(alive.clone()))
    };
    let start = Instant::now();
    (0..10).for_each(|_| push.send(record().deadline(start + ms(60))).unwrap());
    let cancelled = CancelToken::new();
    (0..10).for_each(|_| push.send(record().cancel(cancelled.clone())).unwrap());
    (0..5).for_each(|_| push.send(record()).unwrap());
    thread::sleep(ms(20));
    assert_eq!(alive.load(Ordering::SeqCst), 25);
    cancelled.cancel();
    while alive.load(Ordering::SeqCst) > 5 {
        assert!(start.elapsed() < ms(2_000), "{} are still held", alive.load(Ordering::SeqCst));
        thread::sleep(ms(2));
    }
    assert!(start.elapsed() >= ms(60));
    drop(push);
    let report = handle.join().unwrap();
    ends.check(&report);
    assert_eq!((report.counts.expired, report.counts.cancelled, report.counts.ok), (10, 10, 5));
    assert_eq!(executed.load(Ordering::SeqCst), 5);
}

/// A model of 1 ms + 20 µs an example.
fn slow() -> impl ModelHandler<Input = u64, Output = u64> {
    handler("slow", |batch: &[&u64]| {
        thread::sleep(Duration::from_micros(1_000 + 20 * batch.len() as u64));
        Ok::<_, StageError>(batch.iter().map(|x| **x).collect())
    })
}

#[test]
fn batches_grow_until_their_fixed_cost_is_small() {
    let report = run(0..20_000, RunInference::new(slow()).batch(1..=1_000).sizing(Sizing::throughput()));
    let sizes = &report.snapshot.stages[1].batch_size;
    assert!(sizes.buckets[0] >= 1, "it begins with one");
    assert!(sizes.quantile(0.9) >= 256, "{sizes:?}");
}

#[test]
fn batches_stay_small_enough_for_the_latency() {
    let report = run(0..3_000, RunInference::new(slow()).batch(1..=1_000).sizing(Sizing::latency(ms(8))));
    let stage = &report.snapshot.stages[1];
    // Half of 8 ms are 150 examples, were it not for a busy machine.
    assert!(stage.batch_limit <= 160 && stage.batch_size.quantile(1.0) <= 256, "{} {:?}", stage.batch_limit, stage.batch_size);
    assert!(stage.batch_size.mean() > 2.0, "{:?}", stage.batch_size);
}

/// One stage, many sizes and kinds: everything comes out once, by key in order.
#[test]
fn every_option_at_once_loses_and_reorders_nothing() {
    for seed in 0..12 {
        let mut dice = oracle::Dice::new(seed);
        let n = 500 + dice.roll(1_500);
        let (sink, results) = collect();
        let model = handler("m", |batch: &[&u64]| Ok::<_, StageError>(batch.iter().map(|x| **x).collect())).measured(|x| 1 + x * 7 % 50).bucketed(|x| x % 2);
        let (most, tokens) = (1 + dice.roll(40) as usize, 10 + dice.roll(900));
        let sizing = [Sizing::Fixed, Sizing::throughput(), Sizing::latency(ms(2))][dice.roll(3) as usize];
        let inference = RunInference::new(model)
            .batch(1..=most)
            .max_tokens(tokens)
            .max_padding(0.3)
            .pool(dice.roll(200) as usize)
            .sizing(sizing)
            .batch_by(|x| x / 7 % 3)
            .idle_dispatch(dice.roll(2) == 0)
            .max_delay(ms(1))
            .replicas(1 + dice.roll(2) as usize);
        let (push, source) = channel(256);
        let handle = Pipeline::from(source.keyed()).infer("model", inference).map("out", |p| p.inference).sink(sink).spawn().unwrap();
        for x in 0..n {
            push.send(Record::new(x).key(Key(x % 5)).priority((x % 4) as u8)).unwrap();
        }
        drop(push);
        let report = handle.join().unwrap();
        assert_eq!(report.counts.ok, n, "seed {seed}");
        let results = results.take();
        for key in 0..5 {
            let of_key: Vec<u64> = results.iter().copied().filter(|x| x % 5 == key).collect();
            assert_eq!(of_key, (0..n).filter(|x| x % 5 == key).collect::<Vec<_>>(), "seed {seed}, key {key}");
        }
    }
}
