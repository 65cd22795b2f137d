//! The control plane: a root actor and one controller per stage, on a thread of their own.
//!
//! Controllers start workers, learn how they ended, restart them from their factories after a pause, and give up when
//! that happens too often. No record passes through here, so mailboxes stay nearly empty. No type of the actor library
//! leaves this module.

mod controller;
mod group;
mod intensity;
mod mailbox;
mod root;
mod scaling;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use actix::{Actor, System};
use crossbeam::channel::{Receiver, bounded};
pub(crate) use group::Groups;
pub use intensity::{Exceeded, Strategy, Supervision};
use millstream_edge::{Cost, Limits};
pub use scaling::Scaling;

use self::{
    controller::Controller,
    mailbox::Mailbox,
    root::{Renew, Root, Scale, Shutdown},
};
use crate::{checkpoint::Checkpoints, error::Cause, signal::Switch, stage::Stage, ticket::Accounts};

/// Where a stage is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum StageState {
    /// Not started yet.
    Created,
    /// Its workers are being made; models load.
    Starting,
    /// At work.
    Running,
    /// A worker crashed and will be started again after a pause.
    Backoff,
    /// No more input is let in; what there is, is finished.
    Draining,
    /// All workers have ended in good order.
    Stopped,
    /// An error that the stage's policy does not forgive.
    Failed,
    /// Crashed too often: not started again.
    Quarantined,
}

impl StageState {
    /// All states.
    pub const ALL: [StageState; 8] = [
        StageState::Created,
        StageState::Starting,
        StageState::Running,
        StageState::Backoff,
        StageState::Draining,
        StageState::Stopped,
        StageState::Failed,
        StageState::Quarantined,
    ];

    /// The word that metrics use.
    pub fn name(self) -> &'static str {
        match self {
            StageState::Created => "created",
            StageState::Starting => "starting",
            StageState::Running => "running",
            StageState::Backoff => "backoff",
            StageState::Draining => "draining",
            StageState::Stopped => "stopped",
            StageState::Failed => "failed",
            StageState::Quarantined => "quarantined",
        }
    }

    pub(crate) fn from_code(code: u8) -> Self {
        Self::ALL.get(usize::from(code)).copied().unwrap_or(StageState::Failed)
    }
}

/// How a pipeline is ended by its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Sources stop; everything that was let in is finished.
    Drain,
    /// Everything stops; what is on its way is cancelled.
    Abort,
}

/// An edge without its type.
pub(crate) trait AnyEdge: Send + Sync {
    fn close(&self);
    fn wake(&self);
    fn purge(&self);
    fn outstanding(&self) -> Cost;
    fn limits(&self) -> Limits;
    fn leave(&self, consumer: usize) -> bool;
    fn watch(&self, watcher: Box<dyn Fn() + Send + Sync>);
    fn hold(&self) -> bool;
    fn rest(&self) -> bool;
}

impl<T: Send> AnyEdge for millstream_edge::Edge<T> {
    fn close(&self) {
        millstream_edge::Edge::close(self);
    }

    fn wake(&self) {
        millstream_edge::Edge::wake(self);
    }

    fn purge(&self) {
        millstream_edge::Edge::purge(self);
    }

    fn outstanding(&self) -> Cost {
        millstream_edge::Edge::outstanding(self)
    }

    fn limits(&self) -> Limits {
        millstream_edge::Edge::limits(self)
    }

    fn leave(&self, consumer: usize) -> bool {
        millstream_edge::Edge::leave(self, consumer)
    }

    fn watch(&self, watcher: Box<dyn Fn() + Send + Sync>) {
        millstream_edge::Edge::watch(self, watcher);
    }

    fn hold(&self) -> bool {
        millstream_edge::Edge::hold(self)
    }

    fn rest(&self) -> bool {
        millstream_edge::Edge::rest(self)
    }
}

/// The parts of a pipeline that stop it.
pub(crate) struct Plumbing {
    pub(crate) edges: Vec<Arc<dyn AnyEdge>>,
    pub(crate) stop: Switch,
    pub(crate) abort: Switch,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) checkpoints: Option<Arc<Checkpoints>>,
    /// Worker threads that have not ended.
    pub(crate) threads: AtomicUsize,
}

impl Plumbing {
    fn drain(&self) {
        self.stop.throw();
    }

    fn abort(&self) {
        self.stop.throw();
        self.abort.throw();
        self.accounts.close();
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.close();
        }
        for edge in &self.edges {
            edge.close();
        }
    }

    fn purge(&self) {
        for edge in &self.edges {
            edge.purge();
        }
    }

    fn threads(&self) -> usize {
        self.threads.load(Ordering::Acquire)
    }
}

/// How a pipeline ended.
pub(crate) struct End {
    pub(crate) cause: Option<Cause>,
}

/// A running control plane.
pub(crate) struct Host {
    root: Mailbox<Root>,
    ended: Receiver<End>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// Starts the control thread, and on it the actors, which start the stages.
    pub(crate) fn start(stages: Vec<Box<dyn Stage>>, plumbing: Arc<Plumbing>, groups: Groups, scaling: Scaling) -> io::Result<Self> {
        let (ready, root) = bounded(1);
        let (end, ended) = bounded(1);
        let thread = thread::Builder::new().name("millstream-control".into()).spawn(move || {
            let system = System::new();
            system.block_on(async move {
                Root::create(|context| {
                    let mailbox = Mailbox::new(actix::AsyncContext::address(context));
                    let root = Root::new(end, plumbing.clone(), groups, stages.len());
                    // The receiver waits for it below.
                    let _ = ready.send(mailbox.clone());
                    let controllers = stages.into_iter().enumerate().map(|(index, stage)| {
                        let controller = Controller::new(index, stage, mailbox.clone(), plumbing.clone(), scaling);
                        Mailbox::new(controller.start())
                    });
                    root.with_controllers(controllers.collect())
                });
            });
            if let Err(error) = system.run() {
                tracing::error!(%error, "the control thread ended badly");
            }
        })?;
        let root = root.recv().map_err(|_| io::Error::other("the control thread ended while starting"))?;
        Ok(Host { root, ended, thread: Some(thread) })
    }

    /// A handle that asks for the end.
    pub(crate) fn stopper(&self) -> Stopper {
        Stopper(self.root.clone())
    }

    /// Waits for the end.
    pub(crate) fn join(&mut self) -> End {
        // A control thread that died without a word has dropped the sender.
        let end = self.ended.recv().unwrap_or(End { cause: None });
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control thread panicked");
        }
        end
    }

    /// Whether the end has come.
    pub(crate) fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }
}

/// Asks a pipeline for something: above all, to end.
#[derive(Clone)]
pub(crate) struct Stopper(Mailbox<Root>);

impl Stopper {
    /// Asks for so many replicas of a stage.
    pub(crate) fn scale(&self, index: usize, replicas: usize) {
        self.0.tell(Scale { index, replicas });
    }

    /// Asks for fresh instances of a stage.
    pub(crate) fn renew(&self, index: usize) {
        self.0.tell(Renew { index });
    }

    /// Asks; once the deadline has passed, what is left is aborted and left behind.
    pub(crate) fn stop(&self, mode: Mode, deadline: Option<Duration>) {
        self.0.tell(Shutdown { mode, deadline });
    }
}
