//! The worker of a model's stage: fills a batcher from the edge, runs batches, isolates what fails.
//!
//! ```text
//! loop
//!   run the groups on the stack, the last first
//!   take from the edge what is there, up to a full batch
//!   ask the batcher: a batch becomes a group; or wait
//! running a group:
//!   outputs      → pass them on
//!   out of memory → both halves, and smaller batches from now on
//!   error        → both halves; alone: the stage's policy
//!   errors of examples → dead letters; the others again
//!   panic        → leave both halves to the successor as suspects, and end
//!   panic of a suspect → a fresh model; both halves; alone: a dead letter
//! ```
//!
//! Where the model remembers sequences, a batch holds one record of each, and what it has made of their states counts only
//! when it went well; see [`sequences`].
//!
//! Halves go onto the stack so that the earlier one runs first: the order within the batch is kept.

mod passing;
mod sequences;
mod spans;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use millstream_edge::{Control, Cost, Credit, Received, Standing};

use self::sequences::turns;
use super::{
    ModelHandler, ModelId, Prediction,
    options::{Input, Traits},
    stage::{Group, Item, Parts},
};
use crate::{
    batch::{BatchLimit, Batcher, Decision, Pace, Pending, ReleaseReason},
    dead_letter::Failure,
    envelope::{Envelope, Header, given_up},
    error::{Cause, ErrorKind, Fault, StageError},
    metrics::add,
    outcome::Outcome,
    panics::guard,
    spans::Ran,
    stage::{Exit, OnError, Outlet, Start},
    supervise::StageState,
    ticket::Tally,
};

/// Results of batches that take less than this gather into full chunks while more batches are at hand.
const LINGER: Duration = Duration::from_micros(50);

/// Why a worker stops in the middle.
enum Break {
    Crashed(Fault),
    Aborted,
    Failed(Cause),
    Recalled,
    Retired,
}

type Items<T, H> = Vec<Item<T, <H as ModelHandler>::Input>>;

pub(super) struct Worker<'a, T, H: ModelHandler> {
    parts: &'a Parts<T, H>,
    start: Start,
    model: Option<H::Model>,
    id: Arc<ModelId>,
    batcher: Batcher<Item<T, H::Input>>,
    groups: Vec<Group<T, H::Input>>,
    held: Option<Credit>,
    limit: BatchLimit,
    ended: bool,
    /// How far event time has come at the inlet, until all of that was passed on.
    watermark: Option<i64>,
    /// A barrier that goes on when nothing waits here that came before it.
    barrier: Option<u64>,
    passed_on: i64,
    /// Nobody before this stage knows how far event time has come.
    idle: bool,
    outlet: Outlet<Prediction<T, H::Output>>,
    tally: Tally,
    pace: Pace,
    /// The last run, if the pipeline is traced and its records are not told of yet.
    ran: Option<Ran>,
}

impl<'a, T: Send + 'static, H: ModelHandler> Worker<'a, T, H> {
    pub(super) fn run(parts: &'a Parts<T, H>, start: Start) -> Exit {
        if let Some(fault) = parts.shared.orders.condemned() {
            return Self::condemned(parts, start, fault);
        }
        let mut worker = {
            let mut slot = parts.slot(start.replica);
            let mut batcher = Batcher::new(parts.batch.clone());
            slot.waiting.drain(..).for_each(|pending| batcher.insert(pending));
            Worker {
                parts,
                start,
                model: None,
                id: parts.shared.model.clone().unwrap_or_else(|| Arc::new(parts.run.handler.id())),
                batcher,
                groups: std::mem::take(&mut slot.groups),
                held: slot.held.take(),
                limit: slot.limit.clone(),
                ended: slot.ended,
                watermark: slot.watermark,
                barrier: slot.barrier,
                passed_on: i64::MIN,
                idle: false,
                outlet: Outlet::new(Some(&parts.outlet), &parts.shared.metrics, start.replica),
                tally: Tally::default(),
                pace: slot.pace.clone(),
                ran: None,
            }
        };
        let result = worker.load().and_then(|()| worker.restore()).and_then(|()| worker.stream());
        worker.tally.flush(&parts.shared.accounts);
        if let Err(fault) = worker.unload() {
            tracing::error!(stage = %parts.shared.name(), %fault, "a model's destructor panicked");
        }
        match result {
            Ok(()) => match worker.outlet.finish() {
                Ok(()) => Exit::Finished,
                Err(_) => Exit::Aborted,
            },
            Err(stop @ (Break::Crashed(_) | Break::Recalled | Break::Retired)) => {
                let _ = worker.outlet.flush();
                let mut slot = parts.slot(start.replica);
                slot.waiting = worker.batcher.take_all();
                slot.groups = worker.groups;
                slot.held = worker.held;
                slot.limit = worker.limit;
                slot.pace = worker.pace;
                slot.ended = worker.ended;
                slot.watermark = worker.watermark;
                slot.barrier = worker.barrier;
                match stop {
                    Break::Crashed(fault) => Exit::Crashed(fault),
                    Break::Retired => Exit::Retired,
                    _ => Exit::Recalled,
                }
            }
            Err(Break::Aborted) => Exit::Aborted,
            Err(Break::Failed(cause)) => Exit::Failed(cause),
        }
    }

    fn load(&mut self) -> Result<(), Break> {
        match guard(|| self.parts.run.handler.load(&self.start)) {
            Ok(Ok(model)) => {
                self.model = Some(model);
                self.parts.shared.metrics.set_state(StageState::Running);
                self.parts.shared.metrics.ran_model(&self.id);
                Ok(())
            }
            Ok(Err(error)) if error.kind() == ErrorKind::Fatal => Err(Break::Failed(self.failed(error.into()))),
            Ok(Err(error)) => Err(Break::Crashed(error.into())),
            Err(fault) => Err(Break::Crashed(fault)),
        }
    }

    fn unload(&mut self) -> Result<(), Fault> {
        let model = self.model.take();
        guard(|| drop(model))
    }

    fn failed(&self, fault: Fault) -> Cause {
        Cause::StageFailed { stage: self.parts.shared.name(), fault }
    }

    fn stream(&mut self) -> Result<(), Break> {
        let receiver = self.parts.inlet.receiver(self.start.replica);
        receiver.enter();
        loop {
            let worked = self.run_groups();
            self.tally.flush(&self.parts.shared.accounts);
            worked?;
            if self.pace.predict(1) >= LINGER {
                self.outlet.flush().map_err(|_| Break::Aborted)?;
            }
            self.pass_time_on()?;
            self.pass_barrier_on()?;
            if self.parts.shared.orders.is_recalled(self.start.replica) {
                return Err(Break::Recalled);
            }
            // Others wait for what this replica is to give away: it takes nothing more until it has nothing in hand.
            let owes = receiver.owes();
            if owes && self.batcher.len() == 0 {
                self.outlet.flush().map_err(|_| Break::Aborted)?;
                match receiver.settle() {
                    Standing::Out => return Err(Break::Retired),
                    Standing::In => continue,
                }
            }
            while !self.ended && !owes && self.barrier.is_none() && self.batcher.len() < self.batcher.fill_to(self.most()) {
                match receiver.try_recv() {
                    Some(received) => self.take_in(received)?,
                    None => break,
                }
            }
            self.drop_gone();
            let forget_at = self.forget_idle();
            let pace = &self.pace;
            let all = self.ended || owes || self.barrier.is_some();
            match self.batcher.decide(Instant::now(), self.limit.now().min(pace.next()), |items| pace.predict(items), all) {
                Decision::Release(ReleaseReason::Drain, batch) if !self.ended => self.execute(ReleaseReason::Barrier, batch),
                Decision::Release(reason, batch) => self.execute(reason, batch),
                // Nothing waits any more: the barrier goes on.
                Decision::Wait(_) if owes || self.barrier.is_some() => {}
                Decision::Wait(_) if self.ended => return self.last_checkpoint(),
                Decision::Wait(until) => {
                    self.outlet.flush().map_err(|_| Break::Aborted)?;
                    self.take_in(receiver.recv(until.into_iter().chain(forget_at).min()))?;
                }
            }
        }
    }

    /// The most items of a batch at present.
    fn most(&self) -> usize {
        self.limit.now().min(self.pace.next())
    }

    /// Ends records that wait and need not be run any more.
    fn drop_gone(&mut self) {
        // A sequence's last record ends it, and does so in its turn.
        let gone = |item: &Item<T, H::Input>| !item.last && given_up(&item.envelope.head, &item.envelope.ticket).is_some();
        let gone = self.batcher.take_gone(gone);
        if !gone.is_empty() {
            self.return_credits(&gone);
            // They are given up, and found to be so once more.
            self.still_wanted(gone.into_iter().map(|pending| pending.item).collect());
        }
    }

    fn take_in(&mut self, received: Received<Envelope<T>>) -> Result<(), Break> {
        match received {
            Received::Chunk(chunk) => {
                let (items, credit) = chunk.into_parts();
                match &mut self.held {
                    Some(held) => held.absorb(credit),
                    None => self.held = Some(credit),
                }
                add(&self.parts.shared.metrics.records_in, items.len() as u64);
                self.insert(items)
            }
            Received::Control(Control::EndOfStream) => {
                self.ended = true;
                self.parts.slot(self.start.replica).ended = true;
                Ok(())
            }
            Received::Control(Control::Watermark(time)) => {
                (self.watermark, self.idle) = (Some(time), false);
                self.pass_time_on()
            }
            Received::Control(Control::Barrier(barrier)) => {
                self.barrier = Some(barrier);
                Ok(())
            }
            Received::Control(Control::Idle) => {
                self.idle = true;
                self.pass_time_on()
            }
            Received::Control(_) | Received::TimedOut => Ok(()),
            Received::Closed => Err(Break::Aborted),
        }
    }

    /// Prepares examples and puts them into the batcher.
    fn insert(&mut self, envelopes: Vec<Envelope<T>>) -> Result<(), Break> {
        let arrived = Instant::now();
        let mut crash = None;
        for envelope in envelopes {
            if let Some(outcome) = given_up(&envelope.head, &envelope.ticket) {
                add(&self.parts.shared.metrics.given_up, 1);
                self.credit([envelope.head.cost()]);
                self.ends_without(&envelope);
                envelope.ticket.settle(outcome, &mut self.tally);
                continue;
            }
            let run = &self.parts.run;
            let prepared = guard(|| {
                if self.parts.sequences.is_some() && envelope.head.key.is_none() {
                    return Err(StageError::permanent("a record without a key belongs to no sequence"));
                }
                let last = run.is_last(&envelope.payload);
                Ok(match &run.input {
                    Input::Same(view) => (run.traits(view(&envelope.payload), &envelope), None, last),
                    Input::Made(prepare) => {
                        let input = prepare(&envelope.payload)?;
                        (run.traits(&input, &envelope), Some(input), last)
                    }
                })
            });
            match prepared {
                Ok(Ok((Traits { bucket, bytes, length }, made, last))) => {
                    self.arrived(&envelope.head);
                    let Header { key, deadline, priority, .. } = envelope.head;
                    let mortal = deadline.is_some() || envelope.head.cancel.is_some();
                    self.batcher.insert(Pending { item: Item { envelope, made, last }, bucket, key, bytes, length, priority, arrived, deadline, mortal });
                }
                Ok(Err(error)) => {
                    add(&self.parts.shared.metrics.errors, 1);
                    self.credit([envelope.head.cost()]);
                    if self.parts.shared.on_error == OnError::Fail || error.kind() == ErrorKind::Fatal {
                        return Err(Break::Failed(self.failed(error.into())));
                    }
                    self.ends_without(&envelope);
                    self.bury(Item { envelope, made: None, last: false }, error.into())?;
                }
                Err(fault) => {
                    add(&self.parts.shared.metrics.panics, 1);
                    self.credit([envelope.head.cost()]);
                    self.ends_without(&envelope);
                    self.bury(Item { envelope, made: None, last: false }, fault.clone())?;
                    crash = Some(fault);
                }
            }
        }
        // The whole chunk is in the batcher or buried: the successor finds all of it.
        crash.map_or(Ok(()), |fault| Err(Break::Crashed(fault)))
    }

    /// Returns the credits of items that no longer wait.
    fn credit(&mut self, costs: impl IntoIterator<Item = Cost>) {
        let limits = self.parts.inlet.limits();
        let sum = costs.into_iter().fold(Cost::default(), |sum, cost| sum.plus(Cost { records: cost.records, bytes: cost.bytes.min(limits.bytes) }));
        if let Some(held) = &mut self.held {
            held.release(sum);
        }
    }

    fn return_credits(&mut self, gone: &[Pending<Item<T, H::Input>>]) {
        self.credit(gone.iter().map(|pending| pending.item.envelope.head.cost()));
    }

    /// Puts a released batch onto the stack.
    fn execute(&mut self, reason: ReleaseReason, batch: Vec<Pending<Item<T, H::Input>>>) {
        let length = batch.iter().fold(0u64, |sum, pending| sum.saturating_add(pending.length));
        let longest = batch.iter().map(|pending| pending.length).max().unwrap_or(0);
        let padded = self.parts.batch.padded(longest).saturating_mul(batch.len() as u64);
        self.parts.shared.metrics.released(reason, batch.len(), length, padded);
        self.return_credits(&batch);
        let since = batch.iter().map(|pending| pending.arrived).min().unwrap_or_else(Instant::now);
        let items = batch.into_iter().map(|pending| pending.item).collect();
        self.groups.push(Group { items, attempt: 0, suspect: false, since, reason, began: None });
    }

    /// Pushes both halves of a group, so that the first comes first.
    fn push_halves(&mut self, mut group: Group<T, H::Input>, suspect: bool) {
        let second = group.items.split_off(group.items.len() / 2);
        let Group { since, reason, began, .. } = group;
        for items in [second, group.items] {
            if !items.is_empty() {
                self.groups.push(Group { items, attempt: 0, suspect, since, reason, began });
            }
        }
    }

    fn run_groups(&mut self) -> Result<(), Break> {
        while let Some(mut group) = self.groups.pop() {
            if self.parts.shared.abort.is_set() {
                return Err(Break::Aborted);
            }
            group.items = self.still_wanted(group.items);
            if !group.items.is_empty() {
                let ran = self.run_group(group);
                self.ran = None;
                ran?;
            }
        }
        Ok(())
    }

    fn still_wanted(&mut self, items: Items<T, H>) -> Items<T, H> {
        if !items.iter().any(|item| given_up(&item.envelope.head, &item.envelope.ticket).is_some()) {
            return items;
        }
        let mut wanted = Vec::with_capacity(items.len());
        for item in items {
            match given_up(&item.envelope.head, &item.envelope.ticket) {
                Some(outcome) => {
                    add(&self.parts.shared.metrics.given_up, 1);
                    self.failed_in_turn(&item);
                    self.tell(&item.envelope.head, outcome, None);
                    item.envelope.ticket.settle(outcome, &mut self.tally);
                }
                None => wanted.push(item),
            }
        }
        wanted
    }

    fn run_group(&mut self, mut group: Group<T, H::Input>) -> Result<(), Break> {
        if self.model.is_none()
            && let Err(stop) = self.load()
        {
            self.groups.push(group);
            return Err(stop);
        }
        let Some(model) = &mut self.model else { return Ok(()) };
        let parts = self.parts;
        let handler = &*parts.run.handler;
        let start = Instant::now();
        let result = guard(|| {
            if let Some(sequences) = &parts.sequences {
                return sequences.step(self.start.replica, parts.memory, model, &turns(&parts.run.input, &group));
            }
            let inputs: Vec<&H::Input> = group.items.iter().filter_map(|item| input(&parts.run.input, item)).collect();
            // Where all fits, nobody need know what it takes.
            let needed = if parts.memory == u64::MAX { None } else { handler.plan_bytes(model, &inputs) };
            match needed.filter(|bytes| *bytes > parts.memory) {
                Some(bytes) => Ok(Err(bytes)),
                None => handler.run(model, &inputs).map(Ok),
            }
        });
        let ended = Instant::now();
        let took = ended.duration_since(start);
        if let Some(id) = handler.version(model)
            && *id != *self.id
        {
            parts.shared.metrics.ran_model(&id);
            self.id = id;
        }
        self.tell_run(&mut group, start, &result);
        let metrics = &parts.shared.metrics;
        match result {
            Ok(Ok(Ok(outputs))) if outputs.len() == group.items.len() => {
                metrics.worked(took);
                self.pace.record(group.items.len(), took, ended.duration_since(group.since));
                self.limit.went_well();
                metrics.batch_limit.store(self.most() as u64, Ordering::Relaxed);
                self.tell_results(&mut group.items);
                self.pass_on(group.items, outputs)
            }
            Ok(Ok(Ok(outputs))) => {
                let message = format!("the model gave {} outputs for {} examples", outputs.len(), group.items.len());
                self.errored(group, StageError::permanent(message))
            }
            Ok(Ok(Err(needed))) if group.items.len() > 1 => {
                tracing::debug!(stage = %metrics.name, needed, limit = parts.memory, "a batch is divided to fit");
                let suspect = group.suspect;
                self.push_halves(group, suspect);
                Ok(())
            }
            Ok(Ok(Err(needed))) => {
                let message = format!("one example needs {needed} bytes, the stage may use {}", parts.memory);
                self.errored(group, StageError::permanent(message))
            }
            Ok(Err(error)) => self.errored(group, error),
            Err(fault) => self.panicked(group, fault),
        }
    }

    /// Some examples failed by themselves: the others are run again without them.
    fn examples_failed(&mut self, mut group: Group<T, H::Input>, failed: Vec<(usize, StageError)>) -> Result<(), Break> {
        add(&self.parts.shared.metrics.errors, failed.len() as u64);
        let mut faults: BTreeMap<usize, StageError> = failed.into_iter().collect();
        let (mut good, mut guilty) = (Vec::with_capacity(group.items.len()), Vec::new());
        for (place, item) in group.items.into_iter().enumerate() {
            match faults.remove(&place) {
                Some(error) => guilty.push((item, error)),
                None => good.push(item),
            }
        }
        group.items = good;
        if !group.items.is_empty() {
            self.groups.push(group);
        }
        guilty.into_iter().try_for_each(|(item, error)| self.bury(item, error.into()))
    }

    fn errored(&mut self, group: Group<T, H::Input>, error: StageError) -> Result<(), Break> {
        let skip = self.parts.shared.on_error == OnError::Skip && error.kind() != ErrorKind::Fatal;
        let size = group.items.len();
        match error.into_examples() {
            Ok(mut failed) if size == 1 && failed.len() == 1 => self.batch_failed(group, failed.remove(0).1),
            Ok(failed) if skip && failed.iter().any(|(place, _)| *place < size) => self.examples_failed(group, failed),
            // Where examples are tried again, each is alone in the end.
            Ok(failed) => self.batch_failed(group, StageError::of_examples(failed)),
            Err(error) => self.batch_failed(group, error),
        }
    }

    fn batch_failed(&mut self, mut group: Group<T, H::Input>, error: StageError) -> Result<(), Break> {
        let shared = &self.parts.shared;
        add(&shared.metrics.errors, 1);
        let size = group.items.len();
        let kind = error.kind();
        if kind == ErrorKind::OutOfMemory {
            self.limit.out_of_memory(size);
            shared.metrics.batch_limit.store(self.most() as u64, Ordering::Relaxed);
            tracing::warn!(stage = %shared.metrics.name, size, limit = self.limit.now(), "a batch did not fit into memory");
            if size > 1 {
                let suspect = group.suspect;
                self.push_halves(group, suspect);
                return Ok(());
            }
        }
        if kind == ErrorKind::Fatal || shared.on_error == OnError::Fail {
            return Err(Break::Failed(self.failed(error.into())));
        }
        if kind == ErrorKind::TimedOut {
            // Half of it might take as long, and cost another thread.
            add(&shared.metrics.hangs, 1);
            let fault = Fault::from(error);
            return group.items.into_iter().try_for_each(|item| self.bury(item, fault.clone()));
        }
        if let OnError::Retry { times, backoff } = shared.on_error {
            // A whole batch is repeated only where that may help; alone, an example gets all its tries.
            if group.attempt < times && (size == 1 || kind == ErrorKind::Transient) {
                let pause = backoff.saturating_mul(1 << group.attempt.min(16));
                group.attempt += 1;
                group.items.iter_mut().for_each(|item| item.envelope.head.attempt += 1);
                add(&shared.metrics.retries, 1);
                let aborted = shared.abort.sleep(pause);
                self.groups.push(group);
                return if aborted { Err(Break::Aborted) } else { Ok(()) };
            }
        }
        if size > 1 {
            let suspect = group.suspect;
            self.push_halves(group, suspect);
            return Ok(());
        }
        let fault = Fault::from(error);
        group.items.into_iter().try_for_each(|item| self.bury(item, fault.clone()))
    }

    fn panicked(&mut self, group: Group<T, H::Input>, fault: Fault) -> Result<(), Break> {
        add(&self.parts.shared.metrics.panics, 1);
        if !group.suspect {
            // One example alone is tried once more, by the successor.
            self.push_halves(group, true);
            return Err(Break::Crashed(fault));
        }
        // The incident is being looked into: a fresh model for the next try, no new incident.
        if let Err(fault) = self.unload() {
            tracing::error!(stage = %self.parts.shared.name(), %fault, "a model's destructor panicked");
        }
        if group.items.len() > 1 {
            self.push_halves(group, true);
            return Ok(());
        }
        group.items.into_iter().try_for_each(|item| self.bury(item, fault.clone()))
    }

    fn bury(&mut self, item: Item<T, H::Input>, fault: Fault) -> Result<(), Break> {
        self.failed_in_turn(&item);
        self.tell(&item.envelope.head, Outcome::DeadLettered, Some(&fault));
        let Envelope { head, ticket, payload } = item.envelope;
        let payload = self.parts.run.letter.as_ref().and_then(|encode| guard(|| encode(&payload)).ok());
        let failure = Failure { stage: self.parts.shared.name(), model: Some(self.id.clone()), fault, payload, locator: None };
        self.parts.shared.bury_as(&head, ticket, failure, &mut self.tally).map_err(Break::Failed)
    }

    fn pass_on(&mut self, items: Items<T, H>, outputs: Vec<H::Output>) -> Result<(), Break> {
        let options = &self.parts.run.stage;
        for (item, inference) in items.into_iter().zip(outputs) {
            let Envelope { mut head, mut ticket, payload } = item.envelope;
            head.attempt = 0;
            let prediction = Prediction { example: payload, inference, model: self.id.clone() };
            if let Some(measure) = &options.measure {
                head.bytes = measure(&prediction);
            } else if options.expansion != 1.0 {
                head.bytes = (head.bytes as f64 * options.expansion) as u64;
            }
            ticket.grow(head.bytes);
            self.outlet.push(Envelope { head, ticket, payload: prediction }).map_err(|_| Break::Aborted)?;
        }
        Ok(())
    }
}

/// The model's input of an item. (Every item of a preprocessing stage has one: it was made at insertion.)
fn input<'i, T, I>(how: &Input<T, I>, item: &'i Item<T, I>) -> Option<&'i I> {
    match how {
        Input::Same(view) => Some(view(&item.envelope.payload)),
        Input::Made(_) => item.made.as_ref(),
    }
}
