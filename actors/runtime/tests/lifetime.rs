//! Deadlines, cancelling, draining, aborting.

mod oracle;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use millstream_runtime::{
    CancelToken, Mode, OnDrop, Pipeline, PushError, Record, RunInference, StageState, channel, collect, for_each, from_iter, handler, ms,
};
use oracle::{Dice, Ends};

#[test]
fn an_expired_or_cancelled_record_is_never_executed() {
    for seed in 0..20 {
        let mut dice = Dice::new(seed);
        let (ends, (push, source)) = (Ends::new(), channel(64));
        let model = handler("m", |batch: &[&(u64, Instant, CancelToken)]| {
            thread::sleep(ms(2));
            Ok(batch.iter().map(|_| ()).collect())
        });
        let late = Arc::new(AtomicU64::new(0));
        let seen = late.clone();
        let handle = Pipeline::from(source)
            .map("check", move |record: (u64, Instant, CancelToken)| {
                // Between the runtime's look at the clock and ours little time may pass, but not much.
                if Instant::now() > record.1 + ms(20) {
                    seen.fetch_add(1, Ordering::SeqCst);
                }
                record
            })
            .infer("model", RunInference::new(model).batch(1..=4))
            .sink(for_each(|_| {}))
            .observe(ends.clone())
            .spawn()
            .unwrap();
        let mut tokens = Vec::new();
        for i in 0..200 {
            let deadline = Instant::now() + ms(dice.roll(2) * 5_000 + dice.roll(10));
            let token = CancelToken::new();
            push.send(Record::new((i, deadline, token.clone())).deadline(deadline).cancel(token.clone())).unwrap();
            tokens.push(token);
            if dice.roll(4) == 0 {
                tokens[dice.roll(i + 1) as usize].cancel();
            }
        }
        let report = handle.drain().unwrap();
        ends.check(&report);
        assert_eq!(report.counts.admitted, 200, "seed {seed}");
        assert!(report.counts.expired > 0 && report.counts.ok > 0, "seed {seed}: {report}");
        assert_eq!(late.load(Ordering::SeqCst), 0, "seed {seed}");
    }
}

#[test]
fn a_record_expires_on_time_while_its_stage_is_busy() {
    let (ends, (push, source)) = (Ends::new(), channel(8));
    let handle = Pipeline::from(source).map("busy", |wait: u64| thread::sleep(ms(wait))).sink(for_each(|()| {})).observe(ends.clone()).spawn().unwrap();
    push.send(Record::new(600)).unwrap();
    thread::sleep(ms(50));
    push.send(Record::new(0).deadline(Instant::now() + ms(50))).unwrap();
    thread::sleep(ms(250));
    let counts = handle.snapshot().counts;
    assert_eq!((counts.expired, counts.ok), (1, 0), "the timer waits for the stage");
    let report = handle.drain().unwrap();
    ends.check(&report);
    assert_eq!((report.counts.expired, report.counts.ok), (1, 1));
}

#[test]
fn a_drain_finishes_what_was_let_in_and_loses_nothing() {
    for seed in 0..20 {
        let (ends, (push, source), (sink, results)) = (Ends::new(), channel(16), collect());
        let model = handler("m", |batch: &[&u64]| Ok(batch.iter().map(|x| **x).collect()));
        let handle = Pipeline::from(source)
            .map("a", |x| x)
            .infer("model", RunInference::new(model).batch(4..=32).max_delay(Duration::from_secs(60)))
            .map("b", |p| p.inference)
            .sink(sink)
            .observe(ends.clone())
            .spawn()
            .unwrap();
        let pushers: Vec<_> = (0..3u64)
            .map(|pusher| {
                let push = push.clone();
                thread::spawn(move || {
                    let mut sent = Vec::new();
                    for i in 0.. {
                        match push.send(Record::new(pusher << 32 | i)) {
                            Ok(()) => sent.push(pusher << 32 | i),
                            Err(PushError::Closed(_)) => break,
                            Err(other) => panic!("{other}"),
                        }
                    }
                    sent
                })
            })
            .collect();
        thread::sleep(ms(Dice::new(seed).roll(8)));
        let report = handle.drain().unwrap();
        ends.check(&report);
        let mut sent: Vec<_> = pushers.into_iter().flat_map(|pusher| pusher.join().unwrap()).collect();
        let mut got = results.take();
        sent.sort_unstable();
        got.sort_unstable();
        assert_eq!(got, sent, "seed {seed}");
        assert_eq!(report.counts.ok, sent.len() as u64);
        assert!(report.snapshot.stages.iter().all(|stage| stage.state == StageState::Stopped));
    }
}

#[test]
fn an_abort_ends_at_once_and_accounts_for_everything() {
    let ends = Ends::new();
    let handle = Pipeline::from(from_iter(0u64..))
        .map("a", |x| x)
        .flat_map("b", |x| [x, x])
        .sink(for_each(|_| thread::sleep(Duration::from_micros(100))))
        .observe(ends.clone())
        .spawn()
        .unwrap();
    thread::sleep(ms(50));
    let start = Instant::now();
    let report = handle.abort().unwrap();
    assert!(start.elapsed() < ms(500));
    ends.check(&report);
    assert!(report.counts.cancelled > 0 && report.counts.ok > 0);
}

#[test]
fn a_shutdown_ends_by_its_deadline_and_says_what_is_left() {
    let (push, source) = channel(8);
    let release = Arc::new(AtomicBool::new(false));
    let stuck = release.clone();
    let handle = Pipeline::from(source)
        .map("stuck", move |_: u32| {
            while !stuck.load(Ordering::SeqCst) {
                thread::sleep(ms(5))
            }
        })
        .sink(for_each(|()| {}))
        .spawn()
        .unwrap();
    for i in 0..4 {
        push.send(Record::new(i)).unwrap();
    }
    thread::sleep(ms(30));
    let start = Instant::now();
    let report = handle.shutdown(Mode::Drain, ms(300)).unwrap();
    assert!((ms(250)..ms(600)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(report.residue.threads, 1);
    assert_eq!(report.counts.in_flight(), 4);
    release.store(true, Ordering::SeqCst);
}

#[test]
fn a_second_signal_turns_a_drain_into_an_abort() {
    let ends = Ends::new();
    let handle = Pipeline::from(from_iter(0u64..10_000)).sink(for_each(|_| thread::sleep(ms(5)))).observe(ends.clone()).spawn().unwrap();
    let remote = handle.remote();
    thread::sleep(ms(30));
    remote.drain();
    thread::sleep(ms(30));
    remote.abort();
    let start = Instant::now();
    let report = handle.join().unwrap();
    assert!(start.elapsed() < ms(500));
    ends.check(&report);
    remote.abort();
}

#[test]
fn a_dropped_handle_does_as_asked() {
    for (on_drop, all) in [(OnDrop::Abort, false), (OnDrop::Drain, true)] {
        let ((push, source), (sink, results)) = (channel(1_000), collect());
        let slow = |x| {
            thread::sleep(ms(1));
            x
        };
        let handle = Pipeline::from(source).map("slow", slow).sink(sink).on_drop(on_drop).spawn().unwrap();
        (0..200u32).for_each(|i| push.send(Record::new(i)).unwrap());
        drop(handle);
        assert_eq!(results.len() == 200, all);
        assert!(matches!(push.send(Record::new(0)), Err(PushError::Closed(_))));
    }
}

#[test]
fn a_full_door_rejects_and_counts() {
    let (ends, (push, source)) = (Ends::new(), channel(4));
    let handle = Pipeline::from(source).sink(for_each(|_: u32| thread::sleep(ms(2)))).edge_records(4).memory_budget(64).observe(ends.clone()).spawn().unwrap();
    let refused = (0..100).filter(|i| matches!(push.try_send(Record::new(*i)), Err(PushError::Full(_)))).count();
    let report = handle.drain().unwrap();
    ends.check(&report);
    assert!(refused > 0);
    assert_eq!((report.counts.rejected, report.counts.ok), (refused as u64, 100 - refused as u64));
}
