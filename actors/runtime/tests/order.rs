//! Random pipelines against a single-threaded model: the same multiset, the same sequence within each key.

mod oracle;

use std::collections::BTreeMap;

use millstream_runtime::{Pipeline, RunInference, SinkOptions, StageError, StageOptions, Supervision, collect, from_iter, handler, ms};
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
