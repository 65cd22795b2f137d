//! Every interleaving of the credit ledger, of its wake protocol, of an edge's close, and of an exchange of copies.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p millstream-edge --release --test loom`
#![cfg(loom)]

use std::sync::Arc;

use loom::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};
use millstream_edge::{AckRing, Closed, Control, Cost, Edge, EdgeOptions, Ledger, Limits, Lockers, Received, Standing};

fn cost(records: u32, bytes: u64) -> Cost {
    Cost { records, bytes }
}

fn explore(check: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(check);
}

#[test]
fn a_waiter_is_woken_and_the_limit_holds() {
    explore(|| {
        let ledger = Arc::new(Ledger::new(Limits { records: 1, bytes: 10 }));
        let inside = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (ledger, inside) = (ledger.clone(), inside.clone());
                thread::spawn(move || {
                    let credit = ledger.acquire(cost(1, 6)).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "the limit was passed");
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(credit);
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(ledger.outstanding(), Cost::default());
        assert!(!ledger.contended());
    });
}

#[test]
fn bytes_alone_can_make_one_wait_and_an_oversized_item_passes_alone() {
    explore(|| {
        let ledger = Arc::new(Ledger::new(Limits { records: 8, bytes: 10 }));
        let first = ledger.clone().acquire(cost(1, 4)).unwrap();
        let large = {
            let ledger = ledger.clone();
            thread::spawn(move || {
                let credit = ledger.clone().acquire(cost(1, 1_000)).unwrap();
                assert_eq!(ledger.outstanding(), cost(1, 10), "an oversized item is not alone");
                drop(credit);
            })
        };
        drop(first);
        large.join().unwrap();
        assert_eq!(ledger.outstanding(), Cost::default());
    });
}

#[test]
fn partial_releases_wake_in_the_order_of_asking() {
    explore(|| {
        let ledger = Arc::new(Ledger::new(Limits { records: 2, bytes: 2 }));
        let mut held = ledger.clone().acquire(cost(2, 2)).unwrap();
        let waiter = {
            let ledger = ledger.clone();
            thread::spawn(move || drop(ledger.acquire(cost(2, 2)).unwrap()))
        };
        held.release(cost(1, 1));
        held.release(cost(1, 1));
        assert_eq!(held.held(), Cost::default());
        waiter.join().unwrap();
        assert_eq!(ledger.outstanding(), Cost::default());
    });
}

#[test]
fn closing_wakes_a_waiter() {
    explore(|| {
        let ledger = Arc::new(Ledger::new(Limits { records: 1, bytes: 1 }));
        let held = ledger.clone().acquire(cost(1, 1)).unwrap();
        let waiter = {
            let ledger = ledger.clone();
            thread::spawn(move || ledger.acquire(cost(1, 1)).err())
        };
        ledger.close();
        assert_eq!(waiter.join().unwrap(), Some(Closed));
        drop(held);
        assert_eq!(ledger.outstanding(), Cost::default());
    });
}

#[test]
fn an_edge_delivers_in_order_through_one_credit_and_then_ends() {
    explore(|| {
        let edge = Edge::new(EdgeOptions::new(Limits { records: 1, bytes: 1 }));
        let producer = {
            let sender = edge.sender();
            thread::spawn(move || {
                for item in 0..2 {
                    sender.send(0, vec![item], cost(1, 1)).unwrap();
                }
                sender.finish();
            })
        };
        let receiver = edge.receiver(0);
        let mut seen = Vec::new();
        loop {
            match receiver.recv(None) {
                Received::Chunk(chunk) => {
                    let (items, credit) = chunk.into_parts();
                    seen.extend(items);
                    drop(credit);
                }
                Received::Control(_) => break,
                Received::TimedOut | Received::Closed => unreachable!("nobody closed"),
            }
        }
        producer.join().unwrap();
        assert_eq!(seen, [0, 1]);
        assert_eq!(edge.outstanding(), Cost::default());
    });
}

#[test]
fn closing_an_edge_wakes_both_ends_and_restores_every_credit() {
    explore(|| {
        let edge = Edge::new(EdgeOptions::new(Limits { records: 1, bytes: 1 }));
        let producer = {
            let sender = edge.sender();
            thread::spawn(move || while sender.send(0, vec![()], cost(1, 1)).is_ok() {})
        };
        let consumer = {
            let receiver = edge.receiver(0);
            // Takes one chunk at most, so that the producer waits unless the close comes first.
            thread::spawn(move || drop(receiver.recv(None)))
        };
        edge.close();
        consumer.join().unwrap();
        producer.join().unwrap();
        edge.purge();
        assert_eq!(edge.outstanding(), Cost::default());
    });
}

/// A user that comes and works while a value is published: it never goes back to an older value, every use is of one
/// value, and once the publisher goes on, nobody has the old one.
#[test]
fn copies_are_exchanged_between_uses_whoever_comes_meanwhile() {
    explore(|| {
        let lockers = Arc::new(Lockers::new(1usize));
        let early = lockers.enrol(|v| Ok::<_, ()>(*v)).unwrap();
        let users: Vec<_> = [Some(early), None]
            .into_iter()
            .map(|locker| {
                let lockers = lockers.clone();
                thread::spawn(move || {
                    let locker = locker.unwrap_or_else(|| lockers.enrol(|v| Ok::<_, ()>(*v)).unwrap());
                    let first = *locker.open();
                    let second = *locker.open();
                    assert!(first.unwrap() <= second.unwrap(), "an old value came back");
                    locker
                })
            })
            .collect();
        assert_eq!(lockers.publish(2, |_| Some(2)), 1);
        let late = lockers.enrol(|v| Ok::<_, ()>(*v)).unwrap();
        assert_eq!(*late.open(), Some(2));
        for user in users {
            assert_eq!(*user.join().unwrap().open(), Some(2), "somebody kept the old value");
        }
    });
}

#[test]
fn a_record_that_is_done_is_seen_by_who_waits_for_it() {
    explore(|| {
        let ring = Arc::new(AckRing::new(64));
        let setters: Vec<_> = (0..2)
            .map(|slot| {
                let ring = ring.clone();
                thread::spawn(move || ring.done(slot))
            })
            .collect();
        // In the order of the slots, as a source's partition takes them.
        let mut next = 0;
        ring.wait(|| {
            while next < 2 && ring.take(next) {
                next += 1;
            }
            next == 2
        });
        for setter in setters {
            setter.join().unwrap();
        }
        assert!(!ring.take(0) && !ring.take(1), "a bit was taken twice");
    });
}

#[test]
fn two_may_wait_for_records_and_none_sleeps_on() {
    explore(|| {
        let ring = Arc::new(AckRing::new(64));
        let taken = Arc::new(AtomicUsize::new(0));
        let waiter = {
            let (ring, taken) = (ring.clone(), taken.clone());
            thread::spawn(move || ring.wait(|| ring.take(0) && taken.fetch_add(1, Ordering::SeqCst) == 0))
        };
        ring.done(0);
        ring.poke();
        waiter.join().unwrap();
        assert_eq!(taken.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn the_least_watermark_is_told_behind_what_came_before_it() {
    explore(|| {
        let edge = Edge::new(EdgeOptions::new(Limits { records: 2, bytes: 8 }).producers(2));
        let producers: Vec<_> = [(0, 5), (1, 3)]
            .into_iter()
            .map(|(producer, time)| {
                let sender = edge.sender_of(producer);
                thread::spawn(move || {
                    sender.send(0, vec![time - 1], cost(1, 1)).unwrap();
                    sender.control(Control::Watermark(time)).unwrap();
                })
            })
            .collect();
        let receiver = edge.receiver(0);
        let mut seen = 0;
        loop {
            match receiver.recv(None) {
                Received::Chunk(chunk) => seen += chunk.len(),
                Received::Control(control) => {
                    assert_eq!((control, seen), (Control::Watermark(3), 2));
                    break;
                }
                Received::TimedOut | Received::Closed => unreachable!("nobody closed"),
            }
        }
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

#[test]
fn a_barrier_comes_behind_what_was_before_it_at_every_producer() {
    explore(|| {
        let edge = Edge::new(EdgeOptions::new(Limits { records: 8, bytes: 64 }).producers(2));
        let producers: Vec<_> = (0..2)
            .map(|producer| {
                let sender = edge.sender_of(producer);
                thread::spawn(move || {
                    if producer == 0 {
                        sender.send(0, vec![1], cost(1, 1)).unwrap();
                    }
                    sender.control(Control::Barrier(9)).unwrap();
                    if producer == 1 {
                        sender.send(0, vec![2], cost(1, 1)).unwrap();
                    }
                    sender.finish();
                })
            })
            .collect();
        let receiver = edge.receiver(0);
        let mut seen = Vec::new();
        loop {
            match receiver.recv(None) {
                Received::Chunk(chunk) => seen.extend(chunk.into_parts().0),
                Received::Control(Control::Barrier(9)) => seen.push(0),
                Received::Control(Control::EndOfStream) => break,
                _ => {}
            }
        }
        assert_eq!(seen, [1, 0, 2]);
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

/// A shard changes hands while records come: none is lost, none overtakes, and who waits is woken.
#[test]
fn a_shard_changes_hands_between_two_records() {
    explore(|| {
        let limits = Limits { records: 4, bytes: 4 };
        let edge = Edge::new(EdgeOptions::new(limits).consumers(2).shards(2, 1));
        let seen = Arc::new(loom::sync::Mutex::new(Vec::new()));
        let producer = {
            let sender = edge.sender();
            thread::spawn(move || {
                // The second consumer's shard, once it is in.
                for item in 0..2 {
                    sender.send(1, vec![item], cost(1, 1)).unwrap();
                }
                sender.finish();
            })
        };
        let consume = |consumer: usize| {
            let (receiver, seen) = (edge.receiver(consumer), seen.clone());
            move || {
                receiver.enter();
                loop {
                    if receiver.owes() {
                        assert_eq!(receiver.settle(), Standing::In);
                    }
                    match receiver.recv(None) {
                        Received::Chunk(chunk) => seen.lock().unwrap().extend(chunk.into_parts().0),
                        Received::Control(Control::EndOfStream) => return,
                        Received::Control(_) | Received::TimedOut => {}
                        Received::Closed => panic!("nobody closes it"),
                    }
                }
            }
        };
        let first = thread::spawn(consume(0));
        consume(1)();
        first.join().unwrap();
        producer.join().unwrap();
        assert_eq!(*seen.lock().unwrap(), [0, 1]);
        assert_eq!(edge.outstanding(), Cost::default());
    });
}

/// A consumer that is asked to leave gives its shards away and finds out that it is to stop, wherever it waits.
#[test]
fn a_consumer_leaves_and_its_shards_are_served_by_the_other() {
    explore(|| {
        let edge = Edge::new(EdgeOptions::new(Limits { records: 4, bytes: 4 }).consumers(2).shards(2, 2));
        let sender = edge.sender();
        sender.send(1, vec![7], cost(1, 1)).unwrap();
        let leaver = {
            let receiver = edge.receiver(1);
            thread::spawn(move || {
                let mut taken = 0;
                loop {
                    if receiver.owes() && receiver.settle() == Standing::Out {
                        return taken;
                    }
                    if let Received::Chunk(_) = receiver.recv(None) {
                        taken += 1;
                    }
                }
            })
        };
        assert!(edge.leave(1) && !edge.leave(0));
        let taken = leaver.join().unwrap();
        sender.finish();
        let receiver = edge.receiver(0);
        let mut rest = 0;
        while let Received::Chunk(_) = receiver.recv(None) {
            rest += 1;
        }
        assert_eq!(taken + rest, 1);
        assert_eq!(edge.outstanding(), Cost::default());
    });
}
