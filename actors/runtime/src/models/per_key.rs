//! A model for each key, as many as fit into memory.
//!
//! ```text
//! a batch of one key
//!   its model is loaded          → pin it
//!   somebody is loading it       → wait for that
//!   loading it failed lately     → the same error
//!   otherwise                    → load it, dropping those used longest ago until it fits
//! ```
//!
//! A model that a batch runs on is pinned: it is not dropped, and its bytes stay counted.

use std::{
    collections::HashMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use millstream_edge::Credit;

use super::ModelMemory;
use crate::{
    error::{ErrorKind, Fault, StageError},
    infer::{ModelHandler, ModelId},
    panics::guard,
    stage::Start,
};

/// How long an error of loading is given again without another try.
const NEGATIVE: Duration = Duration::from_secs(10);

/// An example for the model of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Keyed<K, I> {
    /// Whose model.
    pub key: K,
    /// The example.
    pub input: I,
}

/// A model for each key; a batch holds examples of one key. Clones share the models.
pub struct PerKey<K, H: ModelHandler>(Arc<Inner<K, H>>);

impl<K, H: ModelHandler> Clone for PerKey<K, H> {
    fn clone(&self) -> Self {
        PerKey(self.0.clone())
    }
}

type Load<K, H> = Box<dyn Fn(&K) -> Result<H, StageError> + Send + Sync>;

struct Inner<K, H: ModelHandler> {
    name: String,
    load: Load<K, H>,
    memory: ModelMemory,
    negative: Duration,
    state: Mutex<State<K, H>>,
    changed: Condvar,
    stats: Stats,
}

struct State<K, H: ModelHandler> {
    places: HashMap<K, Place<H>>,
    /// Counts uses.
    clock: u64,
}

enum Place<H: ModelHandler> {
    Loading,
    Ready(Arc<Ready<H>>),
    /// Loading failed then.
    Failed(Instant, Fault),
}

struct Ready<H: ModelHandler> {
    id: Arc<ModelId>,
    handler: H,
    used: AtomicU64,
    /// Models that no batch runs on at the moment.
    idle: Mutex<Vec<H::Model>>,
    _memory: Credit,
}

#[derive(Default)]
struct Stats {
    hits: AtomicU64,
    loads: AtomicU64,
    failures: AtomicU64,
    evictions: AtomicU64,
}

/// What became of the keys so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PerKeyStats {
    /// Models that are loaded now.
    pub loaded: usize,
    /// Batches whose model was there.
    pub hits: u64,
    /// Models that were loaded.
    pub loads: u64,
    /// Models that could not be.
    pub failures: u64,
    /// Models that were dropped to make room.
    pub evictions: u64,
}

impl<K: Hash + Eq + Clone + fmt::Debug + Send + Sync + 'static, H: ModelHandler> PerKey<K, H> {
    /// Loads a key's model with the closure when an example of the key comes, within this memory.
    pub fn new(name: &str, memory: &ModelMemory, load: impl Fn(&K) -> Result<H, StageError> + Send + Sync + 'static) -> Self {
        PerKey(Arc::new(Inner {
            name: name.to_owned(),
            load: Box::new(load),
            memory: memory.clone(),
            negative: NEGATIVE,
            state: Mutex::new(State { places: HashMap::new(), clock: 0 }),
            changed: Condvar::new(),
            stats: Stats::default(),
        }))
    }

    /// How long an error of loading is given again without another try; ten seconds by default. To be called before the
    /// handler is cloned or used.
    #[must_use]
    pub fn retry_after(mut self, pause: Duration) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.negative = pause;
        }
        self
    }

    /// What became of the keys so far.
    pub fn stats(&self) -> PerKeyStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let stats = &self.0.stats;
        let loaded = self.0.lock().places.values().filter(|place| matches!(place, Place::Ready(_))).count();
        PerKeyStats { loaded, hits: read(&stats.hits), loads: read(&stats.loads), failures: read(&stats.failures), evictions: read(&stats.evictions) }
    }

    /// Drops a key's model, for example because there is a newer one; batches that run on it finish.
    pub fn forget(&self, key: &K) {
        let mut state = self.0.lock();
        if !matches!(state.places.get(key), Some(Place::Loading)) {
            let place = state.places.remove(key);
            drop(state);
            drop(place);
        }
    }
}

impl<K: Hash + Eq + Clone + fmt::Debug, H: ModelHandler> Inner<K, H> {
    fn lock(&self) -> MutexGuard<'_, State<K, H>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key's model, pinned.
    fn pin(&self, key: &K) -> Result<Arc<Ready<H>>, StageError> {
        let mut state = self.lock();
        loop {
            state.clock += 1;
            let clock = state.clock;
            match state.places.get(key) {
                Some(Place::Ready(ready)) => {
                    ready.used.store(clock, Ordering::Relaxed);
                    self.stats.hits.fetch_add(1, Ordering::Relaxed);
                    return Ok(ready.clone());
                }
                Some(Place::Loading) => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Place::Failed(at, fault)) if at.elapsed() < self.negative => {
                    return Err(StageError::permanent(format!("the model of {key:?} could not be loaded: {fault}")));
                }
                Some(Place::Failed(..)) | None => break,
            }
        }
        state.places.insert(key.clone(), Place::Loading);
        drop(state);
        let loaded = guard(|| self.load(key)).unwrap_or_else(|fault| Err((ErrorKind::Permanent, fault)));
        let mut state = self.lock();
        state.clock += 1;
        let result = match loaded {
            Ok(ready) => {
                ready.used.store(state.clock, Ordering::Relaxed);
                self.stats.loads.fetch_add(1, Ordering::Relaxed);
                let ready = Arc::new(ready);
                state.places.insert(key.clone(), Place::Ready(ready.clone()));
                Ok(ready)
            }
            Err((kind, fault)) => {
                self.stats.failures.fetch_add(1, Ordering::Relaxed);
                let error = StageError::new(kind, format!("the model of {key:?} could not be loaded: {fault}"));
                // What may pass is not held against the key.
                match kind {
                    ErrorKind::Permanent => state.places.insert(key.clone(), Place::Failed(Instant::now(), fault)),
                    _ => state.places.remove(key),
                };
                Err(error)
            }
        };
        drop(state);
        self.changed.notify_all();
        result
    }

    fn load(&self, key: &K) -> Result<Ready<H>, (ErrorKind, Fault)> {
        let handler = (self.load)(key).map_err(|error| (error.kind(), error.into()))?;
        let bytes = handler.model_bytes();
        let memory = loop {
            if let Some(memory) = self.memory.reserve(bytes) {
                break memory;
            }
            let Some(oldest) = self.unpinned_oldest() else {
                let message = format!("it takes {bytes} bytes, {} of {} are free and nothing can be dropped", self.memory.free(), self.memory.limit());
                // What is pinned now will not be for ever; what is larger than everything stays so.
                let kind = if bytes > self.memory.limit() { ErrorKind::Permanent } else { ErrorKind::Transient };
                return Err((kind, StageError::new(kind, message).into()));
            };
            drop(oldest);
            self.stats.evictions.fetch_add(1, Ordering::Relaxed);
        };
        Ok(Ready { id: Arc::new(handler.id()), handler, used: AtomicU64::new(0), idle: Mutex::new(Vec::new()), _memory: memory })
    }

    /// Takes out the model that was used longest ago, of those that no batch runs on.
    fn unpinned_oldest(&self) -> Option<Arc<Ready<H>>> {
        let mut state = self.lock();
        let unpinned = state.places.iter().filter_map(|(key, place)| match place {
            // The map's own reference is the only one, and new ones are made under its lock.
            Place::Ready(ready) if Arc::strong_count(ready) == 1 => Some((ready.used.load(Ordering::Relaxed), key)),
            _ => None,
        });
        let key = unpinned.min_by_key(|(used, _)| *used)?.1.clone();
        match state.places.remove(&key) {
            Some(Place::Ready(ready)) => Some(ready),
            _ => None,
        }
    }
}

/// A replica's place among the keyed models.
pub struct KeyedReplica {
    start: Start,
    last: Option<Arc<ModelId>>,
}

impl<K: Hash + Eq + Clone + fmt::Debug + Send + Sync + 'static, H: ModelHandler> ModelHandler for PerKey<K, H> {
    type Input = Keyed<K, H::Input>;
    type Output = H::Output;
    type Model = KeyedReplica;

    fn id(&self) -> ModelId {
        ModelId::new(&self.0.name, "per key")
    }

    fn load(&self, start: &Start) -> Result<KeyedReplica, StageError> {
        Ok(KeyedReplica { start: *start, last: None })
    }

    /// The key, and what its model says, if it is loaded: a batch of examples that cannot be stacked is divided otherwise.
    fn bucket(&self, input: &Keyed<K, H::Input>) -> u64 {
        let ready = match self.0.lock().places.get(&input.key) {
            Some(Place::Ready(ready)) => Some(ready.clone()),
            _ => None,
        };
        let mut hasher = DefaultHasher::new();
        (&input.key, ready.map(|ready| ready.handler.bucket(&input.input))).hash(&mut hasher);
        hasher.finish()
    }

    fn run(&self, replica: &mut KeyedReplica, batch: &[&Keyed<K, H::Input>]) -> Result<Vec<H::Output>, StageError> {
        let Some(first) = batch.first() else { return Ok(Vec::new()) };
        let ready = self.0.pin(&first.key)?;
        replica.last = Some(ready.id.clone());
        let idle = ready.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut model = match idle {
            Some(model) => model,
            None => ready.handler.load(&replica.start)?,
        };
        let inputs: Vec<&H::Input> = batch.iter().map(|keyed| &keyed.input).collect();
        let mut outputs = Vec::with_capacity(inputs.len());
        for chunk in chunks(&ready.handler, &inputs) {
            outputs.extend(ready.handler.run(&mut model, chunk)?);
        }
        // After a panic it is not put back: it may be half-done.
        ready.idle.lock().unwrap_or_else(PoisonError::into_inner).push(model);
        Ok(outputs)
    }

    fn version(&self, replica: &KeyedReplica) -> Option<Arc<ModelId>> {
        replica.last.clone()
    }
}

/// Divides a batch by what the model says it can take at once: its buckets, in sequence, and its largest batch.
fn chunks<'b, H: ModelHandler>(handler: &H, inputs: &'b [&'b H::Input]) -> Vec<&'b [&'b H::Input]> {
    let most = handler.max_batch().unwrap_or(usize::MAX).max(1);
    let same = |a: &&H::Input, b: &&H::Input| handler.bucket(a) == handler.bucket(b);
    inputs.chunk_by(same).flat_map(|run| run.chunks(most)).collect()
}
