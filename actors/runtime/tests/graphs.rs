//! Random graphs, with errors and panics in them, against a single-threaded model: the same multiset, the same outcome
//! of each record, the same order within a key along each way.

mod oracle;

use std::collections::{BTreeMap, BTreeSet};

use millstream_runtime::{
    Ensemble, Flow, Join, ManualClock, Observer, Out, Outcome, Pipeline, RunInference, StageError, StageOptions, Supervision, Terminal, collect, from_iter,
    handler, ms,
};
use oracle::Ends;
use proptest::prelude::*;

/// What a record does at a place: nothing, an error, a panic. Chosen by its number, the same in the model.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    error: u64,
    panic: u64,
}

#[derive(Clone, Debug)]
enum Op {
    Map(Trouble),
    Drop(u64),
    Several(u64),
    Replicas(usize),
    Model {
        batch: usize,
        trouble: Trouble,
    },
    /// Copies, merged again.
    Tee(Vec<Op>, Vec<Op>),
    /// One of two ways, merged again.
    Split(Vec<Op>, Vec<Op>),
    /// A main way and a side way: two results each, merged again.
    Fork(Vec<Op>, Vec<Op>),
    /// Copies, joined again; where the right lacks some, they are alone.
    Join(Vec<Op>),
    Rekey(u64),
    /// The answers of two branches are added up.
    Ensemble,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    number: u64,
    value: u64,
    /// The way that it took, as a number.
    way: u64,
    key: u64,
}

impl Item {
    fn on(self, turn: u64) -> Self {
        Item { way: self.way.wrapping_mul(31).wrapping_add(turn), ..self }
    }
}

fn trouble() -> impl Strategy<Value = Trouble> {
    (0u64..60, 0u64..300).prop_map(|(error, panic)| Trouble { error, panic })
}

fn ops(depth: u32) -> BoxedStrategy<Vec<Op>> {
    let leaf = prop_oneof![
        4 => trouble().prop_map(Op::Map),
        1 => (0u64..5).prop_map(Op::Drop),
        1 => (1u64..4).prop_map(Op::Several),
        1 => (2usize..4).prop_map(Op::Replicas),
        2 => (1usize..10, trouble()).prop_map(|(batch, trouble)| Op::Model { batch, trouble }),
        1 => (1u64..9).prop_map(Op::Rekey),
        1 => Just(Op::Ensemble),
    ];
    if depth == 0 {
        return prop::collection::vec(leaf, 0..3).boxed();
    }
    let inner = move || ops(depth - 1);
    let branch = prop_oneof![
        2 => leaf,
        1 => (inner(), inner()).prop_map(|(a, b)| Op::Tee(a, b)),
        1 => (inner(), inner()).prop_map(|(a, b)| Op::Split(a, b)),
        1 => (inner(), inner()).prop_map(|(a, b)| Op::Fork(a, b)),
        1 => inner().prop_map(Op::Join),
    ];
    prop::collection::vec(branch, 0..4).boxed()
}

/// Names are given by counting.
#[derive(Default)]
struct Names(u32);

impl Names {
    fn next(&mut self) -> String {
        self.0 += 1;
        format!("s{}", self.0)
    }
}

/// Whether a record fails here: with its worst. A panic is rarer, since it costs a restart.
fn fails(trouble: Trouble, item: &Item) -> bool {
    item.number % 61 == trouble.error
}

fn panics(trouble: Trouble, item: &Item) -> bool {
    item.number % 301 == trouble.panic
}

fn step(trouble: Trouble, item: Item) -> Result<Item, StageError> {
    assert!(!panics(trouble, &item), "record {}", item.number);
    if fails(trouble, &item) { Err(StageError::permanent("bad")) } else { Ok(Item { value: item.value * 3 + 1, ..item }) }
}

fn build(mut flow: Flow<Item>, ops: &[Op], names: &mut Names) -> Flow<Item> {
    for op in ops {
        let name = names.next();
        flow = match op.clone() {
            Op::Map(trouble) => flow.try_map(&name, move |item| step(trouble, item)),
            Op::Drop(rest) => flow.filter(&name, move |item| item.value % 7 != rest),
            Op::Several(count) => flow.flat_map(&name, move |item| (0..count).map(move |i| Item { value: item.value + i, ..item }.on(i + 1))),
            Op::Replicas(replicas) => flow.map_with(&name, StageOptions::new().replicas(replicas), |item| item),
            Op::Model { batch, trouble } => {
                let model = handler("m", move |batch: &[&Item]| batch.iter().map(|item| step(trouble, **item)).collect());
                flow.infer(&name, RunInference::new(model).batch(1..=batch)).map(&names.next(), |p| p.inference)
            }
            Op::Tee(a, b) => {
                let [left, right] = flow.tee(&name);
                let (left, right) = (left.map(&names.next(), |item| item.on(1)), right.map(&names.next(), |item| item.on(2)));
                Flow::merge([build(left, &a, names), build(right, &b, names)])
            }
            Op::Split(a, b) => {
                let [left, right] = flow.split(&name, |item| (item.value % 2) as usize);
                let (left, right) = (left.map(&names.next(), |item| item.on(1)), right.map(&names.next(), |item| item.on(2)));
                Flow::merge([build(left, &a, names), build(right, &b, names)])
            }
            Op::Fork(a, b) => {
                let (left, right) = flow.fork(&name, |item: Item| [Out::Main(item.on(1)), Out::Side(item.on(2))]);
                Flow::merge([build(left, &a, names), build(right, &b, names)])
            }
            Op::Join(a) => {
                let [left, right] = flow.tee(&name);
                let right = build(right.filter(&names.next(), |item| !item.value.is_multiple_of(5)), &without_several(&a), names);
                // The partner of a record that failed or was dropped comes never: its record is alone when the time is up.
                let (pairs, alone) = left.join_or(&names.next(), right, Join::by_record(ms(60_000)));
                let pairs = pairs.map(&names.next(), |(left, right)| Item { value: left.value + right.value, ..left }.on(3));
                let alone = alone.flat_map(&names.next(), |lone| match lone {
                    millstream_runtime::Lone::Left(item) => Some(item.on(4)),
                    millstream_runtime::Lone::Right(_) => None,
                });
                Flow::merge([pairs, alone])
            }
            Op::Rekey(keys) => flow.map(&name, move |item| Item { key: item.number % keys, ..item }).key_by(&names.next(), |item| item.key),
            Op::Ensemble => {
                let (one, two) = (names.next(), names.next());
                let ask = Ensemble::new(2, ms(60_000))
                    .branch(move |flow| flow.map(&one, |item: Item| item.value))
                    .branch(move |flow| flow.map(&two, |item: Item| item.value % 10));
                flow.ensemble(&name, ask, |asked| Item { value: asked.answers.iter().map(|(_, x)| x).sum(), ..asked.example })
            }
        };
    }
    flow
}

/// Two children of one record on the right would both be partners; the model knows only one.
fn without_several(ops: &[Op]) -> Vec<Op> {
    ops.iter().filter(|op| !matches!(op, Op::Several(_) | Op::Tee(..) | Op::Split(..) | Op::Fork(..) | Op::Join(..))).cloned().collect()
}

/// What becomes of one record: its results, and whether it failed anywhere.
fn model(item: Item, ops: &[Op], failed: &mut bool) -> Vec<Item> {
    let mut items = vec![item];
    for op in ops {
        let mut next = Vec::new();
        for item in items {
            let mut both = |turns: [bool; 2], a: &[Op], b: &[Op]| {
                let mut out = if turns[0] { model(item.on(1), a, failed) } else { Vec::new() };
                out.extend(if turns[1] { model(item.on(2), b, failed) } else { Vec::new() });
                out
            };
            match op {
                Op::Map(trouble) | Op::Model { trouble, .. } => {
                    if panics(*trouble, &item) || fails(*trouble, &item) {
                        *failed = true;
                    } else {
                        next.push(Item { value: item.value * 3 + 1, ..item });
                    }
                }
                Op::Drop(rest) => next.extend((item.value % 7 != *rest).then_some(item)),
                Op::Several(count) => next.extend((0..*count).map(|i| Item { value: item.value + i, ..item }.on(i + 1))),
                Op::Replicas(_) => next.push(item),
                Op::Tee(a, b) | Op::Fork(a, b) => next.extend(both([true, true], a, b)),
                Op::Split(a, b) => next.extend(both([item.value.is_multiple_of(2), item.value % 2 == 1], a, b)),
                Op::Join(a) => {
                    let right = if !item.value.is_multiple_of(5) { model(item, &without_several(a), failed) } else { Vec::new() };
                    next.push(match right.first() {
                        Some(right) => Item { value: item.value + right.value, ..item }.on(3),
                        None => item.on(4),
                    });
                }
                Op::Rekey(keys) => next.push(Item { key: item.number % keys, ..item }),
                Op::Ensemble => next.push(Item { value: item.value + item.value % 10, ..item }),
            }
        }
        items = next;
    }
    items
}

#[derive(Default)]
struct Failed(std::sync::Mutex<BTreeSet<u64>>);

impl Observer for Failed {
    fn ended(&self, terminal: Terminal) {
        if terminal.outcome == Outcome::DeadLettered {
            self.0.lock().unwrap().insert(terminal.id);
        }
    }
}

/// Both observers.
struct Both(std::sync::Arc<Ends>, std::sync::Arc<Failed>);

impl Observer for Both {
    fn ended(&self, terminal: Terminal) {
        self.0.ended(terminal);
        self.1.ended(terminal);
    }
}

fn has_joins(ops: &[Op]) -> bool {
    ops.iter().any(|op| match op {
        Op::Join(_) => true,
        Op::Tee(a, b) | Op::Split(a, b) | Op::Fork(a, b) => has_joins(a) || has_joins(b),
        _ => false,
    })
}

fn has_unordered_ways(ops: &[Op]) -> bool {
    // Records that wait for a partner in vain are overtaken by those whose partner comes; and who waits is not told apart
    // by the way afterwards if several joins follow each other.
    ops.iter().any(|op| match op {
        Op::Join(_) => true,
        Op::Ensemble => true,
        // Records that get one key had several before, and no order among those.
        Op::Rekey(_) => true,
        Op::Tee(a, b) | Op::Split(a, b) | Op::Fork(a, b) => has_unordered_ways(a) || has_unordered_ways(b),
        _ => false,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 30, ..ProptestConfig::default() })]

    #[test]
    fn random_graphs_do_what_one_thread_would(ops in ops(2), n in 1u64..400, keys in 1u64..9, edge in prop::option::of(40u32..200), tight: bool) {
        let items: Vec<_> = (0..n).map(|number| Item { number, value: number, way: 0, key: number % keys }).collect();
        let (ends, failed) = (Ends::new(), std::sync::Arc::new(Failed::default()));
        let (sink, results) = collect();
        let mut names = Names::default();
        let mut supervision = Supervision::default();
        (supervision.backoff, supervision.max_backoff, supervision.restarts) = (ms(1), ms(2), 10_000);
        let flow = Pipeline::from(from_iter(items.clone())).key_by("key", |item| item.key);
        let mut pipeline = build(flow, &ops, &mut names).sink(sink).supervision(supervision).clock(ManualClock::new()).observe(std::sync::Arc::new(Both(ends.clone(), failed.clone())));
        if let Some(edge) = edge {
            pipeline = pipeline.edge_records(edge);
        }
        // Who waits for a partner holds memory; and here no time passes, so that nobody waits in vain but at the end.
        let tight = tight && !has_joins(&ops);
        if tight {
            pipeline = pipeline.memory_budget(20_000);
        }
        let report = pipeline.run().unwrap();
        ends.check(&report);
        let most = if tight { 20_000 } else { u64::MAX };
        prop_assert!(report.snapshot.peak_reserved_bytes <= most);
        prop_assert_eq!(report.snapshot.overdraft_bytes, 0);

        let (mut expected, mut bad) = (Vec::new(), BTreeSet::new());
        for item in items {
            let mut failed = false;
            expected.extend(model(item, &ops, &mut failed));
            if failed {
                bad.insert(item.number);
            }
        }
        let got = results.take();
        let failed = failed.0.lock().unwrap().clone();
        prop_assert_eq!(failed, bad);
        if !has_unordered_ways(&ops) {
            let along = |items: &[Item]| {
                let mut ways: BTreeMap<(u64, u64), Vec<u64>> = BTreeMap::new();
                items.iter().for_each(|item| ways.entry((item.key, item.way)).or_default().push(item.number));
                ways
            };
            prop_assert_eq!(along(&got), along(&expected));
        }
        let (mut got, mut expected) = (got, expected);
        got.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(got, expected);
    }
}
