//! A stage's controller: starts its workers, joins them, restarts them as the root says.

use std::{
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use actix::{Actor, AsyncContext, Context, Handler, Message};

use super::{
    Plumbing, StageState,
    mailbox::Mailbox,
    root::{Crashed, Failed, Root, StageEnded},
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
    workers: Vec<Worker>,
    /// The pipeline is being aborted: nothing is started any more.
    halted: bool,
}

#[derive(Default)]
struct Worker {
    thread: Option<JoinHandle<()>>,
    incarnation: u32,
    ended: bool,
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
    pub(super) fn new(index: usize, stage: Box<dyn Stage>, root: Mailbox<Root>, plumbing: Arc<Plumbing>) -> Self {
        let metrics = stage.metrics().clone();
        let workers = (0..metrics.replicas).map(|_| Worker::default()).collect();
        Controller { index, stage: Some(stage), metrics, root, plumbing, workers, halted: false }
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
        if self.workers.iter().all(|worker| worker.ended) && self.stage.is_some() {
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
        for replica in 0..self.workers.len() {
            self.start_worker(replica, context);
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
            Exit::Crashed(_) | Exit::Recalled if self.halted => self.end(replica),
            Exit::Crashed(fault) => self.root.tell(Crashed { index: self.index, replica, fault }),
            Exit::Recalled => {
                add(&self.metrics.recalls, 1);
                self.start_worker(replica, context);
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
