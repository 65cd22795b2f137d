//! The worker of an asynchronous stage.
//!
//! ```text
//! loop
//!   what has come back: into its line; who may leave leaves
//!   while there is room: the next record becomes a future
//!   wait: for records and futures; for futures only, while there is no room
//! on a panic in a future: its record becomes a dead letter, no new futures begin, the others end, the thread ends
//! ```
//!
//! Whatever asks the worker to stop (a recall, a barrier, shards to give away) waits until no record is in hand.

use std::{collections::VecDeque, sync::atomic::Ordering};

use millstream_edge::{Control, Received, Receiver, Standing};

use super::{
    Parts,
    lines::Lines,
    reactor::{Done, End, Job, Reactor, Tries},
};
use crate::{
    envelope::{Envelope, Header, given_up},
    error::{Cause, ErrorKind, Fault, StageError},
    metrics::add,
    panics::guard,
    spans::Open,
    stage::{Condemned, Exit, OnError, Outlet, Start, outlet::EdgeClosed},
    supervise::StageState,
    ticket::{Tally, Ticket},
};

/// So many times as many records as may be worked on at once may be in hand, if some wait for one before them.
const IN_LINE: usize = 4;

/// Why a worker stops in the middle.
enum Break {
    Crashed(Fault),
    Aborted,
    Failed(Cause),
    Recalled,
    Retired,
}

impl From<EdgeClosed> for Break {
    fn from(_: EdgeClosed) -> Self {
        Break::Aborted
    }
}

/// A record in hand.
struct Member<T> {
    head: Header,
    ticket: Ticket,
    /// For its letter.
    kept: Option<T>,
    /// Its span, if it is sampled.
    span: Option<Open>,
}

pub(super) struct Worker<'a, T, U> {
    parts: &'a Parts<T, U>,
    replica: usize,
    reactor: Reactor<T, U>,
    pending: VecDeque<Envelope<T>>,
    lines: Lines<Member<T>, Done<U>>,
    /// Futures that have not ended.
    running: usize,
    /// A future has panicked: a fresh instance goes on when the others have ended.
    crash: Option<Fault>,
    ended: bool,
    barrier: Option<u64>,
    watermark: Option<i64>,
    passed_on: i64,
    idle: bool,
    outlet: Outlet<U>,
    tally: Tally,
}

impl<'a, T: Send + 'static, U: Send + 'static> Worker<'a, T, U> {
    pub(super) fn run(parts: &'a Parts<T, U>, start: Start) -> Exit {
        let replica = start.replica;
        if let Some(fault) = parts.shared.orders.condemned() {
            let (left, ended) = {
                let mut slot = parts.slot(replica);
                (std::mem::take(&mut slot.pending).into(), slot.ended)
            };
            let encode = parts.options.stage.encode.as_deref();
            return Condemned { shared: &parts.shared, inlet: &parts.inlet, outlet: Some(&parts.outlet), fault, encode }.run(replica, left, ended);
        }
        let options = &parts.options.stage;
        let tries = Tries { on_error: parts.shared.on_error, keep: options.keep.clone(), limit: parts.options.limit };
        let call = match guard(|| (parts.factory)()) {
            Ok(call) => call,
            Err(fault) => return Exit::Crashed(fault),
        };
        let inlet = parts.inlet.clone();
        let reactor = match Reactor::start(&parts.shared.name(), call, tries, move || inlet.wake_one(replica)) {
            Ok(reactor) => reactor,
            Err(error) => return Exit::Failed(Cause::Thread { stage: parts.shared.name(), message: error.to_string() }),
        };
        parts.shared.metrics.set_state(StageState::Running);
        let mut worker = {
            let mut slot = parts.slot(replica);
            Worker {
                parts,
                replica,
                reactor,
                pending: std::mem::take(&mut slot.pending),
                lines: Lines::new(parts.options.in_order),
                running: 0,
                crash: None,
                ended: slot.ended,
                barrier: None,
                watermark: slot.watermark,
                passed_on: slot.passed_on,
                idle: slot.idle,
                outlet: Outlet::new(Some(&parts.outlet), &parts.shared.metrics, replica),
                tally: Tally::default(),
            }
        };
        let result = worker.stream();
        worker.tally.flush(&parts.shared.accounts);
        let exit = match result {
            Ok(()) => return worker.outlet.finish().map_or(Exit::Aborted, |()| Exit::Finished),
            Err(Break::Crashed(fault)) => Exit::Crashed(fault),
            Err(Break::Recalled) => Exit::Recalled,
            Err(Break::Retired) => Exit::Retired,
            Err(Break::Aborted) => return Exit::Aborted,
            Err(Break::Failed(cause)) => return Exit::Failed(cause),
        };
        let _ = worker.outlet.flush();
        let mut slot = parts.slot(replica);
        slot.pending = std::mem::take(&mut worker.pending);
        (slot.ended, slot.watermark, slot.passed_on, slot.idle) = (worker.ended, worker.watermark, worker.passed_on, worker.idle);
        exit
    }

    fn stream(&mut self) -> Result<(), Break> {
        let receiver = self.parts.inlet.receiver(self.replica);
        receiver.enter();
        let concurrency = self.parts.options.concurrency;
        loop {
            // Cleared before the look: what comes behind the look rings again.
            self.reactor.rung.store(false, Ordering::Release);
            while let Ok(done) = self.reactor.done.try_recv() {
                self.land(done)?;
            }
            let stops = self.crash.is_some() || self.parts.shared.orders.is_recalled(self.replica);
            while !stops && self.has_room(concurrency) {
                let Some(envelope) = self.pending.pop_front() else { break };
                self.launch(envelope);
            }
            self.tally.flush(&self.parts.shared.accounts);
            if self.lines.len() == 0 {
                self.stop_if_asked(&receiver)?;
            }
            let rests = self.lines.len() == 0 && self.pending.is_empty();
            if rests && self.ended {
                self.pass_time_on()?;
                return Ok(());
            }
            let takes = !stops && self.pending.is_empty() && !self.ended && self.barrier.is_none() && !receiver.owes();
            if takes && self.has_room(concurrency) {
                if let Some(received) = receiver.try_recv() {
                    self.take_in(received)?;
                    continue;
                }
                self.outlet.flush()?;
                self.pass_time_on()?;
                self.take_in(receiver.recv(None))?;
            } else if self.running > 0 {
                self.outlet.flush()?;
                self.pass_time_on()?;
                // Whatever else is to be done waits for a future to end.
                let done = self.parts.shared.abort.recv(&self.reactor.done).ok_or(Break::Aborted)?;
                self.land(done)?;
            }
        }
    }

    fn has_room(&self, concurrency: usize) -> bool {
        self.running < concurrency && self.lines.len() < concurrency.saturating_mul(IN_LINE)
    }

    /// No record is in hand, and none of its results: does what was asked for meanwhile.
    fn stop_if_asked(&mut self, receiver: &Receiver<Envelope<T>>) -> Result<(), Break> {
        self.outlet.flush()?;
        if let Some(fault) = self.crash.take() {
            return Err(Break::Crashed(fault));
        }
        if !self.pending.is_empty() {
            return if self.parts.shared.orders.is_recalled(self.replica) { Err(Break::Recalled) } else { Ok(()) };
        }
        self.pass_time_on()?;
        if let Some(barrier) = self.barrier.take() {
            self.outlet.control(Control::Barrier(barrier))?;
        }
        if self.parts.shared.orders.is_recalled(self.replica) && !self.ended {
            return Err(Break::Recalled);
        }
        if receiver.owes() && receiver.settle() == Standing::Out {
            return Err(Break::Retired);
        }
        Ok(())
    }

    fn take_in(&mut self, received: Received<Envelope<T>>) -> Result<(), Break> {
        match received {
            Received::Chunk(chunk) => {
                let (items, credit) = chunk.into_parts();
                drop(credit);
                add(&self.parts.shared.metrics.records_in, items.len() as u64);
                self.pending = items.into();
            }
            Received::Control(Control::EndOfStream) => {
                self.ended = true;
                self.parts.slot(self.replica).ended = true;
            }
            Received::Control(Control::Watermark(time)) => (self.watermark, self.idle) = (Some(time), false),
            Received::Control(Control::Barrier(barrier)) => self.barrier = Some(barrier),
            Received::Control(Control::Idle) => self.idle = true,
            Received::Control(_) | Received::TimedOut => {}
            Received::Closed => return Err(Break::Aborted),
        }
        Ok(())
    }

    /// A record becomes a future.
    fn launch(&mut self, envelope: Envelope<T>) {
        let Envelope { head, ticket, payload } = envelope;
        let mut span = self.parts.shared.spans.as_ref().and_then(|spans| spans.open(&head));
        if let Some(outcome) = given_up(&head, &ticket) {
            add(&self.parts.shared.metrics.given_up, 1);
            span.iter_mut().for_each(|span| span.ends(outcome));
            self.close(span);
            return ticket.settle(outcome, &mut self.tally);
        }
        let options = &self.parts.options.stage;
        let kept = options.encode.as_ref().and(options.keep.as_ref()).and_then(|keep| guard(|| keep(&payload)).ok());
        let (deadline, cancel) = (head.deadline, head.cancel.clone());
        let number = self.lines.join(head.key, Member { head, ticket, kept, span });
        self.running += 1;
        self.reactor.give(Job { number, payload, deadline, cancel });
    }

    /// A future has ended.
    fn land(&mut self, done: Done<U>) -> Result<(), Break> {
        self.running -= 1;
        let metrics = &self.parts.shared.metrics;
        metrics.worked_beside(done.took, self.parts.options.concurrency);
        add(&metrics.retries, u64::from(done.retries));
        let leaving = self.lines.done(done.number, done);
        for (member, done) in leaving {
            self.leave(member, done)?;
        }
        Ok(())
    }

    fn leave(&mut self, member: Member<T>, done: Done<U>) -> Result<(), Break> {
        let Member { mut head, mut ticket, kept, mut span } = member;
        let shared = &self.parts.shared;
        head.attempt += done.retries;
        match done.end {
            End::Made(payload) => {
                let options = &self.parts.options.stage;
                head.attempt = 0;
                if let Some(measure) = &options.measure {
                    head.bytes = measure(&payload);
                } else if options.expansion != 1.0 {
                    head.bytes = (head.bytes as f64 * options.expansion) as u64;
                }
                ticket.grow(head.bytes);
                if let Some(spans) = shared.spans.as_ref().filter(|_| span.is_some()) {
                    spans.leaves(&mut head);
                }
                self.close(span);
                Ok(self.outlet.push(Envelope { head, ticket, payload })?)
            }
            End::GivenUp(outcome) => {
                add(&shared.metrics.given_up, 1);
                ticket.settle(outcome, &mut self.tally);
                span.iter_mut().for_each(|span| span.ends(outcome));
                self.close(span);
                Ok(())
            }
            End::Failed(error) => {
                add(&shared.metrics.errors, 1);
                if error.kind() == ErrorKind::TimedOut {
                    add(&shared.metrics.hangs, 1);
                }
                if shared.on_error == OnError::Fail || error.kind() == ErrorKind::Fatal {
                    let cause = self.failed(error);
                    span.iter_mut().for_each(|span| span.fails(&cause));
                    self.close(span);
                    return Err(Break::Failed(cause));
                }
                self.bury(Member { head, ticket, kept, span }, error.into())
            }
            End::Panicked(fault) => {
                add(&shared.metrics.panics, 1);
                self.crash = Some(fault.clone());
                self.bury(Member { head, ticket, kept, span }, fault)
            }
        }
    }

    fn failed(&self, error: StageError) -> Cause {
        Cause::StageFailed { stage: self.parts.shared.name(), fault: error.into() }
    }

    fn bury(&mut self, member: Member<T>, fault: Fault) -> Result<(), Break> {
        let Member { head, ticket, kept, mut span } = member;
        span.iter_mut().for_each(|span| span.fails(&fault));
        self.close(span);
        let encode = self.parts.options.stage.encode.as_ref().zip(kept);
        let payload = encode.and_then(|(encode, kept)| guard(|| encode(&kept)).ok());
        self.parts.shared.bury(&head, ticket, fault, payload, None, &mut self.tally).map_err(Break::Failed)
    }

    /// Tells the tracer of a span that has ended.
    fn close(&self, span: Option<Open>) {
        if let (Some(span), Some(spans)) = (span, &self.parts.shared.spans) {
            spans.close(span, self.replica);
        }
    }

    /// Passes a watermark on, as far as nobody who is earlier is in hand, and idleness when nobody is.
    fn pass_time_on(&mut self) -> Result<(), Break> {
        if self.idle && self.lines.len() == 0 && self.pending.is_empty() {
            (self.idle, self.passed_on) = (false, i64::MIN);
            self.outlet.control(Control::Idle)?;
        }
        let Some(watermark) = self.watermark else { return Ok(()) };
        let in_hand = self.lines.members().map(|member| &member.head).chain(self.pending.iter().map(|envelope| &envelope.head));
        let earliest = in_hand.filter_map(|head| head.event_time).min().unwrap_or(i64::MAX);
        if earliest >= watermark {
            self.watermark = None;
        }
        let time = earliest.min(watermark);
        if time > self.passed_on {
            self.passed_on = time;
            self.outlet.control(Control::Watermark(time))?;
        }
        Ok(())
    }
}
