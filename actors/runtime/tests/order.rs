//! Random pipelines against a single-threaded model: the same multiset, the same sequence within each key.

mod oracle;

use std::collections::BTreeMap;

use millstream_runtime::{Flow, Order, Pipeline, RunInference, SinkOptions, StageError, StageOptions, Supervision, collect, for_each, from_iter, handler, ms};
use oracle::{Dice, Ends};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    key: u64,
    number: u64,
    part: u64,
}

fn by_key(items: &[Item]) -> BTreeMap<u64, Vec<Item>> {
    let mut keys: BTreeMap<u64, Vec<Item>> = BTreeMap::new();
    for item in items {
        keys.entry(item.key).or_default().push(*item);
    }
    keys
}

#[test]
fn keys_keep_their_order_through_replicas_batches_and_faults() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let (n, keys) = (200 + dice.roll(2_000), 1 + dice.roll(20));
        let mut replicas = || 1 + dice.roll(3) as usize;
        let (maps, models, sinks) = (replicas(), replicas(), replicas());
        let bad = [dice.roll(n), dice.roll(n), dice.roll(n)];
        let (parts, batch, edge) = (1 + dice.roll(3), 1 + dice.roll(40) as usize, dice.roll(2) == 0);
        let items = move || (0..n).map(move |number| Item { key: number * 7 % keys, number, part: 0 });

        let (ends, (sink, results)) = (Ends::new(), collect());
        let model = handler("m", move |batch: &[&Item]| {
            if batch.iter().any(|item| item.number == bad[1] && item.part == 0) {
                return Err(StageError::permanent("bad"));
            }
            assert!(!batch.iter().any(|item| item.number == bad[2] && item.part == 0), "worse");
            Ok(batch.iter().map(|item| item.number).collect())
        })
        .bucketed(|item| item.number % 3);
        let mut supervision = Supervision::default();
        supervision.backoff = ms(3);
        let mut pipeline = Pipeline::from(from_iter(items()))
            .key_by("key", |item| item.key)
            .map_with("map", StageOptions::new().replicas(maps), move |item| {
                assert_ne!(item.number, bad[0], "bad");
                item
            })
            .flat_map("split", move |item| (0..parts).map(move |part| Item { part, ..item }))
            .filter("some", |item| (item.number + item.part) % 5 != 0)
            .infer("model", RunInference::new(model).batch(1..=batch).replicas(models))
            .map("out", |p| p.example)
            .sink_with(sink, SinkOptions::new().replicas(sinks))
            .supervision(supervision)
            .observe(ends.clone());
        if edge {
            pipeline = pipeline.edge_records((batch * (models + 1)) as u32).memory_budget(4_000);
        }
        let report = pipeline.run().unwrap();
        ends.check(&report);

        let expected: Vec<_> = items()
            .filter(|item| item.number != bad[0])
            .flat_map(|item| (0..parts).map(move |part| Item { part, ..item }))
            .filter(|item| (item.number + item.part) % 5 != 0)
            .filter(|item| item.part != 0 || (item.number != bad[1] && item.number != bad[2]))
            .collect();
        let (got, expected) = (by_key(&results.take()), by_key(&expected));
        if sinks == 1 {
            assert_eq!(got, expected, "seed {seed}");
        } else {
            // Several sinks write to one vector; each key still goes through one of them.
            assert_eq!(got, expected, "seed {seed}, {sinks} sinks");
        }
    }
}

/// Everything in the order of its coming, at each of two sinks, whatever is dropped, fails, panics, grows or is shared out.
#[test]
fn total_order_holds_through_replicas_branches_and_faults() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let n = 200 + dice.roll(1_500);
        let (bad, worse, rest) = (dice.roll(n), dice.roll(n), dice.roll(7));
        let (maps, models) = (1 + dice.roll(3) as usize, 1 + dice.roll(3) as usize);
        let (window, batch) = (32 + dice.roll(300) as u32, 1 + dice.roll(16) as usize);
        let (ends, (first, one), (second, two)) = (Ends::new(), collect(), collect());
        let model = handler("m", move |batch: &[&(u64, u64)]| {
            assert!(!batch.iter().any(|x| x.0 == worse), "worse");
            Ok(batch.iter().map(|_| ()).collect())
        })
        .bucketed(|x| x.0 % 3);
        let slow = move |x: (u64, u64)| {
            if x.0.is_multiple_of(97) {
                std::thread::sleep(ms(1));
            }
            if x.0 == bad { Err(StageError::permanent("bad")) } else { Ok(x) }
        };
        let mut supervision = Supervision::default();
        supervision.backoff = ms(2);
        let [left, right] = Pipeline::from(from_iter(0..n)).filter("some", move |x| x % 7 != rest).split("split", |x| (x % 3 == 0) as usize);
        let left = left.flat_map("two", |x| [(x, 0), (x, 1)]).try_map_with("slow", StageOptions::new().replicas(maps), slow);
        let right = right.map("one", |x| (x, 0)).infer("model", RunInference::new(model).batch(1..=batch).replicas(models)).map("out", |p| p.example);
        let [a, b] = Flow::merge([left, right]).tee("tee");
        let mut pipeline =
            a.sink(first).and(b.filter("even", |x| x.0 % 2 == 0).sink(second)).order(Order::Total { window }).supervision(supervision).observe(ends.clone());
        if dice.roll(2) == 0 {
            pipeline = pipeline.memory_budget(3_000);
        }
        let report = pipeline.run().unwrap();
        ends.check(&report);

        let expected = |even: bool| {
            let items = (0..n).filter(move |x| x % 7 != rest && (!even || x % 2 == 0));
            let items = items.filter(move |x| if x % 3 == 0 { *x != worse } else { *x != bad });
            items.flat_map(|x| if x % 3 == 0 { vec![(x, 0)] } else { vec![(x, 0), (x, 1)] }).collect::<Vec<_>>()
        };
        assert_eq!(one.take(), expected(false), "seed {seed}");
        assert_eq!(two.take(), expected(true), "seed {seed}");
    }
}

#[test]
fn total_order_of_several_sources_is_that_of_admission_and_survives_a_panic_in_the_sink() {
    for seed in 0..10 {
        let ends = Ends::new();
        let poison = Dice::new(seed).roll(3_000);
        let last = std::sync::Arc::new(std::sync::Mutex::new([0u64; 2]));
        let seen = last.clone();
        let sources = [0u64, 10_000].map(|from| Pipeline::from(from_iter(from..from + 3_000)));
        let mut supervision = Supervision::default();
        supervision.backoff = ms(2);
        let report = Flow::merge(sources)
            .map_with("share", StageOptions::new().replicas(3), |x| x)
            .sink(for_each(move |x: u64| {
                let mut last = seen.lock().unwrap_or_else(|e| e.into_inner());
                let of = &mut last[(x / 10_000) as usize];
                assert!(*of <= x, "{x} after {of}");
                *of = x;
                assert_ne!(x, poison, "poison");
            }))
            .order(Order::TOTAL)
            .memory_budget(2_000)
            .supervision(supervision)
            .observe(ends.clone())
            .run()
            .unwrap();
        ends.check(&report);
        assert_eq!((report.counts.ok, report.counts.dead_lettered), (5_999, 1));
    }
}

#[test]
fn a_record_that_takes_long_holds_up_a_bounded_window() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Arc::new(std::sync::Mutex::new(held));
    let slow = move |x: u64| {
        if x == 0 {
            // The sender is never used: its end is the signal.
            let _ = held.lock().unwrap().recv();
        }
        x
    };
    let (sink, results) = collect();
    let handle = Pipeline::from(from_iter(0..10_000u64))
        .map_with("slow", StageOptions::new().replicas(2), slow)
        .filter("few", |x| x % 100 == 0)
        .sink(sink)
        .order(Order::Total { window: 64 })
        .spawn()
        .unwrap();
    std::thread::sleep(ms(100));
    // Most of what was let in has ended, and still nothing more is let in.
    assert!(handle.snapshot().counts.admitted <= 64);
    assert!(results.is_empty());
    drop(release);
    let report = handle.join().unwrap();
    assert_eq!(report.counts.ok, 10_000);
    assert_eq!(results.take(), (0..10_000).step_by(100).collect::<Vec<_>>());
}

#[test]
fn total_order_asks_for_one_replica_of_a_sink_and_a_window_for_its_batches() {
    let model = handler("m", |batch: &[&u32]| Ok(vec![0u8; batch.len()]));
    let pipeline = Pipeline::from(from_iter(0..1u32))
        .infer("model", RunInference::new(model).batch(1..=100))
        .sink_with(for_each(|_| {}), SinkOptions::new().replicas(2))
        .order(Order::Total { window: 50 });
    let text = pipeline.run().unwrap_err().to_string();
    for part in ["sink `sink` has 2 replicas, total order needs one", "the window of total order is 50, stage `model` needs 100"] {
        assert!(text.contains(part), "{text}");
    }
}
