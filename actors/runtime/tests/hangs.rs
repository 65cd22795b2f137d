//! Code that does not come back in time: its records become dead letters, the others go on, and few threads are left behind.

mod oracle;

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use millstream_runtime::{
    Cause, Checkpoint, CheckpointOptions, CheckpointStore, Context, Emit, ErrorKind, Fault, Pipeline, Report, RunInference, Sink, SinkFactory, StageError,
    StageOptions, Start, State, Transform, collect, from_iter, handler, handler_with, ms, within,
};
use oracle::{Ends, failure};

/// Long beside what a busy machine takes for a record that does not hang.
const LIMIT: Duration = ms(250);

/// Holds whoever comes, until it is opened. Clones are one; dropping one of the test's opens it.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn pass(&self) {
        let (open, opened) = &*self.0;
        drop(opened.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

fn timed_out(report: &Report) -> usize {
    let is = |fault: &Fault| matches!(fault, Fault::Error { kind: ErrorKind::TimedOut, .. });
    report.dead_letters.iter().filter(|letter| is(&letter.fault)).count()
}

#[test]
fn a_model_that_hangs_costs_its_batch_and_a_fresh_one_goes_on() {
    let (gate, loads, ends) = (Gate::default(), Arc::new(AtomicU32::new(0)), Ends::new());
    let (held, loaded) = (gate.clone(), loads.clone());
    let load = move |_: &Start| {
        loaded.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    let run = move |(): &mut (), batch: &[&u32]| {
        if batch.iter().any(|x| **x == 40 || **x == 70) {
            held.pass();
        }
        Ok::<_, StageError>(batch.iter().map(|x| **x * 2).collect())
    };
    let (sink, results) = collect();
    let model = RunInference::new(within(LIMIT, handler_with("model", load, run))).batch(1..=4).max_delay(ms(5));
    let report = Pipeline::from(from_iter(0..100u32)).infer("model", model).map("out", |p| p.inference).sink(sink).observe(ends.clone()).run().unwrap();
    ends.check(&report);
    let lost = timed_out(&report) as u64;
    assert!((2..=8).contains(&lost), "{lost} of two batches");
    assert_eq!((report.counts.dead_lettered, report.counts.ok), (lost, 100 - lost));
    assert_eq!((report.snapshot.stages[1].hangs, loads.load(Ordering::SeqCst)), (2, 3));
    let results = results.take();
    assert!(results.is_sorted() && !results.contains(&80) && !results.contains(&140));
    let page = report.snapshot.prometheus("p");
    assert!(page.lines().any(|line| line.starts_with("millstream_hangs_total{") && line.contains("\"model\"") && line.ends_with(" 2")), "{page}");
    gate.open();
}

#[test]
fn a_third_thread_that_is_left_behind_ends_the_pipeline() {
    for of_model in [true, false] {
        let (gate, ends) = (Gate::default(), Ends::new());
        let held = gate.clone();
        let hang = move |x: u32| {
            if x % 10 == 9 {
                held.pass();
            }
            x
        };
        let start = Instant::now();
        let flow = Pipeline::from(from_iter(0..100u32));
        let flow = if of_model {
            let model = handler("model", move |batch: &[&u32]| Ok::<_, StageError>(batch.iter().map(|x| hang(**x)).collect()));
            flow.infer("hangs", RunInference::new(within(LIMIT, model)).batch(1..=1)).map("out", |p| p.inference)
        } else {
            flow.map_within("hangs", LIMIT, StageOptions::new(), hang)
        };
        let (sink, results) = collect();
        let (cause, report) = failure(flow.sink(sink).observe(ends.clone()).run());
        assert!(matches!(&cause, Cause::StageFailed { stage, .. } if &**stage == "hangs"), "{cause}");
        assert!(cause.to_string().contains("3 threads are left behind"), "{cause}");
        assert!(start.elapsed() < Duration::from_secs(20));
        ends.check(&report);
        assert_eq!(timed_out(&report), 2);
        assert!(results.len() <= 27);
        gate.open();
    }
}

#[test]
fn a_thread_that_comes_back_counts_no_more() {
    let ends = Ends::new();
    let (sink, results) = collect();
    let slow = |x: u32| {
        match x % 10 {
            5 => thread::sleep(LIMIT * 2),
            // Until the one before is back, or nearly.
            7 | 9 => thread::sleep(LIMIT / 2),
            _ => {}
        }
        x
    };
    let options = StageOptions::new().letter_payload(|x: &u32| x.to_le_bytes().to_vec());
    let flow = Pipeline::from(from_iter(0..50u32)).map_within("slow", LIMIT, options, slow);
    let report = flow.sink(sink).observe(ends.clone()).run().unwrap();
    ends.check(&report);
    assert_eq!((timed_out(&report), report.snapshot.stages[1].hangs), (5, 5));
    assert_eq!(results.take(), (0..50).filter(|x| x % 10 != 5).collect::<Vec<_>>());
    assert_eq!(report.dead_letters[0].payload.as_deref(), Some(&5u32.to_le_bytes()[..]));
}

#[test]
fn panics_and_errors_are_what_they_are_without_a_limit() {
    let ends = Ends::new();
    let (sink, results) = collect();
    let model = handler("model", |batch: &[&u32]| {
        assert!(batch.iter().all(|x| **x != 30), "thirty");
        if batch.iter().any(|x| **x == 60) { Err(StageError::permanent("sixty")) } else { Ok(vec![(); batch.len()]) }
    });
    let panics = |x: u32| {
        assert!(x != 10, "ten");
        x
    };
    let report = Pipeline::from(from_iter(0..100u32))
        .map_within("map", ms(10_000), StageOptions::new(), panics)
        .infer("model", RunInference::new(within(ms(10_000), model)).batch(1..=8))
        .map("out", |p| p.example)
        .sink(sink)
        .observe(ends.clone())
        .run()
        .unwrap();
    ends.check(&report);
    assert_eq!(results.take(), (0..100).filter(|x| ![10, 30, 60].contains(x)).collect::<Vec<_>>());
    let faults: Vec<_> = report.dead_letters.iter().map(|letter| letter.fault.to_string()).collect();
    assert!(faults.iter().any(|fault| fault.contains("hangs.rs") && fault.contains("ten")), "{faults:?}");
    assert!(faults.iter().any(|fault| fault.contains("hangs.rs") && fault.contains("thirty")), "{faults:?}");
    assert!(faults.iter().any(|fault| fault == "sixty"), "{faults:?}");
}

#[test]
fn what_hangs_is_not_tried_again_and_a_strict_stage_fails() {
    for strict in [false, true] {
        let (gate, tries) = (Gate::default(), Arc::new(AtomicU32::new(0)));
        let (held, tried) = (gate.clone(), tries.clone());
        let hang = move |x: u32| {
            if x == 3 {
                tried.fetch_add(1, Ordering::SeqCst);
                held.pass();
            }
            x
        };
        let options = if strict { StageOptions::new().fail_on_error() } else { StageOptions::new().retry(5, ms(1)) };
        let (sink, _results) = collect();
        let result = Pipeline::from(from_iter(0..10u32)).map_within("hangs", LIMIT, options, hang).sink(sink).run();
        if strict {
            let (cause, _) = failure(result);
            assert!(cause.to_string().contains("no answer within"), "{cause}");
        } else {
            let report = result.unwrap();
            assert_eq!((report.counts.ok, timed_out(&report)), (9, 1));
        }
        assert_eq!(tries.load(Ordering::SeqCst), 1);
        gate.open();
    }
}

/// Counts, and hangs at one record.
struct Count(u64, Option<Gate>);

impl Transform<u64, u64> for Count {
    fn apply(&mut self, record: u64, _: &Context<'_>, out: &mut Emit<u64>) -> Result<(), StageError> {
        if record == 300
            && let Some(gate) = &self.1
        {
            gate.pass();
        }
        self.0 += 1;
        out.push(self.0);
        Ok(())
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(self)
    }
}

impl State for Count {
    fn snapshot(&mut self) -> Result<Vec<u8>, StageError> {
        Ok(self.0.to_le_bytes().to_vec())
    }

    fn restore(&mut self, snapshot: Option<&[u8]>) -> Result<(), StageError> {
        self.0 = snapshot.map_or(Ok(0), |bytes| bytes.try_into().map(u64::from_le_bytes))?;
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Option<Checkpoint>>>);

impl CheckpointStore for Kept {
    fn latest(&mut self) -> Result<Option<Checkpoint>, StageError> {
        Ok(self.0.lock().unwrap().clone())
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> Result<(), StageError> {
        *self.0.lock().unwrap() = Some(checkpoint.clone());
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u64>>>);

impl SinkFactory<u64> for Lines {
    type Sink = Self;

    fn takes_back(&self) -> bool {
        true
    }

    fn open(&self, _: &Start) -> Result<Self, StageError> {
        Ok(self.clone())
    }
}

impl Sink<u64> for Lines {
    fn write(&mut self, record: u64, _: &Context<'_>) -> Result<(), StageError> {
        self.0.lock().unwrap().push(record);
        Ok(())
    }

    fn prepare(&mut self) -> Result<Vec<u8>, StageError> {
        Ok(self.0.lock().unwrap().len().to_le_bytes().to_vec())
    }

    fn restore(&mut self, prepared: Option<&[u8]>) -> Result<(), StageError> {
        let until = prepared.map_or(Ok(0), |bytes| bytes.try_into().map(usize::from_le_bytes))?;
        self.0.lock().unwrap().truncate(until);
        Ok(())
    }
}

#[test]
fn state_that_hangs_fails_the_pipeline_and_the_next_run_goes_on() {
    let (gate, kept, lines) = (Gate::default(), Kept::default(), Lines::default());
    let build = |gate: Option<Gate>| {
        let slow = |x: &u64| {
            if x.is_multiple_of(32) {
                thread::sleep(ms(2));
            }
        };
        Pipeline::from(from_iter((0..600u64).inspect(slow)).repeatable())
            .stage_within("count", LIMIT, StageOptions::new(), move |_| Ok(Count(0, gate.clone())))
            .sink(lines.clone())
            .checkpoint(CheckpointOptions::new(kept.clone()).every(ms(1)))
    };
    let (cause, report) = failure(build(Some(gate.clone())).run());
    assert!(cause.to_string().contains("its state went with it"), "{cause}");
    assert_eq!(timed_out(&report), 0, "the record is tried again by who goes on");
    assert!(kept.0.lock().unwrap().is_some());
    gate.open();
    build(None).run().unwrap();
    assert_eq!(*lines.0.lock().unwrap(), (1..=600).collect::<Vec<_>>());
}
