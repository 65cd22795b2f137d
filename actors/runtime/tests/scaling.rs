//! Replicas that come and go, by hand and with the load.

mod oracle;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use millstream_runtime::{
    CheckpointOptions, Context, ControlError, Emit, Handle, Order, Out, Pipeline, PipelineError, RunInference, Scaling, StageError, StageOptions, Supervision,
    Transform, Watermarks, Windows, channel, collect, fold, for_each, from_iter, handler, handler_with, ms,
};
use oracle::{Dice, Ends};

fn quick() -> Supervision {
    let mut supervision = Supervision::default();
    (supervision.backoff, supervision.max_backoff, supervision.restarts) = (ms(1), ms(4), 100_000);
    supervision
}

fn replicas_of(handle: &Handle, stage: usize) -> usize {
    handle.snapshot().stages[stage].replicas
}

/// Numbers until somebody says that it is enough, and how many they were.
fn until_done() -> (Arc<AtomicBool>, Arc<AtomicU64>, impl Iterator<Item = u64> + Send) {
    let (done, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (seen, counted) = (done.clone(), count.clone());
    let numbers = (0..).take_while(move |_| !seen.load(Ordering::SeqCst)).inspect(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    (done, count, numbers)
}

/// Says which replica works on what, and panics on some.
struct Marking {
    replica: usize,
    used: Arc<[AtomicU64; 4]>,
    bad: u64,
}

impl Transform<u64, u64> for Marking {
    fn apply(&mut self, record: u64, _: &Context<'_>, out: &mut Emit<u64>) -> Result<(), StageError> {
        assert_ne!(record % 4_999, self.bad, "bad");
        self.used[self.replica].fetch_add(1, Ordering::Relaxed);
        out.push(record);
        Ok(())
    }
}

/// From one to four and back a hundred times, with faults: nothing is lost, and keys keep their order.
#[test]
fn a_hundred_changes_of_replicas_under_load_lose_and_reorder_nothing() {
    let (used, loaded): (Arc<[AtomicU64; 4]>, _) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
    for seed in 0..6 {
        let mut dice = Dice::new(seed);
        let (keys, batch, edge) = (1 + dice.roll(40), 1 + dice.roll(16) as usize, 100 + dice.roll(900) as u32);
        let (bad, worse) = (dice.roll(4_999), dice.roll(4_987));
        let (done, count, numbers) = until_done();
        let (ends, (sink, results)) = (Ends::new(), collect());
        let (in_stage, loads) = (used.clone(), loaded.clone());
        let load = move |_: &_| {
            loads.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        let model = handler_with("m", load, move |(): &mut (), batch: &[&u64]| {
            if batch.iter().any(|x| **x % 4_987 == worse) {
                return Err(StageError::permanent("worse"));
            }
            Ok(batch.iter().map(|x| **x).collect::<Vec<u64>>())
        });
        let handle = Pipeline::from(from_iter(numbers))
            .key_by("key", move |x| x % keys)
            .stage("map", StageOptions::new().replicas(1..=4), move |start| Ok(Marking { replica: start.replica, used: in_stage.clone(), bad }))
            .infer("model", RunInference::new(model).batch(1..=batch).replicas(1..=4))
            .map("out", |p| p.inference)
            .sink(sink)
            .edge_records(edge)
            .supervision(quick())
            .scaling(Scaling::by_hand())
            .observe(ends.clone())
            .spawn()
            .unwrap();
        for change in 0..100 {
            let most = if change % 2 == 0 { 4 } else { 1 };
            handle.scale("map", most).unwrap();
            handle.scale("model", if dice.roll(4) == 0 { 1 + dice.roll(4) as usize } else { most }).unwrap();
            thread::sleep(Duration::from_micros(dice.roll(3_000)));
        }
        done.store(true, Ordering::SeqCst);
        let report = handle.join().unwrap();
        ends.check(&report);
        let n = count.load(Ordering::SeqCst);
        let good = (0..n).filter(|x| x % 4_999 != bad && x % 4_987 != worse);
        let mut expected: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        good.for_each(|x| expected.entry(x % keys).or_default().push(x));
        let mut got: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        results.take().into_iter().for_each(|x| got.entry(x % keys).or_default().push(x));
        assert!(got == expected, "seed {seed}: {n} records, {} keys", keys);
    }
    // (How much of it depends on the machine.)
    assert!(loaded.load(Ordering::SeqCst) >= 30, "models were not loaded as replicas came");
    let used = used.each_ref().map(|used| used.load(Ordering::Relaxed));
    assert!(used.iter().all(|used| *used > 0), "{used:?}");
}

/// The same for total order, and for a stage with two ways out; what did not run says that it has ended, too.
#[test]
fn total_order_and_side_ways_hold_through_changes() {
    for seed in 0..4 {
        let mut dice = Dice::new(seed + 50);
        let (done, count, numbers) = until_done();
        let (ends, (sink, results)) = (Ends::new(), collect());
        let (fives, other) = Pipeline::from(from_iter(numbers)).map_with("map", StageOptions::new().replicas(1..=3), |x| x + 1).fork_with(
            "fork",
            StageOptions::new().replicas(2..=4),
            |_| Ok(Fives),
        );
        let merged = millstream_runtime::Flow::merge([fives, other]);
        let handle = merged.sink(sink).order(Order::TOTAL).scaling(Scaling::by_hand()).observe(ends.clone()).spawn().unwrap();
        for _ in 0..60 {
            handle.scale("map", 1 + dice.roll(3) as usize).unwrap();
            handle.scale("fork", 2 + dice.roll(3) as usize).unwrap();
            thread::sleep(Duration::from_micros(dice.roll(2_000)));
        }
        done.store(true, Ordering::SeqCst);
        let report = handle.join().unwrap();
        ends.check(&report);
        assert!(results.take().into_iter().eq(1..=count.load(Ordering::SeqCst)), "seed {seed}");
    }
}

struct Fives;

impl Transform<u64, Out<u64, u64>> for Fives {
    fn apply(&mut self, record: u64, _: &Context<'_>, out: &mut Emit<Out<u64, u64>>) -> Result<(), StageError> {
        out.push(if record.is_multiple_of(5) { Out::Main(record) } else { Out::Side(record) });
        Ok(())
    }
}

/// More replicas while records wait for long, fewer when there is little to do; and one is the least.
#[test]
fn replicas_follow_the_load() {
    let ((push, source), ends) = (channel(4_000), Ends::new());
    let mut scaling = Scaling::default();
    (scaling.delay, scaling.every, scaling.cooldown) = (ms(20), ms(10), ms(200));
    let handle = Pipeline::from(source)
        .map_with("slow", StageOptions::new().replicas(1..=4), |x: u64| {
            thread::sleep(ms(1));
            x
        })
        .sink(for_each(|_| {}))
        .scaling(scaling)
        .observe(ends.clone())
        .spawn()
        .unwrap();
    assert_eq!(replicas_of(&handle, 1), 1);
    (0..4_000).for_each(|x| push.send(millstream_runtime::Record::new(x)).unwrap());
    let start = Instant::now();
    let wait_for = |replicas: usize| {
        while replicas_of(&handle, 1) != replicas {
            assert!(start.elapsed() < Duration::from_secs(30), "{} replicas", replicas_of(&handle, 1));
            thread::sleep(ms(1));
        }
    };
    wait_for(4);
    wait_for(1);
    assert!(handle.snapshot().prometheus("p").contains("millstream_replicas{pipeline=\"p\",stage=\"slow\"} 1\n"));
    // Raised by hand, it comes down by itself, with nothing to do at all.
    handle.scale("slow", 3).unwrap();
    wait_for(3);
    wait_for(1);
    drop(push);
    ends.check(&handle.join().unwrap());
}

#[test]
fn ranges_that_cannot_be_are_refused() {
    let problems = |pipeline: Pipeline| match pipeline.run() {
        Err(PipelineError::Invalid(problems)) => problems.join("; "),
        _ => panic!("it was not refused"),
    };
    let ranged = || StageOptions::<u64, u64>::new().replicas(1..=2);
    let kept = Pipeline::from(from_iter(0..1u64).repeatable()).map_with("a", ranged(), |x| x).sink(collect().0);
    assert!(problems(kept.checkpoint(CheckpointOptions::new(NoStore))).contains("stage `a` has a range of replicas, checkpoints need a number"));
    let timed =
        Pipeline::from(from_iter(0..1i64)).event_time("time", Watermarks::bounded(ms(1)), |x| *x).map_with("a", StageOptions::new().replicas(1..=2), |x| x);
    assert!(problems(timed.sink(for_each(|_| {}))).contains("event time needs a number"));
    let sum = fold(|| 0, |sum, x: &i64| *sum += x, |sum, other| *sum += other);
    let (windows, late) =
        Pipeline::from(from_iter(0..1i64)).key_by("key", |x| *x).window_with("w", Windows::Count(2), sum, StageOptions::new().replicas(1..=2));
    assert!(problems(windows.sink(for_each(|_| {})).and(late.sink(for_each(|_| {})))).contains("windows need a number"));

    let handle = Pipeline::from(from_iter(0..1u64)).map_with("a", ranged(), |x| x).map("b", |x| x).sink(for_each(|_| {})).spawn().unwrap();
    assert_eq!(handle.scale("c", 1), Err(ControlError::NoSuchStage("c".into())));
    for (stage, fewest, most, asked) in [("a", 1, 2, 3), ("a", 1, 2, 0), ("b", 1, 1, 2)] {
        assert_eq!(handle.scale(stage, asked), Err(ControlError::OutOfRange { stage: stage.into(), asked, fewest, most }));
    }
    handle.join().unwrap();
}

/// A replica that is in the middle of something when it is asked to go finishes that first.
#[test]
fn who_goes_finishes_what_it_has_in_hand() {
    let (written, (push, source)) = (Arc::new(Mutex::new(Vec::new())), channel(64));
    let rows = written.clone();
    let model = handler("slow", |batch: &[&u64]| {
        thread::sleep(ms(20));
        Ok(batch.iter().map(|x| **x).collect())
    });
    let handle = Pipeline::from(source)
        .infer("model", RunInference::new(model).batch(1..=4).replicas(1..=4))
        .sink(for_each(move |p: millstream_runtime::Prediction<u64, u64>| rows.lock().unwrap().push(p.inference)))
        .scaling(Scaling::by_hand())
        .spawn()
        .unwrap();
    handle.scale("model", 4).unwrap();
    (0..32).for_each(|x| push.send(millstream_runtime::Record::new(x)).unwrap());
    thread::sleep(ms(30));
    handle.scale("model", 1).unwrap();
    (32..48).for_each(|x| push.send(millstream_runtime::Record::new(x)).unwrap());
    drop(push);
    let report = handle.join().unwrap();
    assert_eq!(report.counts.ok, 48);
    let mut written = written.lock().unwrap().clone();
    written.sort_unstable();
    assert!(written.into_iter().eq(0..48));
}

struct NoStore;

impl millstream_runtime::CheckpointStore for NoStore {
    fn latest(&mut self) -> Result<Option<millstream_runtime::Checkpoint>, StageError> {
        Ok(None)
    }

    fn save(&mut self, _: &millstream_runtime::Checkpoint) -> Result<(), StageError> {
        Ok(())
    }
}
