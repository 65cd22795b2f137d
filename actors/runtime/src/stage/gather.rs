//! The worker of a stage that waits for records that belong together: joins and ensembles.
//!
//! ```text
//! a record comes → into its group; does the rule pick some? → join them, send the result on
//! a record has waited long enough, or nothing more will come → the rule says what becomes of it
//! ```
//!
//! At a barrier of a checkpoint, a group of copies has everyone who will ever come: each branch has passed on what came to it
//! before, or let go of it. So what has no partner by then is let go at once, and the checkpoint need not hold anything. (What
//! waits for records of its key may find one behind the barrier: such joins are no part of pipelines with checkpoints.)
//!
//! What waits here holds no credits of the edge, so that both sides of a join always come through: it is the entry
//! budget that bounds it. The groups outlive a worker that panics.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use millstream_edge::{Control, Edge, Received};

use super::{Condemned, Entrance, Exit, Orders, Outlet, Stage, StageShared, Start, outlet::EdgeClosed, spawn_worker};
use crate::{
    envelope::{Envelope, Header, given_up},
    error::{Cause, ErrorKind, Fault, StageError},
    metrics::{StageMetrics, add},
    outcome::Outcome,
    panics::guard,
    stage::OnError,
    supervise::{AnyEdge, StageState},
    ticket::{Tally, Ticket},
    time::alarm,
};

/// By what records are found to belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupBy {
    /// They are copies of one record.
    Record,
    /// They have the same key.
    Key,
}

/// A key, or the number of what was copied (of the record itself, where nothing was) and the child.
type GroupKey = (bool, u64, u64);

/// Records that may belong together.
pub(crate) struct Group<M> {
    /// Those who wait, in the order of their coming, with the end of their patience.
    pub(crate) waiting: VecDeque<(Instant, Envelope<M>)>,
    /// How many have come.
    pub(crate) seen: usize,
    /// The group has had its result: who comes now comes too late.
    pub(crate) done: bool,
    /// Those whom nobody waits for any more.
    pub(crate) spare: Vec<Envelope<M>>,
    /// Somebody here may expire or be cancelled.
    mortal: bool,
    due: Instant,
}

/// Records to be joined; the result has the first one's header.
pub(crate) type Picked<M> = Vec<Envelope<M>>;

/// What becomes of a record that was not joined in time.
pub(crate) enum Lonely<U> {
    Emit(U),
    Letter(StageError),
    /// Nobody waits for it.
    Forget,
}

/// Which records are joined, and how.
pub(crate) trait Rule<M, U>: Send + Sync + 'static {
    /// Takes those out of the group who are joined now. `over` says that the oldest has waited long enough.
    fn pick(&self, group: &mut Group<M>, over: bool) -> Option<Picked<M>>;

    /// Nobody need remember the group any more.
    fn is_over(&self, group: &Group<M>) -> bool;

    /// Makes the result. User code.
    fn join(&self, members: Vec<M>) -> Result<U, StageError>;

    /// What becomes of a record that was not joined in time.
    fn alone(&self, member: M) -> Lonely<U>;
}

/// A stage that joins records.
pub(crate) struct GatherStage<M, U, R>(Arc<Parts<M, U, R>>);

struct Parts<M, U, R> {
    shared: Arc<StageShared>,
    rule: R,
    by: GroupBy,
    within: Duration,
    inlet: Arc<Edge<Envelope<M>>>,
    outlet: Arc<dyn Entrance<U>>,
    slot: Mutex<Slot<M>>,
}

/// What a worker leaves to its successor.
struct Slot<M> {
    pending: VecDeque<Envelope<M>>,
    groups: HashMap<GroupKey, Group<M>>,
    due: BTreeSet<(Instant, GroupKey)>,
    ended: bool,
    /// A barrier that goes on when nobody waits here who came before it.
    barrier: Option<u64>,
    /// How far event time has come at the inlet, until that was passed on.
    watermark: Option<i64>,
    passed_on: i64,
    /// Nobody before this stage knows how far event time has come, and that was not passed on.
    idle: bool,
}

impl<M, U, R> GatherStage<M, U, R> {
    pub(crate) fn new(
        shared: Arc<StageShared>,
        rule: R,
        (by, within): (GroupBy, Duration),
        inlet: Arc<Edge<Envelope<M>>>,
        outlet: Arc<dyn Entrance<U>>,
    ) -> Self {
        let slot = Mutex::new(Slot {
            pending: VecDeque::new(),
            groups: HashMap::new(),
            due: BTreeSet::new(),
            ended: false,
            barrier: None,
            watermark: None,
            passed_on: i64::MIN,
            idle: false,
        });
        GatherStage(Arc::new(Parts { shared, rule, by, within, inlet, outlet, slot }))
    }
}

impl<M: Send + 'static, U: Send + 'static, R: Rule<M, U>> Stage for GatherStage<M, U, R> {
    fn metrics(&self) -> &Arc<StageMetrics> {
        &self.0.shared.metrics
    }

    fn orders(&self) -> Option<(&Orders, &dyn AnyEdge)> {
        Some((&self.0.shared.orders, &*self.0.inlet))
    }

    fn start(&self, start: Start, done: Box<dyn FnOnce(Exit) + Send>) -> io::Result<JoinHandle<()>> {
        let parts = self.0.clone();
        spawn_worker(&parts.shared.name(), start, move || parts.run(), done)
    }
}

/// Why a worker stops in the middle.
enum Break {
    Crashed(Fault),
    Aborted,
    Failed(Cause),
    Recalled,
}

impl From<EdgeClosed> for Break {
    fn from(_: EdgeClosed) -> Self {
        Break::Aborted
    }
}

impl<M: Send, U: Send, R: Rule<M, U>> Parts<M, U, R> {
    fn run(&self) -> Exit {
        // Only one worker lives at a time; holding the slot means that a panic leaves everything in it.
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fault) = self.shared.orders.condemned() {
            let waiting = slot.groups.drain().flat_map(|(_, group)| group.waiting).map(|(_, envelope)| envelope);
            let mut left: Vec<_> = waiting.collect();
            left.extend(slot.pending.drain(..));
            let condemned = Condemned { shared: &self.shared, inlet: &self.inlet, outlet: Some(&self.outlet), fault, encode: None };
            return condemned.run(0, left, slot.ended);
        }
        self.shared.metrics.set_state(StageState::Running);
        let outlet = Outlet::new(Some(&self.outlet), &self.shared.metrics, 0);
        let mut worker = Worker { parts: self, outlet, tally: Tally::default() };
        let result = worker.stream(&mut slot);
        worker.tally.flush(&self.shared.accounts);
        match result {
            Ok(()) => worker.outlet.finish().map_or(Exit::Aborted, |()| Exit::Finished),
            Err(Break::Crashed(fault)) => {
                let _ = worker.outlet.flush();
                Exit::Crashed(fault)
            }
            Err(Break::Aborted) => Exit::Aborted,
            Err(Break::Recalled) => Exit::Recalled,
            Err(Break::Failed(cause)) => Exit::Failed(cause),
        }
    }
}

struct Worker<'a, M, U, R> {
    parts: &'a Parts<M, U, R>,
    outlet: Outlet<U>,
    tally: Tally,
}

impl<M: Send, U: Send, R: Rule<M, U>> Worker<'_, M, U, R> {
    fn stream(&mut self, slot: &mut Slot<M>) -> Result<(), Break> {
        let receiver = self.parts.inlet.receiver(0);
        loop {
            let start = Instant::now();
            let now = self.parts.shared.clock.now();
            while let Some(envelope) = slot.pending.pop_front() {
                self.take_in(slot, envelope, now)?;
            }
            self.expire(slot, now)?;
            self.outlet.flush()?;
            self.pass_time_on(slot)?;
            if let Some(barrier) = slot.barrier.take() {
                crate::fail_point!("at-meeting");
                self.outlet.control(Control::Barrier(barrier))?;
            }
            self.tally.flush(&self.parts.shared.accounts);
            let waited = self.outlet.take_waited();
            self.parts.shared.metrics.worked(start.elapsed().saturating_sub(waited));
            if slot.ended && slot.groups.is_empty() {
                return Ok(());
            }
            if self.parts.shared.orders.is_recalled(0) {
                return Err(Break::Recalled);
            }
            match receiver.recv(alarm(&*self.parts.shared.clock, slot.due.first().map(|(due, _)| *due))) {
                Received::Chunk(chunk) => {
                    let (items, credit) = chunk.into_parts();
                    drop(credit);
                    add(&self.parts.shared.metrics.records_in, items.len() as u64);
                    slot.pending = items.into();
                }
                Received::Control(Control::EndOfStream) => slot.ended = true,
                Received::Control(Control::Watermark(time)) => (slot.watermark, slot.idle) = (Some(time), false),
                Received::Control(Control::Idle) => slot.idle = true,
                Received::Control(Control::Barrier(barrier)) => slot.barrier = Some(barrier),
                Received::Control(_) | Received::TimedOut => {}
                Received::Closed => return Err(Break::Aborted),
            }
        }
    }

    /// Passes a watermark on, as far as nobody who is earlier waits here, and idleness when nobody waits here.
    fn pass_time_on(&mut self, slot: &mut Slot<M>) -> Result<(), Break> {
        if slot.idle && slot.groups.is_empty() {
            (slot.idle, slot.passed_on) = (false, i64::MIN);
            self.outlet.control(Control::Idle)?;
        }
        let Some(watermark) = slot.watermark else { return Ok(()) };
        let waiting = slot.groups.values().flat_map(|group| &group.waiting);
        let earliest = waiting.filter_map(|(_, envelope)| envelope.head.event_time).min().unwrap_or(i64::MAX);
        if earliest >= watermark {
            slot.watermark = None;
        }
        let time = earliest.min(watermark);
        if time > slot.passed_on {
            slot.passed_on = time;
            self.outlet.control(Control::Watermark(time))?;
        }
        Ok(())
    }

    fn take_in(&mut self, slot: &mut Slot<M>, mut envelope: Envelope<M>, now: Instant) -> Result<(), Break> {
        if let Some(spans) = &self.parts.shared.spans {
            spans.comes(&mut envelope.head);
        }
        let Some(envelope) = self.wanted(envelope) else { return Ok(()) };
        let key = match (self.parts.by, envelope.head.key) {
            (GroupBy::Record, _) => match &envelope.head.copy {
                Some(copy) => (true, copy.number, envelope.head.part),
                None => (false, envelope.head.id, envelope.head.part),
            },
            (GroupBy::Key, Some(key)) => (false, key.0, 0),
            (GroupBy::Key, None) => {
                let Envelope { head, ticket, .. } = envelope;
                return self.errored(vec![(head, ticket)], StageError::permanent("a record without a key cannot be joined by key"));
            }
        };
        let patience = now + self.parts.within;
        let group = slot.groups.entry(key).or_insert_with(|| {
            slot.due.insert((patience, key));
            Group { waiting: VecDeque::new(), seen: 0, done: false, spare: Vec::new(), mortal: false, due: patience }
        });
        group.seen += 1;
        group.mortal |= envelope.head.deadline.is_some() || envelope.head.cancel.is_some();
        group.waiting.push_back((patience, envelope));
        self.look(slot, key, false)
    }

    /// Joins who can be joined, and forgets a group that is over.
    fn look(&mut self, slot: &mut Slot<M>, key: GroupKey, over: bool) -> Result<(), Break> {
        let Some(group) = slot.groups.get_mut(&key) else { return Ok(()) };
        if group.mortal {
            let mut still = VecDeque::with_capacity(group.waiting.len());
            for (patience, envelope) in group.waiting.drain(..) {
                still.extend(self.wanted(envelope).map(|envelope| (patience, envelope)));
            }
            group.waiting = still;
        }
        let picked = self.parts.rule.pick(group, over);
        for Envelope { head, ticket, .. } in group.spare.drain(..) {
            self.meet([&head].into_iter(), Outcome::Ok, None);
            ticket.settle(Outcome::Ok, &mut self.tally);
        }
        if self.parts.rule.is_over(group)
            && let Some(group) = slot.groups.remove(&key)
        {
            slot.due.remove(&(group.due, key));
        }
        picked.map_or(Ok(()), |picked| self.join(picked))
    }

    fn join(&mut self, picked: Picked<M>) -> Result<(), Break> {
        let mut who = Vec::with_capacity(picked.len());
        let mut members = Vec::with_capacity(picked.len());
        for Envelope { head, ticket, payload } in picked {
            who.push((head, ticket));
            members.push(payload);
        }
        let payload = match guard(|| self.parts.rule.join(members)) {
            Ok(Ok(payload)) => payload,
            Ok(Err(error)) => return self.errored(who, error),
            Err(fault) => {
                add(&self.parts.shared.metrics.panics, 1);
                self.bury(who, &fault)?;
                return Err(Break::Crashed(fault));
            }
        };
        self.meet(who.iter().map(|(head, _)| head), Outcome::Ok, None);
        let mut who = who.into_iter();
        let Some((mut head, mut ticket)) = who.next() else { return Ok(()) };
        head.attempt = 0;
        self.whole(&mut head);
        self.leaves(&mut head);
        for (other, with) in who {
            head.bytes = head.bytes.saturating_add(other.bytes);
            ticket.join(with, &mut self.tally);
        }
        Ok(self.outlet.push(Envelope { head, ticket, payload })?)
    }

    /// Lets those go who have waited long enough: everyone, once nothing more will come to them.
    fn expire(&mut self, slot: &mut Slot<M>, now: Instant) -> Result<(), Break> {
        let all = slot.ended || slot.barrier.is_some();
        while let Some(&(due, key)) = slot.due.first() {
            if due > now && !all {
                return Ok(());
            }
            self.look(slot, key, true)?;
            // What the rule did not want is over, or waits on for the next one's patience to end.
            let Some(group) = slot.groups.get_mut(&key) else { continue };
            slot.due.remove(&(group.due, key));
            let mut gone = Vec::new();
            group.waiting = std::mem::take(&mut group.waiting)
                .into_iter()
                .filter_map(|(patience, envelope)| match patience > now && !all {
                    true => Some((patience, envelope)),
                    false => {
                        gone.push(envelope);
                        None
                    }
                })
                .collect();
            match group.waiting.front() {
                Some((patience, _)) => {
                    group.due = *patience;
                    slot.due.insert((*patience, key));
                }
                None => {
                    slot.groups.remove(&key);
                }
            }
            // Whoever is left over when one of them panics is as late in the next round.
            let mut gone = gone.into_iter();
            while let Some(envelope) = gone.next() {
                if let Err(stop) = self.let_go(envelope) {
                    slot.pending.extend(gone);
                    return Err(stop);
                }
            }
        }
        Ok(())
    }

    fn let_go(&mut self, envelope: Envelope<M>) -> Result<(), Break> {
        let Envelope { mut head, ticket, payload } = envelope;
        self.whole(&mut head);
        match guard(|| self.parts.rule.alone(payload)) {
            Ok(Lonely::Emit(payload)) => {
                self.meet([&head].into_iter(), Outcome::Ok, None);
                self.leaves(&mut head);
                Ok(self.outlet.push(Envelope { head, ticket, payload })?)
            }
            Ok(Lonely::Letter(error)) => self.errored(vec![(head, ticket)], error),
            Ok(Lonely::Forget) => {
                self.meet([&head].into_iter(), Outcome::Ok, None);
                ticket.settle(Outcome::Ok, &mut self.tally);
                Ok(())
            }
            Err(fault) => {
                add(&self.parts.shared.metrics.panics, 1);
                self.bury(vec![(head, ticket)], &fault)?;
                Err(Break::Crashed(fault))
            }
        }
    }

    /// What was copied is one again.
    fn whole(&self, head: &mut Header) {
        if self.parts.by == GroupBy::Record {
            head.copy = head.copy.take().and_then(|copy| copy.outer.clone());
        }
    }

    fn wanted(&mut self, envelope: Envelope<M>) -> Option<Envelope<M>> {
        let Some(outcome) = given_up(&envelope.head, &envelope.ticket) else { return Some(envelope) };
        add(&self.parts.shared.metrics.given_up, 1);
        self.meet([&envelope.head].into_iter(), outcome, None);
        envelope.ticket.settle(outcome, &mut self.tally);
        None
    }

    fn errored(&mut self, who: Vec<(Header, Ticket)>, error: StageError) -> Result<(), Break> {
        add(&self.parts.shared.metrics.errors, 1);
        if self.parts.shared.on_error == OnError::Fail || error.kind() == ErrorKind::Fatal {
            let cause = Cause::StageFailed { stage: self.parts.shared.name(), fault: error.into() };
            self.meet(who.iter().map(|(head, _)| head), Outcome::DeadLettered, Some(&cause));
            return Err(Break::Failed(cause));
        }
        self.bury(who, &error.into())
    }

    /// Tells the tracer that these have become one, or have ended here.
    fn meet<'h>(&self, heads: impl Iterator<Item = &'h Header> + Clone, outcome: Outcome, error: Option<&dyn fmt::Display>) {
        if let Some(spans) = &self.parts.shared.spans {
            spans.meet(heads, outcome, error);
        }
    }

    fn leaves(&self, head: &mut Header) {
        if let Some(spans) = &self.parts.shared.spans {
            spans.leaves(head);
        }
    }

    /// A dead letter for each record among them.
    fn bury(&mut self, who: Vec<(Header, Ticket)>, fault: &Fault) -> Result<(), Break> {
        self.meet(who.iter().map(|(head, _)| head), Outcome::DeadLettered, Some(fault));
        let mut written = None;
        for (head, ticket) in who {
            if written.replace(head.id) == Some(head.id) {
                ticket.settle(Outcome::DeadLettered, &mut self.tally);
                continue;
            }
            self.parts.shared.bury(&head, ticket, fault.clone(), None, None, &mut self.tally).map_err(Break::Failed)?;
        }
        Ok(())
    }
}
