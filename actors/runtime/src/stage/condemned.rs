//! The worker of a stage in quarantine: what comes goes to the dead letters, what goes with it is passed on.

use std::sync::Arc;

use millstream_edge::{Control, Edge, Received, Standing};

use super::{Entrance, Exit, Outlet, StageShared};
use crate::{
    envelope::{Envelope, given_up},
    error::{Cause, ErrorKind, Fault},
    metrics::add,
    panics::guard,
    ticket::Tally,
};

/// A stage without its user code.
pub(crate) struct Condemned<'a, T, U> {
    pub(crate) shared: &'a StageShared,
    pub(crate) inlet: &'a Arc<Edge<Envelope<T>>>,
    pub(crate) outlet: Option<&'a Arc<dyn Entrance<U>>>,
    /// Why it is in quarantine.
    pub(crate) fault: &'a Fault,
    pub(crate) encode: Option<&'a (dyn Fn(&T) -> Vec<u8> + Send + Sync)>,
}

impl<T: Send, U> Condemned<'_, T, U> {
    /// Works to the end of the stream, beginning with what the last worker has left.
    pub(crate) fn run(self, replica: usize, left: Vec<Envelope<T>>, ended: bool) -> Exit {
        let mut outlet = Outlet::new(self.outlet, &self.shared.metrics, replica);
        let mut tally = Tally::default();
        let stopped = self.stream(replica, left, ended, &mut outlet, &mut tally);
        tally.flush(&self.shared.accounts);
        match stopped {
            None => outlet.finish().map_or(Exit::Aborted, |()| Exit::Finished),
            Some(exit) => exit,
        }
    }

    /// Why it stopped before the end.
    fn stream(&self, replica: usize, mut left: Vec<Envelope<T>>, mut ended: bool, outlet: &mut Outlet<U>, tally: &mut Tally) -> Option<Exit> {
        let receiver = self.inlet.receiver(replica);
        receiver.enter();
        loop {
            for envelope in left.drain(..) {
                if let Err(cause) = self.bury(envelope, tally) {
                    return Some(Exit::Failed(cause));
                }
            }
            tally.flush(&self.shared.accounts);
            if ended {
                return None;
            }
            if receiver.owes() && receiver.settle() == Standing::Out {
                return Some(Exit::Retired);
            }
            match receiver.recv(None) {
                Received::Chunk(chunk) => {
                    let (items, credit) = chunk.into_parts();
                    drop(credit);
                    add(&self.shared.metrics.records_in, items.len() as u64);
                    left = items;
                }
                Received::Control(Control::EndOfStream) => ended = true,
                Received::Control(control) if outlet.control(control).is_err() => return Some(Exit::Aborted),
                Received::Control(_) | Received::TimedOut => {}
                Received::Closed => return Some(Exit::Aborted),
            }
        }
    }

    fn bury(&self, envelope: Envelope<T>, tally: &mut Tally) -> Result<(), Cause> {
        let Envelope { head, ticket, payload } = envelope;
        if let Some(outcome) = given_up(&head, &ticket) {
            add(&self.shared.metrics.given_up, 1);
            ticket.settle(outcome, tally);
            return Ok(());
        }
        let payload = self.encode.and_then(|encode| guard(|| encode(&payload)).ok());
        let fault = Fault::Error { kind: ErrorKind::Permanent, message: format!("the stage is in quarantine: {}", self.fault) };
        self.shared.bury(&head, ticket, fault, payload, None, tally)
    }
}
