//! A stage's controller: starts its workers, joins them, restarts them as the root says.

use std::{
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use actix::{Actor, AsyncContext, Context, Handler, Message};

use super::{
    Plumbing, StageState,
    mailbox::Mailbox,
    root::{Crashed, Failed, Root, StageEnded},
    scaling::{Load, Scaler, Scaling},
};
use crate::{
    error::{Cause, Fault},
    metrics::{StageMetrics, add},
    stage::{Exit, Stage, Start},
};

pub(super) struct Controller {
    index: usize,
    stage: Option<Box<dyn Stage>>,
    metrics: Arc<StageMetrics>,
    root: Mailbox<Root>,
    plumbing: Arc<Plumbing>,
    /// As many as there may be; those beyond the target are vacant, or on their way to be.
    workers: Vec<Worker>,
    /// How many replicas there should be.
    target: usize,
    scaling: Scaling,
    scaler: Scaler,
    /// The pipeline is being aborted: nothing is started any more.
    halted: bool,
}

#[derive(Default)]
struct Worker {
    thread: Option<JoinHandle<()>>,
    incarnation: u32,
    ended: bool,
    /// It does not run at present.
    vacant: bool,
}

/// A worker's thread is about to end.
struct WorkerEnded {
    replica: usize,
    exit: Exit,
}

/// What is to become of a worker that crashed.
pub(super) struct Answer {
    pub(super) replica: usize,
    pub(super) fault: Fault,
    pub(super) what: What,
}

pub(super) enum What {
    /// A fresh instance, after a pause.
    Restart(Duration),
    /// No more user code in this stage.
    Quarantine,
    /// The pipeline fails, after so many restarts.
    Escalate(u32),
}

/// There are to be so many replicas.
pub(super) struct Resize(pub(super) usize);

/// Something waits for the stage, whose replicas may vary.
struct Pressed;

/// All workers are to be replaced by fresh ones, each when it has nothing in hand.
pub(super) struct Recall;

/// The pipeline is being aborted.
pub(super) struct Halt;

/// The sources have been asked to stop.
pub(super) struct Draining;

impl Message for WorkerEnded {
    type Result = ();
}

impl Message for Answer {
    type Result = ();
}

impl Message for Resize {
    type Result = ();
}

impl Message for Pressed {
    type Result = ();
}

impl Message for Recall {
    type Result = ();
}

impl Message for Halt {
    type Result = ();
}

impl Message for Draining {
    type Result = ();
}

impl Controller {
    pub(super) fn new(index: usize, stage: Box<dyn Stage>, root: Mailbox<Root>, plumbing: Arc<Plumbing>, scaling: Scaling) -> Self {
        let metrics = stage.metrics().clone();
        let (fewest, most) = metrics.bounds;
        let workers = (0..most).map(|replica| Worker { vacant: replica >= fewest, ..Worker::default() }).collect();
        let scaler = Scaler::new(scaling);
        Controller { index, stage: Some(stage), metrics, root, plumbing, workers, target: fewest, scaling, scaler, halted: false }
    }

    fn start_worker(&mut self, replica: usize, context: &mut Context<Self>) {
        let Some(stage) = &self.stage else { return };
        let start = Start { replica, incarnation: self.workers[replica].incarnation };
        self.workers[replica].incarnation += 1;
        if let Some((orders, _)) = stage.orders() {
            orders.begin(replica);
        }
        let myself = Mailbox::new(context.address());
        let plumbing = self.plumbing.clone();
        plumbing.threads.fetch_add(1, Ordering::AcqRel);
        let done = Box::new(move |exit| {
            plumbing.threads.fetch_sub(1, Ordering::AcqRel);
            myself.tell(WorkerEnded { replica, exit });
        });
        match stage.start(start, done) {
            Ok(thread) => self.workers[replica].thread = Some(thread),
            Err(error) => {
                self.plumbing.threads.fetch_sub(1, Ordering::AcqRel);
                let cause = Cause::Thread { stage: self.metrics.name.clone(), message: error.to_string() };
                self.fail(cause, StageState::Failed);
                self.end(replica);
            }
        }
    }

    /// Has vacant places filled, or those who are too many retire.
    fn resize(&mut self, target: usize, context: &mut Context<Self>) {
        // A stage that comes to its end stays as it is.
        if self.halted || target == self.target || self.workers.iter().any(|worker| worker.ended) {
            return;
        }
        tracing::info!(stage = %self.metrics.name, from = self.target, to = target, "replicas change");
        self.target = target;
        self.metrics.replicas.store(target, Ordering::Relaxed);
        self.scaler.changed(Instant::now());
        for replica in 0..target {
            if std::mem::take(&mut self.workers[replica].vacant) {
                self.start_worker(replica, context);
            }
        }
        let Some((_, inlet)) = self.stage.as_ref().and_then(|stage| stage.orders()) else { return };
        for (replica, worker) in self.workers.iter().enumerate().skip(target) {
            if !worker.vacant {
                inlet.leave(replica);
            }
        }
    }

    /// Looks at the load, and again after a while, as long as something waits or there are more replicas than must be.
    fn look(&mut self, context: &mut Context<Self>) {
        let Some((_, inlet)) = self.stage.as_ref().filter(|_| !self.halted).and_then(|stage| stage.orders()) else { return };
        let load = Load {
            queued: u64::from(inlet.outstanding().records),
            taken: self.metrics.records_in.load(Ordering::Relaxed),
            busy: Duration::from_nanos(self.metrics.busy_nanos.load(Ordering::Relaxed)),
        };
        let bounds = self.metrics.bounds;
        if load.queued == 0 && self.target == bounds.0 && inlet.rest() {
            return self.scaler.pause();
        }
        let wanted = self.scaler.look(Instant::now(), load, self.target, bounds);
        if let Some(wanted) = wanted {
            self.resize(wanted, context);
        }
        context.run_later(self.scaling.every, |controller, context| controller.look(context));
    }

    /// Asks all workers but those that are to begin anyway to end when they have nothing in hand.
    fn recall(&mut self) {
        let Some((orders, inlet)) = self.stage.as_ref().and_then(|stage| stage.orders()) else { return };
        for (replica, worker) in self.workers.iter().enumerate() {
            if worker.thread.is_some() {
                orders.recall(replica);
            }
        }
        inlet.wake();
    }

    fn fail(&mut self, cause: Cause, state: StageState) {
        tracing::error!(%cause, "the pipeline fails");
        self.metrics.set_state(state);
        self.halted = true;
        self.root.tell(Failed(cause));
    }

    /// A replica will not run again.
    fn end(&mut self, replica: usize) {
        self.workers[replica].ended = true;
        self.look_whether_over();
    }

    fn look_whether_over(&mut self) {
        if self.workers.iter().all(|worker| worker.ended || worker.vacant)
            && let Some(stage) = &self.stage
        {
            if !self.halted {
                self.workers.iter().enumerate().filter(|(_, worker)| !worker.ended).for_each(|(replica, _)| stage.conclude(replica));
            }
            // The stage's half-done work ends here, before the pipeline does its accounts.
            self.stage = None;
            if !matches!(self.metrics.state(), StageState::Failed | StageState::Quarantined) {
                self.metrics.set_state(StageState::Stopped);
            }
            self.root.tell(StageEnded { index: self.index });
        }
    }
}

impl Actor for Controller {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.metrics.set_state(StageState::Starting);
        for replica in 0..self.target {
            self.start_worker(replica, context);
        }
        let inlet = self.stage.as_ref().and_then(|stage| stage.orders()).map(|(_, inlet)| inlet);
        if let Some(inlet) = inlet.filter(|_| self.scaling.automatic && self.workers.len() > self.target) {
            let myself = Mailbox::new(context.address());
            inlet.watch(Box::new(move || myself.tell(Pressed)));
        }
    }
}

impl Handler<WorkerEnded> for Controller {
    type Result = ();

    fn handle(&mut self, message: WorkerEnded, context: &mut Self::Context) {
        let WorkerEnded { replica, exit } = message;
        if let Some(thread) = self.workers[replica].thread.take() {
            // It sent the message as its last act, and catches its own panics.
            let _ = thread.join();
        }
        match exit {
            Exit::Finished | Exit::Aborted => self.end(replica),
            Exit::Crashed(_) | Exit::Recalled | Exit::Retired if self.halted => self.end(replica),
            Exit::Crashed(fault) => self.root.tell(Crashed { index: self.index, replica, fault }),
            Exit::Recalled => {
                add(&self.metrics.recalls, 1);
                self.start_worker(replica, context);
            }
            // It is wanted again meanwhile.
            Exit::Retired if replica < self.target => self.start_worker(replica, context),
            Exit::Retired => {
                self.workers[replica].vacant = true;
                self.look_whether_over();
            }
            Exit::Failed(cause) => {
                self.fail(cause, StageState::Failed);
                self.end(replica);
            }
        }
    }
}

impl Handler<Answer> for Controller {
    type Result = ();

    fn handle(&mut self, answer: Answer, context: &mut Self::Context) {
        let Answer { replica, fault, what } = answer;
        if self.workers[replica].ended {
            return;
        }
        match what {
            What::Restart(pause) => {
                tracing::warn!(stage = %self.metrics.name, replica, %fault, ?pause, "worker crashed, restarting");
                self.metrics.set_state(StageState::Backoff);
                add(&self.metrics.restarts, 1);
                context.run_later(pause, move |controller, context| {
                    if !controller.workers[replica].ended {
                        controller.metrics.set_state(StageState::Starting);
                        controller.start_worker(replica, context);
                    }
                });
            }
            What::Quarantine => {
                tracing::error!(stage = %self.metrics.name, replica, %fault, "crashed too often: the stage goes into quarantine");
                self.metrics.set_state(StageState::Quarantined);
                if let Some((orders, _)) = self.stage.as_ref().and_then(|stage| stage.orders()) {
                    orders.condemn(fault);
                }
                self.recall();
                self.start_worker(replica, context);
            }
            What::Escalate(restarts) => {
                let cause = Cause::RestartsExceeded { stage: self.metrics.name.clone(), restarts, fault };
                self.fail(cause, StageState::Quarantined);
                self.end(replica);
            }
        }
    }
}

impl Handler<Resize> for Controller {
    type Result = ();

    fn handle(&mut self, Resize(target): Resize, context: &mut Self::Context) {
        self.resize(target, context);
        // What was changed by hand may be changed back when the load says so.
        let inlet = self.stage.as_ref().and_then(|stage| stage.orders()).map(|(_, inlet)| inlet);
        if self.scaling.automatic && inlet.is_some_and(|inlet| inlet.hold()) {
            self.look(context);
        }
    }
}

impl Handler<Pressed> for Controller {
    type Result = ();

    fn handle(&mut self, _: Pressed, context: &mut Self::Context) {
        self.look(context);
    }
}

impl Handler<Recall> for Controller {
    type Result = ();

    fn handle(&mut self, _: Recall, _: &mut Self::Context) {
        self.recall();
    }
}

impl Handler<Halt> for Controller {
    type Result = ();

    fn handle(&mut self, _: Halt, _: &mut Self::Context) {
        self.halted = true;
        for replica in 0..self.workers.len() {
            // Between a crash and a restart there is no thread to wait for.
            if self.workers[replica].thread.is_none() && !self.workers[replica].ended {
                self.end(replica);
            }
        }
    }
}

impl Handler<Draining> for Controller {
    type Result = ();

    fn handle(&mut self, _: Draining, _: &mut Self::Context) {
        if matches!(self.metrics.state(), StageState::Starting | StageState::Running) {
            self.metrics.set_state(StageState::Draining);
        }
    }
}
