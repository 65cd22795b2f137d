//! Models that change under load: nothing is lost, nothing waits, each batch is of one version.

mod oracle;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use millstream_runtime::{
    Canary, Deployment, DeploymentOptions, Keyed, LoadModel, ModelHandler, ModelId, ModelMemory, OnMemory, PerKey, Pipeline, Record, RunInference, StageError,
    Start, SwapError, channel, collect, for_each, from_iter, ms,
};
use oracle::{Dice, Ends};

/// A model that adds its version's number, and says what it weighs.
struct Adds {
    version: u64,
    bytes: u64,
    fault: Fault,
    alive: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    Loading,
    Errors,
    Panics,
    Slow,
    Steady,
    OtherInputs,
}

impl Drop for Adds {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ModelHandler for Adds {
    type Input = u64;
    type Output = (u64, u64);
    type Model = ();

    fn id(&self) -> ModelId {
        ModelId::new("adds", self.version.to_string())
    }

    fn load(&self, _: &Start) -> Result<(), StageError> {
        if self.fault == Fault::Loading { Err(StageError::permanent("broken")) } else { Ok(()) }
    }

    fn model_bytes(&self) -> u64 {
        self.bytes
    }

    fn contract(&self) -> Vec<String> {
        vec![if self.fault == Fault::OtherInputs { "text" } else { "number" }.to_owned()]
    }

    fn run(&self, (): &mut (), batch: &[&u64]) -> Result<Vec<(u64, u64)>, StageError> {
        match self.fault {
            Fault::Errors => return Err(StageError::permanent("wrong")),
            Fault::Panics => panic!("wrong"),
            Fault::Slow => thread::sleep(ms(100)),
            Fault::Steady => thread::sleep(Duration::from_micros(150)),
            _ => {}
        }
        Ok(batch.iter().map(|x| (**x, **x + self.version)).collect())
    }
}

#[derive(Clone, Default)]
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn model(&self, version: u64, bytes: u64, fault: Fault) -> LoadModel<Adds> {
        let alive = self.0.clone();
        LoadModel::new(move || {
            alive.fetch_add(1, Ordering::SeqCst);
            Ok(Adds { version, bytes, fault, alive: alive.clone() })
        })
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

#[test]
fn a_hundred_swaps_under_load_lose_nothing_and_mix_nothing() {
    for replicas in [1, 3] {
        let alive = Alive::default();
        let deployment = Deployment::new(alive.model(0, 0, Fault::None)).unwrap();
        let (ends, (push, source), (sink, results)) = (Ends::new(), channel(64), collect());
        let handle = Pipeline::from(source)
            .infer("model", RunInference::new(deployment.handler()).batch(1..=8).replicas(replicas))
            .sink(sink)
            .observe(ends.clone())
            .spawn()
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let feeder = thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::SeqCst) {
                push.send(Record::new(sent)).unwrap();
                sent += 1;
            }
            sent
        });
        for version in 1..=100 {
            deployment.swap(alive.model(version, 0, Fault::None)).unwrap();
            assert_eq!(deployment.current().unwrap().id.version, version.to_string());
            // The one in use and the one before.
            assert_eq!(alive.count(), 2, "old versions stay loaded");
        }
        stop.store(true, Ordering::SeqCst);
        let sent = feeder.join().unwrap();
        let report = handle.join().unwrap();
        ends.check(&report);
        assert_eq!((report.counts.ok, report.snapshot.stages[1].errors), (sent, 0));
        let results = results.take();
        // What a prediction says of its model is what made it.
        for p in &results {
            assert_eq!(p.inference.1, p.example + p.model.version.parse::<u64>().unwrap());
        }
        if replicas == 1 {
            let versions: Vec<u64> = results.iter().map(|p| p.inference.1 - p.example).collect();
            assert!(versions.is_sorted(), "an old version came back");
        }
        drop(deployment);
        assert_eq!(alive.count(), 0, "something is still loaded");
    }
}

#[test]
fn a_version_that_is_no_good_changes_nothing() {
    let alive = Alive::default();
    let probe = |outputs: &[(u64, u64)]| if outputs == [(5, 6)] || outputs == [(5, 7)] { Ok(()) } else { Err(StageError::permanent("not five and its sum")) };
    let deployment = Deployment::with(alive.model(1, 0, Fault::None), DeploymentOptions::new().probe(vec![5], probe)).unwrap();
    let refused = |fault, version| deployment.swap(alive.model(version, 0, fault)).unwrap_err();
    assert!(matches!(refused(Fault::Loading, 2), SwapError::Load(_)));
    assert!(matches!(refused(Fault::Errors, 2), SwapError::Probe(_)));
    assert!(matches!(refused(Fault::Panics, 2), SwapError::Probe(_)));
    assert!(matches!(refused(Fault::None, 9), SwapError::Probe(_)));
    assert!(matches!(refused(Fault::OtherInputs, 2), SwapError::Incompatible(_)));
    assert!(matches!(deployment.swap(LoadModel::new(|| panic!("no file"))).unwrap_err(), SwapError::Load(_)));
    assert!(matches!(deployment.rollback().unwrap_err(), SwapError::NoPrevious));
    assert_eq!((deployment.current().unwrap().id.version.as_str(), alive.count()), ("1", 1));
    deployment.swap(alive.model(2, 0, Fault::None)).unwrap();
    deployment.rollback().unwrap();
    assert_eq!(deployment.current().unwrap().id.version, "1");
    // Back and forth.
    deployment.rollback().unwrap();
    assert_eq!(deployment.current().unwrap().id.version, "2");
}

#[test]
fn memory_for_both_versions_is_reserved_first() {
    let (alive, memory) = (Alive::default(), ModelMemory::new(100));
    let options = || DeploymentOptions::new().memory(&memory).keep_previous(false);
    let deployment = Deployment::with(alive.model(1, 60, Fault::None), options()).unwrap();
    assert_eq!(memory.used(), 60);
    let error = deployment.swap(alive.model(2, 50, Fault::None)).unwrap_err();
    assert!(matches!(error, SwapError::Memory { needed: 50, free: 40 }), "{error}");
    deployment.swap(alive.model(2, 30, Fault::None)).unwrap();
    assert_eq!((memory.used(), alive.count()), (30, 1));
    // The version before is loaded anew.
    deployment.rollback().unwrap();
    assert_eq!((memory.used(), deployment.current().unwrap().id.version.as_str()), (60, "1"));
    drop(deployment);
    assert_eq!((memory.used(), alive.count()), (0, 0));

    let deployment = Deployment::with(alive.model(1, 60, Fault::None), options().on_memory(OnMemory::Gap)).unwrap();
    let (ends, (sink, results)) = (Ends::new(), collect());
    let items = (0..400u64).inspect(|_| thread::sleep(Duration::from_micros(200)));
    let pipeline = Pipeline::from(from_iter(items)).infer("model", RunInference::new(deployment.handler()).batch(1..=4).replicas(2));
    let handle = pipeline.sink(sink).observe(ends.clone()).spawn().unwrap();
    thread::sleep(ms(20));
    deployment.swap(alive.model(2, 70, Fault::None)).unwrap();
    assert_eq!((memory.used(), alive.count()), (70, 1));
    // One that is too large even alone: the old one comes back.
    assert!(matches!(deployment.swap(alive.model(3, 101, Fault::None)).unwrap_err(), SwapError::Memory { .. }));
    assert_eq!((memory.used(), deployment.current().unwrap().id.version.as_str()), (70, "2"));
    let report = handle.join().unwrap();
    ends.check(&report);
    assert_eq!(report.counts.ok, 400);
    assert!(results.take().iter().all(|p| p.inference.1 == p.example + p.model.version.parse::<u64>().unwrap()));
}

#[test]
fn a_bad_version_on_trial_is_rolled_back_and_no_record_suffers() {
    for (fault, promoted, why) in
        [(Fault::Errors, false, "failed on"), (Fault::Panics, false, "failed on"), (Fault::Slow, false, "times as long"), (Fault::Steady, true, "0 failed")]
    {
        let alive = Alive::default();
        let deployment = Deployment::new(alive.model(1, 0, Fault::Steady)).unwrap();
        let (ends, (push, source), (sink, results)) = (Ends::new(), channel(64), collect());
        let run = RunInference::new(deployment.handler()).batch(1..=8).replicas(2);
        let handle = Pipeline::from(source).infer("model", run).sink(sink).observe(ends.clone()).spawn().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let feeder = thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::SeqCst) {
                push.send(Record::new(sent)).unwrap();
                sent += 1;
            }
            sent
        });
        let mut rules = Canary::default();
        (rules.share, rules.batches, rules.within) = (0.2, 20, Duration::from_secs(20));
        // On a busy machine, microseconds vary.
        rules.max_slowdown = 8.0;
        let verdict = deployment.canary(alive.model(2, 0, fault), rules).unwrap();
        stop.store(true, Ordering::SeqCst);
        let sent = feeder.join().unwrap();
        let report = handle.join().unwrap();
        ends.check(&report);
        assert_eq!((verdict.promoted, report.counts.ok), (promoted, sent), "{verdict:?}");
        assert!(verdict.why.contains(why), "{verdict:?}");
        assert_eq!(deployment.current().unwrap().id.version, if promoted { "2" } else { "1" });
        assert_eq!(alive.count(), if promoted { 2 } else { 1 });
        assert!(results.take().iter().all(|p| p.inference.1 == p.example + p.model.version.parse::<u64>().unwrap()));
    }
}

#[test]
fn a_trial_without_traffic_ends_in_time() {
    let alive = Alive::default();
    let deployment = Deployment::new(alive.model(1, 0, Fault::None)).unwrap();
    let mut rules = Canary::default();
    rules.within = ms(50);
    let verdict = deployment.canary(alive.model(2, 0, Fault::None), rules).unwrap();
    assert!(!verdict.promoted && verdict.why.contains("0 of 100"), "{verdict:?}");
}

#[test]
fn a_trial_can_be_called_off() {
    let alive = Alive::default();
    let deployment = Deployment::new(alive.model(1, 0, Fault::None)).unwrap();
    let asked = AtomicU64::new(0);
    let called_off = || asked.fetch_add(1, Ordering::SeqCst) == 2;
    let verdict = deployment.canary_until(alive.model(2, 0, Fault::None), Canary::default(), called_off).unwrap();
    assert!(!verdict.promoted && verdict.why == "it was called off after 0 of 100 batches", "{verdict:?}");
    assert_eq!((deployment.current().unwrap().id.version.as_str(), alive.count()), ("1", 1));
}

#[test]
fn stages_share_one_model() {
    let alive = Alive::default();
    let deployment = Deployment::new(alive.model(1, 0, Fault::None)).unwrap();
    let report = Pipeline::from(from_iter(0..100u64))
        .infer("first", RunInference::new(deployment.handler()).replicas(2))
        .map("sum", |p| p.inference.1)
        .infer("second", RunInference::new(deployment.handler()).replicas(2))
        .sink(for_each(|_| {}))
        .run()
        .unwrap();
    assert_eq!((report.counts.ok, alive.count()), (100, 1));
    assert_eq!(deployment.current().unwrap().examples, 200);
}

fn keyed(n: u64, keys: u64) -> impl Iterator<Item = Keyed<u64, u64>> {
    (0..n).map(move |i| Keyed { key: i * 31 % keys, input: i })
}

#[test]
fn models_per_key_come_and_go_by_their_bytes() {
    for seed in 0..8 {
        let mut dice = Dice::new(seed);
        let (keys, fit, replicas) = (2 + dice.roll(6), 1 + dice.roll(4), 1 + dice.roll(2) as usize);
        let (alive, loading, twice) = (Alive::default(), Arc::new(Mutex::new(BTreeSet::new())), Arc::new(AtomicBool::new(false)));
        // One more than there are replicas, so that one can always be dropped.
        let memory = ModelMemory::new(10 * (fit + replicas as u64));
        let (models, now, double) = (alive.clone(), loading.clone(), twice.clone());
        let per_key = PerKey::new("adds", &memory, move |key: &u64| {
            if !now.lock().unwrap().insert(*key) {
                double.store(true, Ordering::SeqCst);
            }
            thread::sleep(ms(1));
            now.lock().unwrap().remove(key);
            models.0.fetch_add(1, Ordering::SeqCst);
            Ok(Adds { version: 1_000 * key, bytes: 10, fault: Fault::None, alive: models.0.clone() })
        });
        let (ends, (sink, results)) = (Ends::new(), collect());
        let report = Pipeline::from(from_iter(keyed(600, keys)))
            .infer("model", RunInference::new(per_key.clone()).batch(1..=16).replicas(replicas).retry(3, ms(1)))
            .sink(sink)
            .memory_budget(1 << 20)
            .observe(ends.clone())
            .run()
            .unwrap();
        ends.check(&report);
        assert_eq!(report.counts.ok, 600, "seed {seed}: {report}");
        assert!(results.take().iter().all(|p| p.inference.1 == p.example.input + 1_000 * p.example.key));
        assert!(!twice.load(Ordering::SeqCst), "a model was loaded twice at once");
        let stats = per_key.stats();
        assert!(memory.used() <= memory.limit() && stats.loaded as u64 * 10 == memory.used());
        assert_eq!(stats.loads, stats.loaded as u64 + stats.evictions);
        assert_eq!(alive.count(), stats.loaded);
        if keys > fit + replicas as u64 {
            assert!(stats.evictions > 0);
        }
        drop(per_key);
        assert_eq!(memory.used(), 0);
    }
}

#[test]
fn a_key_whose_model_cannot_be_loaded_costs_its_records_only() {
    let (alive, tries, memory) = (Alive::default(), Arc::new(AtomicUsize::new(0)), ModelMemory::new(100));
    let (models, tried) = (alive.clone(), tries.clone());
    let per_key = PerKey::new("adds", &memory, move |key: &u64| match key {
        0 => {
            tried.fetch_add(1, Ordering::SeqCst);
            Err(StageError::permanent("no such tenant"))
        }
        1 => panic!("broken file"),
        key => {
            models.0.fetch_add(1, Ordering::SeqCst);
            Ok(Adds { version: 1_000 * key, bytes: if *key == 2 { 101 } else { 10 }, fault: Fault::None, alive: models.0.clone() })
        }
    });
    let report = Pipeline::from(from_iter(keyed(100, 5))).infer("model", RunInference::new(per_key.clone()).batch(1..=8)).sink(for_each(|_| {})).run().unwrap();
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (40, 60));
    assert_eq!(tries.load(Ordering::SeqCst), 1, "the error is remembered");
    let texts: Vec<String> = report.dead_letters.iter().map(ToString::to_string).collect();
    for part in ["no such tenant", "broken file", "it takes 101 bytes"] {
        assert!(texts.iter().any(|text| text.contains(part)), "{part}");
    }
}

#[test]
fn a_key_is_tried_again_after_its_pause_and_can_be_forgotten() {
    let tries = Arc::new(AtomicUsize::new(0));
    let (tried, memory) = (tries.clone(), ModelMemory::new(100));
    let alive = Alive::default();
    let models = alive.clone();
    let per_key = PerKey::new("adds", &memory, move |_: &u64| {
        if tried.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(StageError::permanent("not yet"));
        }
        models.0.fetch_add(1, Ordering::SeqCst);
        Ok(Adds { version: 0, bytes: 10, fault: Fault::None, alive: models.0.clone() })
    })
    .retry_after(ms(30));
    let start = Start::default();
    let mut replica = per_key.load(&start).unwrap();
    let example = Keyed { key: 7, input: 1 };
    assert!(per_key.run(&mut replica, &[&example]).is_err());
    assert!(per_key.run(&mut replica, &[&example]).is_err());
    assert_eq!(tries.load(Ordering::SeqCst), 1);
    let begun = Instant::now();
    while per_key.run(&mut replica, &[&example]).is_err() {
        assert!(begun.elapsed() < ms(5_000));
        thread::sleep(ms(5));
    }
    assert_eq!((tries.load(Ordering::SeqCst), memory.used()), (2, 10));
    per_key.forget(&7);
    assert_eq!((memory.used(), alive.count()), (0, 0));
}
