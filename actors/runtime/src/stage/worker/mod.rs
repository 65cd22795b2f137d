//! The worker of a stage that takes one record at a time: maps, filters, sinks.
//!
//! ```text
//! build the user code from the factory
//! take over what the predecessor left in the slot
//! loop: work through the chunk under one catch_unwind → flush → receive the next chunk
//! on a panic: the record in hand becomes a dead letter, the rest of the chunk goes into the slot, the thread ends
//! on a recall: the thread ends behind a chunk, and leaves nothing half-done
//! ```

mod barriers;
mod spans;

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Instant,
};

use millstream_edge::{Control, Edge, Received, Standing};

use super::{
    Context, Emit, Entrance, Exit, Factory, OnError, Orders, Outlet, Stage, StageOptions, StageShared, Start, Transform, condemned::Condemned, spawn_worker,
    transform::Born,
};
use crate::{
    envelope::{Envelope, Header, Position, given_up, part_of},
    error::{Cause, ErrorKind, Fault, StageError},
    metrics::{StageMetrics, add},
    outcome::Outcome,
    panics::guard,
    sequence::Door,
    spans::Open,
    stage::outlet::EdgeClosed,
    supervise::{AnyEdge, StageState},
    ticket::{Origin, Tally, Ticket},
    time::alarm,
};

/// A sink that holds records until they are durable is flushed when it holds so many, and whenever it has nothing to do.
const FLUSH_AT: usize = 1024;

/// A stage that takes one record at a time.
pub(crate) struct RecordStage<T, U, S>(Arc<Parts<T, U, S>>);

struct Parts<T, U, S> {
    shared: Arc<StageShared>,
    options: StageOptions<T, U>,
    factory: Factory<S>,
    inlet: Arc<Edge<Envelope<T>>>,
    outlet: Option<Arc<dyn Entrance<U>>>,
    slots: Vec<Mutex<Slot<T>>>,
}

/// What a worker leaves to its successor.
struct Slot<T> {
    chunk: VecDeque<Envelope<T>>,
    /// Where records wait for their turn, before a sink in a pipeline of total order.
    door: Option<Door<T>>,
    ended: bool,
    /// The user code knows that event time has come to its end.
    told: bool,
    /// The user code goes on from the checkpoint, if the pipeline has them.
    restored: bool,
    /// What an instance that was recalled has left to the next one.
    handed: Option<Vec<u8>>,
    /// What a sink has made ready, with the checkpoint that it waits for.
    prepared: Option<(u64, Vec<u8>)>,
}

impl<T, U, S> RecordStage<T, U, S> {
    pub(crate) fn new(
        shared: Arc<StageShared>,
        options: StageOptions<T, U>,
        factory: Factory<S>,
        inlet: Arc<Edge<Envelope<T>>>,
        outlet: Option<Arc<dyn Entrance<U>>>,
    ) -> Self {
        let slots = (0..options.replicas)
            .map(|_| Mutex::new(Slot { chunk: VecDeque::new(), door: None, ended: false, told: false, restored: false, handed: None, prepared: None }))
            .collect();
        RecordStage(Arc::new(Parts { shared, options, factory, inlet, outlet, slots }))
    }

    /// Puts a door before the first replica: there is only one then.
    pub(crate) fn behind(self, door: Option<Door<T>>) -> Self {
        if let Some(slot) = self.0.slots.first() {
            slot.lock().unwrap_or_else(PoisonError::into_inner).door = door;
        }
        self
    }
}

impl<T, U, S> Stage for RecordStage<T, U, S>
where
    T: Send + 'static,
    U: Send + 'static,
    S: Transform<T, U> + 'static,
{
    fn metrics(&self) -> &Arc<StageMetrics> {
        &self.0.shared.metrics
    }

    fn orders(&self) -> Option<(&Orders, &dyn AnyEdge)> {
        Some((&self.0.shared.orders, &*self.0.inlet))
    }

    fn conclude(&self, replica: usize) {
        // What cannot be told was closed, and knows.
        let _ = Outlet::new(self.0.outlet.as_ref(), &self.0.shared.metrics, replica).finish();
    }

    fn start(&self, start: Start, done: Box<dyn FnOnce(Exit) + Send>) -> io::Result<JoinHandle<()>> {
        let parts = self.0.clone();
        spawn_worker(&parts.shared.name(), start, move || parts.run(start), done)
    }
}

/// Why a worker stops in the middle.
enum Break {
    Crashed(Fault),
    Aborted,
    Failed(Cause),
    /// Somebody else is to go on.
    Recalled,
    /// It has given its share of the records away.
    Retired,
}

impl From<EdgeClosed> for Break {
    fn from(_: EdgeClosed) -> Self {
        Break::Aborted
    }
}

impl<T, U, S> Parts<T, U, S>
where
    T: Send,
    U: Send,
    S: Transform<T, U>,
{
    fn run(&self, start: Start) -> Exit {
        if let Some(fault) = self.shared.orders.condemned() {
            return self.condemned(start.replica, fault);
        }
        let mut step = match guard(|| (self.factory)(&start)) {
            Ok(Ok(step)) => step,
            Ok(Err(error)) if error.kind() == ErrorKind::Fatal => return Exit::Failed(self.failed(error)),
            Ok(Err(error)) => return Exit::Crashed(error.into()),
            Err(fault) => return Exit::Crashed(fault),
        };
        if let Err(exit) = self.restore(&mut step, start.replica) {
            return exit;
        }
        self.shared.metrics.set_state(StageState::Running);
        let mut worker = Worker {
            parts: self,
            pending: VecDeque::new(),
            door: None,
            outlet: Outlet::new(self.outlet.as_ref(), &self.shared.metrics, start.replica),
            emit: Emit::new(),
            tally: Tally::default(),
            stored: Vec::new(),
            holds: self.outlet.is_none() && self.shared.accounts.acknowledges(),
            replica: start.replica,
            span: None,
        };
        let ended = {
            let mut slot = self.slot(start.replica);
            worker.pending = std::mem::take(&mut slot.chunk);
            worker.door = slot.door.take();
            slot.ended
        };
        let mut result = worker.stream(&mut step, start.replica, ended);
        // Whatever ended the stream: what the sink has taken is made durable, or did not happen.
        if !worker.stored.is_empty()
            && let Err(failed) = worker.settle_stored(&mut step)
        {
            result = Err(failed);
        }
        worker.tally.flush(&self.shared.accounts);
        let exit = match result {
            Ok(()) => match worker.outlet.finish() {
                Ok(()) => Exit::Finished,
                Err(EdgeClosed) => Exit::Aborted,
            },
            Err(Break::Crashed(fault)) => {
                // What was done before the panic goes on its way, what was not is the successor's.
                let _ = worker.outlet.flush();
                let mut slot = self.slot(start.replica);
                slot.chunk = std::mem::take(&mut worker.pending);
                slot.door = worker.door.take();
                // A fresh instance would not know what this one knew: another process goes on from the checkpoint.
                if self.would_lose(&mut step) { Exit::Failed(Cause::StageFailed { stage: self.shared.name(), fault }) } else { Exit::Crashed(fault) }
            }
            Err(Break::Aborted) => match guard(|| step.finish()) {
                Ok(Ok(())) => Exit::Aborted,
                Ok(Err(error)) => Exit::Failed(self.failed(error)),
                Err(fault) => Exit::Failed(Cause::StageFailed { stage: self.shared.name(), fault }),
            },
            Err(Break::Recalled) => {
                self.slot(start.replica).door = worker.door.take();
                Exit::Recalled
            }
            Err(Break::Retired) => Exit::Retired,
            Err(Break::Failed(cause)) => {
                // The cause is known already: what a flush could add to it is in the log.
                if let Ok(Err(error)) = guard(|| step.finish()) {
                    tracing::error!(stage = %self.shared.name(), %error, "flushing failed");
                }
                Exit::Failed(cause)
            }
        };
        if let Err(fault) = guard(|| drop(step)) {
            tracing::error!(stage = %self.shared.name(), %fault, "a destructor panicked");
        }
        exit
    }

    fn slot(&self, replica: usize) -> std::sync::MutexGuard<'_, Slot<T>> {
        self.slots[replica].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on in quarantine.
    fn condemned(&self, replica: usize, fault: &Fault) -> Exit {
        let (left, ended) = {
            let mut slot = self.slot(replica);
            let mut left: Vec<_> = std::mem::take(&mut slot.chunk).into();
            left.extend(slot.door.take().into_iter().flat_map(Door::into_waiting));
            (left, slot.ended)
        };
        let encode = self.options.encode.as_deref();
        Condemned { shared: &self.shared, inlet: &self.inlet, outlet: self.outlet.as_ref(), fault, encode }.run(replica, left, ended)
    }

    fn failed(&self, error: StageError) -> Cause {
        Cause::StageFailed { stage: self.shared.name(), fault: error.into() }
    }
}

struct Worker<'a, T, U, S> {
    parts: &'a Parts<T, U, S>,
    pending: VecDeque<Envelope<T>>,
    door: Option<Door<T>>,
    outlet: Outlet<U>,
    emit: Emit<U>,
    tally: Tally,
    /// Tickets of records that a sink has taken and not made durable yet.
    stored: Vec<Ticket>,
    /// A source wants to know when its records are done, and this is a sink: done is what was flushed.
    holds: bool,
    replica: usize,
    /// The span of the record in hand, if it is sampled.
    span: Option<Open>,
}

/// The record in hand.
struct Current<T> {
    head: Header,
    ticket: Ticket,
    kept: Option<T>,
}

impl<T, U, S> Worker<'_, T, U, S>
where
    T: Send,
    U: Send,
    S: Transform<T, U>,
{
    fn stream(&mut self, step: &mut S, replica: usize, mut ended: bool) -> Result<(), Break> {
        let receiver = self.parts.inlet.receiver(replica);
        receiver.enter();
        let idle_after = self.parts.options.idle_after;
        let clock = &*self.parts.shared.clock;
        let patience = || idle_after.map(|time| clock.now() + time);
        let mut idle_at = patience();
        // The last watermark of this stage's own.
        let mut said = None;
        loop {
            if !self.pending.is_empty() {
                self.work(step)?;
                idle_at = patience();
            }
            self.outlet.flush()?;
            if let Some(time) = self.emit.watermark.take().filter(|time| said != Some(*time)) {
                said = Some(time);
                self.outlet.control(Control::Watermark(time))?;
            }
            if self.parts.shared.orders.is_recalled(replica) {
                return self.recalled(step, replica);
            }
            if receiver.owes() && receiver.settle() == Standing::Out {
                return Err(Break::Retired);
            }
            if self.open_door(step, replica)? {
                continue;
            }
            self.commit(step, replica)?;
            // Where a drained pipeline has checkpoints, windows stay open for whoever goes on.
            let goes_on = self.parts.shared.checkpoints.is_some() && self.parts.shared.stop.is_set();
            if ended && !goes_on && !self.parts.slot(replica).told {
                self.watermark(step, i64::MAX)?;
                self.parts.slot(replica).told = true;
            }
            if ended && self.door.as_ref().is_none_or(Door::is_empty) {
                return match guard(|| step.finish()) {
                    Ok(Ok(())) => {
                        self.settle_all();
                        self.last_checkpoint(step, replica)
                    }
                    Ok(Err(error)) => Err(Break::Failed(self.parts.failed(error))),
                    Err(fault) => Err(Break::Crashed(fault)),
                };
            }
            let received = if self.stored.is_empty() { None } else { receiver.try_recv() };
            let received = match received {
                Some(received) => received,
                None => {
                    if !self.stored.is_empty() {
                        self.settle_stored(step)?;
                        self.tally.flush(&self.parts.shared.accounts);
                    }
                    receiver.recv(alarm(clock, idle_at))
                }
            };
            match received {
                Received::Chunk(chunk) => {
                    let (items, credit) = chunk.into_parts();
                    // The chunk goes into execution: the sender may send the next one.
                    drop(credit);
                    add(&self.parts.shared.metrics.records_in, items.len() as u64);
                    match &mut self.door {
                        Some(door) => items.into_iter().for_each(|envelope| door.arrive(envelope)),
                        None => self.pending = items.into(),
                    }
                }
                Received::Control(Control::EndOfStream) => {
                    ended = true;
                    self.parts.slot(replica).ended = true;
                }
                Received::Control(Control::Watermark(time)) => {
                    self.watermark(step, time)?;
                    if let Some(time) = self.emit.watermark.take() {
                        self.outlet.control(Control::Watermark(time))?;
                    }
                }
                Received::Control(Control::Barrier(barrier)) => self.barrier_comes(step, replica, barrier)?,
                Received::Control(Control::Idle) if idle_after.is_none() => self.outlet.control(Control::Idle)?,
                Received::TimedOut if idle_at.is_some_and(|at| at <= clock.now()) => {
                    self.outlet.control(Control::Idle)?;
                    (idle_at, said) = (None, None);
                }
                Received::Control(_) | Received::TimedOut => {}
                Received::Closed => return Err(Break::Aborted),
            }
        }
    }

    /// Leaves nothing half-done; the error says that somebody else goes on.
    fn recalled(&mut self, step: &mut S, replica: usize) -> Result<(), Break> {
        self.hand_over(step, replica)?;
        match guard(|| step.finish()) {
            Ok(Ok(())) => {
                self.settle_all();
                Err(Break::Recalled)
            }
            Ok(Err(error)) => Err(Break::Failed(self.parts.failed(error))),
            Err(fault) => Err(Break::Crashed(fault)),
        }
    }

    /// Makes durable what the sink has taken; its records have ended then.
    fn settle_stored(&mut self, step: &mut S) -> Result<(), Break> {
        crate::fail_point!("before-flush");
        match guard(|| step.finish()) {
            Ok(Ok(())) => {
                crate::fail_point!("after-flush");
                self.settle_all();
                Ok(())
            }
            Ok(Err(error)) => Err(self.not_stored(error.into())),
            Err(fault) => Err(self.not_stored(fault)),
        }
    }

    fn settle_all(&mut self) {
        for ticket in self.stored.drain(..) {
            ticket.settle(Outcome::Ok, &mut self.tally);
        }
    }

    /// Nobody knows what the sink still holds: the pipeline ends, and what was not made durable is delivered again.
    fn not_stored(&mut self, fault: Fault) -> Break {
        self.stored.clear();
        Break::Failed(Cause::StageFailed { stage: self.parts.shared.name(), fault })
    }

    /// Tells the user code how far event time has come, and passes on what it makes of that.
    fn watermark(&mut self, step: &mut S, time: i64) -> Result<(), Break> {
        self.emit.watermark = Some(time);
        let told = guard(|| step.watermark(time, &mut self.emit));
        // What was made before a panic was made.
        self.bear()?;
        match told {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Break::Failed(self.parts.failed(error))),
            Err(fault) => {
                add(&self.parts.shared.metrics.panics, 1);
                Err(Break::Crashed(fault))
            }
        }
    }

    /// Lets in the records that the user code has begun.
    fn bear(&mut self) -> Result<(), Break> {
        let mut born = std::mem::take(&mut self.emit.born);
        if !born.is_empty() && self.parts.shared.accounts.sequence.is_some() {
            let error = StageError::fatal("a record that begins in a stage has no place in a total order");
            return Err(Break::Failed(self.parts.failed(error)));
        }
        for Born { key, event_time, item, links } in born.drain(..) {
            let accounts = &self.parts.shared.accounts;
            let bytes = self.parts.options.measure.as_ref().map_or(size_of::<U>() as u64, |measure| measure(&item));
            let id = accounts.number(1);
            accounts.counters.admit(1);
            let origin = Origin { id, source: u32::MAX, position: Position { partition: 0, offset: id }, slot: 0 };
            let ticket = Ticket::born(accounts, origin, bytes);
            let mut record = Header::born(origin, key, event_time, bytes);
            record.trace = self.parts.shared.spans.as_ref().and_then(|spans| spans.born(&links, id, self.replica));
            self.outlet.push(Envelope { head: record, ticket, payload: item })?;
        }
        self.emit.born = born;
        Ok(())
    }

    /// Works through the pending chunk.
    fn work(&mut self, step: &mut S) -> Result<(), Break> {
        let start = Instant::now();
        let mut current: Option<Current<T>> = None;
        let traced = self.parts.shared.spans.is_some();
        let result = guard(|| {
            loop {
                if self.stored.len() >= FLUSH_AT {
                    self.settle_stored(step)?;
                }
                let Some(envelope) = self.pending.pop_front() else { return Ok(()) };
                if traced {
                    self.span = self.parts.shared.spans.as_ref().and_then(|spans| spans.open(&envelope.head));
                }
                self.one(step, envelope, &mut current)?;
                if traced {
                    self.close_span();
                }
                current = None;
                if !self.emit.born.is_empty() {
                    self.bear()?;
                }
            }
        });
        let waited = self.outlet.take_waited();
        self.parts.shared.metrics.worked(start.elapsed().saturating_sub(waited));
        let result = result.unwrap_or_else(|fault| {
            add(&self.parts.shared.metrics.panics, 1);
            self.emit.items.clear();
            if let Some(current) = current.take() {
                self.bury(current, fault.clone()).map_err(Break::Failed)?;
            }
            Err(Break::Crashed(fault))
        });
        if let (Some(span), Err(Break::Failed(cause))) = (&mut self.span, &result) {
            span.fails(cause);
        }
        self.close_span();
        self.tally.flush(&self.parts.shared.accounts);
        result
    }

    fn one(&mut self, step: &mut S, envelope: Envelope<T>, slot: &mut Option<Current<T>>) -> Result<(), Break> {
        let shared = &self.parts.shared;
        let Envelope { head, ticket, mut payload } = envelope;
        if let Some(outcome) = given_up(&head, &ticket) {
            add(&shared.metrics.given_up, 1);
            ticket.settle(outcome, &mut self.tally);
            self.span.iter_mut().for_each(|span| span.ends(outcome));
            return Ok(());
        }
        // From here on, a panic finds the record in the caller's hand.
        let current = slot.insert(Current { head, ticket, kept: None });
        if let Some(keep) = &self.parts.options.keep {
            current.kept = Some(keep(&payload));
        }
        loop {
            let context = Context { header: &current.head, abort: &shared.abort, span: self.span.as_ref().map(Open::context) };
            let Err(error) = step.apply(payload, &context, &mut self.emit) else {
                return match slot.take() {
                    Some(current) => self.pass_on(current),
                    None => Ok(()),
                };
            };
            self.emit.items.clear();
            add(&shared.metrics.errors, 1);
            if error.kind() == ErrorKind::TimedOut {
                add(&shared.metrics.hangs, 1);
            }
            let again = match (shared.on_error, error.kind()) {
                (_, ErrorKind::TimedOut) if shared.on_error != OnError::Fail => None,
                (OnError::Fail, _) | (_, ErrorKind::Fatal) => return Err(Break::Failed(self.parts.failed(error))),
                (OnError::Retry { times, backoff }, _) if current.head.attempt < times => {
                    let pause = backoff.saturating_mul(1 << current.head.attempt.min(16));
                    current.kept.as_ref().zip(self.parts.options.keep.as_ref()).map(|(kept, keep)| (pause, keep(kept)))
                }
                _ => None,
            };
            let Some((pause, copy)) = again else {
                return match slot.take() {
                    Some(current) => self.bury(current, error.into()).map_err(Break::Failed),
                    None => Ok(()),
                };
            };
            current.head.attempt += 1;
            add(&shared.metrics.retries, 1);
            if shared.abort.sleep(pause) {
                return Err(Break::Aborted);
            }
            if let Some(outcome) = given_up(&current.head, &current.ticket) {
                add(&shared.metrics.given_up, 1);
                if let Some(current) = slot.take() {
                    current.ticket.settle(outcome, &mut self.tally);
                    self.span.iter_mut().for_each(|span| span.ends(outcome));
                }
                return Ok(());
            }
            payload = copy;
        }
    }

    /// Sends the results of one record on.
    fn pass_on(&mut self, current: Current<T>) -> Result<(), Break> {
        let Current { mut head, ticket, .. } = current;
        head.attempt = 0;
        if let Some(key) = self.emit.key.take() {
            head.key = Some(key);
        }
        if let Some(time) = self.emit.event_time.take() {
            head.event_time = Some(time);
        }
        let count = self.emit.items.len();
        if count == 0 {
            add(&self.parts.shared.metrics.consumed, 1);
            if self.holds {
                crate::fail_point!("after-write");
                self.stored.push(ticket);
            } else {
                ticket.settle(Outcome::Ok, &mut self.tally);
            }
            return Ok(());
        }
        let options = &self.parts.options;
        let declared = (head.bytes as f64 * options.expansion) as u64 / count as u64;
        let mut items = std::mem::take(&mut self.emit.items);
        let part = head.part;
        let mut last = Some((head, ticket));
        for (at, payload) in items.drain(..).enumerate() {
            let next = if at + 1 == count { last.take() } else { last.as_mut().map(|(head, ticket)| (head.clone(), ticket.fork())) };
            let Some((mut head, mut ticket)) = next else { break };
            head.bytes = match &options.measure {
                Some(measure) => measure(&payload),
                None => declared,
            };
            if count == 1 {
                ticket.grow(head.bytes);
            } else {
                head.part = part_of(part, at + 1);
            }
            if let (Some(_), Some(spans)) = (&self.span, &self.parts.shared.spans) {
                spans.leaves(&mut head);
            }
            self.outlet.push(Envelope { head, ticket, payload })?;
        }
        self.emit.items = items;
        Ok(())
    }

    /// Makes a dead letter of the record in hand.
    fn bury(&mut self, current: Current<T>, fault: Fault) -> Result<(), Cause> {
        self.span.iter_mut().for_each(|span| span.fails(&fault));
        let payload = match (&self.parts.options.encode, &current.kept) {
            // An encoder that panics costs the letter its payload, no more.
            (Some(encode), Some(kept)) => guard(|| encode(kept)).ok(),
            _ => None,
        };
        self.parts.shared.bury(&current.head, current.ticket, fault, payload, None, &mut self.tally)
    }
}
