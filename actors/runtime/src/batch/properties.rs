//! Random items through random batchers: what every batch must be, whatever comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use proptest::{collection::vec, prelude::*};

use super::{BatchOptions, Batcher, Decision, Pending};
use crate::envelope::Key;

#[derive(Clone, Debug)]
struct Item {
    bucket: u64,
    key: Option<u64>,
    bytes: u64,
    length: u64,
    priority: u8,
    /// Batches that are asked for before it comes.
    batches: usize,
}

fn item() -> impl Strategy<Value = Item> {
    let key = proptest::option::of(0..4u64);
    (0..3u64, key, 0..50u64, 1..200u64, 0..3u8, prop_oneof![8 => Just(0usize), 1 => Just(1)]).prop_map(|(bucket, key, bytes, length, priority, batches)| Item {
        bucket,
        key,
        bytes,
        length,
        priority,
        batches,
    })
}

fn options() -> impl Strategy<Value = BatchOptions> {
    let padding = prop_oneof![Just(0.0), Just(0.1), Just(1.0), Just(f64::INFINITY)];
    (1..10usize, 0..10usize, 20..400u64, 50..2_000u64, padding, 1..20u64, any::<(bool, bool)>()).prop_map(
        |(fewest, more, max_bytes, max_tokens, max_padding, pad_to, (idle_dispatch, one_per_key))| BatchOptions {
            items: fewest..=fewest + more,
            max_bytes,
            max_tokens,
            max_padding,
            pad_to,
            idle_dispatch,
            one_per_key,
            ..BatchOptions::default()
        },
    )
}

proptest! {
    #[test]
    fn every_batch_keeps_every_limit_and_every_order(items in vec(item(), 1..120), options in options()) {
        let start = Instant::now();
        let mut now = start;
        let mut batcher = Batcher::new(options.clone());
        let mut left: BTreeMap<usize, usize> = BTreeMap::new();
        let mut latest: BTreeMap<u64, usize> = BTreeMap::new();
        let mut check = |decision: Decision<usize>, left: &mut BTreeMap<usize, usize>| {
            let Decision::Release(_, batch) = decision else { return Ok(false) };
            let n = batch.len() as u64;
            prop_assert!(n > 0 && batch.len() <= *options.items.end());
            prop_assert!(batch.iter().all(|p| p.bucket == batch[0].bucket), "buckets mix");
            let longest = batch.iter().map(|p| p.length).max().unwrap_or(0);
            let sum: u64 = batch.iter().map(|p| p.length).sum();
            if n > 1 {
                prop_assert!(batch.iter().map(|p| p.bytes).sum::<u64>() <= options.max_bytes);
                prop_assert!(n * longest.next_multiple_of(options.pad_to) <= options.max_tokens);
                prop_assert!((n * longest) as f64 <= sum as f64 * (1.0 + options.max_padding) + 1e-9);
            }
            if options.one_per_key {
                let keys: BTreeSet<_> = batch.iter().filter_map(|p| p.key).collect();
                prop_assert_eq!(keys.len(), batch.iter().filter(|p| p.key.is_some()).count(), "a key twice");
            }
            for pending in &batch {
                prop_assert!(left.remove(&pending.item).is_some(), "released twice");
                if let Some(Key(key)) = pending.key {
                    let before = latest.insert(key, pending.item);
                    prop_assert!(before.is_none_or(|before| before < pending.item), "key {key} out of order");
                }
            }
            Ok(true)
        };
        for (number, item) in items.iter().enumerate() {
            let Item { bucket, key, bytes, length, priority, batches } = item.clone();
            for _ in 0..batches {
                check(batcher.decide(now, usize::MAX, |_| Duration::ZERO, false), &mut left)?;
            }
            now += Duration::from_millis(1);
            batcher.insert(Pending { item: number, bucket, key: key.map(Key), bytes, length, priority, arrived: now, deadline: None, mortal: false });
            left.insert(number, 0);
            prop_assert_eq!(batcher.len(), left.len());
        }
        while check(batcher.decide(now, usize::MAX, |_| Duration::ZERO, true), &mut left)? {}
        prop_assert!(left.is_empty(), "never released: {left:?}");
    }
}
