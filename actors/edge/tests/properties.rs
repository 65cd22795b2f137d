//! The ledger and the edge against a plain model, over random programs.
#![cfg(not(loom))]

use std::{sync::Arc, thread};

use millstream_edge::{Control, Cost, Credit, Edge, EdgeOptions, Ledger, Limits, MAX_CHUNK, Received, Standing};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Acquire(Cost),
    Drop(usize),
    Release(usize, Cost),
    Absorb(usize, usize),
}

fn costs() -> impl Strategy<Value = Cost> {
    (0u32..6, 0u64..40).prop_map(|(records, bytes)| Cost { records, bytes })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => costs().prop_map(Step::Acquire),
        2 => any::<usize>().prop_map(Step::Drop),
        2 => (any::<usize>(), costs()).prop_map(|(i, c)| Step::Release(i, c)),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(i, j)| Step::Absorb(i, j)),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn credits_out_are_the_sum_of_the_guards(records in 1u32..10, bytes in 1u64..60, program in steps()) {
        let ledger = Arc::new(Ledger::new(Limits { records, bytes }));
        let mut guards: Vec<Credit> = Vec::new();
        for step in program {
            match step {
                Step::Acquire(cost) => {
                    let before = ledger.outstanding();
                    let debit = ledger.debit(cost);
                    let fits = before.records + debit.records <= records && before.bytes + debit.bytes <= bytes;
                    let guard = ledger.clone().try_acquire(cost);
                    prop_assert_eq!(guard.is_some(), fits);
                    guards.extend(guard);
                }
                Step::Drop(i) if !guards.is_empty() => drop(guards.swap_remove(i % guards.len())),
                Step::Release(i, cost) if !guards.is_empty() => {
                    let at = i % guards.len();
                    guards[at].release(cost);
                }
                Step::Absorb(i, j) if guards.len() > 1 => {
                    let taken = guards.swap_remove(i % guards.len());
                    let at = j % guards.len();
                    guards[at].absorb(taken);
                }
                _ => {}
            }
            let sum = guards.iter().fold(Cost::default(), |sum, guard| sum.plus(guard.held()));
            prop_assert_eq!(ledger.outstanding(), sum);
            prop_assert!(sum.records <= records && sum.bytes <= bytes);
        }
        guards.clear();
        prop_assert_eq!(ledger.outstanding(), Cost::default());
    }

    #[test]
    fn an_edge_neither_loses_nor_reorders(
        records in 1u32..80, bytes in 1u64..400, keyed: bool, consumers in 1usize..4,
        chunks in prop::collection::vec((1usize..MAX_CHUNK, 1u64..50), 1..40),
    ) {
        let options = EdgeOptions::new(Limits { records, bytes }).producers(2).consumers(consumers).keyed(keyed);
        let edge = Edge::new(options);
        let lanes = edge.lanes();
        let sent: usize = chunks.iter().map(|chunk| chunk.0).sum::<usize>() * 2;
        let producers: Vec<_> = (0..2u64).map(|producer| {
            let (sender, chunks) = (edge.sender(), chunks.clone());
            thread::spawn(move || {
                let mut next = vec![0u64; lanes];
                for (at, (len, weight)) in chunks.into_iter().enumerate() {
                    let lane = at % lanes;
                    let items: Vec<_> = (0..len as u64).map(|i| (producer, next[lane] + i)).collect();
                    next[lane] += len as u64;
                    let cost = Cost { records: len as u32, bytes: len as u64 * weight };
                    sender.send(lane, items, cost).unwrap();
                }
                sender.finish();
            })
        }).collect();
        let takers: Vec<_> = (0..consumers).map(|consumer| {
            let receiver = edge.receiver(consumer);
            thread::spawn(move || {
                let mut seen = Vec::new();
                loop {
                    match receiver.recv(None) {
                        Received::Chunk(chunk) => seen.extend(chunk.into_parts().0),
                        Received::Control(control) => {
                            assert_eq!(control, Control::EndOfStream);
                            return seen;
                        }
                        Received::TimedOut | Received::Closed => unreachable!("nobody closed"),
                    }
                }
            })
        }).collect();
        for producer in producers {
            producer.join().unwrap();
        }
        let mut total = 0;
        for taker in takers {
            let seen = taker.join().unwrap();
            total += seen.len();
            for producer in 0..2 {
                let of: Vec<_> = seen.iter().filter(|item| item.0 == producer).map(|item| item.1).collect();
                prop_assert!(of.is_sorted(), "a lane was reordered");
                if keyed {
                    prop_assert!(of.iter().enumerate().all(|(at, item)| at as u64 == *item), "a lane lost something");
                }
            }
        }
        prop_assert_eq!(total, sent);
        prop_assert_eq!(edge.outstanding(), Cost::default());
    }
}

proptest! {
    /// Whatever the producers do, nothing that a consumer is told of event time is contradicted by what follows.
    #[test]
    fn nothing_earlier_comes_behind_a_watermark(
        consumers in 1usize..4,
        steps in prop::collection::vec(prop::collection::vec((0i64..50, any::<bool>(), 0usize..8), 1..60), 1..4),
    ) {
        let options = EdgeOptions::new(Limits { records: 16, bytes: 1 << 20 }).producers(steps.len()).consumers(consumers).keyed(true);
        let edge = Edge::new(options);
        let producers: Vec<_> = steps.into_iter().enumerate().map(|(producer, steps)| {
            let sender = edge.sender_of(producer);
            thread::spawn(move || {
                let mut least = 0;
                for (ahead, mark, lane) in steps {
                    if mark {
                        least += ahead / 4;
                        sender.control(Control::Watermark(least)).unwrap();
                    } else {
                        sender.send(lane % consumers, vec![least + ahead], Cost { records: 1, bytes: 1 }).unwrap();
                    }
                }
                sender.finish();
            })
        }).collect();
        let takers: Vec<_> = (0..consumers).map(|consumer| {
            let receiver = edge.receiver(consumer);
            thread::spawn(move || {
                let mut told = i64::MIN;
                loop {
                    match receiver.recv(None) {
                        Received::Chunk(chunk) => assert!(chunk.into_parts().0.iter().all(|time| *time >= told), "earlier than the watermark"),
                        Received::Control(Control::Watermark(time)) => {
                            assert!(time > told, "told twice, or back");
                            told = time;
                        }
                        Received::Control(Control::EndOfStream) => return,
                        _ => unreachable!("nobody closed, barred or was idle"),
                    }
                }
            })
        }).collect();
        for thread in producers.into_iter().chain(takers) {
            thread.join().unwrap();
        }
        prop_assert_eq!(edge.outstanding(), Cost::default());
    }
}

#[test]
fn a_closed_edge_gives_the_items_back() {
    let edge = Edge::new(EdgeOptions::new(Limits { records: 4, bytes: 4 }));
    edge.sender().send(0, vec![1], Cost { records: 1, bytes: 1 }).unwrap();
    edge.close();
    let refused = edge.sender().send(0, vec![7, 8], Cost { records: 2, bytes: 2 }).unwrap_err();
    assert_eq!(refused.0, [7, 8]);
    assert!(matches!(edge.receiver(0).recv(None), Received::Closed));
    assert_eq!(edge.purge(), 1);
    assert_eq!(edge.outstanding(), Cost::default());
}

#[test]
fn the_queue_survives_its_consumer() {
    let edge = Edge::new(EdgeOptions::new(Limits { records: 8, bytes: 8 }));
    edge.sender().send(0, vec![1, 2], Cost { records: 2, bytes: 2 }).unwrap();
    edge.sender().control(Control::Barrier(5)).unwrap();
    drop(edge.receiver(0));
    let Received::Chunk(chunk) = edge.receiver(0).recv(None) else { panic!("the chunk is still there") };
    assert_eq!(chunk.into_parts().0, [1, 2]);
    assert!(matches!(edge.receiver(0).recv(None), Received::Control(Control::Barrier(5))));
}

/// Consumers come and go while records come: each record once, those of a shard in order, and the end for everybody.
#[test]
fn shards_keep_their_order_whoever_comes_and_goes() {
    for seed in 0..12u64 {
        let mut dice = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut roll = move |sides: u64| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            (dice >> 16) % sides
        };
        const CONSUMERS: usize = 4;
        let (shards, count) = (1 + roll(12) as usize, 1_000 + roll(2_000));
        let limits = Limits { records: 8 + roll(200) as u32, bytes: 1 << 20 };
        let edge = Edge::new(EdgeOptions::new(limits).consumers(CONSUMERS).shards(shards, 1 + roll(4) as usize));
        let seen = std::sync::Mutex::new(Vec::new());
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let sender = edge.sender();
            let pushes: Vec<_> = (0..count).map(|item| (roll(shards as u64) as usize, item)).collect();
            scope.spawn(move || {
                for (shard, item) in pushes {
                    sender.send(shard, vec![(shard, item)], Cost { records: 1, bytes: 1 }).unwrap();
                }
                sender.finish();
            });
            let (edge, seen, over) = (&edge, &seen, &over);
            for consumer in 0..CONSUMERS {
                let receiver = edge.receiver(consumer);
                scope.spawn(move || {
                    receiver.enter();
                    loop {
                        if receiver.owes() && receiver.settle() == Standing::Out {
                            // It comes back.
                            receiver.enter();
                        }
                        match receiver.recv(None) {
                            Received::Chunk(chunk) => seen.lock().unwrap().extend(chunk.into_parts().0),
                            Received::Control(Control::EndOfStream) => return over.store(true, std::sync::atomic::Ordering::SeqCst),
                            Received::Control(_) | Received::TimedOut => {}
                            Received::Closed => panic!("nobody closes it"),
                        }
                    }
                });
            }
            while !over.load(std::sync::atomic::Ordering::SeqCst) {
                edge.leave(roll(CONSUMERS as u64) as usize);
                std::thread::sleep(std::time::Duration::from_micros(roll(200)));
            }
        });
        let seen = seen.into_inner().unwrap();
        assert_eq!(seen.len() as u64, count, "seed {seed}");
        for shard in 0..shards {
            assert!(seen.iter().filter(|(of, _)| *of == shard).is_sorted(), "seed {seed}, shard {shard}");
        }
        assert_eq!(edge.outstanding(), Cost::default());
    }
}
