//! Memory stays within the declared budget, whatever is slow or grows.

mod oracle;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use millstream_runtime::{Pipeline, RunInference, StageOptions, for_each, from_iter, handler};
use oracle::Ends;

/// Payload that knows how much of it is alive.
struct Tracked {
    bytes: Vec<u8>,
    live: Arc<Live>,
}

#[derive(Default)]
struct Live {
    now: AtomicI64,
    peak: AtomicI64,
}

impl Tracked {
    fn new(size: usize, live: &Arc<Live>) -> Self {
        let now = live.now.fetch_add(size as i64, Ordering::SeqCst) + size as i64;
        live.peak.fetch_max(now, Ordering::SeqCst);
        Tracked { bytes: vec![1; size], live: live.clone() }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.live.now.fetch_sub(self.bytes.len() as i64, Ordering::SeqCst);
    }
}

const KIB: usize = 1024;

#[test]
fn a_sink_a_hundred_times_slower_keeps_memory_within_the_budget() {
    let (ends, live) = (Ends::new(), Arc::new(Live::default()));
    let budget = 1024 * KIB;
    let made = live.clone();
    let items = (0..600usize).map(move |i| Tracked::new(4 * KIB + i % 5 * 4 * KIB, &made));
    let report = Pipeline::from(from_iter(items).weighed(|t| t.bytes.len() as u64))
        .map("a", |t| t)
        .map("b", |t| t)
        .sink(for_each(|_: Tracked| std::thread::sleep(Duration::from_micros(500))))
        .memory_budget(budget as u64)
        .observe(ends.clone())
        .run()
        .unwrap();
    ends.check(&report);
    assert_eq!(report.counts.ok, 600);
    let peak = live.peak.load(Ordering::SeqCst) as usize;
    // What the source has pulled and not reserved yet is at most a sixteenth and one record more.
    assert!(peak <= budget + budget / 16 + 20 * KIB, "{peak} of {budget}");
    assert!(peak >= budget / 2, "the budget was not used: {peak}");
    assert!(report.snapshot.peak_reserved_bytes <= budget as u64);
    assert_eq!(live.now.load(Ordering::SeqCst), 0);
    assert!(report.snapshot.stages[0].credit_wait > Duration::from_millis(50), "the source was not held back");
}

#[test]
fn growth_that_is_declared_is_reserved_beforehand() {
    let (ends, live) = (Ends::new(), Arc::new(Live::default()));
    let budget = 2048 * KIB;
    let made = live.clone();
    let decode = move |x: u32| Tracked::new(64 * KIB, if x < u32::MAX { &made } else { unreachable!() });
    let options = StageOptions::new().expansion(64.0).measure(|t: &Tracked| t.bytes.len() as u64).replicas(2);
    let report = Pipeline::from(from_iter(0..300u32).weighed(|_| KIB as u64))
        .map_with("decode", options, decode)
        .sink(for_each(|_: Tracked| std::thread::sleep(Duration::from_micros(300))))
        .memory_budget(budget as u64)
        .observe(ends.clone())
        .run()
        .unwrap();
    ends.check(&report);
    assert_eq!(report.counts.ok, 300);
    let peak = live.peak.load(Ordering::SeqCst) as usize;
    assert!(peak <= budget, "{peak} of {budget}");
    assert_eq!(report.snapshot.overdraft_bytes, 0);
}

#[test]
fn a_record_larger_than_the_budget_passes_alone() {
    let ends = Ends::new();
    let items = [10usize, 5_000, 10, 9_000, 10];
    let report = Pipeline::from(from_iter(items).weighed(|size| *size as u64))
        .map("a", |x| x)
        .sink(for_each(|_| {}))
        .memory_budget(1_000)
        .observe(ends.clone())
        .run()
        .unwrap();
    ends.check(&report);
    assert_eq!(report.counts.ok, 5);
    assert!(report.snapshot.peak_reserved_bytes <= 1_000);
}

#[test]
fn records_that_become_several_hold_their_permit_until_the_last_is_gone() {
    let ends = Ends::new();
    let report = Pipeline::from(from_iter(0..500u64))
        .flat_map("split", |x| (0..x % 4).map(move |i| x * 10 + i))
        .filter("some", |x| x % 3 != 0)
        .sink(for_each(|_| {}))
        .memory_budget(256)
        .observe(ends.clone())
        .run()
        .unwrap();
    ends.check(&report);
    assert_eq!(report.counts.ok, 500);
    assert!(report.snapshot.peak_reserved_bytes <= 256);
}

#[test]
fn a_batch_that_needs_too_much_is_divided_before_it_runs() {
    use millstream_runtime::{ModelHandler, ModelId, StageError, Start};

    struct Hungry;
    impl ModelHandler for Hungry {
        type Input = u64;
        type Output = u64;
        type Model = ();

        fn id(&self) -> ModelId {
            ModelId::new("hungry", "1")
        }

        fn load(&self, _: &Start) -> Result<(), StageError> {
            Ok(())
        }

        fn plan_bytes(&self, (): &mut (), batch: &[&u64]) -> Option<u64> {
            Some(batch.iter().map(|x| **x * 100).sum())
        }

        fn run(&self, (): &mut (), batch: &[&u64]) -> Result<Vec<u64>, StageError> {
            assert!(batch.iter().map(|x| **x * 100).sum::<u64>() <= 1_000, "over the limit");
            Ok(batch.iter().map(|x| **x).collect())
        }
    }
    let ends = Ends::new();
    // Records 11 and more do not fit even alone.
    let report = Pipeline::from(from_iter(1..=12u64))
        .infer("model", RunInference::new(Hungry).batch(1..=16).hold_until(12).memory(1_000))
        .sink(for_each(|_| {}))
        .observe(ends.clone())
        .run()
        .unwrap();
    ends.check(&report);
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (10, 2));
    let letter = &report.dead_letters[0];
    assert_eq!(letter.fault.to_string(), "one example needs 1100 bytes, the stage may use 1000");
}

#[test]
fn impossible_pipelines_are_refused_with_every_reason() {
    let model = || handler("m", |batch: &[&u32]| Ok(vec![0u8; batch.len()]));
    let refused = Pipeline::from(from_iter(0..1u32))
        .infer("a", RunInference::new(model()).batch(0..=0))
        .map("a", |_| 1)
        .infer("b", RunInference::new(model()).batch(1..=100).replicas(2))
        .sink(for_each(|_| {}))
        .memory_budget(0)
        .edge_records(64)
        .run()
        .unwrap_err();
    let text = refused.to_string();
    for part in ["two stages are called `a`", "empty range", "edge of 300 records", "the memory budget is 0"] {
        assert!(text.contains(part), "{text}");
    }
}
