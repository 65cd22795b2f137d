//! Pipelines that are cut short at their checkpoints and go on from there, until they come to their end.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use millstream_runtime::{
    Cause, Checkpoint, CheckpointOptions, CheckpointStore, Context, Pipeline, PipelineError, Remote, Sink, SinkFactory, Source, StageError, Start, from_iter,
    ms,
};

use crate::oracle::{Dice, Ends};

/// How a run is cut short.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Aborted instead of storing a checkpoint.
    Before,
    /// Aborted when a checkpoint is stored, and nobody has been told yet.
    Behind,
    /// Drained.
    Drain,
}

/// What a store holds.
pub type Kept = Arc<Mutex<Option<Checkpoint>>>;

/// A store in memory that cuts its pipeline short.
pub struct Memory {
    kept: Kept,
    /// At which checkpoint from now on, and how.
    cut: Option<(u32, Cut)>,
    remote: Arc<OnceLock<Remote>>,
    was_cut: Arc<AtomicBool>,
}

impl Memory {
    pub fn new(kept: &Kept, cut: Option<(u32, Cut)>) -> Self {
        Memory { kept: kept.clone(), cut, remote: Arc::default(), was_cut: Arc::default() }
    }
}

impl CheckpointStore for Memory {
    fn latest(&mut self) -> Result<Option<Checkpoint>, StageError> {
        Ok(self.kept.lock().unwrap().clone())
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> Result<(), StageError> {
        let now = self.cut.as_mut().and_then(|(left, cut)| {
            *left = left.saturating_sub(1);
            (*left == 0).then_some(*cut)
        });
        if now.is_some() {
            self.was_cut.store(true, Ordering::SeqCst);
        }
        if now == Some(Cut::Before) {
            self.remote.wait().abort();
            return Err(StageError::fatal("killed"));
        }
        *self.kept.lock().unwrap() = Some(checkpoint.clone());
        match now {
            Some(Cut::Drain) => self.remote.wait().drain(),
            Some(_) => self.remote.wait().abort(),
            None => {}
        }
        Ok(())
    }
}

/// A sink in two phases that outlives its pipeline. Clones are one.
pub struct Book<T>(Arc<Mutex<Pages<T>>>);

struct Pages<T> {
    written: Vec<T>,
    prepared: Option<usize>,
    committed: usize,
}

impl<T> Clone for Book<T> {
    fn clone(&self) -> Self {
        Book(self.0.clone())
    }
}

impl<T> Book<T> {
    pub fn new() -> Self {
        Book(Arc::new(Mutex::new(Pages { written: Vec::new(), prepared: None, committed: 0 })))
    }

    /// What was written so far.
    pub fn written(&self) -> Vec<T>
    where
        T: Clone,
    {
        self.0.lock().unwrap().written.clone()
    }

    /// Everything, when all of it is committed.
    pub fn close(&self) -> Vec<T> {
        let mut pages = self.0.lock().unwrap();
        assert_eq!((pages.prepared, pages.committed), (None, pages.written.len()), "all is committed");
        pages.committed = 0;
        std::mem::take(&mut pages.written)
    }
}

impl<T: Send + 'static> SinkFactory<T> for Book<T> {
    type Sink = Self;

    fn takes_back(&self) -> bool {
        true
    }

    fn open(&self, _: &Start) -> Result<Self, StageError> {
        Ok(self.clone())
    }
}

impl<T: Send> Sink<T> for Book<T> {
    fn write(&mut self, record: T, _: &Context<'_>) -> Result<(), StageError> {
        self.0.lock().unwrap().written.push(record);
        Ok(())
    }

    fn prepare(&mut self) -> Result<Vec<u8>, StageError> {
        let mut pages = self.0.lock().unwrap();
        assert_eq!(pages.prepared, None, "what was prepared is committed before more is");
        pages.prepared = Some(pages.written.len());
        Ok(pages.written.len().to_le_bytes().to_vec())
    }

    fn commit(&mut self, prepared: &[u8]) -> Result<(), StageError> {
        let mut pages = self.0.lock().unwrap();
        let prepared = usize::from_le_bytes(prepared.try_into()?);
        assert_eq!(pages.prepared.take(), Some(prepared));
        pages.committed = prepared;
        Ok(())
    }

    fn restore(&mut self, prepared: Option<&[u8]>) -> Result<(), StageError> {
        let mut pages = self.0.lock().unwrap();
        let until = prepared.map_or(Ok(0), |bytes| bytes.try_into().map(usize::from_le_bytes))?;
        assert!(pages.committed <= until, "what is committed is never taken back");
        pages.written.truncate(until);
        (pages.prepared, pages.committed) = (None, until);
        Ok(())
    }
}

/// Runs a pipeline, cut short up to `most` times, until it comes to its end. How often it was cut.
pub fn run_in_pieces(seed: u64, most: u32, build: impl Fn() -> Pipeline) -> u32 {
    let (kept, mut dice) = (Kept::default(), Dice::new(seed));
    let mut cuts = 0;
    loop {
        let cut = match dice.roll(3) {
            0 => Cut::Before,
            1 => Cut::Behind,
            _ => Cut::Drain,
        };
        let store = Memory::new(&kept, (cuts < most).then_some((1 + dice.roll(4) as u32, cut)));
        let (remote, was_cut, ends) = (store.remote.clone(), store.was_cut.clone(), Ends::new());
        let handle = build().observe(ends.clone()).checkpoint(CheckpointOptions::new(store).every(ms(1))).spawn().unwrap();
        assert!(remote.set(handle.remote()).is_ok());
        // Fresh instances now and then, which go on from what the ones before them knew.
        let (meddler, over) = (handle.remote(), Arc::new(AtomicBool::new(false)));
        let (seen, pause) = (over.clone(), Duration::from_micros(200 + dice.roll(3_000)));
        let meddler = thread::spawn(move || {
            for stage in ["total", "window", "sink", "share"].iter().cycle().take_while(|_| !seen.load(Ordering::SeqCst)) {
                // (Not every pipeline has them all.)
                let _ = meddler.restart(stage);
                thread::sleep(pause);
            }
        });
        let joined = handle.join();
        over.store(true, Ordering::SeqCst);
        meddler.join().unwrap();
        let report = match joined {
            Ok(report) => report,
            Err(PipelineError::Failed { cause: Cause::CheckpointFailed { .. }, report }) if was_cut.load(Ordering::SeqCst) => *report,
            Err(error) => panic!("seed {seed}: {error}"),
        };
        ends.check(&report);
        if !was_cut.load(Ordering::SeqCst) {
            return cuts;
        }
        cuts += 1;
    }
}

/// So many numbers, at some pace.
pub fn numbers(source: u64, count: u64, pace: Duration) -> impl Source<(u64, u64)> {
    let slow = move |(_, number): &(u64, u64)| {
        if number % 32 == source {
            thread::sleep(pace);
        }
    };
    from_iter((0..count).map(move |number| (source, number)).inspect(slow)).repeatable()
}
