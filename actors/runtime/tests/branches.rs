//! Branches, joins, cascades, ensembles and shadows, one by one.

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
    Ensemble, Flow, Join, Key, Lone, ManualClock, Out, Pipeline, Record, RunInference, StageError, StageOptions, Supervision, channel, collect, for_each,
    from_iter, handler, ms,
};
use oracle::Ends;

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items
}

#[test]
fn copies_go_everywhere_and_the_record_has_ended_when_all_have() {
    let ends = Ends::new();
    let ((a, left), (b, right)) = (collect(), collect());
    let [one, two] = Pipeline::from(from_iter(0..100u32)).map("share", Arc::new).tee("tee");
    let report = one
        .map("left", |x| *x)
        .sink(a)
        .and(two.try_map("right", |x| if *x == 7 { Err(StageError::permanent("seven")) } else { Ok(*x * 2) }).sink(b))
        .observe(ends.clone())
        .run()
        .unwrap();
    ends.check(&report);
    assert_eq!(left.take(), (0..100).collect::<Vec<_>>());
    assert_eq!(right.take(), (0..100).filter(|x| *x != 7).map(|x| x * 2).collect::<Vec<_>>());
    // The worst end of any copy is the record's.
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (99, 1));
    assert_eq!(report.snapshot.stages.iter().map(|s| &*s.name).collect::<Vec<_>>(), ["source", "share", "tee", "left", "sink", "right", "sink-2"]);
}

#[test]
fn a_branch_that_does_not_exist_is_a_dead_letter() {
    let [a, b] = Pipeline::from(from_iter(0..10u32)).split("by", |x| if *x == 3 { 9 } else { (*x % 2) as usize });
    let report = Flow::merge([a, b]).sink(for_each(|_| {})).run().unwrap();
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (9, 1));
    assert_eq!(report.dead_letters[0].fault.to_string(), "branch 9 was chosen, there are 2");
}

#[test]
fn a_way_that_leads_nowhere_is_refused() {
    let [a, _] = Pipeline::from(from_iter(0..10u32)).tee("tee");
    let refused = a.sink(for_each(|_| {})).run().unwrap_err().to_string();
    assert!(refused.contains("way 1 out of stage `tee` leads to no sink"), "{refused}");
}

#[test]
fn side_results_and_their_record_share_one_end() {
    let ends = Ends::new();
    let ((good, numbers), (bad, words)) = (collect(), collect());
    let parse = |word: &str| [word.parse::<u32>().map_or_else(|_| Out::Side(word.to_owned()), Out::Main)];
    let (main, side) = Pipeline::from(from_iter(["1", "two", "3"])).fork("parse", parse);
    let report = main.sink(good).and(side.sink(bad)).observe(ends.clone()).run().unwrap();
    ends.check(&report);
    assert_eq!((numbers.take(), words.take()), (vec![1, 3], vec!["two".to_owned()]));
    assert_eq!(report.counts.ok, 3);
}

#[test]
fn several_sources_are_one_stream_and_are_told_apart() {
    let ends = Ends::new();
    let (sink, all) = collect();
    let a = Pipeline::from(from_iter(0..50u32));
    let b = Pipeline::from(from_iter(100..150u32));
    let report =
        Flow::merge([a, b]).try_map("odd", |x| if x == 120 { Err(StageError::permanent("no")) } else { Ok(x) }).sink(sink).observe(ends.clone()).run().unwrap();
    ends.check(&report);
    assert_eq!(sorted(all.take()), (0..50).chain(100..120).chain(121..150).collect::<Vec<_>>());
    assert_eq!(&*report.dead_letters[0].source, "source-2");
}

#[test]
fn partners_meet_by_key_and_the_late_are_alone() {
    let ends = Ends::new();
    let ((push_left, left), (push_right, right), clock) = (channel(64), channel(64), ManualClock::new());
    let ((to_pairs, pairs), (to_alone, alone)) = (collect(), collect());
    let (joined, lonely) = Pipeline::from(left.keyed()).join_or("join", Pipeline::from(right.keyed()), Join::by_key(ms(200)));
    let handle = joined.sink(to_pairs).and(lonely.sink(to_alone)).clock(clock.clone()).observe(ends.clone()).spawn().unwrap();
    for key in 0..20u64 {
        push_left.send(Record::new(key).key(Key(key))).unwrap();
    }
    // Keys 10 to 19 come in time, and so does a second 10, for which there is no other left one.
    for key in (10..20).chain([10]) {
        push_right.send(Record::new(key as u8).key(Key(key))).unwrap();
    }
    push_right.send(Record::new(99)).unwrap();
    let start = Instant::now();
    while handle.snapshot().stages[2].records_in < 32 && start.elapsed() < Duration::from_secs(10) {
        thread::sleep(ms(1));
    }
    thread::sleep(ms(50));
    clock.advance(ms(201));
    while alone.len() < 11 && start.elapsed() < Duration::from_secs(20) {
        thread::sleep(ms(1));
    }
    // Now the partner of 0 comes, too late.
    push_right.send(Record::new(0).key(Key(0))).unwrap();
    let report = handle.drain().unwrap();
    ends.check(&report);
    assert_eq!(pairs.take(), (10..20).map(|key| (key, key as u8)).collect::<Vec<_>>());
    let alone = alone.take();
    let lefts: Vec<_> = alone.iter().filter_map(|lone| if let Lone::Left(x) = lone { Some(*x) } else { None }).collect();
    let rights: Vec<_> = alone.iter().filter_map(|lone| if let Lone::Right(x) = lone { Some(*x) } else { None }).collect();
    assert_eq!((sorted(lefts), rights), ((0..10).collect(), vec![10, 0]));
    assert_eq!(report.counts.dead_lettered, 1);
    assert!(report.dead_letters[0].fault.to_string().contains("without a key"));
}

#[test]
fn joined_records_end_together() {
    let ends = Ends::new();
    let source = || from_iter(0..10u32).keyed_by(|x| Key(u64::from(*x)));
    let report = Pipeline::from(source())
        .join("join", Pipeline::from(source()), Join::by_key(ms(60_000)))
        .flat_map("both", |(a, b)| [a, b])
        .try_map("try", |x| if x == 4 { Err(StageError::permanent("four")) } else { Ok(x) })
        .sink(for_each(|_| {}))
        .observe(ends.clone())
        .run()
        .unwrap();
    ends.check(&report);
    // Both records of the pair that failed are dead letters' records.
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (18, 2));
}

#[test]
fn without_a_side_way_the_late_are_dead_letters() {
    let ends = Ends::new();
    let [a, b] = Pipeline::from(from_iter(0..10u32)).tee("tee");
    let (sink, pairs) = collect();
    let report = a.join("join", b.filter("even", |x| x % 2 == 0), Join::by_record(ms(50))).sink(sink).observe(ends.clone()).run().unwrap();
    ends.check(&report);
    assert_eq!(sorted(pairs.take()), [0, 2, 4, 6, 8].map(|x| (x, x)));
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (5, 5));
    assert_eq!(report.dead_letters[0].fault.to_string(), "no partner came in time");
}

#[test]
fn an_ensemble_needs_enough_answers_in_time() {
    let ends = Ends::new();
    let slow = |x: u32| {
        if x == 3 {
            thread::sleep(ms(400));
        }
        x
    };
    let fails = |x: u32| if x.is_multiple_of(2) { Err(StageError::permanent("even")) } else { Ok(x + 100) };
    let ask = Ensemble::new(2, ms(150))
        .branch(move |flow| flow.map_with("slow", StageOptions::new().replicas(4), slow))
        .branch(move |flow| flow.try_map("fails", fails))
        .branch(|flow| flow.map("sure", |x| x + 200));
    let (sink, results) = collect();
    let report = Pipeline::from(from_iter(0..8u32))
        .ensemble("ask", ask, |asked| {
            assert_ne!(asked.example, 5, "five");
            (asked.example, asked.answers.len())
        })
        .sink(sink)
        .clock(ManualClock::new())
        .observe(ends.clone())
        .run()
        .unwrap();
    ends.check(&report);
    let results = sorted(results.take());
    // Two answers of three are enough, so one that fails or is late costs nothing; what the combining code does to a record
    // is its own.
    assert_eq!(results.iter().map(|(x, _)| *x).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 6, 7]);
    assert!(results.iter().all(|(_, answers)| *answers >= 2));
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (7, 1));
    assert!(report.dead_letters.iter().any(|letter| letter.fault.to_string().contains("five")));

    // One branch, which never answers.
    let ask = Ensemble::new(1, ms(40)).branch(|flow: Flow<u32>| flow.filter("never", |_| false));
    let ends = Ends::new();
    let report = Pipeline::from(from_iter(0..3u32)).ensemble("ask", ask, |_| ()).sink(for_each(|()| {})).observe(ends.clone()).run().unwrap();
    ends.check(&report);
    assert_eq!(report.counts.dead_lettered, 3);
    assert_eq!(report.dead_letters[0].fault.to_string(), "too few answers came in time");
}

#[test]
fn a_cascade_asks_the_costly_model_only_where_the_gate_says_so() {
    let ends = Ends::new();
    let asked = Arc::new(AtomicU64::new(0));
    let seen = asked.clone();
    let cheap = handler("cheap", |batch: &[&u64]| Ok(batch.iter().map(|x| **x % 10).collect()));
    let costly = handler("costly", move |batch: &[&u64]| {
        seen.fetch_add(batch.len() as u64, Ordering::SeqCst);
        assert!(!batch.contains(&&69), "poison");
        Ok(batch.iter().map(|x| **x + 1_000).collect())
    });
    let (sink, results) = collect();
    let mut supervision = Supervision::default();
    supervision.backoff = ms(5);
    let report = Pipeline::from(from_iter(0..200u64))
        .cascade("label", RunInference::new(cheap).batch(1..=16), |p| p.inference == 9, RunInference::new(costly).batch(1..=4))
        .map("out", |p| (p.example, p.inference, p.model.name.clone()))
        .sink(sink)
        .supervision(supervision)
        .observe(ends.clone())
        .run()
        .unwrap();
    ends.check(&report);
    let expected = (0..200).filter(|x| *x != 69).map(|x| match x % 10 {
        9 => (x, x + 1_000, "costly".to_owned()),
        rest => (x, rest, "cheap".to_owned()),
    });
    assert_eq!(sorted(results.take()), expected.collect::<Vec<_>>());
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (199, 1));
}

#[test]
fn a_shadow_never_holds_up_the_stream_and_its_end_does_not_count() {
    let ends = Ends::new();
    let release = Arc::new(AtomicBool::new(false));
    let stuck = release.clone();
    let (main, shadow) = Pipeline::from(from_iter(0..5_000u64)).shadow("shadow");
    let done = Arc::new(AtomicU64::new(0));
    let counted = done.clone();
    let wait = move |x: u64| {
        while !stuck.load(Ordering::SeqCst) {
            thread::sleep(ms(1));
        }
        if x.is_multiple_of(2) { Err(StageError::permanent("nobody cares")) } else { Ok(x) }
    };
    let sink = for_each(move |_: u64| {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let handle = main
        .sink(sink)
        .and(shadow.try_map("stuck", wait).flat_map("two", |x| [x, x]).sink(for_each(|_| {})))
        .memory_budget(4_096)
        .observe(ends.clone())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while done.load(Ordering::SeqCst) < 5_000 && start.elapsed() < Duration::from_secs(10) {
        thread::sleep(ms(1));
    }
    // The shadow has not done a thing yet, and all records have ended.
    assert_eq!(done.load(Ordering::SeqCst), 5_000);
    let snapshot = handle.snapshot();
    assert!(snapshot.stages[1].shed > 4_000, "{} copies were thrown away", snapshot.stages[1].shed);
    release.store(true, Ordering::SeqCst);
    let report = handle.join().unwrap();
    ends.check(&report);
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (5_000, 0));
    let shadowed = report.snapshot.stages.iter().find(|stage| stage.name == "stuck").unwrap();
    assert!(shadowed.dead_letters > 0, "the shadow's own letters are written");
}

#[test]
fn the_same_key_always_goes_the_same_way() {
    let share = |salt: u64| {
        let ((a, left), (b, right)) = (collect(), collect());
        let [one, two] = Pipeline::from(from_iter(0..10_000u64).keyed_by(|x| Key(x / 2))).ab("ab", salt, [3, 1]);
        one.sink(a).and(two.sink(b)).run().unwrap();
        (left.take(), right.take())
    };
    let (left, right) = share(1);
    assert_eq!(share(1), (left.clone(), right.clone()));
    assert!((7_200..7_800).contains(&left.len()), "{} of 10,000 at three to one", left.len());
    assert!(left.chunks(2).all(|pair| pair[0] / 2 == pair[1] / 2), "a key was divided");
    assert!(right.is_sorted() && left.is_sorted());
    let (other, _) = share(2);
    let same = other.iter().filter(|x| left.binary_search(x).is_ok()).count();
    // Independent salts agree on 9/16 of all.
    assert!((5_200..6_050).contains(&same), "{same} stay under another salt");
}

#[test]
fn the_budget_reserves_the_sum_over_copies_and_the_largest_of_choices() {
    // One record at a time fits: 100 bytes · (3 + 2 · max(1, 4)) = 1100.
    let ends = Ends::new();
    let [a, b] = Pipeline::from(from_iter(0..20u32).weighed(|_| 100)).tee("tee");
    let [c, d] = b.map_with("twice", StageOptions::new().expansion(2.0), |x| x).split("choose", |x| (*x % 2) as usize);
    let a = a.map_with("thrice", StageOptions::new().expansion(3.0), |x| x);
    let d = d.map_with("four", StageOptions::new().expansion(4.0), |x| x);
    let report = Flow::merge([a, c, d]).sink(for_each(|_| thread::sleep(Duration::from_micros(200)))).memory_budget(2_250).observe(ends.clone()).run().unwrap();
    ends.check(&report);
    assert_eq!(report.counts.ok, 20);
    assert_eq!(report.snapshot.peak_reserved_bytes, 2_200, "two records of 1100 bytes fit");
    assert_eq!(report.snapshot.overdraft_bytes, 0);
}

#[test]
fn a_join_goes_by_the_clock_that_it_is_given() {
    let ((push_left, left), (_push_right, right), clock) = (channel(8), channel::<u8>(8), ManualClock::new());
    let ((to_pairs, pairs), (to_alone, alone)) = (collect(), collect());
    let (joined, lonely) = Pipeline::from(left.keyed()).join_or("join", Pipeline::from(right.keyed()), Join::by_key(Duration::from_secs(3_600)));
    let handle = joined.sink(to_pairs).and(lonely.sink(to_alone)).clock(clock.clone()).spawn().unwrap();
    push_left.send(Record::new(1u64).key(Key(1))).unwrap();
    thread::sleep(ms(50));
    clock.advance(Duration::from_secs(3_599));
    thread::sleep(ms(50));
    assert!(alone.is_empty());
    clock.advance(Duration::from_secs(2));
    let start = Instant::now();
    while alone.is_empty() && start.elapsed() < Duration::from_secs(10) {
        thread::sleep(ms(1));
    }
    assert_eq!((pairs.take(), alone.take()), (vec![], vec![Lone::Left(1)]));
    handle.drain().unwrap();
}
