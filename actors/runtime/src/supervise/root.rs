//! The root of a pipeline's control plane: knows when everything has ended, and ends everything when it must.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, AsyncContext, Context, Handler, Message, System};
use crossbeam::channel::Sender;

use super::{
    End, Mode, Plumbing,
    controller::{Answer, Controller, Draining, Halt, Recall, Resize, What},
    group::{Groups, Verdict},
    mailbox::Mailbox,
};
use crate::error::{Cause, Fault};

/// How long workers that are in user code get to come back once everything is aborted.
const GRACE: Duration = Duration::from_secs(5);

/// The part of a shutdown's deadline that is kept for aborting.
const ABORT_SHARE: u32 = 10;

pub(super) struct Root {
    ended: Sender<End>,
    plumbing: Arc<Plumbing>,
    controllers: Vec<Mailbox<Controller>>,
    groups: Groups,
    running: Vec<bool>,
    cause: Option<Cause>,
    aborting: bool,
    over: bool,
}

/// All workers of a stage have ended.
pub(super) struct StageEnded {
    pub(super) index: usize,
}

/// A worker has crashed.
pub(super) struct Crashed {
    pub(super) index: usize,
    pub(super) replica: usize,
    pub(super) fault: Fault,
}

/// The owner wants fresh instances of a stage.
pub(super) struct Renew {
    pub(super) index: usize,
}

/// The owner wants so many replicas of a stage.
pub(super) struct Scale {
    pub(super) index: usize,
    pub(super) replicas: usize,
}

/// The pipeline cannot go on.
pub(super) struct Failed(pub(super) Cause);

/// The owner wants the end.
pub(super) struct Shutdown {
    pub(super) mode: Mode,
    pub(super) deadline: Option<Duration>,
}

impl Message for StageEnded {
    type Result = ();
}

impl Message for Crashed {
    type Result = ();
}

impl Message for Renew {
    type Result = ();
}

impl Message for Scale {
    type Result = ();
}

impl Message for Failed {
    type Result = ();
}

impl Message for Shutdown {
    type Result = ();
}

impl Root {
    pub(super) fn new(ended: Sender<End>, plumbing: Arc<Plumbing>, groups: Groups, stages: usize) -> Self {
        Root { ended, plumbing, controllers: Vec::new(), groups, running: vec![true; stages], cause: None, aborting: false, over: false }
    }

    pub(super) fn with_controllers(mut self, controllers: Vec<Mailbox<Controller>>) -> Self {
        self.controllers = controllers;
        self
    }

    fn abort(&mut self, grace: Duration, context: &mut Context<Self>) {
        if !std::mem::replace(&mut self.aborting, true) {
            self.plumbing.abort();
            for controller in &self.controllers {
                controller.tell(Halt);
            }
        }
        context.run_later(grace, |root, _| {
            if !root.over {
                tracing::error!(threads = root.plumbing.threads(), "threads in user code are left behind");
                root.finish();
            }
        });
    }

    fn finish(&mut self) {
        if !std::mem::replace(&mut self.over, true) {
            self.plumbing.purge();
            // There is room for one, and only one is ever sent.
            let _ = self.ended.try_send(End { cause: self.cause.take() });
            System::current().stop();
        }
    }
}

impl Actor for Root {
    type Context = Context<Self>;
}

impl Handler<StageEnded> for Root {
    type Result = ();

    fn handle(&mut self, message: StageEnded, _: &mut Self::Context) {
        self.running[message.index] = false;
        if !self.running.contains(&true) {
            self.finish();
        }
    }
}

impl Handler<Crashed> for Root {
    type Result = ();

    fn handle(&mut self, message: Crashed, _: &mut Self::Context) {
        let Crashed { index, replica, fault } = message;
        let what = match self.groups.crash(index, Instant::now()) {
            Verdict::Restart { pause, along } => {
                for stage in along {
                    self.controllers[stage].tell(Recall);
                }
                What::Restart(pause)
            }
            Verdict::Quarantine => What::Quarantine,
            Verdict::Escalate { restarts } => What::Escalate(restarts),
        };
        self.controllers[index].tell(Answer { replica, fault, what });
    }
}

impl Handler<Renew> for Root {
    type Result = ();

    fn handle(&mut self, message: Renew, _: &mut Self::Context) {
        self.controllers[message.index].tell(Recall);
    }
}

impl Handler<Scale> for Root {
    type Result = ();

    fn handle(&mut self, message: Scale, _: &mut Self::Context) {
        self.controllers[message.index].tell(Resize(message.replicas));
    }
}

impl Handler<Failed> for Root {
    type Result = ();

    fn handle(&mut self, message: Failed, context: &mut Self::Context) {
        self.cause.get_or_insert(message.0);
        self.abort(GRACE, context);
    }
}

impl Handler<Shutdown> for Root {
    type Result = ();

    fn handle(&mut self, message: Shutdown, context: &mut Self::Context) {
        match message.mode {
            Mode::Abort => self.abort(message.deadline.unwrap_or(GRACE), context),
            Mode::Drain => {
                self.plumbing.drain();
                for controller in &self.controllers {
                    controller.tell(Draining);
                }
                if let Some(deadline) = message.deadline {
                    let share = deadline / ABORT_SHARE;
                    context.run_later(deadline - share, move |root, context| {
                        if !root.over {
                            root.abort(share, context);
                        }
                    });
                }
            }
        }
    }
}
