//! The worker of a source: pulls records, reserves their share of the entry budget, and lets them in.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use millstream_edge::{Control, Cost, MAX_CHUNK};

use super::{Entrance, Exit, Outlet, Stage, StageShared, Start, spawn_worker};
use crate::{
    delivery::{Acks, Commits},
    envelope::{Envelope, Header, Key, Position},
    error::{Cause, Fault, StageError},
    metrics::{StageMetrics, add},
    outcome::Outcome,
    panics::guard,
    signal::Signal,
    source::{Committer, Progress, Pulled, PulledItem, Record, Source},
    spans::Traced,
    stage::outlet::EdgeClosed,
    supervise::StageState,
    ticket::{Origin, Tally, Ticket},
};

/// A source and its edge.
pub(crate) struct SourceStage<T> {
    shared: Arc<StageShared>,
    source: Mutex<Option<Box<dyn Source<T>>>>,
    /// What is told how far its records are done, and how often.
    committer: Mutex<Result<Option<Box<dyn Committer>>, StageError>>,
    commit_every: Duration,
    outlet: Arc<dyn Entrance<T>>,
    /// Which of the pipeline's sources it is.
    number: u32,
    /// Set when the pipeline drains.
    stop: Signal,
    /// The largest that a record gets on its way, with all its copies, as a multiple of what it weighs here.
    expansion: f64,
    /// The most bytes that one pull may collect.
    pull_bytes: u64,
}

/// On what terms a source lets records in.
pub(crate) struct Admission {
    /// Which of the pipeline's sources it is.
    pub(crate) number: u32,
    /// Set when the pipeline drains.
    pub(crate) stop: Signal,
    /// The largest that a record gets on its way, with all its copies, as a multiple of what it weighs here.
    pub(crate) expansion: f64,
    /// The entry budget in bytes.
    pub(crate) budget: u64,
    /// What is told how far the source's records are done, if it is to be told.
    pub(crate) committer: Result<Option<Box<dyn Committer>>, StageError>,
    pub(crate) commit_every: Duration,
}

impl<T: Send + 'static> SourceStage<T> {
    pub(crate) fn new(shared: Arc<StageShared>, source: Box<dyn Source<T>>, outlet: Arc<dyn Entrance<T>>, admission: Admission) -> Self {
        let Admission { number, stop, expansion, budget, committer, commit_every } = admission;
        // A pull is in memory before it is reserved: it must be a small part of the budget.
        let pull_bytes = (budget / 16).min(outlet.limits().bytes / 4).max(1);
        let source = Mutex::new(Some(source));
        let committer = Mutex::new(committer);
        SourceStage { shared, source, committer, commit_every, outlet, number, stop, expansion: expansion.max(1.0), pull_bytes }
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
            outlet: Outlet::new(Some(&self.outlet), &self.shared.metrics, start.replica),
            expansion: self.expansion,
            number: self.number,
            acks: self.shared.accounts.acks_of(self.number).cloned(),
            tally: Tally::default(),
            barrier: self.shared.checkpoints.as_ref().map_or(0, |checkpoints| checkpoints.requested()),
        };
        let pull_bytes = self.pull_bytes;
        let committer = std::mem::replace(&mut *self.committer.lock().unwrap_or_else(PoisonError::into_inner), Ok(None));
        let commits = match (committer, &gate.acks) {
            (Ok(Some(committer)), Some(acks)) => Ok(Some(Commits::start(acks.clone(), committer, self.commit_every, &self.shared.name())?)),
            (Ok(_), _) => Ok(None),
            (Err(error), _) => Err(error),
        };
        let run = move || {
            let Some(mut source) = source else { return Exit::Aborted };
            let commits = match commits {
                Ok(commits) => commits,
                Err(error) => return Exit::Failed(Cause::StageFailed { stage: gate.shared.name(), fault: error.into() }),
            };
            gate.shared.metrics.set_state(StageState::Running);
            let end = gate.restore(&mut source).and_then(|()| gate.stream(&mut source, pull_bytes, commits.as_ref()));
            gate.tally.flush(&gate.shared.accounts);
            if let Err(fault) = guard(|| drop(source)) {
                tracing::error!(%fault, "the source's destructor panicked");
            }
            let Gate { shared, outlet, acks, .. } = gate;
            let end = end.and_then(|()| outlet.finish().map_err(Into::into));
            if end.is_err()
                && let Some(acks) = acks
            {
                acks.close();
            }
            let committed = commits.map_or(Ok(()), Commits::finish);
            match (end, committed) {
                (Err(Exit::Failed(cause)), _) => Exit::Failed(cause),
                (_, Err(fault)) => Exit::Failed(Cause::StageFailed { stage: shared.name(), fault }),
                (Ok(()), Ok(())) => Exit::Finished,
                (Err(exit), Ok(())) => exit,
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
    number: u32,
    /// Where the ends of its records are noted, if it wants to know.
    acks: Option<Arc<Acks>>,
    tally: Tally,
    /// The last barrier that it has sent.
    barrier: u64,
}

impl<T: Send> Gate<T> {
    /// Begins behind the position that the checkpoint tells.
    fn restore(&self, source: &mut Box<dyn Source<T>>) -> Result<(), Exit> {
        let Some(position) = self.shared.checkpoints.as_ref().and_then(|checkpoints| checkpoints.restored(&self.shared.name(), 0)) else {
            return Ok(());
        };
        guard(|| source.restore(position)).and_then(|restored| restored.map_err(Fault::from)).map_err(|fault| self.cannot(fault))
    }

    fn cannot(&self, fault: Fault) -> Exit {
        Exit::Failed(Cause::StageFailed { stage: self.shared.name(), fault })
    }

    /// Says how far it is, and sends the barrier that was asked for; or says for good how far it is.
    fn checkpoint(&mut self, source: &mut Box<dyn Source<T>>, last: bool) -> Result<(), Exit> {
        let Some(checkpoints) = self.shared.checkpoints.clone() else { return Ok(()) };
        let barrier = checkpoints.requested();
        if barrier == self.barrier && !last {
            return Ok(());
        }
        if let Some(cause) = checkpoints.failure() {
            return Err(Exit::Failed(cause));
        }
        let position = guard(|| source.snapshot()).and_then(|position| position.map_err(Fault::from)).map_err(|fault| self.cannot(fault))?;
        if last {
            checkpoints.finish(&self.shared.name(), 0, position);
            return Ok(());
        }
        self.barrier = barrier;
        checkpoints.report(&self.shared.name(), 0, barrier, position);
        crate::fail_point!("before-barrier");
        self.outlet.control(Control::Barrier(barrier))?;
        crate::fail_point!("after-barrier");
        checkpoints.wait_for_sources(barrier).map_err(|cause| cause.map_or(Exit::Aborted, Exit::Failed))
    }

    fn stream(&mut self, source: &mut Box<dyn Source<T>>, pull_bytes: u64, commits: Option<&Commits>) -> Result<(), Exit> {
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
            // (A commit that failed is told of by those who join its thread.)
            let end = progress == Progress::End || commits.is_some_and(Commits::has_failed);
            self.checkpoint(source, end)?;
            if end {
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
        self.line_up(count)?;
        // One reservation for all, if all fit: otherwise one by one.
        let all = pulled.items.iter().fold(Cost::default(), |sum, item| sum.plus(self.reservation(item)));
        let reserved = accounts.debit(all) == all && accounts.try_reserve(all);
        let mut next = 0;
        if reserved {
            accounts.counters.admit(count);
            next = accounts.number(count);
        }
        let admitted = Instant::now();
        let mut result = Ok(());
        for item in pulled.items.drain(..) {
            let cost = accounts.debit(self.reservation(&item));
            if result.is_ok() && !reserved {
                result = self.reserve(cost);
                if result.is_ok() {
                    // Numbered only now: nobody may have to wait for a number that waits for room.
                    accounts.counters.admit(1);
                    next = accounts.number(1);
                }
            }
            let id = next;
            next += 1;
            if result.is_ok() {
                result = self.let_one_in(id, item, cost.bytes, admitted);
            } else if reserved {
                // Aborted half-way: what was let in with the others ends with them.
                let position = Position { partition: 0, offset: id };
                drop(Ticket::new(&accounts, Origin { id, source: self.number, position, slot: 0 }, cost.bytes));
            }
        }
        self.tally.flush(&accounts);
        result
    }

    /// Waits for numbers, where order limits how many may be on their way.
    fn line_up(&mut self, records: u64) -> Result<(), Exit> {
        let Some(sequence) = &self.shared.accounts.sequence else { return Ok(()) };
        let (sequence, records) = (sequence.clone(), records as u32);
        if sequence.try_enter(records) {
            return Ok(());
        }
        self.outlet.flush()?;
        let start = Instant::now();
        let entered = sequence.enter(records);
        self.shared.metrics.waited(start.elapsed());
        entered.map_err(|_| Exit::Aborted)
    }

    fn let_one_in(&mut self, id: u64, item: PulledItem<T>, reserved: u64, admitted: Instant) -> Result<(), Exit> {
        match item {
            PulledItem::Record(record) => self.send(id, record, reserved, admitted),
            PulledItem::Fault { position, locator, fault } => {
                let origin = self.origin(id, position)?;
                let ticket = Ticket::new(&self.shared.accounts, origin, reserved);
                let head = header(origin, Record::new(()), admitted);
                self.shared.bury(&head, ticket, fault, None, Some(locator), &mut self.tally).map_err(Exit::Failed)
            }
        }
    }

    fn origin(&mut self, id: u64, position: Option<Position>) -> Result<Origin, Exit> {
        let position = position.unwrap_or(Position { partition: 0, offset: id });
        let slot = if self.acks.is_some() { self.slot(position)? } else { 0 };
        Ok(Origin { id, source: self.number, position, slot })
    }

    /// A place for the record's end to be noted, waiting for one if there is none.
    fn slot(&mut self, position: Position) -> Result<u64, Exit> {
        let Some(acks) = self.acks.clone() else { return Ok(0) };
        loop {
            if let Some(slot) = acks.try_enter(position) {
                return Ok(slot);
            }
            self.outlet.flush()?;
            if !acks.wait_for_room() {
                return Err(Exit::Aborted);
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
        let origin = self.origin(id, record.position)?;
        let accounts = &self.shared.accounts;
        let mut ticket = Ticket::new(accounts, origin, reserved);
        if let Some(deadline) = record.deadline {
            let family = ticket.share();
            accounts.reaper.watch(deadline, family);
        }
        let (payload, mut record) = record.split();
        if accounts.sequence.is_some() {
            // Where replicas share the work, the children of one record keep together.
            record.key.get_or_insert(Key(id));
        }
        let given = record.trace;
        let mut head = header(origin, record, admitted);
        if let Some(spans) = &self.shared.spans {
            head.trace = spans.admit(given, &head);
        }
        Ok(self.outlet.push(Envelope { head, ticket, payload })?)
    }
}

fn header(origin: Origin, record: Record<()>, admitted: Instant) -> Header {
    Header {
        id: origin.id,
        copy: None,
        part: 0,
        key: record.key,
        source: origin.source,
        position: origin.position,
        event_time: record.event_time,
        deadline: record.deadline,
        priority: record.priority,
        cancel: record.cancel,
        attempt: 0,
        bytes: record.bytes,
        admitted,
        trace: record.trace.map(|context| Arc::new(Traced::foreign(context, admitted))),
    }
}
