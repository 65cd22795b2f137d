//! Stages whose user code is a future: many at once, results in order, faults that cost one record.

mod oracle;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use millstream_runtime::{
    AsyncOptions, CancelToken, Cause, ErrorKind, Fault, Key, Order, Pipeline, Record, Scaling, StageError, StageOptions, Supervision, Watermarks, Windows,
    channel, collect, fold, for_each, from_iter, ms,
};
use oracle::{Dice, Ends, failure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn quick() -> Supervision {
    let mut supervision = Supervision::default();
    (supervision.backoff, supervision.max_backoff, supervision.restarts) = (ms(1), ms(4), 100_000);
    supervision
}

/// A server that doubles numbers, each after its own time; and the most that it was asked at once.
fn server() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, most) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let (seen, now) = (most.clone(), Arc::new(AtomicUsize::new(0)));
    // It ends with the process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, seen, now) = (stream.unwrap(), seen.clone(), now.clone());
            thread::spawn(move || {
                seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let mut line = String::new();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
                let number: u64 = line.trim().parse().unwrap();
                thread::sleep(Duration::from_micros(500 + number * 7919 % 4_000));
                now.fetch_sub(1, Ordering::SeqCst);
                // The other side may have given up.
                let _ = stream.write_all((number * 2).to_string().as_bytes());
            });
        }
    });
    (address, most)
}

async fn ask(address: SocketAddr, number: u64) -> Result<u64, StageError> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("{number}\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.parse()?)
}

fn by_key(keys: u64, numbers: impl IntoIterator<Item = u64>) -> BTreeMap<u64, Vec<u64>> {
    let mut of: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    numbers.into_iter().for_each(|number| of.entry(number % keys).or_default().push(number));
    of
}

/// Many requests at once, no more than was said, and results in the order of their keys; the host has a runtime, or none.
#[test]
fn requests_run_at_once_and_results_keep_the_order_of_keys() {
    let (address, most) = server();
    for (replicas, with_host) in [(1, false), (2, true)] {
        most.store(0, Ordering::SeqCst);
        let (ends, (sink, results)) = (Ends::new(), collect());
        let options = AsyncOptions::new(8).stage(StageOptions::new().replicas(replicas));
        let pipeline = Pipeline::from(from_iter(0..300u64))
            .key_by("key", |x| x % 11)
            .map_async_with("ask", options, move |x| async move { ask(address, x).await.map(|twice| (x, twice)) })
            .sink(sink)
            .observe(ends.clone());
        let report = match with_host {
            true => tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async { pipeline.run() }),
            false => pipeline.run(),
        };
        ends.check(&report.unwrap());
        let results = results.take();
        assert!(results.iter().all(|(x, twice)| *twice == x * 2));
        assert_eq!(by_key(11, results.iter().map(|(x, _)| *x)), by_key(11, 0..300));
        let most = most.load(Ordering::SeqCst);
        assert!((3..=8 * replicas).contains(&most), "{most} at once in {replicas} replicas");
    }
}

#[test]
fn results_leave_in_the_order_of_coming_where_that_is_asked_for() {
    for total in [false, true] {
        let (sink, results) = collect();
        let slow = |x: u64| async move {
            tokio::time::sleep(Duration::from_micros(x * 7919 % 3_000)).await;
            Ok::<_, StageError>(x)
        };
        let pipeline = if total {
            let options = AsyncOptions::new(16).stage(StageOptions::new().replicas(2));
            Pipeline::from(from_iter(0..400u64)).map_async_with("slow", options, slow).sink(sink).order(Order::TOTAL)
        } else {
            Pipeline::from(from_iter(0..400u64)).map_async_with("slow", AsyncOptions::new(16).in_order(), slow).sink(sink)
        };
        assert_eq!(pipeline.run().unwrap().counts.ok, 400);
        assert!(results.take().into_iter().eq(0..400), "total order: {total}");
    }
}

/// Errors, panics, hangs, restarts and replicas that come and go, against one thread.
#[test]
fn faults_among_futures_cost_their_record_and_no_order() {
    for seed in 0..12 {
        let mut dice = Dice::new(seed);
        let (n, keys, concurrency) = (400 + dice.roll(800), 1 + dice.roll(20), 1 + dice.roll(24) as usize);
        let [panics, at_once, fails, hangs] = std::array::from_fn(|_| dice.roll(n));
        let (ends, (sink, results)) = (Ends::new(), collect());
        let tries = Arc::new(AtomicUsize::new(0));
        let tried = tries.clone();
        let work = move |x: u64| {
            assert_ne!(x, at_once, "before it is a future");
            let tried = tried.clone();
            async move {
                tokio::time::sleep(Duration::from_micros(x * 7919 % 500)).await;
                assert_ne!(x, panics, "bad");
                if x == fails {
                    tried.fetch_add(1, Ordering::SeqCst);
                    return Err(StageError::transient("no answer"));
                }
                if x == hangs {
                    std::future::pending::<()>().await;
                }
                Ok(x)
            }
        };
        let options = AsyncOptions::new(concurrency)
            .limit(ms(150))
            .stage(StageOptions::new().replicas(1..=3).retry(2, ms(1)).letter_payload(|x: &u64| x.to_le_bytes().into()));
        let handle = Pipeline::from(from_iter(0..n))
            .key_by("key", move |x| x % keys)
            .map_async_with("work", options, work)
            .sink(sink)
            .supervision(quick())
            .scaling(Scaling::by_hand())
            .observe(ends.clone())
            .spawn()
            .unwrap();
        while !handle.has_ended() {
            handle.scale("work", 1 + dice.roll(3) as usize).unwrap();
            if dice.roll(3) == 0 {
                handle.restart("work").unwrap();
            }
            thread::sleep(Duration::from_micros(dice.roll(3_000)));
        }
        let report = handle.join().unwrap();
        ends.check(&report);
        let bad = [panics, at_once, fails, hangs];
        assert_eq!(by_key(keys, results.take()), by_key(keys, (0..n).filter(|x| !bad.contains(x))), "seed {seed}");
        let distinct: std::collections::BTreeSet<_> = bad.into_iter().collect();
        assert_eq!(report.dead_letters.len(), distinct.len());
        for letter in &report.dead_letters {
            assert_eq!(letter.payload.as_deref(), Some(&letter.id.to_le_bytes()[..]));
        }
        if distinct.len() == 4 {
            assert_eq!(tries.load(Ordering::SeqCst), 3, "seed {seed}");
            let letter = |id: u64| report.dead_letters.iter().find(|letter| letter.id == id).unwrap();
            assert_eq!(letter(fails).attempts, 3);
            assert!(matches!(&letter(hangs).fault, Fault::Error { kind: ErrorKind::TimedOut, .. }));
            assert!(matches!(&letter(panics).fault, Fault::Panic { location: Some(at), .. } if at.contains("asynchronous.rs")));
            assert_eq!((report.snapshot.stages[2].panics, report.snapshot.stages[2].hangs), (2, 1));
        }
    }
}

/// Says when it is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_deadline_or_a_token_drops_the_future_and_so_does_an_abort() {
    let (ends, gone, (push, source)) = (Ends::new(), Arc::new(AtomicUsize::new(0)), channel(16));
    let dropped = gone.clone();
    let handle = Pipeline::from(source)
        .map_async("for ever", 8, move |x: u32| {
            let dropped = Dropped(dropped.clone());
            async move {
                std::future::pending::<()>().await;
                drop(dropped);
                Ok::<_, StageError>(x)
            }
        })
        .sink(for_each(|_| {}))
        .observe(ends.clone())
        .spawn()
        .unwrap();
    let token = CancelToken::new();
    push.send(Record::new(0).cancel(token.clone())).unwrap();
    push.send(Record::new(1).deadline(Instant::now() + ms(40))).unwrap();
    (2..5).for_each(|x| push.send(Record::new(x)).unwrap());
    let wait_for = |count: usize| {
        let start = Instant::now();
        while gone.load(Ordering::SeqCst) != count {
            assert!(start.elapsed() < Duration::from_secs(10), "{} of {count}", gone.load(Ordering::SeqCst));
            thread::sleep(ms(1));
        }
    };
    wait_for(1);
    token.cancel();
    wait_for(2);
    let report = handle.abort().unwrap();
    ends.check(&report);
    assert_eq!((report.counts.expired, report.counts.cancelled), (1, 4));
    wait_for(5);
}

#[test]
fn errors_that_are_not_forgiven_and_storms_of_panics_fail_the_pipeline() {
    let ends = Ends::new();
    let options = AsyncOptions::new(4).stage(StageOptions::new().fail_on_error());
    let work = |x: u32| async move { if x == 20 { Err(StageError::permanent("twenty")) } else { Ok(x) } };
    let (cause, report) = failure(Pipeline::from(from_iter(0..1_000)).map_async_with("try", options, work).sink(for_each(|_| {})).observe(ends.clone()).run());
    ends.check(&report);
    assert_eq!(cause.to_string(), "stage `try` failed: twenty");

    let mut supervision = quick();
    supervision.restarts = 3;
    let ends = Ends::new();
    let storm = |x: u32| async move { if x < 5 { Ok::<_, StageError>(x) } else { panic!("storm") } };
    let (cause, report) =
        failure(Pipeline::from(from_iter(0..10_000)).map_async("storm", 4, storm).sink(for_each(|_| {})).supervision(supervision).observe(ends.clone()).run());
    ends.check(&report);
    assert!(matches!(cause, Cause::RestartsExceeded { restarts: 3, .. }));
    assert!((4..=16).contains(&report.counts.dead_lettered), "{}", report.counts.dead_lettered);
}

/// A slow sink behind it: no more is in hand than may be, and nobody waits for somebody who waits for them.
#[test]
fn a_full_edge_behind_it_stops_new_futures_only() {
    let (in_hand, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (begun, seen) = (in_hand.clone(), most.clone());
    let report = Pipeline::from(from_iter(0..400u64))
        .map_async("io", 8, move |x| {
            seen.fetch_max(begun.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            async move {
                tokio::task::yield_now().await;
                Ok::<_, StageError>(x)
            }
        })
        .sink(for_each(move |_| {
            thread::sleep(ms(1));
            in_hand.fetch_sub(1, Ordering::SeqCst);
        }))
        .edge_records(8)
        .memory_budget(2_000)
        .run()
        .unwrap();
    assert_eq!(report.counts.ok, 400);
    assert!(most.load(Ordering::SeqCst) <= 8 * 4 + 8 + 64, "{} in hand", most.load(Ordering::SeqCst));
}

/// Watermarks do not pass who is worked on: windows behind hold what they hold without such a stage.
#[test]
fn watermarks_wait_for_futures() {
    let windows = |through: bool| {
        let (sink, results) = collect();
        let late = Arc::new(AtomicBool::new(false));
        let seen = late.clone();
        let flow =
            Pipeline::from(from_iter(0..600i64).keyed_by(|x| Key(*x as u64 % 3))).event_time("time", Watermarks::bounded(Duration::ZERO), |x| *x * 1_000);
        let flow = match through {
            true => flow.map_async("io", 12, |x| async move {
                tokio::time::sleep(Duration::from_micros(x as u64 * 7919 % 900)).await;
                Ok::<_, StageError>(x)
            }),
            false => flow,
        };
        let gather = fold(Vec::new, |all: &mut Vec<i64>, x: &i64| all.push(*x), |all, other| all.extend(other));
        let (windows, side) = flow.window("w", Windows::Tumbling(ms(20)), gather);
        windows.sink(sink).and(side.sink(for_each(move |_| seen.store(true, Ordering::SeqCst)))).run().unwrap();
        assert!(!late.load(Ordering::SeqCst), "somebody came too late");
        let mut windows: Vec<_> = results.take().into_iter().map(|window| (window.key, window.start, window.value)).collect();
        windows.sort();
        windows
    };
    assert_eq!(windows(true), windows(false));
}

/// Timers of futures go on while others wait for nothing; and who is idle costs nothing (see `idle.rs`).
#[test]
fn futures_share_their_thread() {
    let names = Arc::new(Mutex::new(std::collections::HashSet::new()));
    let seen = names.clone();
    let start = Instant::now();
    let report = Pipeline::from(from_iter(0..64u32))
        .map_async("sleep", 64, move |x| {
            let seen = seen.clone();
            async move {
                tokio::time::sleep(ms(50)).await;
                seen.lock().unwrap().insert(thread::current().name().unwrap_or_default().to_owned());
                Ok::<_, StageError>(x)
            }
        })
        .sink(for_each(|_| {}))
        .run()
        .unwrap();
    assert_eq!(report.counts.ok, 64);
    assert_eq!(names.lock().unwrap().len(), 1);
    // One by one it would be 3.2 seconds.
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}
