//! What user code can do wrong, at each stage, and what must hold nevertheless.

mod oracle;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use millstream_runtime::{
    Cause, Context, DeadLetter, Emit, ErrorKind, Fault, Key, Pipeline, ReleaseReason, Report, RunInference, Sink, SinkFactory, SinkOptions, StageError,
    StageOptions, Start, Supervision, Transform, collect, for_each, from_iter, handler, handler_with, ms, postprocess,
};
use oracle::{Dice, Ends, failure};

fn quick() -> Supervision {
    let mut supervision = Supervision::default();
    supervision.backoff = ms(5);
    supervision
}

fn only_letter(report: &Report) -> &DeadLetter {
    assert_eq!(report.dead_letters.len(), 1);
    &report.dead_letters[0]
}

#[test]
fn a_panic_in_a_map_costs_one_record() {
    for seed in 0..20 {
        let n = 200;
        let poison = Dice::new(seed).roll(n);
        let (ends, (sink, results)) = (Ends::new(), collect());
        let report = Pipeline::from(from_iter(0..n))
            .map("odd", move |x| {
                assert_ne!(x, poison, "poison");
                x * 2 + 1
            })
            .sink(sink)
            .supervision(quick())
            .observe(ends.clone())
            .run()
            .unwrap();
        ends.check(&report);
        let expected: Vec<_> = (0..n).filter(|x| *x != poison).map(|x| x * 2 + 1).collect();
        assert_eq!(results.take(), expected, "seed {seed}");
        let letter = only_letter(&report);
        assert_eq!((letter.id, &*letter.stage, &*letter.source), (poison, "odd", "source"));
        assert!(matches!(&letter.fault, Fault::Panic { location: Some(at), .. } if at.contains("faults.rs")));
        assert_eq!(report.snapshot.stages[1].restarts, 1);
    }
}

#[test]
fn a_poisonous_example_is_isolated_and_its_neighbours_succeed_in_order() {
    for seed in 0..24 {
        let mut dice = Dice::new(seed);
        let (n, keys, replicas) = (64 + dice.roll(64), 1 + dice.roll(5), 1 + dice.roll(2) as usize);
        let poison = dice.roll(n);
        let panics = dice.roll(2) == 0;
        let (ends, (sink, results)) = (Ends::new(), collect());
        let model = handler("picky", move |batch: &[&u64]| {
            if batch.iter().any(|x| **x == poison) {
                assert!(!panics, "poison in a batch of {}", batch.len());
                return Err(StageError::permanent("poison"));
            }
            Ok(batch.iter().map(|x| **x + 1_000).collect())
        });
        let report = Pipeline::from(from_iter(0..n))
            .key_by("key", move |x| x % keys)
            .infer("model", RunInference::new(model).batch(1..=32).hold_until(16).replicas(replicas).letter_payload(|x| x.to_le_bytes().into()))
            .sink(sink)
            .supervision(quick())
            .observe(ends.clone())
            .run()
            .unwrap();
        ends.check(&report);
        let results = results.take();
        assert!(results.iter().all(|p| p.inference == p.example + 1_000 && p.model.name == "picky"));
        for key in 0..keys {
            let seen: Vec<_> = results.iter().map(|p| p.example).filter(|x| x % keys == key).collect();
            let expected: Vec<_> = (0..n).filter(|x| x % keys == key && *x != poison).collect();
            assert_eq!(seen, expected, "seed {seed}, key {key}");
        }
        let letter = only_letter(&report);
        assert_eq!(letter.id, poison);
        assert_eq!(letter.model.as_ref().unwrap().to_string(), "picky@1");
        assert_eq!(letter.payload.as_deref(), Some(&poison.to_le_bytes()[..]));
        // However many tries the isolation took, it was one incident.
        assert_eq!(report.snapshot.stages[2].restarts, u64::from(panics), "seed {seed}");
    }
}

/// Every place in every batch of up to eight: n − 1 succeed in the order of their keys, one letter tells of the other.
#[test]
fn whichever_record_of_a_batch_panics_the_others_succeed() {
    for (n, poison) in (1..=8u64).flat_map(|n| (0..n).map(move |k| (n, k))) {
        let (ends, (sink, results)) = (Ends::new(), collect());
        let largest = Arc::new(AtomicU32::new(0));
        let seen = largest.clone();
        let model = handler("picky", move |batch: &[&u64]| {
            seen.fetch_max(batch.len() as u32, Ordering::SeqCst);
            Ok(batch.iter().map(|&&x| if x == poison { panic!("record {x}") } else { x + 100 }).collect())
        });
        let report = Pipeline::from(from_iter(0..n))
            .key_by("key", |x| x % 2)
            .infer("model", RunInference::new(model).batch(1..=n as usize).hold_until(n as usize))
            .sink(sink)
            .supervision(quick())
            .observe(ends.clone())
            .run()
            .unwrap();
        ends.check(&report);
        assert_eq!(u64::from(largest.load(Ordering::SeqCst)), n, "the records were no batch of {n}");
        let results: Vec<_> = results.take().into_iter().map(|p| (p.example, p.inference)).collect();
        for key in 0..2 {
            let of_key: Vec<_> = results.iter().copied().filter(|(x, _)| x % 2 == key).collect();
            let expected: Vec<_> = (0..n).filter(|x| *x != poison && x % 2 == key).map(|x| (x, x + 100)).collect();
            assert_eq!(of_key, expected, "record {poison} of {n}, key {key}");
        }
        assert_eq!((report.counts.ok, report.counts.dead_lettered), (n - 1, 1));
        let letter = only_letter(&report);
        assert_eq!((letter.id, &*letter.stage), (poison, "model"));
        assert!(matches!(&letter.fault, Fault::Panic { message, .. } if message.contains(&format!("record {poison}"))), "{:?}", letter.fault);
    }
}

#[test]
fn a_passing_panic_costs_nothing_in_a_model() {
    let (sink, results) = collect();
    let first = Arc::new(AtomicBool::new(true));
    let model = handler("flaky", move |batch: &[&u32]| {
        assert!(!first.swap(false, Ordering::SeqCst), "once");
        Ok(batch.iter().map(|x| **x).collect())
    });
    let report = Pipeline::from(from_iter(0..50u32))
        .infer("model", RunInference::new(model).batch(1..=8))
        .map("out", |p| p.inference)
        .sink(sink)
        .supervision(quick())
        .run()
        .unwrap();
    assert_eq!(results.take(), (0..50).collect::<Vec<_>>());
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (50, 0));
}

#[test]
fn preprocessing_that_fails_or_panics_costs_its_record() {
    let (ends, (sink, results)) = (Ends::new(), collect());
    let model = handler("len", |batch: &[&String]| Ok(batch.iter().map(|s| s.len()).collect()));
    let run = RunInference::new(model).batch(1..=8).preprocess(|x: &u32| match x {
        7 => Err(StageError::permanent("seven")),
        9 => panic!("nine"),
        x => Ok("x".repeat(*x as usize)),
    });
    let report = Pipeline::from(from_iter(0..20u32)).infer("model", run).sink(sink).supervision(quick()).observe(ends.clone()).run().unwrap();
    ends.check(&report);
    let seen: Vec<_> = results.take().into_iter().map(|p| (p.example, p.inference)).collect();
    let expected: Vec<_> = (0..20).filter(|x| ![7, 9].contains(x)).map(|x| (x, x as usize)).collect();
    assert_eq!(seen, expected);
    assert_eq!(report.dead_letters.iter().map(|l| l.id).collect::<Vec<_>>(), [7, 9]);
}

#[test]
fn a_storm_of_panics_fails_the_pipeline_once_with_its_cause() {
    for stage in ["map", "model", "sink"] {
        let ends = Ends::new();
        let incidents = Arc::new(AtomicU32::new(0));
        let seen = incidents.clone();
        let storm = move |name: &str| {
            if name == stage {
                seen.fetch_add(1, Ordering::SeqCst);
                panic!("storm");
            }
        };
        let (in_map, in_model, in_sink) = (storm.clone(), storm.clone(), storm);
        let model = handler("m", move |batch: &[&u64]| {
            in_model("model");
            Ok(batch.iter().map(|x| **x).collect())
        });
        let start = Instant::now();
        let (cause, report) = failure(
            Pipeline::from(from_iter(0..1_000_000u64))
                .map("map", move |x| {
                    in_map("map");
                    x
                })
                .infer("model", RunInference::new(model).batch(1..=2))
                .sink(for_each(move |_| in_sink("sink")))
                .supervision(quick())
                .observe(ends.clone())
                .run(),
        );
        ends.check(&report);
        let Cause::RestartsExceeded { stage: failed, restarts, fault } = cause else { panic!("{cause}") };
        assert_eq!((&*failed, restarts), (stage, 3));
        assert!(fault.to_string().ends_with("storm"));
        assert!(start.elapsed() < Duration::from_secs(4));
        // Four incidents; in the model each is looked into, and costs a handful of tries.
        assert!((4..=20).contains(&incidents.load(Ordering::SeqCst)));
        assert!(report.counts.dead_lettered >= 3);
    }
}

#[test]
fn a_worker_is_back_within_250_ms() {
    let gap = Arc::new(Mutex::new((None, None)));
    let times = gap.clone();
    let report = Pipeline::from(from_iter(0..100))
        .map("map", move |x| {
            let mut times = times.lock().unwrap_or_else(|e| e.into_inner());
            if x == 50 {
                times.0 = Some(Instant::now());
                panic!("once");
            }
            if times.0.is_some() {
                times.1.get_or_insert(Instant::now());
            }
        })
        .sink(for_each(|()| {}))
        .run()
        .unwrap();
    assert_eq!(report.counts.ok, 99);
    let (panicked, back) = *gap.lock().unwrap_or_else(|e| e.into_inner());
    let took = back.unwrap() - panicked.unwrap();
    assert!(took < ms(250), "{took:?}");
}

#[test]
fn errors_follow_the_policy() {
    let source = || from_iter(0..10u32);
    let fails = |x: u32| if x == 4 { Err(StageError::transient("four")) } else { Ok(x) };
    // Skip.
    let report = Pipeline::from(source()).try_map("try", fails).sink(for_each(|_| {})).run().unwrap();
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (9, 1));
    assert!(matches!(&only_letter(&report).fault, Fault::Error { kind: ErrorKind::Transient, message } if message == "four"));
    // Retry, in vain.
    let options = StageOptions::new().retry(3, ms(1));
    let report = Pipeline::from(source()).try_map_with("try", options, fails).sink(for_each(|_| {})).run().unwrap();
    assert_eq!(only_letter(&report).attempts, 4);
    assert_eq!(report.snapshot.stages[1].retries, 3);
    // Retry, with success.
    let tries = Arc::new(AtomicU32::new(0));
    let (sink, results) = collect();
    let options = StageOptions::new().retry(3, ms(1));
    let recovers = move |x: u32| if x == 4 && tries.fetch_add(1, Ordering::SeqCst) < 2 { fails(x) } else { Ok(x) };
    let report = Pipeline::from(source()).try_map_with("try", options, recovers).sink(sink).run().unwrap();
    assert_eq!(report.counts.ok, 10);
    assert_eq!(results.take(), (0..10).collect::<Vec<_>>());
    // Fail.
    let ends = Ends::new();
    let options = StageOptions::new().fail_on_error();
    let (cause, report) = failure(Pipeline::from(source()).try_map_with("try", options, fails).sink(for_each(|_| {})).observe(ends.clone()).run());
    ends.check(&report);
    assert!(matches!(cause, Cause::StageFailed { .. }));
    assert_eq!(cause.to_string(), "stage `try` failed: four");
}

#[test]
fn model_errors_are_retried_and_isolated() {
    let failures = Arc::new(AtomicU32::new(0));
    let model = handler("m", move |batch: &[&u32]| {
        if failures.fetch_add(1, Ordering::SeqCst) < 2 {
            return Err(StageError::transient("warming up"));
        }
        Ok(batch.iter().map(|x| **x).collect())
    });
    let run = RunInference::new(model).batch(1..=8).retry(3, ms(1));
    let report = Pipeline::from(from_iter(0..40u32)).infer("model", run).sink(for_each(|_| {})).run().unwrap();
    assert_eq!((report.counts.ok, report.snapshot.stages[1].retries), (40, 2));
    // A model that answers too little for a batch is asked for each example alone.
    let model = handler("short", |batch: &[&u32]| Ok(batch.iter().take(1).map(|x| **x).collect()));
    let run = RunInference::new(model).batch(1..=8).hold_until(8);
    let (sink, results) = collect();
    let report = Pipeline::from(from_iter(0..8u32)).infer("model", run).sink(sink).run().unwrap();
    assert_eq!(report.counts.ok, 8);
    assert_eq!(results.take().iter().map(|p| p.inference).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
}

/// A model that names its guilty examples is run once more for all the others.
#[test]
fn examples_that_a_model_names_fail_alone() {
    for retried in [false, true] {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        let model = handler("roots", move |batch: &[&i64]| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok::<_, StageError>(batch.iter().map(|x| (**x as f64).sqrt()).collect())
        });
        let real = postprocess(model, |root: f64| if root.is_nan() { Err(StageError::permanent("not a real number")) } else { Ok(root) });
        let run = RunInference::new(real).batch(1..=8).hold_until(8);
        let run = if retried { run.retry(1, ms(1)) } else { run };
        let (ends, (sink, results)) = (Ends::new(), collect());
        let report = Pipeline::from(from_iter([1i64, 4, -1, 9, 16, -25, 36, 49])).infer("model", run).sink(sink).observe(ends.clone()).run().unwrap();
        ends.check(&report);
        let roots: Vec<_> = results.take().iter().map(|p| p.inference).collect();
        assert_eq!(roots, [1.0, 2.0, 3.0, 4.0, 6.0, 7.0]);
        let letters: Vec<_> = report.dead_letters.iter().map(|letter| (letter.id, letter.fault.to_string())).collect();
        let error = || "not a real number".to_owned();
        assert_eq!(letters, [(2, error()), (5, error())]);
        if !retried {
            assert_eq!(runs.load(Ordering::SeqCst), 2);
        }
    }
}

#[test]
fn out_of_memory_halves_the_batch_and_loses_nothing() {
    let largest = Arc::new(AtomicU32::new(0));
    let seen = largest.clone();
    let model = handler("large", move |batch: &[&u32]| {
        if batch.len() > 5 {
            return Err(StageError::out_of_memory("too large"));
        }
        seen.fetch_max(batch.len() as u32, Ordering::SeqCst);
        Ok(batch.iter().map(|x| **x).collect())
    });
    let (sink, results) = collect();
    let run = RunInference::new(model).batch(1..=64).hold_until(64);
    let report = Pipeline::from(from_iter(0..500u32)).infer("model", run).map("x", |p| p.inference).sink(sink).run().unwrap();
    assert_eq!(results.take(), (0..500).collect::<Vec<_>>());
    assert_eq!(report.counts.ok, 500);
    let stage = &report.snapshot.stages[1];
    assert!(stage.errors <= 20, "does not converge: {} errors", stage.errors);
    assert!(stage.batch_limit <= 6 && largest.load(Ordering::SeqCst) >= 4);
    // One example that never fits is a dead letter.
    let model = handler("tiny", |_: &[&u32]| Err::<Vec<u32>, _>(StageError::out_of_memory("too large")));
    let report = Pipeline::from(from_iter(0..3u32)).infer("model", RunInference::new(model)).sink(for_each(|_| {})).run().unwrap();
    assert_eq!(report.counts.dead_lettered, 3);
}

#[test]
fn examples_of_several_shapes_share_no_batch() {
    let model = handler("stack", |batch: &[&Vec<u8>]| {
        assert!(batch.iter().all(|x| x.len() == batch[0].len()), "cannot stack");
        Ok(batch.iter().map(|x| x.len()).collect())
    })
    .bucketed(|x| x.len() as u64);
    let (sink, results) = collect();
    let examples = (0..300).map(|i| vec![0u8; i * 7 % 5]);
    let report = Pipeline::from(from_iter(examples).keyed_by(|x| Key(x.len() as u64 % 2)))
        .infer("model", RunInference::new(model).batch(1..=16))
        .sink(sink)
        .run()
        .unwrap();
    assert_eq!(report.counts.ok, 300);
    let results = results.take();
    assert!(results.iter().all(|p| p.example.len() == p.inference));
    for key in 0..2 {
        let seen: Vec<_> = results.iter().map(|p| p.inference).filter(|len| len % 2 == key).collect();
        let expected: Vec<_> = (0..300).map(|i| i * 7 % 5).filter(|len| len % 2 == key).collect();
        assert_eq!(seen, expected);
    }
}

#[test]
fn a_test_can_hold_the_batcher() {
    let model = handler("m", |batch: &[&u32]| Ok(vec![batch.len(); batch.len()]));
    let (sink, results) = collect();
    let run = RunInference::new(model).batch(1..=8).hold_until(24);
    let report = Pipeline::from(from_iter(0..24u32)).infer("model", run).sink(sink).run().unwrap();
    assert!(results.take().iter().all(|p| p.inference == 8));
    assert_eq!(report.snapshot.stages[1].released(ReleaseReason::Full), 3);
}

#[test]
fn a_stage_that_cannot_start_is_tried_again_and_then_fails() {
    let loads = Arc::new(AtomicU32::new(0));
    let tries = loads.clone();
    let load = move |start: &Start| {
        assert_eq!(start.incarnation, tries.fetch_add(1, Ordering::SeqCst));
        if start.incarnation < 2 { Err(StageError::transient("not yet")) } else { Ok(()) }
    };
    let model = handler_with("slow", load, |_, batch: &[&u32]| Ok(batch.iter().map(|x| **x).collect()));
    let report = Pipeline::from(from_iter(0..10u32)).infer("model", RunInference::new(model)).sink(for_each(|_| {})).supervision(quick()).run().unwrap();
    assert_eq!((report.counts.ok, loads.load(Ordering::SeqCst)), (10, 3));

    struct Never;
    impl Transform<u32, u32> for Never {
        fn apply(&mut self, _: u32, _: &Context<'_>, _: &mut Emit<u32>) -> Result<(), StageError> {
            Ok(())
        }
    }
    let ends = Ends::new();
    let (cause, report) = failure(
        Pipeline::from(from_iter(0..10_000u32))
            .stage("never", StageOptions::new(), |start| {
                assert!(start.incarnation > 9, "no");
                Ok(Never)
            })
            .sink(for_each(|_| {}))
            .supervision(quick())
            .observe(ends.clone())
            .run(),
    );
    ends.check(&report);
    assert!(matches!(cause, Cause::RestartsExceeded { restarts: 3, .. }));
}

struct Sour {
    written: Arc<Mutex<Vec<u32>>>,
    panic_in_drop: bool,
    flush: Result<(), &'static str>,
}

impl Sink<u32> for Sour {
    fn write(&mut self, record: u32, _: &Context<'_>) -> Result<(), StageError> {
        self.written.lock().unwrap().push(record);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StageError> {
        self.flush.map_err(StageError::permanent)
    }
}

impl Drop for Sour {
    fn drop(&mut self) {
        assert!(!self.panic_in_drop, "in drop");
    }
}

struct SourFactory(Arc<Mutex<Vec<u32>>>, bool, Result<(), &'static str>);

impl SinkFactory<u32> for SourFactory {
    type Sink = Sour;

    fn open(&self, _: &Start) -> Result<Sour, StageError> {
        Ok(Sour { written: self.0.clone(), panic_in_drop: self.1, flush: self.2 })
    }
}

#[test]
fn a_panic_in_a_destructor_costs_nothing_and_a_failed_flush_fails_the_pipeline() {
    let written = Arc::new(Mutex::new(Vec::new()));
    let report = Pipeline::from(from_iter(0..100)).sink(SourFactory(written.clone(), true, Ok(()))).run().unwrap();
    assert_eq!(report.counts.ok, 100);
    assert_eq!(written.lock().unwrap().len(), 100);
    let (cause, _) = failure(Pipeline::from(from_iter(0..100)).sink(SourFactory(written, false, Err("disk full"))).run());
    assert_eq!(cause.to_string(), "stage `sink` failed: disk full");
}

#[test]
fn a_source_that_panics_or_fails_ends_the_pipeline_with_its_cause() {
    let ends = Ends::new();
    let items = (0..100).map(|x| if x == 70 { panic!("unreadable") } else { x });
    let (cause, report) = failure(Pipeline::from(from_iter(items)).sink(for_each(|_| {})).observe(ends.clone()).run());
    ends.check(&report);
    assert!(cause.to_string().contains("unreadable"));
}

#[test]
fn a_dead_letter_that_cannot_be_stored_fails_the_pipeline() {
    let ends = Ends::new();
    let (cause, report) = failure(
        Pipeline::from(from_iter(0..100))
            .try_map("try", |x| if x == 50 { Err(StageError::permanent("no")) } else { Ok(x) })
            .sink_with(for_each(|_| {}), SinkOptions::new().replicas(2))
            .dead_letters(|_: &DeadLetter| Err("disk full".into()))
            .observe(ends.clone())
            .run(),
    );
    ends.check(&report);
    assert_eq!(cause.to_string(), "a dead letter of stage `try` could not be stored: disk full");
    // Not stored, so not ended as a dead letter.
    assert_eq!(report.counts.dead_lettered, 0);
}
