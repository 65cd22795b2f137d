//! Who begins afresh when something crashes or when somebody asks for it, what quarantine means, and that it costs nothing
//! else.

mod oracle;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use millstream_runtime::{
    Cause, CheckpointOptions, Context, ControlError, Emit, Exceeded, Flow, Handle, Join, Pipeline, PipelineError, Record, RunInference, SinkOptions,
    StageError, StageOptions, StageState, Strategy, Supervision, Transform, channel, collect, for_each, from_iter, handler, ms,
};
use oracle::{Dice, Ends, failure};

fn rules(strategy: Strategy) -> Supervision {
    let mut supervision = Supervision::default();
    (supervision.strategy, supervision.backoff, supervision.restarts) = (strategy, ms(2), 1_000);
    supervision
}

fn quarantine(restarts: u32) -> Supervision {
    let mut supervision = rules(Strategy::OneForOne);
    (supervision.restarts, supervision.exceeded) = (restarts, Exceeded::Quarantine);
    supervision
}

/// Waits for something that comes by itself.
fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(ms(1));
    }
}

/// Passes numbers on, counts its instances, and panics on one number.
struct Counted {
    poison: Option<u64>,
}

impl Transform<u64, u64> for Counted {
    fn apply(&mut self, record: u64, _: &Context<'_>, out: &mut Emit<u64>) -> Result<(), StageError> {
        assert_ne!(Some(record), self.poison, "poison");
        out.push(record);
        Ok(())
    }
}

trait CountedFlow {
    fn counted(self, name: &str, made: &Arc<AtomicUsize>, poison: Option<u64>) -> Self;
}

impl CountedFlow for Flow<u64> {
    fn counted(self, name: &str, made: &Arc<AtomicUsize>, poison: Option<u64>) -> Self {
        let made = made.clone();
        self.stage(name, StageOptions::new(), move |_| {
            made.fetch_add(1, Ordering::SeqCst);
            Ok(Counted { poison })
        })
    }
}

#[test]
fn a_crash_renews_whom_the_strategy_says_and_costs_one_record() {
    let cases = [(Strategy::OneForOne, [1, 2, 1, 1]), (Strategy::RestForOne, [1, 2, 2, 1]), (Strategy::OneForAll, [2, 2, 2, 1])];
    for (strategy, expected) in cases {
        let made: [Arc<AtomicUsize>; 4] = Default::default();
        let instances = || made.each_ref().map(|made| made.load(Ordering::SeqCst));
        let (ends, (sink, results), (push, source)) = (Ends::new(), collect(), channel(64));
        let handle = Pipeline::from(source)
            .counted("a", &made[0], None)
            .counted("b", &made[1], Some(7))
            .counted("c", &made[2], None)
            .counted("outside", &made[3], None)
            .sink(sink)
            .group("abc", ["a", "b", "c"], rules(strategy))
            .observe(ends.clone())
            .spawn()
            .unwrap();
        (0..50).for_each(|x| push.send(Record::new(x)).unwrap());
        until("the fresh instances", || instances() == expected);
        (50..100).for_each(|x| push.send(Record::new(x)).unwrap());
        drop(push);
        let report = handle.join().unwrap();
        ends.check(&report);
        assert_eq!(instances(), expected, "{strategy:?}");
        assert_eq!(results.take(), (0..100).filter(|x| *x != 7).collect::<Vec<_>>());
        let recalls: u64 = report.snapshot.stages.iter().map(|stage| stage.recalls).sum();
        assert_eq!(recalls as usize, expected.iter().sum::<usize>() - 5, "{strategy:?}");
    }
}

/// Crashes of several stages count together, and the pipeline fails once, with the cause.
#[test]
fn a_group_fails_when_its_crashes_together_are_too_many() {
    let mut supervision = rules(Strategy::OneForAll);
    supervision.restarts = 3;
    let ends = Ends::new();
    let crash = |every: u64| {
        move |x: u64| {
            assert!(x % 20 != every, "storm");
            x
        }
    };
    let pipeline = Pipeline::from(from_iter(0..100_000u64)).map("a", crash(5)).map("b", crash(10)).sink(for_each(|_| {}));
    let (cause, report) = failure(pipeline.group("ab", ["a", "b"], supervision).observe(ends.clone()).run());
    ends.check(&report);
    let Cause::RestartsExceeded { restarts, fault, .. } = cause else { panic!("{cause}") };
    assert_eq!(restarts, 3);
    assert!(fault.to_string().ends_with("storm"));
    assert_eq!(report.snapshot.stages.iter().map(|stage| stage.restarts).sum::<u64>(), 3);
    // While one stage's crash is once too often, the other may be about to crash too.
    assert!((4..=5).contains(&report.counts.dead_lettered), "{report}");
}

/// Restarts by strategies and by hand, among keyed replicas, batches and a join, against what one thread would do.
#[test]
fn restarts_lose_nothing_and_keep_the_order_of_keys() {
    for seed in 0..24 {
        let mut dice = Dice::new(seed);
        let (n, keys) = (500 + dice.roll(1_500), 1 + dice.roll(12));
        let strategy = [Strategy::OneForOne, Strategy::RestForOne, Strategy::OneForAll][dice.roll(3) as usize];
        let mut poison = || dice.roll(n);
        let (in_map, in_model, in_sink) = (poison(), poison(), poison());
        let (maps, models, batch) = (1 + dice.roll(3) as usize, 1 + dice.roll(3) as usize, 1 + dice.roll(16) as usize);
        let (ends, written) = (Ends::new(), Arc::new(Mutex::new(Vec::new())));
        let model = handler("m", move |batch: &[&u64]| {
            assert!(!batch.iter().any(|x| **x == in_model), "worse");
            Ok(batch.iter().map(|x| **x).collect())
        });
        let [left, right] = Pipeline::from(from_iter(0..n))
            .key_by("key", move |x| x % keys)
            .map_with("map", StageOptions::new().replicas(maps), move |x| {
                assert_ne!(x, in_map, "bad");
                x
            })
            .infer("model", RunInference::new(model).batch(1..=batch).replicas(models))
            .map("out", |p| p.inference)
            .tee("tee");
        let join = Join::by_record(Duration::from_secs(60));
        let rows = written.clone();
        let pipeline = left
            .join("pairs", right, join)
            .sink_with(
                for_each(move |pair: (u64, u64)| {
                    assert_ne!(pair.0, in_sink, "no room");
                    rows.lock().unwrap_or_else(|e| e.into_inner()).push(pair);
                }),
                SinkOptions::new(),
            )
            .supervision(rules(strategy))
            .observe(ends.clone());
        let handle = pipeline.spawn().unwrap();
        let (remote, over) = (handle.remote(), Arc::new(AtomicBool::new(false)));
        let seen = over.clone();
        let meddler = thread::spawn(move || {
            let mut dice = Dice::new(seed + 1_000);
            let mut asked = 0;
            while !seen.load(Ordering::SeqCst) {
                remote.restart(["key", "map", "model", "out", "tee", "pairs", "sink"][dice.roll(7) as usize]).unwrap();
                asked += 1;
                thread::sleep(Duration::from_micros(dice.roll(400)));
            }
            asked
        });
        let report = handle.join().unwrap();
        over.store(true, Ordering::SeqCst);
        assert!(meddler.join().unwrap() > 0);
        ends.check(&report);
        let bad = [in_map, in_model, in_sink];
        let mut expected: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
        (0..n).filter(|x| !bad.contains(x)).for_each(|x| expected.entry(x % keys).or_default().push((x, x)));
        let mut got: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
        written.lock().unwrap_or_else(|e| e.into_inner()).iter().for_each(|pair| got.entry(pair.0 % keys).or_default().push(*pair));
        assert_eq!(got, expected, "seed {seed}, {strategy:?}");
        let dead: std::collections::HashSet<_> = bad.into_iter().collect();
        assert_eq!(report.counts.dead_lettered, dead.len() as u64);
    }
}

/// A stage that waits begins afresh at once, and one that holds records for a batch keeps them.
#[test]
fn a_restart_reaches_who_waits_and_keeps_what_waits_there() {
    let (made, (push, source), (sink, results)) = (Arc::new(AtomicUsize::new(0)), channel(16), collect());
    let model = handler("m", |batch: &[&u64]| Ok(vec![batch.len(); batch.len()]));
    let run = RunInference::new(model).batch(1..=8).hold_until(8);
    let handle = Pipeline::from(source).counted("idle", &made, None).infer("model", run).map("size", |p| p.inference).sink(sink).spawn().unwrap();
    let taken = |handle: &Handle| handle.snapshot().stages[2].records_in;
    (0..5).for_each(|x| push.send(Record::new(x)).unwrap());
    until("five in the batcher", || taken(&handle) == 5);
    handle.restart("idle").unwrap();
    handle.restart("model").unwrap();
    until("fresh ones", || made.load(Ordering::SeqCst) == 2 && handle.snapshot().stages[2].recalls == 1);
    (5..8).for_each(|x| push.send(Record::new(x)).unwrap());
    until("the batch", || results.len() == 8);
    assert_eq!(results.take(), [8; 8]);
    assert_eq!(handle.restart("nobody"), Err(ControlError::NoSuchStage("nobody".into())));
    handle.restart("source").unwrap();
    drop(push);
    assert_eq!(handle.join().unwrap().counts.ok, 8);
}

/// Whatever kind of stage it is: its records end as dead letters, those of the other branch do not notice.
#[test]
fn a_stage_in_quarantine_sends_its_records_to_the_letters_and_the_rest_goes_on() {
    for bad in ["map", "model", "sink"] {
        for seed in 0..4 {
            let mut dice = Dice::new(seed);
            let (n, restarts, replicas) = (400 + dice.roll(400), dice.roll(3) as u32, 1 + dice.roll(3) as usize);
            let from = dice.roll(n / 2);
            let breaks = move |stage: &str, x: u64| assert!(stage != bad || x < from, "broken");
            let model = handler("m", move |batch: &[&u64]| {
                batch.iter().for_each(|x| breaks("model", **x));
                Ok(batch.iter().map(|x| **x).collect())
            });
            let (ends, (other, rest), good) = (Ends::new(), collect(), Arc::new(Mutex::new(Vec::new())));
            let [left, right] = Pipeline::from(from_iter(0..n)).key_by("key", |x| x % 7).split("parity", |x| (x % 2) as usize);
            let written = good.clone();
            let broken = left
                .map_with("map", StageOptions::new().replicas(replicas), move |x| {
                    breaks("map", x);
                    x
                })
                .infer("model", RunInference::new(model).batch(1..=8).replicas(replicas))
                .map("out", |p| p.inference)
                .sink(for_each(move |x| {
                    breaks("sink", x);
                    written.lock().unwrap_or_else(|e| e.into_inner()).push(x);
                }));
            let report = broken.and(right.sink(other)).group("frail", [bad], quarantine(restarts)).observe(ends.clone()).run().unwrap();
            ends.check(&report);
            assert_eq!(rest.take(), (0..n).filter(|x| x % 2 == 1).collect::<Vec<_>>(), "{bad}, seed {seed}");
            let good = good.lock().unwrap_or_else(|e| e.into_inner()).clone();
            let expected = |key: u64| (0..from).filter(move |x| x % 2 == 0 && x % 7 == key);
            for key in 0..7 {
                let of_key: Vec<_> = good.iter().copied().filter(|x| x % 7 == key).collect();
                assert!(expected(key).collect::<Vec<_>>().starts_with(&of_key), "{bad}, seed {seed}: {of_key:?}");
            }
            // (Neighbours in the batch that was once too many, or at other replicas, end with it.)
            if replicas == 1 && bad != "model" {
                assert_eq!(good, (0..from).filter(|x| x % 2 == 0).collect::<Vec<_>>(), "{bad}, seed {seed}");
            }
            let stage = report.snapshot.stages.iter().find(|stage| stage.name == bad).unwrap();
            assert_eq!((stage.state, stage.restarts), (StageState::Quarantined, u64::from(restarts)), "{bad}, seed {seed}");
            let letter = report.dead_letters.last().unwrap();
            assert!(letter.fault.to_string().contains("in quarantine") && letter.fault.to_string().ends_with("broken"), "{}", letter.fault);
        }
    }
}

#[test]
fn groups_that_cannot_be_are_refused() {
    let pipeline = || Pipeline::from(from_iter(0..1u64)).map("a", |x| x).sink(for_each(|_| {}));
    let problems = |pipeline: Pipeline| match pipeline.run() {
        Err(PipelineError::Invalid(problems)) => problems.join("; "),
        _ => panic!("it was not refused"),
    };
    let told = problems(pipeline().group("g", ["a", "b", "source"], rules(Strategy::OneForAll)).group("h", ["a"], rules(Strategy::OneForOne)));
    for part in ["group `g` has a stage `b`", "the source `source`", "stage `a` is in the groups `g` and `h`"] {
        assert!(told.contains(part), "{told}");
    }
    let kept = pipeline().supervision(quarantine(1)).checkpoint(CheckpointOptions::new(NoStore));
    assert!(problems(kept).contains("quarantine"));
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
