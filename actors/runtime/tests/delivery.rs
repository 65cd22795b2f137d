//! What a source is told of its records: only what is done for good, in the order of each partition.

mod oracle;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use millstream_runtime::{
    Committer, Context, Flow, Pipeline, Position, Progress, Pulled, Record, Signal, Sink, SinkFactory, SinkOptions, Source, StageError, StageOptions, Start,
    Supervision, Watermarks, Windows, fold, for_each, ms,
};
use oracle::{Dice, Ends, failure};

type Done = Arc<Mutex<BTreeMap<u32, u64>>>;

/// Numbers, shared out to partitions; offsets have gaps.
struct Log {
    next: u64,
    end: u64,
    partitions: u64,
    done: Done,
    /// Refuses to commit.
    broken: bool,
}

fn offset(number: u64) -> u64 {
    number * 3 + 1
}

impl Source<u64> for Log {
    fn committer(&mut self) -> Result<Option<Box<dyn Committer>>, StageError> {
        Ok(Some(Box::new(Memory { done: self.done.clone(), broken: self.broken })))
    }

    fn pull(&mut self, out: &mut Pulled<u64>, stop: &Signal) -> Result<Progress, StageError> {
        while self.next < self.end && !out.is_full() && !stop.is_set() {
            let position = Position { partition: (self.next % self.partitions) as u32, offset: offset(self.next) };
            out.push(Record::new(self.next).position(position));
            self.next += 1;
        }
        Ok(if self.next == self.end || stop.is_set() { Progress::End } else { Progress::More })
    }
}

struct Memory {
    done: Done,
    broken: bool,
}

impl Committer for Memory {
    fn commit(&mut self, done: &[Position]) -> Result<(), StageError> {
        if self.broken {
            return Err(StageError::permanent("no room for offsets"));
        }
        let mut all = self.done.lock().unwrap();
        for position in done {
            let before = all.insert(position.partition, position.offset);
            assert!(before < Some(position.offset), "committed twice, or back");
        }
        Ok(())
    }
}

/// A sink that tells what it has taken from what it has flushed.
#[derive(Clone, Default)]
struct Disk {
    written: Arc<Mutex<Vec<u64>>>,
    flushed: Arc<Mutex<Vec<u64>>>,
    poison: Option<u64>,
    flush_fails: bool,
}

impl Sink<u64> for Disk {
    fn write(&mut self, record: u64, _: &Context<'_>) -> Result<(), StageError> {
        assert_ne!(Some(record), self.poison, "poison");
        self.written.lock().unwrap().push(record);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StageError> {
        if self.flush_fails && self.written.lock().unwrap().len() > 50 {
            return Err(StageError::permanent("disk full"));
        }
        let written = std::mem::take(&mut *self.written.lock().unwrap());
        self.flushed.lock().unwrap().extend(written);
        Ok(())
    }
}

impl SinkFactory<u64> for Disk {
    type Sink = Disk;

    fn open(&self, _: &Start) -> Result<Disk, StageError> {
        Ok(self.clone())
    }
}

/// All numbers up to what was committed have ended for good, by this test of each.
fn check(done: &BTreeMap<u32, u64>, end: u64, partitions: u64, ended: impl Fn(u64) -> bool) {
    for number in 0..end {
        if done.get(&((number % partitions) as u32)).is_some_and(|upto| offset(number) <= *upto) {
            assert!(ended(number), "{number} counts as done and has not ended");
        }
    }
}

fn quick() -> Supervision {
    let mut supervision = Supervision::default();
    supervision.backoff = ms(2);
    supervision
}

#[test]
fn what_is_committed_was_flushed_or_failed_and_at_the_end_that_is_everything() {
    for seed in 0..30 {
        let mut dice = Dice::new(seed);
        let (end, partitions) = (100 + dice.roll(3_000), 1 + dice.roll(4));
        let (bad, rest) = (dice.roll(end), dice.roll(9));
        let (ends, done) = (Ends::new(), Done::default());
        let disk = Disk { poison: Some(dice.roll(end)), ..Disk::default() };
        let log = Log { next: 0, end, partitions, done: done.clone(), broken: false };
        let [a, b] = Pipeline::from(log)
            .try_map_with("try", StageOptions::new().replicas(2), move |x| if x == bad { Err(StageError::permanent("bad")) } else { Ok(x) })
            .filter("some", move |x| x % 9 != rest)
            .tee("tee");
        let watch = (done.clone(), disk.clone());
        // While it runs, too.
        let poison = disk.poison;
        let other = for_each(move |_: u64| {
            // What counts as done, and only then what was flushed: more may be by now.
            let done = watch.0.lock().unwrap().clone();
            let flushed = watch.1.flushed.lock().unwrap().clone();
            let seen: std::collections::HashSet<_> = flushed.into_iter().collect();
            check(&done, end, partitions, |x| x == bad || x % 9 == rest || Some(x) == poison || seen.contains(&x));
        });
        let report = a
            .sink_with(disk.clone(), SinkOptions::new())
            .and(b.filter("few", |x| x % 100 == 0).sink(other))
            .commit_every(ms(1))
            .supervision(quick())
            .observe(ends.clone())
            .run()
            .unwrap();
        ends.check(&report);
        let done = done.lock().unwrap();
        for partition in 0..partitions {
            let last = (0..end).rev().find(|x| x % partitions == partition).unwrap();
            assert_eq!(done[&(partition as u32)], offset(last), "seed {seed}");
        }
    }
}

#[test]
fn an_abort_commits_what_is_done_and_nothing_else() {
    for seed in 0..10 {
        let (ends, done, disk) = (Ends::new(), Done::default(), Disk::default());
        let log = Log { next: 0, end: u64::MAX, partitions: 2, done: done.clone(), broken: false };
        let slow = |x: u64| {
            thread::sleep(Duration::from_micros(20));
            x
        };
        let handle = Pipeline::from(log)
            .map_with("slow", StageOptions::new().replicas(2), slow)
            .sink(disk.clone())
            .commit_every(ms(1))
            .observe(ends.clone())
            .spawn()
            .unwrap();
        thread::sleep(ms(20 + 3 * seed));
        let report = handle.abort().unwrap();
        ends.check(&report);
        let flushed: std::collections::HashSet<_> = disk.flushed.lock().unwrap().iter().copied().collect();
        check(&done.lock().unwrap(), report.counts.admitted + 100, 2, |x| flushed.contains(&x));
        assert!(report.counts.cancelled > 0);
    }
}

#[test]
fn a_flush_that_fails_fails_the_pipeline_and_its_records_are_not_done() {
    let (ends, done) = (Ends::new(), Done::default());
    let disk = Disk { flush_fails: true, ..Disk::default() };
    let log = Log { next: 0, end: 1_000_000, partitions: 1, done: done.clone(), broken: false };
    let (cause, report) = failure(Pipeline::from(log).sink(disk.clone()).commit_every(ms(1)).observe(ends.clone()).run());
    ends.check(&report);
    assert_eq!(cause.to_string(), "stage `sink` failed: disk full");
    let flushed = disk.flushed.lock().unwrap().clone();
    check(&done.lock().unwrap(), report.counts.admitted, 1, |x| flushed.contains(&x));
}

#[test]
fn a_commit_that_fails_fails_the_pipeline() {
    let log = Log { next: 0, end: u64::MAX, partitions: 1, done: Done::default(), broken: true };
    let (cause, _) = failure(Pipeline::from(log).sink(Disk::default()).commit_every(ms(1)).run());
    assert_eq!(cause.to_string(), "stage `source` failed: no room for offsets");
}

#[test]
fn a_source_that_waits_is_told_all_the_same() {
    struct Slow(Log);
    impl Source<u64> for Slow {
        fn committer(&mut self) -> Result<Option<Box<dyn Committer>>, StageError> {
            self.0.committer()
        }

        fn pull(&mut self, out: &mut Pulled<u64>, stop: &Signal) -> Result<Progress, StageError> {
            if self.0.next < self.0.end {
                self.0.pull(out, stop)?;
                return Ok(Progress::More);
            }
            Ok(if stop.sleep(Duration::from_secs(60)) { Progress::End } else { Progress::More })
        }
    }
    let done = Done::default();
    let log = Slow(Log { next: 0, end: 10, partitions: 1, done: done.clone(), broken: false });
    let handle = Pipeline::from(log).sink(Disk::default()).commit_every(ms(10)).spawn().unwrap();
    let start = Instant::now();
    while done.lock().unwrap().get(&0) != Some(&offset(9)) {
        assert!(start.elapsed() < Duration::from_secs(10), "nothing is committed while the source waits");
        thread::sleep(ms(2));
    }
    handle.drain().unwrap();
}

#[test]
fn windows_do_not_outlive_the_process_and_are_refused() {
    let log = Log { next: 0, end: 10, partitions: 1, done: Done::default(), broken: false };
    let flow: Flow<u64> = Pipeline::from(log).event_time("time", Watermarks::bounded(ms(0)), |x| *x as i64);
    let (out, late) = flow.window("window", Windows::Tumbling(ms(1)), fold(|| 0, |n: &mut u64, _: &u64| *n += 1, |n, m| *n += m));
    let refused = out.sink(for_each(|_| {})).and(late.sink(for_each(|_| {}))).run().unwrap_err().to_string();
    assert!(refused.contains("what stage `window` holds does not outlive the process"), "{refused}");
}
