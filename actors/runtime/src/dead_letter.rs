//! Dead letters: records that failed, with all that is needed to understand and to replay them.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use crate::{
    envelope::{Header, Key, Position},
    error::{BoxError, Fault},
    infer::ModelId,
};

/// How many letters the report keeps.
const KEPT: usize = 256;

/// A record that failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The record; children of one record share its number.
    pub id: u64,
    /// Its key.
    pub key: Option<Key>,
    /// The source's name.
    pub source: Arc<str>,
    /// Where in the source it came from.
    pub position: Position,
    /// What a person would call it, where the source knows: a path, a line's number.
    pub locator: Option<String>,
    /// The stage that failed.
    pub stage: Arc<str>,
    /// The model, for a stage that runs one.
    pub model: Option<Arc<ModelId>>,
    /// What happened.
    pub fault: Fault,
    /// How many times it was tried.
    pub attempts: u32,
    /// The payload as the failing stage got it, where the stage keeps one.
    pub payload: Option<Vec<u8>>,
    /// When it failed.
    pub failed_at: SystemTime,
    /// How long it had been in the pipeline.
    pub age: Duration,
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.locator {
            Some(locator) => write!(f, "{locator}: ")?,
            None => write!(f, "record {} of {}: ", self.id, self.source)?,
        }
        write!(f, "{}: {}", self.stage, self.fault)
    }
}

/// Where dead letters go. A letter counts as stored when `put` returns.
pub trait DeadLetterSink: Send {
    /// Stores a letter durably.
    ///
    /// # Errors
    /// Whatever prevents that; the pipeline then fails.
    fn put(&mut self, letter: &DeadLetter) -> Result<(), BoxError>;
}

impl<F: FnMut(&DeadLetter) -> Result<(), BoxError> + Send> DeadLetterSink for F {
    fn put(&mut self, letter: &DeadLetter) -> Result<(), BoxError> {
        self(letter)
    }
}

/// The pipeline's dead-letter office: the sink, if there is one, and the latest letters for the report.
pub(crate) struct DeadLetters {
    /// The sources' names.
    sources: Vec<Arc<str>>,
    inner: Mutex<Inner>,
}

struct Inner {
    sink: Option<Box<dyn DeadLetterSink>>,
    kept: VecDeque<DeadLetter>,
}

/// What a stage knows about a failure.
pub(crate) struct Failure {
    pub(crate) stage: Arc<str>,
    pub(crate) model: Option<Arc<ModelId>>,
    pub(crate) fault: Fault,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) locator: Option<String>,
}

impl DeadLetters {
    pub(crate) fn new(sources: Vec<Arc<str>>, sink: Option<Box<dyn DeadLetterSink>>) -> Self {
        DeadLetters { sources, inner: Mutex::new(Inner { sink, kept: VecDeque::new() }) }
    }

    /// Stores a letter. The caller ends the record only after this.
    pub(crate) fn put(&self, head: &Header, failure: Failure) -> Result<(), BoxError> {
        let letter = DeadLetter {
            id: head.id,
            key: head.key,
            source: self.sources.get(head.source as usize).cloned().unwrap_or_else(|| failure.stage.clone()),
            position: head.position,
            locator: failure.locator,
            stage: failure.stage,
            model: failure.model,
            fault: failure.fault,
            attempts: head.attempt + 1,
            payload: failure.payload,
            failed_at: SystemTime::now(),
            age: head.admitted.elapsed(),
        };
        tracing::warn!(id = letter.id, stage = %letter.stage, locator = letter.locator, fault = %letter.fault, "dead letter");
        let mut inner = self.lock();
        if let Some(sink) = &mut inner.sink {
            sink.put(&letter)?;
        }
        if inner.kept.len() == KEPT {
            inner.kept.pop_front();
        }
        inner.kept.push_back(letter);
        Ok(())
    }

    /// The latest letters, oldest first.
    pub(crate) fn kept(&self) -> Vec<DeadLetter> {
        self.lock().kept.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
