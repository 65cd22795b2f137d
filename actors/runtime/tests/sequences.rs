//! Models that remember: what a single thread would do, whatever is batched, shared out, repeated, dropped or forgotten.

mod oracle;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use millstream_runtime::{
    CancelToken, Checkpoint, CheckpointOptions, CheckpointStore, Collected, FnSequence, Key, ManualClock, Order, Pipeline, PipelineError, Push, Record,
    RunInference, SequenceModel, SequenceOptions, SequenceSnapshot, Snapshot, StageError, Step, Supervision, WhenFull, channel, collect, for_each, from_iter,
    ms, sequence,
};
use oracle::{Dice, Ends};

/// What may be wrong with an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// Its batch fails.
    Error,
    /// Its batch panics.
    Panic,
    /// Its batch fails once.
    Hiccup,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    key: u64,
    number: u64,
    last: bool,
    flaw: Flaw,
}

/// A state that tells any two histories apart.
fn follow(state: u64, number: u64) -> u64 {
    (state ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23).wrapping_add(1)
}

/// What each key's records give, in their order, one after the other.
fn expected(items: &[Item]) -> BTreeMap<u64, Vec<(u64, u64)>> {
    let (mut states, mut outputs): (BTreeMap<u64, u64>, BTreeMap<u64, Vec<(u64, u64)>>) = Default::default();
    for item in items {
        let state = states.get(&item.key).copied().unwrap_or(0);
        if matches!(item.flaw, Flaw::None | Flaw::Hiccup) {
            let state = follow(state, item.number);
            outputs.entry(item.key).or_default().push((item.number, state));
            states.insert(item.key, state);
        }
        if item.last {
            states.remove(&item.key);
        }
    }
    outputs
}

/// How many batches held several records, and whether one held two of a key.
#[derive(Default)]
struct Batches {
    shared: AtomicUsize,
    mixed: AtomicUsize,
}

fn model(batches: &Arc<Batches>) -> impl SequenceModel<Input = Item, Output = u64> + use<> {
    let (batches, hiccups) = (batches.clone(), Mutex::new(BTreeSet::new()));
    sequence(
        "follow",
        |_| 0u64,
        move |batch: &[Step<'_, Item, u64>]| {
            let keys: BTreeSet<u64> = batch.iter().map(|step| step.input.key).collect();
            batches.mixed.fetch_add(usize::from(keys.len() < batch.len()), Ordering::SeqCst);
            batches.shared.fetch_add(usize::from(batch.len() > 1), Ordering::SeqCst);
            let mut results = Vec::new();
            for step in batch {
                assert_eq!(step.key, Key(step.input.key));
                match step.input.flaw {
                    Flaw::Error => return Err(StageError::permanent("bad")),
                    Flaw::Panic => panic!("worse"),
                    Flaw::Hiccup if hiccups.lock().unwrap().insert(step.input.number) => return Err(StageError::transient("once")),
                    Flaw::None | Flaw::Hiccup => {}
                }
                let state = follow(*step.state, step.input.number);
                results.push((state, state));
            }
            Ok(results)
        },
    )
}

#[test]
fn sequences_do_what_one_thread_would() {
    let shared = Arc::new(Batches::default());
    for seed in 0..30 {
        let mut dice = Dice::new(seed);
        let (n, keys) = (100 + dice.roll(1_500), 1 + dice.roll(24));
        let mut items: Vec<Item> = (0..n).map(|number| Item { key: dice.roll(keys), number, last: dice.roll(12) == 0, flaw: Flaw::None }).collect();
        for flaw in [Flaw::Error, Flaw::Error, Flaw::Panic, Flaw::Panic, Flaw::Hiccup, Flaw::Hiccup] {
            items[dice.roll(n) as usize].flaw = flaw;
        }
        let (replicas, batch, held) = (1 + dice.roll(3) as usize, 1 + dice.roll(16) as usize, dice.roll(60) as usize);
        let (ends, (sink, results)) = (Ends::new(), collect());
        let mut supervision = Supervision::default();
        supervision.backoff = ms(2);
        let run = RunInference::sequences(model(&shared), SequenceOptions::new()).last(|item: &Item| item.last);
        let run = run.batch(1..=batch).replicas(replicas).hold_until(held).retry(2, Duration::from_micros(100)).bucket(|item| item.number % 2);
        let report = Pipeline::from(from_iter(items.clone()).keyed_by(|item| Key(item.key)))
            .infer("follow", run)
            .map("out", |p| (p.example.key, p.example.number, p.inference))
            .sink(sink)
            .supervision(supervision)
            .observe(ends.clone())
            .run()
            .unwrap();
        ends.check(&report);
        let mut got: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
        results.take().into_iter().for_each(|(key, number, state)| got.entry(key).or_default().push((number, state)));
        assert_eq!(got, expected(&items), "seed {seed}");
        let bad = items.iter().filter(|item| matches!(item.flaw, Flaw::Error | Flaw::Panic)).count() as u64;
        assert_eq!(report.counts.dead_lettered, bad, "seed {seed}");
        let SequenceSnapshot { held, begun, ended, evicted, expired, .. } = report.snapshot.stages[1].sequences;
        assert_eq!((begun, evicted, expired), (held + ended, 0, 0), "seed {seed}");
    }
    assert_eq!(shared.mixed.load(Ordering::SeqCst), 0, "a batch held two records of a key");
    assert!(shared.shared.load(Ordering::SeqCst) > 500, "nothing was batched");
}

/// Sums, and what each record brings is also what it weighs in the state.
fn sums() -> impl SequenceModel<Input = (u64, u64), Output = u64> {
    stored_sums().weighed(|sum| *sum)
}

type Steps<'a, 'b> = &'a [Step<'b, (u64, u64), u64>];

fn stored_sums() -> FnSequence<
    (u64, u64),
    u64,
    u64,
    impl Fn(Key) -> u64 + Send + Sync + 'static,
    impl Fn(Steps<'_, '_>) -> Result<Vec<(u64, u64)>, StageError> + Send + Sync + 'static,
> {
    let step = |batch: Steps<'_, '_>| Ok(batch.iter().map(|step| (step.state + step.input.1, step.state + step.input.1)).collect());
    sequence("sums", |_| 0u64, step).stored(|sum| sum.to_le_bytes().to_vec(), |bytes| bytes.try_into().ok().map(u64::from_le_bytes))
}

/// A pipeline of sums that is fed by hand.
struct Fed {
    push: Push<(u64, u64)>,
    results: Collected<(u64, u64)>,
    handle: millstream_runtime::Handle,
    ends: Arc<Ends>,
}

impl Fed {
    fn new(options: SequenceOptions, clock: &ManualClock) -> Self {
        let ((push, source), (sink, results), ends) = (channel(64), collect(), Ends::new());
        let run = RunInference::sequences(sums(), options).last(|item: &(u64, u64)| item.1 == 0).batch(1..=4);
        let pipeline = Pipeline::from(source.keyed()).infer("sum", run).map("out", |p| (p.example.0, p.inference)).sink(sink);
        let handle = pipeline.clock(clock.clone()).observe(ends.clone()).spawn().unwrap();
        Fed { push, results, handle, ends }
    }

    /// Sends a record, and waits for its end. Its result, unless it failed.
    fn send(&self, key: u64, number: u64) -> Option<u64> {
        let before = self.handle.snapshot().counts;
        self.push.send(Record::new((key, number)).key(Key(key))).unwrap();
        self.wait(|snapshot| snapshot.counts.ok + snapshot.counts.dead_lettered > before.ok + before.dead_lettered);
        self.results.take().pop().map(|(_, sum)| sum)
    }

    fn wait(&self, met: impl Fn(&Snapshot) -> bool) {
        let start = Instant::now();
        while !met(&self.handle.snapshot()) {
            assert!(start.elapsed() < Duration::from_secs(20), "waited too long");
            thread::sleep(ms(1));
        }
    }

    fn end(self) -> SequenceSnapshot {
        drop(self.push);
        let report = self.handle.join().unwrap();
        self.ends.check(&report);
        let sequences = report.snapshot.stages[1].sequences;
        let page = report.snapshot.prometheus("p");
        assert!(page.contains(&format!("millstream_sequences_total{{pipeline=\"p\",stage=\"sum\",event=\"evicted\"}} {}\n", sequences.evicted)), "{page}");
        sequences
    }
}

#[test]
fn an_idle_sequence_is_forgotten_after_its_time() {
    let clock = ManualClock::new();
    let fed = Fed::new(SequenceOptions::new().timeout(ms(1_000)), &clock);
    assert_eq!((fed.send(1, 10), fed.send(2, 20)), (Some(10), Some(20)));
    clock.advance(ms(999));
    assert_eq!(fed.send(1, 1), Some(11), "in time");
    clock.advance(ms(1));
    // Nobody has to come for it.
    fed.wait(|snapshot| snapshot.stages[1].sequences.held == 1);
    assert_eq!(fed.send(2, 2), Some(2), "begun anew");
    assert_eq!(fed.send(1, 1), Some(12), "it was used since");
    clock.advance(ms(5_000));
    assert_eq!(fed.send(1, 5), Some(5), "late by four seconds");
    let sequences = fed.end();
    assert_eq!((sequences.held, sequences.begun, sequences.expired, sequences.bytes), (1, 4, 3, 5));
}

#[test]
fn a_sequence_ends_with_its_last_record() {
    let fed = Fed::new(SequenceOptions::new(), &ManualClock::new());
    assert_eq!([fed.send(1, 3), fed.send(1, 4), fed.send(1, 0), fed.send(1, 5)], [Some(3), Some(7), Some(7), Some(5)]);
    let sequences = fed.end();
    assert_eq!((sequences.held, sequences.begun, sequences.ended), (1, 2, 1));
}

#[test]
fn sequences_used_longest_ago_make_room_for_new_ones() {
    let fed = Fed::new(SequenceOptions::new().most(2).bytes(100), &ManualClock::new());
    assert_eq!([fed.send(1, 1), fed.send(2, 2), fed.send(1, 1), fed.send(3, 3)], [Some(1), Some(2), Some(2), Some(3)]);
    assert_eq!(fed.send(1, 1), Some(3), "it was used");
    assert_eq!(fed.send(2, 2), Some(2), "it was not: begun anew");
    assert_eq!(fed.send(1, 96), Some(99), "with 2 it is 101");
    assert_eq!(fed.send(2, 1), Some(1));
    assert_eq!(fed.send(2, 100), None, "more than there is room for in all");
    assert_eq!((fed.send(2, 1), fed.send(1, 1)), (Some(2), Some(1)), "its own state stays, the other made room");
    let sequences = fed.end();
    assert_eq!((sequences.held, sequences.evicted, sequences.refused, sequences.bytes), (2, 4, 1, 3));
}

#[test]
fn where_nothing_is_evicted_records_are_refused() {
    let clock = ManualClock::new();
    let fed = Fed::new(SequenceOptions::new().most(2).bytes(100).timeout(ms(1_000)).when_full(WhenFull::Refuse), &clock);
    assert_eq!([fed.send(1, 1), fed.send(2, 2), fed.send(3, 3), fed.send(1, 1)], [Some(1), Some(2), None, Some(2)]);
    assert_eq!([fed.send(1, 97), fed.send(1, 96), fed.send(2, 1)], [None, Some(98), None], "101, 100, 101");
    assert_eq!([fed.send(2, 0), fed.send(3, 2)], [Some(2), Some(2)], "an end makes room");
    clock.advance(ms(1_000));
    fed.wait(|snapshot| snapshot.stages[1].sequences.held == 0);
    assert_eq!([fed.send(4, 50), fed.send(5, 50)], [Some(50), Some(50)], "so does time");
    let sequences = fed.end();
    assert_eq!((sequences.held, sequences.evicted, sequences.refused, sequences.expired), (2, 0, 3, 2));
}

/// What is given up leaves the state as it was; if it would have been the last, the sequence ends behind what waits of it.
#[test]
fn a_record_that_has_no_turn_leaves_its_sequence_as_it_is_and_still_ends_it() {
    let ((push, source), (sink, results), ends) = (channel(64), collect(), Ends::new());
    let run = RunInference::sequences(sums(), SequenceOptions::new()).preprocess(|item: &(u64, u64)| match item.1 {
        99 => Err(StageError::permanent("not a number")),
        _ => Ok(*item),
    });
    let run = run.last(|item| item.1 == 0 || item.1 == 99).batch(1..=8).hold_until(8);
    let handle = Pipeline::from(source.keyed()).infer("sum", run).map("out", |p| (p.example.0, p.inference)).sink(sink).observe(ends.clone()).spawn().unwrap();
    let token = CancelToken::new();
    let send = |key: u64, number: u64, cancel: bool| {
        let record = Record::new((key, number)).key(Key(key));
        push.send(if cancel { record.cancel(token.clone()) } else { record }).unwrap();
    };
    token.cancel();
    // The end of 1 is cancelled, that of 2 fails; what waits of them comes before the end, what follows behind it.
    for (key, number, cancel) in
        [(1, 1, false), (1, 7, true), (1, 2, false), (1, 0, true), (1, 4, false), (2, 1, false), (2, 2, false), (2, 99, false), (2, 5, false)]
    {
        send(key, number, cancel);
    }
    push.send(Record::new((3, 3))).unwrap();
    drop(push);
    let report = handle.join().unwrap();
    ends.check(&report);
    let results = results.take();
    let of = |key: u64| results.iter().filter(|result| result.0 == key).map(|result| result.1).collect::<Vec<_>>();
    assert_eq!((of(1), of(2), of(3)), (vec![1, 3, 4], vec![1, 3, 5], vec![]));
    assert_eq!((report.counts.cancelled, report.counts.dead_lettered), (2, 2));
    assert!(report.dead_letters.iter().any(|letter| letter.to_string().contains("a record without a key belongs to no sequence")));
}

/// A store without checkpoints.
struct Nowhere;

impl CheckpointStore for Nowhere {
    fn latest(&mut self) -> Result<Option<Checkpoint>, StageError> {
        Ok(None)
    }

    fn save(&mut self, _: &Checkpoint) -> Result<(), StageError> {
        Ok(())
    }
}

#[test]
fn what_cannot_work_is_refused_when_it_is_built() {
    let problems = |pipeline: Pipeline| match pipeline.spawn().map(drop) {
        Err(PipelineError::Invalid(problems)) => problems.join("; "),
        other => panic!("{other:?}"),
    };
    let numbers = || from_iter((0..4u64).map(|number| (number, number)));
    let run = |options: SequenceOptions| RunInference::sequences(sums(), options);
    let keyed = || Pipeline::from(numbers().keyed_by(|item| Key(item.0)));
    let sink = || for_each(|_| {});
    let no_keys = problems(Pipeline::from(numbers()).infer("m", run(SequenceOptions::new())).sink(sink()));
    assert!(no_keys.contains("stage `m` has sequences of records without keys"), "{no_keys}");
    let places = problems(keyed().infer("m", run(SequenceOptions::new().most(2)).replicas(3)).sink(sink()));
    assert!(places.contains("stage `m` has fewer places for sequences than replicas"), "{places}");
    let unordered = problems(keyed().infer("m", run(SequenceOptions::new())).sink(sink()).order(Order::None));
    assert!(unordered.contains("stage `m` has sequences, whose order an unordered pipeline does not keep"), "{unordered}");
    let budget = problems(keyed().infer("m", run(SequenceOptions::new())).sink(sink()).memory_budget(1 << 20));
    assert!(budget.contains("stage `m` holds states without a limit in bytes"), "{budget}");
    let forgetful = sequence("m", |_| (), |batch: &[Step<'_, (u64, u64), ()>]| Ok(vec![((), ()); batch.len()]));
    let flow = keyed().infer("m", RunInference::sequences(forgetful, SequenceOptions::new()));
    let unstored = problems(flow.sink(for_each(|_| {})).checkpoint(CheckpointOptions::new(Nowhere)));
    assert!(unstored.contains("stage `m` holds states of sequences that have no codec, checkpoints do not hold that"), "{unstored}");
}
