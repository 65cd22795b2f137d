//! A stage's code with a time limit for each record.

use std::{
    panic::resume_unwind,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Context, Emit, Factory, Start, Transform};
use crate::{
    apart::{Apart, TimeLimit},
    checkpoint::State,
    envelope::Header,
    error::{Fault, StageError},
    panics::guard,
    signal::Signal,
};

/// Code that must be done with a record in time. One that is not is left behind with the record, and replaced.
pub(crate) struct WithinFn<T, U, S> {
    factory: Factory<S>,
    start: Start,
    limit: TimeLimit,
    /// None after it was left behind.
    engine: Option<Engine<T, U, S>>,
    /// It has state that dies with its instance: it cannot be replaced.
    mortal: bool,
    has_state: bool,
}

type Job<T> = (T, Header, Signal);
type Answer<U> = (Result<Result<(), StageError>, Fault>, Emit<U>);

struct Engine<T, U, S> {
    /// Its thread has it while it works on a record, and the worker otherwise.
    step: Arc<Mutex<S>>,
    apart: Apart<Job<T>, Answer<U>>,
}

fn lock<S>(step: &Mutex<S>) -> MutexGuard<'_, S> {
    step.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Send + 'static, U: Send + 'static, S: Transform<T, U> + 'static> WithinFn<T, U, S> {
    pub(crate) fn new(factory: Factory<S>, start: Start, limit: TimeLimit) -> Result<Self, StageError> {
        let mut step = WithinFn { factory, start, limit, engine: None, mortal: false, has_state: false };
        let engine = step.make()?;
        {
            let mut own = lock(&engine.step);
            let state = own.state();
            (step.mortal, step.has_state) = (state.as_ref().is_some_and(|state| !state.outlives_instances()), state.is_some());
        }
        step.engine = Some(engine);
        Ok(step)
    }

    fn make(&self) -> Result<Engine<T, U, S>, StageError> {
        let step = Arc::new(Mutex::new((self.factory)(&self.start)?));
        let own = step.clone();
        let work = move |(record, header, abort): Job<T>| {
            let mut out = Emit::new();
            let done = guard(|| lock(&own).apply(record, &Context { header: &header, abort: &abort, span: None }, &mut out));
            (done, out)
        };
        Ok(Engine { step, apart: Apart::start(&self.limit, work)? })
    }

    fn engine(&mut self) -> Result<&mut Engine<T, U, S>, StageError> {
        if self.engine.is_none() {
            self.engine = Some(self.make()?);
        }
        self.engine.as_mut().ok_or_else(|| StageError::fatal("it was made above"))
    }
}

impl<T: Send + 'static, U: Send + 'static, S: Transform<T, U> + 'static> Transform<T, U> for WithinFn<T, U, S> {
    fn apply(&mut self, record: T, context: &Context<'_>, out: &mut Emit<U>) -> Result<(), StageError> {
        match self.engine()?.apart.ask((record, context.header.clone(), context.abort.clone())) {
            Some((Ok(done), made)) => {
                out.absorb(made);
                done
            }
            // It panics here as it would have panicked there.
            Some((Err(fault), _)) => resume_unwind(Box::new(fault)),
            None => {
                self.engine = None;
                let error = self.limit.passed();
                Err(if self.mortal { StageError::fatal(format!("{error}, and its state went with it")) } else { error })
            }
        }
    }

    fn watermark(&mut self, time: i64, out: &mut Emit<U>) -> Result<(), StageError> {
        lock(&self.engine()?.step).watermark(time, out)
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        if self.has_state { Some(self) } else { None }
    }

    fn finish(&mut self) -> Result<(), StageError> {
        self.engine.as_ref().map_or(Ok(()), |engine| lock(&engine.step).finish())
    }
}

impl<T: Send + 'static, U: Send + 'static, S: Transform<T, U> + 'static> State for WithinFn<T, U, S> {
    fn snapshot(&mut self) -> Result<Vec<u8>, StageError> {
        lock(&self.engine()?.step).state().map_or(Ok(Vec::new()), |state| state.snapshot())
    }

    fn restore(&mut self, snapshot: Option<&[u8]>) -> Result<(), StageError> {
        lock(&self.engine()?.step).state().map_or(Ok(()), |state| state.restore(snapshot))
    }

    fn outlives_instances(&self) -> bool {
        !self.mortal
    }
}
