//! Who has reported what, and the thread that asks for checkpoints and stores them.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Checkpoint, CheckpointStore, Part};
use crate::{
    error::{Cause, Fault},
    metrics::Log2Histogram,
    panics::guard,
    supervise::AnyEdge,
};

/// What sources find asked for when no checkpoint can be stored any more.
const FAILED: u64 = u64::MAX;

/// One replica of a stage.
pub(crate) type Member = (Arc<str>, u32);

/// What all workers of a pipeline with checkpoints share.
pub(crate) struct Checkpoints {
    /// The latest checkpoint that was asked for, or [`FAILED`]. Sources look at it after each pull.
    requested: AtomicU64,
    /// The latest that is stored.
    stored: AtomicU64,
    board: Mutex<Board>,
    changed: Condvar,
    /// Nanoseconds from the request until it is stored.
    pub(crate) seconds: Log2Histogram,
    restored: Option<Checkpoint>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Board {
    members: BTreeMap<Member, Report>,
    /// Edges into sinks, who are to be woken when a checkpoint is stored.
    sinks: Vec<Arc<dyn AnyEdge>>,
    /// The last checkpoint of all is stored.
    over: bool,
    closed: bool,
    fault: Option<Fault>,
}

struct Report {
    is_source: bool,
    epoch: u64,
    /// At that barrier.
    state: Option<Vec<u8>>,
    finished: bool,
    /// When it finished: it may have sent the present barrier before.
    last: Option<Vec<u8>>,
}

impl Report {
    fn at(&self, epoch: u64) -> Option<Vec<u8>> {
        if self.epoch == epoch { self.state.clone() } else { self.last.clone() }
    }
}

impl Board {
    fn all(&self, holds: impl Fn(&Report) -> bool) -> bool {
        self.members.values().all(holds)
    }

    fn is_dead(&self) -> bool {
        self.closed || self.fault.is_some()
    }

    fn cause(&self) -> Option<Cause> {
        self.fault.clone().map(|fault| Cause::CheckpointFailed { fault })
    }
}

impl Checkpoints {
    pub(crate) fn new(restored: Option<Checkpoint>) -> Arc<Self> {
        let epoch = restored.as_ref().map_or(0, |checkpoint| checkpoint.epoch);
        Arc::new(Checkpoints {
            requested: AtomicU64::new(epoch),
            stored: AtomicU64::new(epoch),
            board: Mutex::default(),
            changed: Condvar::new(),
            seconds: Log2Histogram::default(),
            restored,
            thread: Mutex::new(None),
        })
    }

    /// So many replicas of a stage will take part. For a sink, with the edge that it takes from.
    pub(crate) fn expect(&self, stage: &Arc<str>, replicas: usize, is_source: bool, sink: Option<Arc<dyn AnyEdge>>) {
        let mut board = self.lock();
        for replica in 0..replicas {
            board.members.insert((stage.clone(), replica as u32), Report { is_source, epoch: 0, state: None, finished: false, last: None });
        }
        board.sinks.extend(sink);
    }

    /// Why the restored checkpoint is not one of this pipeline, if so. After everyone has been expected.
    pub(crate) fn mismatch(&self) -> Option<String> {
        let restored = self.restored.as_ref()?;
        let board = self.lock();
        let then: Vec<Member> = restored.parts.iter().map(|part| (part.stage.clone(), part.replica)).collect();
        let gone = then.iter().find(|member| !board.members.contains_key(*member));
        let new = board.members.keys().find(|member| !then.contains(member));
        let tell =
            |(stage, replica): &Member, which: &str| format!("the checkpoint is of another pipeline: replica {replica} of stage `{stage}` is only {which}");
        gone.map(|member| tell(member, "there")).or_else(|| new.map(|member| tell(member, "here")))
    }

    /// What a replica said at the checkpoint from which the pipeline goes on.
    pub(crate) fn restored(&self, stage: &str, replica: usize) -> Option<&[u8]> {
        let parts = &self.restored.as_ref()?.parts;
        parts.iter().find(|part| &*part.stage == stage && part.replica as usize == replica)?.state.as_deref()
    }

    /// Starts the thread. Ends with the pipeline, or when it is closed.
    pub(crate) fn start(self: &Arc<Self>, store: Box<dyn CheckpointStore>, every: Duration) -> io::Result<()> {
        let shared = self.clone();
        let thread = thread::Builder::new().name("millstream-checkpoint".into()).spawn(move || shared.run(store, every))?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Waits for the end of the thread.
    pub(crate) fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that stores checkpoints panicked");
        }
    }

    /// The latest checkpoint that was asked for.
    pub(crate) fn requested(&self) -> u64 {
        self.requested.load(Ordering::Acquire)
    }

    /// The latest checkpoint that is stored.
    pub(crate) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Acquire)
    }

    /// A replica has come to this barrier, in this state.
    pub(crate) fn report(&self, stage: &Arc<str>, replica: usize, epoch: u64, state: Option<Vec<u8>>) {
        self.note(stage, replica, |report| (report.epoch, report.state) = (epoch, state));
    }

    /// A replica has ended, in this state.
    pub(crate) fn finish(&self, stage: &Arc<str>, replica: usize, state: Option<Vec<u8>>) {
        self.note(stage, replica, |report| (report.finished, report.last) = (true, state));
    }

    fn note(&self, stage: &Arc<str>, replica: usize, note: impl FnOnce(&mut Report)) {
        if let Some(report) = self.lock().members.get_mut(&(stage.clone(), replica as u32)) {
            note(report);
        }
        self.changed.notify_all();
    }

    /// Waits until every source has sent this barrier: so nothing that comes behind it takes memory that something before it
    /// needs.
    pub(crate) fn wait_for_sources(&self, epoch: u64) -> Result<(), Option<Cause>> {
        self.wait(|board| board.all(|report| !report.is_source || report.finished || report.epoch >= epoch))
    }

    /// Waits until this checkpoint is stored.
    pub(crate) fn wait_for(&self, epoch: u64) -> Result<(), Option<Cause>> {
        self.wait(|_| self.stored() >= epoch)
    }

    /// Waits until the last checkpoint is stored.
    pub(crate) fn wait_for_end(&self) -> Result<(), Option<Cause>> {
        self.wait(|board| board.over)
    }

    /// Why no checkpoint can be stored any more, if so.
    pub(crate) fn failure(&self) -> Option<Cause> {
        if self.requested() == FAILED { self.lock().cause() } else { None }
    }

    /// The pipeline is being aborted: nobody waits any more.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits for something. The error is why that will not come, or nothing where the pipeline is being aborted.
    fn wait(&self, met: impl Fn(&Board) -> bool) -> Result<(), Option<Cause>> {
        let board = self.lock();
        let board = self.changed.wait_while(board, |board| !met(board) && !board.is_dead()).unwrap_or_else(PoisonError::into_inner);
        if met(&board) { Ok(()) } else { Err(board.cause()) }
    }

    fn run(&self, mut store: Box<dyn CheckpointStore>, every: Duration) {
        loop {
            let pause = Instant::now() + every;
            let mut board = self.lock();
            while !board.is_dead() && !board.all(|report| report.finished) {
                let left = pause.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                board = self.changed.wait_timeout(board, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            let epoch = self.requested() + 1;
            self.requested.store(epoch, Ordering::Release);
            let begin = Instant::now();
            let complete = |board: &Board| board.all(|report| report.finished || report.epoch == epoch);
            board = self.changed.wait_while(board, |board| !complete(board) && !board.is_dead()).unwrap_or_else(PoisonError::into_inner);
            if board.is_dead() {
                return;
            }
            let last = board.all(|report| report.finished);
            let part = |(member, report): (&Member, &Report)| Part { stage: member.0.clone(), replica: member.1, state: report.at(epoch) };
            let checkpoint = Checkpoint { epoch, parts: board.members.iter().map(part).collect() };
            drop(board);
            crate::fail_point!("before-checkpoint");
            let saved = guard(|| store.save(&checkpoint)).and_then(|saved| saved.map_err(Fault::from));
            crate::fail_point!("after-checkpoint");
            let mut board = self.lock();
            match saved {
                Ok(()) => {
                    self.seconds.record(u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX));
                    self.stored.store(epoch, Ordering::Release);
                    board.over = last;
                }
                Err(fault) => {
                    board.fault = Some(fault);
                    self.requested.store(FAILED, Ordering::Release);
                }
            }
            let stop = board.over || board.is_dead();
            let sinks = board.sinks.clone();
            drop(board);
            self.changed.notify_all();
            sinks.iter().for_each(|edge| edge.wake());
            if stop {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
