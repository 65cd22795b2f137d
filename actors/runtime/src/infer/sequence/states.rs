//! The states of a stage's replicas, and the batches that run on them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    SequenceModel, SequenceOptions, Step,
    table::{Change, Full, Limits, Table},
};
use crate::{
    checkpoint::{Reader, Writer},
    envelope::Key,
    error::StageError,
    infer::{ModelHandler, ModelId},
    metrics::add,
    panics::guard,
    stage::{StageShared, Start},
};

/// The handler of a stage of sequences; see [`RunInference::sequences`](crate::RunInference::sequences). By itself it knows
/// no keys: every example is then a sequence of its own.
pub struct Sequences<M>(Arc<M>);

impl<M> Sequences<M> {
    pub(super) fn new(model: Arc<M>) -> Self {
        Sequences(model)
    }
}

/// A record's turn, before its state is known.
pub(crate) struct Turn<'a, I> {
    pub(crate) key: Key,
    pub(crate) input: &'a I,
    /// It is its sequence's last.
    pub(crate) last: bool,
}

/// What a batch came to: its outputs, or how many bytes a run would take that may not take so many.
pub(crate) type Ran<O> = Result<Result<Vec<O>, u64>, StageError>;

/// The states of all replicas of a stage, as its workers see them.
pub(crate) trait Sequenced<H: ModelHandler>: Send + Sync {
    /// The most sequences of a replica.
    fn most(&self) -> usize;

    /// A record of this sequence has come; `waits` says whether one before it waits for its turn.
    fn arrive(&self, replica: usize, key: Key, waits: &dyn Fn() -> bool);

    /// Drops what has been idle for too long, but for sequences whose records wait. When there is something to drop next.
    fn expire(&self, replica: usize, waits: &dyn Fn(Key) -> bool) -> Option<Instant>;

    /// Runs records of different sequences, in no more than so many bytes, and keeps their new states.
    fn step(&self, replica: usize, memory: u64, model: &mut H::Model, turns: &[Turn<'_, H::Input>]) -> Ran<H::Output>;

    /// A sequence has ended without a step.
    fn end(&self, replica: usize, key: Key);

    /// The replica's states as bytes.
    fn snapshot(&self, replica: usize) -> Result<Vec<u8>, StageError>;

    /// The replica goes on with these states.
    fn restore(&self, replica: usize, snapshot: &[u8]) -> Result<(), StageError>;
}

/// The states of all replicas.
pub(super) struct Held<M: SequenceModel> {
    model: Arc<M>,
    shared: Arc<StageShared>,
    most: usize,
    /// Each is used by its replica's worker alone.
    tables: Vec<Mutex<Table<M::State>>>,
}

impl<M: SequenceModel> Held<M> {
    pub(super) fn new(model: Arc<M>, options: &SequenceOptions, shared: &Arc<StageShared>, replicas: usize) -> Self {
        let (most, bytes) = options.share(replicas);
        let limits = Limits { most, bytes, timeout: options.timeout, when_full: options.when_full };
        let tables = (0..replicas).map(|_| Mutex::new(Table::new(limits))).collect();
        Held { model, shared: shared.clone(), most, tables }
    }

    /// Lets the closure work on a replica's states, and keeps the counters of what is held.
    fn with<R>(&self, replica: usize, work: impl FnOnce(&mut Table<M::State>) -> R) -> R {
        let mut table = self.tables[replica].lock().unwrap_or_else(PoisonError::into_inner);
        let before = (table.len() as u64, table.bytes());
        let result = work(&mut table);
        self.shared.metrics.sequences.hold(before, (table.len() as u64, table.bytes()));
        result
    }

    /// Drops states. What has been decided stands, even if their destructors panic.
    fn discard(&self, states: impl IntoIterator<Item = M::State>) {
        for state in states {
            if let Err(fault) = guard(|| drop(state)) {
                tracing::error!(stage = %self.shared.name(), %fault, "a state's destructor panicked");
            }
        }
    }

    fn refused(&self, full: Full, alone: bool) -> StageError {
        // Those of a larger batch are run again in halves.
        add(&self.shared.metrics.sequences.refused, u64::from(alone));
        StageError::permanent(match full {
            Full::Sequences(most) => format!("no room for another sequence: {most} are held"),
            Full::Bytes(bytes) => format!("no room for the state of a sequence: states may take {bytes} bytes"),
        })
    }
}

impl<M: SequenceModel> Sequenced<Sequences<M>> for Held<M> {
    fn most(&self) -> usize {
        self.most
    }

    fn arrive(&self, replica: usize, key: Key, waits: &dyn Fn() -> bool) {
        let now = self.shared.clock.now();
        self.with(replica, |table| {
            if table.is_stale(key, now) && !waits() {
                self.discard(table.remove(key));
                add(&self.shared.metrics.sequences.expired, 1);
            }
            table.touch(key, now);
        });
    }

    fn expire(&self, replica: usize, waits: &dyn Fn(Key) -> bool) -> Option<Instant> {
        let now = self.shared.clock.now();
        let (expired, next) = self.with(replica, |table| table.expire(now, waits));
        add(&self.shared.metrics.sequences.expired, expired.len() as u64);
        self.discard(expired);
        next
    }

    fn step(&self, replica: usize, memory: u64, replica_model: &mut M::Model, turns: &[Turn<'_, M::Input>]) -> Ran<M::Output> {
        let (model, counters) = (&*self.model, &self.shared.metrics.sequences);
        let alone = turns.len() == 1;
        self.with(replica, |table| {
            let fresh = turns.iter().map(|turn| if table.state(turn.key).is_some() { Ok(None) } else { model.begin(turn.key).map(Some) });
            let fresh: Vec<Option<M::State>> = fresh.collect::<Result<_, _>>()?;
            let stay = || turns.iter().zip(&fresh).filter(|(turn, _)| !turn.last).filter_map(|(_, state)| state.as_ref());
            let bytes = stay().map(|state| u128::from(model.state_bytes(state))).sum();
            table.admits(stay().count(), bytes).map_err(|full| self.refused(full, alone))?;
            // What was not there has begun.
            let states = turns.iter().zip(&fresh).filter_map(|(turn, fresh)| table.state(turn.key).or(fresh.as_ref()));
            let steps: Vec<_> = turns.iter().zip(states).map(|(turn, state)| Step::new(turn.key, turn.input, state)).collect();
            let needed = if memory == u64::MAX { None } else { model.plan_bytes(replica_model, &steps) };
            if let Some(bytes) = needed.filter(|bytes| *bytes > memory) {
                return Ok(Err(bytes));
            }
            let results = model.step(replica_model, &steps)?;
            if results.len() != turns.len() {
                return Err(StageError::permanent(format!("the model gave {} outputs for {} examples", results.len(), turns.len())));
            }
            let (mut outputs, mut changes) = (Vec::with_capacity(turns.len()), Vec::with_capacity(turns.len()));
            for (turn, (output, state)) in turns.iter().zip(results) {
                outputs.push(output);
                let bytes = model.state_bytes(&state);
                changes.push(Change { key: turn.key, state: (!turn.last).then_some((state, bytes)) });
            }
            let gone = table.commit(changes, self.shared.clock.now()).map_err(|full| self.refused(full, alone))?;
            self.discard(gone.states);
            add(&counters.evicted, gone.evicted);
            add(&counters.begun, fresh.iter().flatten().count() as u64);
            add(&counters.ended, turns.iter().filter(|turn| turn.last).count() as u64);
            Ok(Ok(outputs))
        })
    }

    fn end(&self, replica: usize, key: Key) {
        let ended = self.with(replica, |table| table.remove(key));
        add(&self.shared.metrics.sequences.ended, u64::from(ended.is_some()));
        self.discard(ended);
    }

    fn snapshot(&self, replica: usize) -> Result<Vec<u8>, StageError> {
        let codec = self.model.codec().ok_or_else(|| StageError::fatal("states that cannot be stored"))?;
        let now = self.shared.clock.now();
        self.with(replica, |table| {
            let mut out = Writer::default();
            out.bytes(self.model.id().name.as_bytes());
            out.number(table.len() as u64);
            for (key, state, used) in table.iter() {
                out.number(key.0);
                out.number(u64::try_from(now.saturating_duration_since(used).as_nanos()).unwrap_or(u64::MAX));
                out.bytes(&codec.encode(state));
            }
            Ok(out.0)
        })
    }

    fn restore(&self, replica: usize, snapshot: &[u8]) -> Result<(), StageError> {
        self.with(replica, |table| self.read(table, snapshot)).ok_or_else(|| StageError::fatal("the checkpoint holds no states of this model"))
    }
}

impl<M: SequenceModel> Held<M> {
    fn read(&self, table: &mut Table<M::State>, snapshot: &[u8]) -> Option<()> {
        let (codec, now) = (self.model.codec()?, self.shared.clock.now());
        let mut input = Reader::new(snapshot);
        if input.bytes()? != self.model.id().name.as_bytes() {
            return None;
        }
        for _ in 0..input.number()? {
            let key = Key(input.number()?);
            let idle = Duration::from_nanos(input.number()?);
            let state = codec.decode(input.bytes()?)?;
            let bytes = self.model.state_bytes(&state);
            // A machine that has run for less than that knows no such moment: the sequence is younger then.
            if table.state(key).is_some() {
                return None;
            }
            table.insert(key, state, bytes, now.checked_sub(idle).unwrap_or(now));
        }
        input.is_empty().then_some(())
    }
}

impl<M: SequenceModel> ModelHandler for Sequences<M> {
    type Input = M::Input;
    type Output = M::Output;
    type Model = M::Model;

    fn id(&self) -> ModelId {
        self.0.id()
    }

    fn load(&self, start: &Start) -> Result<M::Model, StageError> {
        self.0.load(start)
    }

    fn bucket(&self, input: &M::Input) -> u64 {
        self.0.bucket(input)
    }

    fn bytes(&self, input: &M::Input) -> u64 {
        self.0.bytes(input)
    }

    fn length(&self, input: &M::Input) -> u64 {
        self.0.length(input)
    }

    fn pad_to(&self) -> u64 {
        self.0.pad_to()
    }

    fn max_batch(&self) -> Option<usize> {
        self.0.max_batch()
    }

    fn run(&self, model: &mut M::Model, batch: &[&M::Input]) -> Result<Vec<M::Output>, StageError> {
        let states: Vec<M::State> = (0..batch.len() as u64).map(|number| self.0.begin(Key(number))).collect::<Result<_, _>>()?;
        let steps: Vec<_> = (0..).zip(batch).zip(&states).map(|((number, input), state)| Step::new(Key(number), *input, state)).collect();
        Ok(self.0.step(model, &steps)?.into_iter().map(|(output, _)| output).collect())
    }
}
