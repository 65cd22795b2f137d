//! The worker of a source: pulls records, reserves their share of the entry budget, and lets them in.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Instant,
};

use millstream_edge::{Cost, Edge, MAX_CHUNK};

use super::{Exit, Outlet, Stage, StageShared, Start, spawn_worker};
use crate::{
    envelope::{Envelope, Header, Position},
    error::{Cause, Fault},
    metrics::{StageMetrics, add},
    outcome::Outcome,
    panics::guard,
    signal::Signal,
    source::{Progress, Pulled, PulledItem, Record, Source},
    stage::outlet::EdgeClosed,
    supervise::StageState,
    ticket::{Tally, Ticket},
};

/// A source and its edge.
pub(crate) struct SourceStage<T> {
    shared: Arc<StageShared>,
    source: Mutex<Option<Box<dyn Source<T>>>>,
    outlet: Arc<Edge<Envelope<T>>>,
    /// Set when the pipeline drains.
    stop: Signal,
    /// The largest that a record gets on its way, as a multiple of what it weighs here.
    expansion: f64,
    /// The most bytes that one pull may collect.
    pull_bytes: u64,
}

impl<T: Send + 'static> SourceStage<T> {
    pub(crate) fn new(shared: Arc<StageShared>, source: Box<dyn Source<T>>, outlet: Arc<Edge<Envelope<T>>>, stop: Signal, expansion: f64, budget: u64) -> Self {
        // A pull is in memory before it is reserved: it must be a small part of the budget.
        let pull_bytes = (budget / 16).min(outlet.limits().bytes / 4).max(1);
        let source = Mutex::new(Some(source));
        SourceStage { shared, source, outlet, stop, expansion: expansion.max(1.0), pull_bytes }
    }
}

impl<T: Send + 'static> Stage for SourceStage<T> {
    fn metrics(&self) -> &Arc<StageMetrics> {
        &self.shared.metrics
    }

    fn start(&self, start: Start, done: Box<dyn FnOnce(Exit) + Send>) -> io::Result<JoinHandle<()>> {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut gate = Gate {
            shared: self.shared.clone(),
            stop: self.stop.clone(),
            outlet: Outlet::new(Some(&self.outlet), self.shared.metrics.clone()),
            expansion: self.expansion,
            next: 0,
            tally: Tally::default(),
        };
        let pull_bytes = self.pull_bytes;
        let run = move || {
            let Some(mut source) = source else { return Exit::Aborted };
            gate.shared.metrics.set_state(StageState::Running);
            let end = gate.stream(&mut source, pull_bytes);
            gate.tally.flush(&gate.shared.accounts);
            if let Err(fault) = guard(|| drop(source)) {
                tracing::error!(%fault, "the source's destructor panicked");
            }
            match end.and_then(|()| gate.outlet.finish().map_err(Into::into)) {
                Ok(()) => Exit::Finished,
                Err(exit) => exit,
            }
        };
        spawn_worker(&self.shared.name(), start, run, done)
    }
}

impl From<EdgeClosed> for Exit {
    fn from(_: EdgeClosed) -> Self {
        Exit::Aborted
    }
}

/// Where records get their tickets.
struct Gate<T> {
    shared: Arc<StageShared>,
    stop: Signal,
    outlet: Outlet<T>,
    expansion: f64,
    next: u64,
    tally: Tally,
}

impl<T: Send> Gate<T> {
    fn stream(&mut self, source: &mut Box<dyn Source<T>>, pull_bytes: u64) -> Result<(), Exit> {
        let mut pulled = Pulled::new(MAX_CHUNK, pull_bytes);
        loop {
            pulled.reset();
            let start = Instant::now();
            // A source cannot be made again: whatever goes wrong in it ends the pipeline.
            let progress = guard(|| source.pull(&mut pulled, &self.stop))
                .and_then(|result| result.map_err(Fault::from))
                .map_err(|fault| Exit::Failed(Cause::StageFailed { stage: self.shared.name(), fault }))?;
            self.shared.metrics.worked(start.elapsed());
            self.let_in(&mut pulled)?;
            self.outlet.flush()?;
            if self.shared.abort.is_set() {
                return Err(Exit::Aborted);
            }
            if progress == Progress::End {
                return Ok(());
            }
        }
    }

    fn let_in(&mut self, pulled: &mut Pulled<T>) -> Result<(), Exit> {
        let accounts = self.shared.accounts.clone();
        accounts.counters.admit(pulled.rejected);
        accounts.counters.end(Outcome::Rejected, pulled.rejected);
        let count = pulled.items.len() as u64;
        add(&self.shared.metrics.records_in, count);
        // One reservation for all, if all fit: otherwise one by one.
        let all = pulled.items.iter().fold(Cost::default(), |sum, item| sum.plus(self.reservation(item)));
        let reserved = accounts.debit(all) == all && accounts.try_reserve(all);
        if reserved {
            accounts.counters.admit(count);
        }
        let admitted = Instant::now();
        let mut result = Ok(());
        for item in pulled.items.drain(..) {
            let cost = accounts.debit(self.reservation(&item));
            if result.is_ok() && !reserved {
                result = self.reserve(cost);
                accounts.counters.admit(u64::from(result.is_ok()));
            }
            let id = self.next;
            self.next += 1;
            if result.is_ok() {
                result = self.let_one_in(id, item, cost.bytes, admitted);
            } else if reserved {
                // Aborted half-way: what was let in with the others ends with them.
                drop(Ticket::new(&accounts, id, Position::default(), cost.bytes));
            }
        }
        self.tally.flush(&accounts);
        result
    }

    fn let_one_in(&mut self, id: u64, item: PulledItem<T>, reserved: u64, admitted: Instant) -> Result<(), Exit> {
        match item {
            PulledItem::Record(record) => self.send(id, record, reserved, admitted),
            PulledItem::Fault { position, locator, fault } => {
                let position = position.unwrap_or(Position { partition: 0, offset: id });
                let ticket = Ticket::new(&self.shared.accounts, id, position, reserved);
                let head = header(id, position, Record::new(()), admitted);
                self.shared.bury(&head, ticket, fault, None, Some(locator), &mut self.tally).map_err(Exit::Failed)
            }
        }
    }

    fn reservation(&self, item: &PulledItem<T>) -> Cost {
        let bytes = match item {
            PulledItem::Record(record) => (record.bytes as f64 * self.expansion) as u64,
            PulledItem::Fault { .. } => 0,
        };
        Cost { records: 1, bytes }
    }

    /// Waits for room in the entry budget. What has been let in goes on first: it is what makes room.
    fn reserve(&mut self, cost: Cost) -> Result<(), Exit> {
        if self.shared.accounts.try_reserve(cost) {
            return Ok(());
        }
        self.outlet.flush()?;
        let start = Instant::now();
        let reserved = self.shared.accounts.reserve(cost);
        self.shared.metrics.waited(start.elapsed());
        reserved.map_err(|_| Exit::Aborted)
    }

    fn send(&mut self, id: u64, record: Record<T>, reserved: u64, admitted: Instant) -> Result<(), Exit> {
        let accounts = &self.shared.accounts;
        let position = record.position.unwrap_or(Position { partition: 0, offset: id });
        let mut ticket = Ticket::new(accounts, id, position, reserved);
        if let Some(deadline) = record.deadline {
            let family = ticket.share();
            accounts.reaper.watch(deadline, family);
        }
        let (payload, record) = record.split();
        let head = header(id, position, record, admitted);
        Ok(self.outlet.push(Envelope { head, ticket, payload })?)
    }
}

fn header(id: u64, position: Position, record: Record<()>, admitted: Instant) -> Header {
    Header {
        id,
        key: record.key,
        position,
        epoch: 0,
        event_time: record.event_time,
        deadline: record.deadline,
        priority: record.priority,
        cancel: record.cancel,
        attempt: 0,
        cost: Cost { records: 1, bytes: record.bytes },
        admitted,
        trace: record.trace,
    }
}
