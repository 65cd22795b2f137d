//! A thread pool for the grains of one run at a time.
//!
//! A run enters the pool once. Inside, each phase opens a *gate*: workers that are awake join it, take grains until none is
//! left, and leave; the caller works too, then closes the gate and waits for those who joined. A worker that sleeps through a
//! phase is not waited for. Between phases workers spin briefly, then park.
//!
//! Each thread has a share of the grains, the same stretch of every phase, so that it reads what it wrote in the phase before;
//! when its own share is done it takes what is left of the others'.
//!
//! ```text
//! gate = epoch | OPEN | joined          one atomic word
//! caller: job := …; gate := epoch+1|OPEN    … grains …    gate &= !OPEN; wait until joined = 0; job is dead
//! worker: if gate is OPEN and new: CAS joined+1; grains …; joined-1
//! ```

use millstream_engine::Workers;
use millstream_graph::{Parallel, Serial};
use std::{
    any::Any,
    cell::UnsafeCell,
    hint, panic,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

const JOINED: u64 = 0xffff;
const OPEN: u64 = 1 << 16;
const EPOCH: u64 = 1 << 17;

/// Rounds of spinning before a worker parks: some tens of microseconds, longer than the gap between two steps.
const SPINS: u32 = 1000;

/// The most threads of a pool, the caller's included.
const MAX_THREADS: usize = 256;

type Body<'a> = &'a (dyn Fn(usize, usize) + Sync);

#[derive(Clone, Copy)]
struct Job {
    body: *const (dyn Fn(usize, usize) + Sync),
    grains: usize,
}

/// The next grain of a thread's share, on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Share(AtomicUsize);

struct Shared {
    gate: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    shares: Box<[Share]>,
    sleepers: AtomicUsize,
    stop: AtomicBool,
    panicked: Mutex<Option<Box<dyn Any + Send>>>,
    sleep: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written only by the thread that holds `Pool::taken`, and only while the gate is closed and nobody is
// joined; workers read it only between joining an open gate (acquire) and leaving it (release). All else is atomics and locks.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer in `job` is only used as described above, whichever thread owns the `Shared`.
unsafe impl Send for Shared {}

/// A thread pool that one run uses at a time.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
    taken: AtomicBool,
}

impl Pool {
    /// A pool of `threads` threads, the caller's included; 0 means one a core.
    pub fn new(threads: usize) -> Pool {
        let threads = if threads == 0 { thread::available_parallelism().map_or(1, |n| n.get()) } else { threads }.min(MAX_THREADS);
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            shares: (0..threads).map(|_| Share::default()).collect(),
            sleepers: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panicked: Mutex::new(None),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let spawn = |worker: usize| {
            let shared = shared.clone();
            // A machine that gives no more threads gets a smaller pool.
            thread::Builder::new().name(format!("millstream-{worker}")).spawn(move || shared.work(worker)).ok()
        };
        let threads = (1..threads).map_while(spawn).collect();
        Pool { shared, threads, taken: AtomicBool::new(false) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake_all();
        for t in self.threads.drain(..) {
            // A worker's panic was handed to the run that it happened in.
            let _ = t.join();
        }
    }
}

impl Workers for Pool {
    fn max(&self) -> usize {
        self.threads.len() + 1
    }

    fn enter(&self, run: &mut dyn FnMut(&dyn Parallel)) {
        struct Release<'p>(&'p AtomicBool);
        impl Drop for Release<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Release);
            }
        }
        if self.threads.is_empty() || self.taken.swap(true, Ordering::Acquire) {
            return run(&Serial);
        }
        let _release = Release(&self.taken);
        if self.shared.sleepers.load(Ordering::SeqCst) > 0 {
            self.shared.wake_all();
        }
        run(&Entered { pool: self });
    }
}

/// A pool that belongs to one run.
struct Entered<'p> {
    pool: &'p Pool,
}

impl Parallel for Entered<'_> {
    fn workers(&self) -> usize {
        self.pool.max()
    }

    fn run(&self, grains: usize, body: Body<'_>) {
        if grains <= 1 {
            (0..grains).for_each(|g| body(g, 0));
            return;
        }
        self.pool.shared.phase(grains, body);
    }
}

impl Shared {
    /// Runs one phase. Called by the thread that entered the pool, with the gate closed and nobody joined.
    fn phase(&self, grains: usize, body: Body<'_>) {
        // Closing waits for everyone who joined, on unwinding too: the job borrows the caller's stack.
        struct Close<'s>(&'s Shared);
        impl Drop for Close<'_> {
            fn drop(&mut self) {
                self.0.gate.fetch_and(!OPEN, Ordering::AcqRel);
                let mut rounds = 0u32;
                while self.0.gate.load(Ordering::Acquire) & JOINED != 0 {
                    pause(&mut rounds);
                }
            }
        }
        // SAFETY: only the lifetime is erased. The pointer is used by workers between joining and leaving this phase's
        // gate, and `Close` does not let this function end, by return or unwinding, while anyone is joined.
        let body_ptr: *const (dyn Fn(usize, usize) + Sync) = unsafe { core::mem::transmute::<Body<'_>, Body<'static>>(body) };
        // SAFETY: the gate is closed and nobody is joined, so no worker reads the job; `Pool::taken` keeps other callers out.
        unsafe { *self.job.get() = Some(Job { body: body_ptr, grains }) };
        for (i, share) in self.shares.iter().enumerate() {
            share.0.store(self.start(i, grains), Ordering::Relaxed);
        }
        let epoch = (self.gate.load(Ordering::Relaxed) & !(OPEN | JOINED)).wrapping_add(EPOCH);
        {
            let _close = Close(self);
            self.gate.store(epoch | OPEN, Ordering::SeqCst);
            if self.sleepers.load(Ordering::SeqCst) > 0 {
                self.wake_all();
            }
            self.grains(grains, 0, body);
        }
        if let Some(payload) = self.panicked.lock().unwrap_or_else(PoisonError::into_inner).take() {
            panic::resume_unwind(payload);
        }
    }

    /// The first grain of a thread's share.
    fn start(&self, worker: usize, grains: usize) -> usize {
        // Both are far below 2³², so that this does not overflow.
        worker * grains / self.shares.len()
    }

    fn grains(&self, grains: usize, worker: usize, body: Body<'_>) {
        let threads = self.shares.len();
        for share in (worker..threads).chain(0..worker) {
            let end = self.start(share + 1, grains);
            loop {
                let grain = self.shares[share].0.fetch_add(1, Ordering::Relaxed);
                if grain >= end {
                    break;
                }
                body(grain, worker);
            }
        }
    }

    fn work(&self, worker: usize) {
        let mut seen = 0;
        while let Some(epoch) = self.join(seen) {
            seen = epoch;
            // SAFETY: this worker is joined to an open gate, so the caller neither writes the job nor lets its borrow end
            // until the decrement below; the acquire in `join` makes the job's write visible.
            let job = unsafe { *self.job.get() };
            if let Some(job) = job {
                // SAFETY: as above, the pointee lives until this worker leaves.
                let body = unsafe { &*job.body };
                let result = panic::catch_unwind(panic::AssertUnwindSafe(|| self.grains(job.grains, worker, body)));
                if let Err(payload) = result {
                    *self.panicked.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
                }
            }
            self.gate.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Joins the next open gate, spinning and then sleeping until there is one. `None` when the pool ends.
    fn join(&self, seen: u64) -> Option<u64> {
        let mut rounds = 0;
        loop {
            let gate = self.gate.load(Ordering::Acquire);
            let epoch = gate & !(OPEN | JOINED);
            if gate & OPEN != 0 && epoch != seen {
                if self.gate.compare_exchange_weak(gate, gate + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    return Some(epoch);
                }
                continue;
            }
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            rounds += 1;
            if rounds < SPINS {
                hint::spin_loop();
                continue;
            }
            self.park(seen);
            rounds = 0;
        }
    }

    /// Sleeps until somebody wakes all, unless there is something to do already.
    fn park(&self, seen: u64) {
        let guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        // The count is raised before the gate is read, and callers open the gate before they read the count: one of the
        // two sees the other. Callers notify under the lock, so that the notice cannot fall between check and wait.
        let gate = self.gate.load(Ordering::SeqCst);
        let idle = gate & OPEN == 0 || gate & !(OPEN | JOINED) == seen;
        if idle && !self.stop.load(Ordering::SeqCst) {
            drop(self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner));
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake_all(&self) {
        let _guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.wake.notify_all();
    }
}

/// Spins, and yields the core to others now and then.
fn pause(rounds: &mut u32) {
    *rounds += 1;
    if rounds.is_multiple_of(1024) { thread::yield_now() } else { hint::spin_loop() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_grain_runs_once_whatever_the_phase() {
        let pool = Pool::new(4);
        pool.enter(&mut |parallel| {
            for grains in [0, 1, 2, 3, 17, 1000] {
                let counts: Vec<AtomicU32> = (0..grains).map(|_| AtomicU32::new(0)).collect();
                parallel.run(grains, &|g, w| {
                    assert!(w < 4);
                    counts[g].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        });
    }

    #[test]
    fn many_runs_share_a_pool_without_waiting() {
        let pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    for _ in 0..200 {
                        pool.enter(&mut |p| {
                            for _ in 0..5 {
                                p.run(7, &|g, _| {
                                    total.fetch_add(g, Ordering::Relaxed);
                                });
                            }
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 8 * 200 * 5 * 21);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        for _ in 0..20 {
            let result = panic::catch_unwind(panic::AssertUnwindSafe(|| pool.enter(&mut |p| p.run(64, &|g, _| assert_ne!(g, 33)))));
            assert!(result.is_err());
            let sum = AtomicUsize::new(0);
            pool.enter(&mut |p| {
                p.run(10, &|g, _| {
                    sum.fetch_add(g, Ordering::Relaxed);
                });
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }

    #[test]
    fn workers_sleep_and_wake() {
        let pool = Pool::new(2);
        for _ in 0..3 {
            // An idle worker parks, however long the machine takes to let it.
            while pool.shared.sleepers.load(Ordering::SeqCst) == 0 {
                thread::sleep(std::time::Duration::from_millis(1));
            }
            pool.enter(&mut |p| p.run(4, &|_, _| thread::sleep(std::time::Duration::from_millis(1))));
        }
    }
}
