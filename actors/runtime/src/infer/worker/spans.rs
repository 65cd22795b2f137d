//! What the worker tells the tracer of batches and their records.

use std::{fmt, time::Instant};

use super::Worker;
use crate::{
    envelope::Header,
    error::{Fault, StageError},
    infer::{
        ModelHandler,
        stage::{Group, Item},
    },
    outcome::Outcome,
    spans::Ran,
};

/// What came of a run: a panic, an error, the bytes that it would have needed, results.
type Run<O> = Result<Result<Result<Vec<O>, u64>, StageError>, Fault>;

impl<T: Send + 'static, H: ModelHandler> Worker<'_, T, H> {
    /// A group has run.
    pub(super) fn tell_run(&mut self, group: &mut Group<T, H::Input>, started: Instant, result: &Run<H::Output>) {
        let Some(spans) = &self.parts.shared.spans else { return };
        let mut ran = Ran { began: *group.began.get_or_insert(started), size: group.items.len(), reason: group.reason, span: None };
        let heads = group.items.iter().map(|item| &item.envelope.head);
        let too_large;
        let error: Option<&dyn fmt::Display> = match result {
            Err(fault) => Some(fault),
            Ok(Err(error)) => Some(error),
            Ok(Ok(Err(bytes))) => {
                too_large = format!("it needs {bytes} bytes, the stage may use {}", self.parts.memory);
                Some(&too_large)
            }
            Ok(Ok(Ok(_))) => None,
        };
        ran.span = spans.batch(heads, self.start.replica, (&ran, started), &self.id, error);
        self.ran = Some(ran);
    }

    /// The records of the group in hand leave the stage.
    pub(super) fn tell_results(&self, items: &mut [Item<T, H::Input>]) {
        let Some(spans) = &self.parts.shared.spans else { return };
        for item in items {
            let head = &mut item.envelope.head;
            spans.ran(head, self.start.replica, self.ran.as_ref(), &self.id, Outcome::Ok, None);
            spans.leaves(head);
        }
    }

    /// A record ends in the stage.
    pub(super) fn tell(&self, head: &Header, outcome: Outcome, error: Option<&dyn fmt::Display>) {
        if let Some(spans) = &self.parts.shared.spans {
            spans.ran(head, self.start.replica, self.ran.as_ref(), &self.id, outcome, error);
        }
    }
}
