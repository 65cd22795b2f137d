//! Event time: windows over disordered streams against a model that sees all records at once.

mod oracle;

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use millstream_runtime::{
    Collected, Flow, Join, Key, ManualClock, Order, Pipeline, Record, RunInference, StageOptions, Supervision, Watermarks, Windowed, Windows, channel, collect,
    fold, for_each, from_iter, handler, ms,
};
use oracle::{Dice, Ends};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    time: i64,
    key: u64,
    number: u64,
}

type Window = (u64, i64, i64, Vec<u64>);

fn numbers() -> impl millstream_runtime::Aggregate<Event, Output = Vec<u64>> {
    fold(Vec::new, |all: &mut Vec<u64>, event: &Event| all.push(event.number), |all, other| all.extend(other))
}

fn sorted(windows: Vec<Windowed<Vec<u64>>>) -> Vec<Window> {
    let mut windows: Vec<_> = windows
        .into_iter()
        .map(|mut window| {
            assert_eq!(window.count, window.value.len() as u64);
            window.value.sort_unstable();
            (window.key.map_or(0, |key| key.0), window.start, window.end, window.value)
        })
        .collect();
    windows.sort();
    windows
}

/// All windows of all records, by definition.
fn model(events: &[Event], windows: Windows) -> Vec<Window> {
    let us = |time: Duration| time.as_micros() as i64;
    let mut out: BTreeMap<(u64, i64, i64), Vec<u64>> = BTreeMap::new();
    let mut by_key: BTreeMap<u64, Vec<Event>> = BTreeMap::new();
    events.iter().for_each(|event| by_key.entry(event.key).or_default().push(*event));
    for (key, mut events) in by_key {
        events.sort();
        match windows {
            Windows::Session(pause) => {
                let mut run: Vec<Event> = Vec::new();
                for event in events {
                    if run.last().is_some_and(|last| event.time >= last.time + us(pause)) {
                        out.insert((key, run[0].time, run[run.len() - 1].time + us(pause)), run.drain(..).map(|e| e.number).collect());
                    }
                    run.push(event);
                }
                out.insert((key, run[0].time, run[run.len() - 1].time + us(pause)), run.iter().map(|e| e.number).collect());
            }
            Windows::Tumbling(size) | Windows::Sliding { size, .. } => {
                let every = if let Windows::Sliding { every, .. } = windows { us(every) } else { us(size) };
                for event in events {
                    let first = (event.time - us(size)).div_euclid(every) * every;
                    for start in (0..).map(|i| first + i * every).take_while(|start| *start <= event.time).filter(|start| event.time < start + us(size)) {
                        out.entry((key, start, start + us(size))).or_default().push(event.number);
                    }
                }
            }
            _ => unreachable!("not tested here"),
        }
    }
    out.into_iter()
        .map(|((key, start, end), mut numbers)| {
            numbers.sort_unstable();
            (key, start, end, numbers)
        })
        .collect()
}

#[test]
fn windows_of_disordered_streams_hold_what_they_should() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let (n, keys, disorder) = (100 + dice.roll(1_500), 1 + dice.roll(6), dice.roll(5_000) as i64);
        let size = 1 + dice.roll(20_000);
        let size = Duration::from_micros(size);
        let windows = match dice.roll(3) {
            0 => Windows::Tumbling(size),
            1 => Windows::Sliding { size, every: Duration::from_micros(1 + dice.roll(30_000)).max(size / 8) },
            _ => Windows::Session(Duration::from_micros(1 + dice.roll(600))),
        };
        let mut events = |from: u64| -> Vec<Event> {
            (0..n)
                .map(|i| Event {
                    time: i as i64 * 100 + 10_000 - dice.roll(disorder as u64 + 1) as i64 - if seed % 3 == 0 { 50_000 } else { 0 },
                    key: dice.roll(keys),
                    number: from + i,
                })
                .collect()
        };
        let (first, second) = (events(0), events(100_000));
        let (replicas, shape) = (1 + dice.roll(3) as usize, dice.roll(4));
        let (ends, (sink, results), (to_late, late)) = (Ends::new(), collect(), collect());
        let watermarks = Watermarks::bounded(Duration::from_micros(disorder as u64));
        let timed = |name: &str, events: Vec<Event>| Pipeline::from(from_iter(events)).event_time(name, watermarks, |event| event.time);
        let flow = Flow::merge([timed("a", first.clone()), timed("b", second.clone())]);
        // What is on the way must not let a watermark overtake a record.
        let flow = match shape {
            0 => flow,
            1 => flow.map_with("share", StageOptions::new().replicas(3), |event| event),
            2 => {
                let model = handler("m", |batch: &[&Event]| Ok(vec![(); batch.len()])).bucketed(|event| event.number % 3);
                flow.infer("model", RunInference::new(model).batch(3..=7).max_delay(ms(2)).replicas(2)).map("example", |p| p.example)
            }
            _ => {
                let [a, b] = flow.tee("tee");
                let b = b.map_with("share", StageOptions::new().replicas(2), |event| event.number);
                a.join("join", b, Join::by_record(ms(60_000))).map("first", |(event, _)| event)
            }
        };
        let (out, side) = flow.key_by("key", |event| Key(event.key).0).map("same", |event| event).window_with(
            "window",
            windows,
            numbers(),
            StageOptions::new().replicas(replicas),
        );
        let mut pipeline = out.sink(sink).and(side.sink(to_late)).observe(ends.clone());
        if dice.roll(2) == 0 {
            pipeline = pipeline.unordered();
        }
        let report = pipeline.run().unwrap();
        ends.check(&report);
        assert_eq!(report.counts.admitted, 2 * n + results.len() as u64, "a window's result is a record");
        assert!(late.is_empty(), "seed {seed}: nothing was late");
        let mut all = first;
        all.extend(second);
        let expected: Vec<_> = model(&all, windows).into_iter().map(|(key, start, end, numbers)| (hash(key), start, end, numbers)).collect();
        let mut expected = expected;
        expected.sort();
        assert_eq!(sorted(results.take()), expected, "seed {seed}, {windows:?}");
    }
}

/// What `key_by` makes of a key.
fn hash(key: u64) -> u64 {
    Key::of(&key).0
}

fn wait_for<T: Send>(results: &Collected<T>, count: usize) {
    let start = Instant::now();
    while results.len() < count && start.elapsed() < Duration::from_secs(10) {
        thread::sleep(ms(1));
    }
    assert_eq!(results.len(), count);
}

fn event(millis: i64) -> Record<Event> {
    Record::new(Event { time: millis * 1_000, key: 0, number: millis as u64 })
}

#[test]
fn windows_are_given_out_when_time_has_passed_them_and_who_comes_then_is_late() {
    let ((push, source), (sink, results), (to_late, late)) = (channel(64), collect(), collect());
    let timed = Pipeline::from(source).event_time("time", Watermarks::bounded(ms(5)), |event: &Event| event.time);
    let (out, side) = timed.window("window", Windows::Tumbling(ms(10)), numbers());
    let handle = out.map("out", |window| (window.start / 1_000, window.value)).sink(sink).and(side.map("late", |e| e.number).sink(to_late)).spawn().unwrap();
    // 14 says that nothing before 9 comes, 15 that nothing before 10 does.
    [3, 14, 9, 4, 15].into_iter().for_each(|millis| push.send(event(millis)).unwrap());
    wait_for(&results, 1);
    // The window to 10 is out; the one from 10 on is open still.
    [5, 12].into_iter().for_each(|millis| push.send(event(millis)).unwrap());
    wait_for(&late, 1);
    let report = handle.drain().unwrap();
    assert_eq!(results.take(), [(0, vec![3, 9, 4]), (10, vec![14, 15, 12])]);
    assert_eq!(late.take(), [5]);
    assert_eq!(report.counts.ok, 7 + 2);
}

#[test]
fn nobody_waits_for_a_source_that_is_idle() {
    let ((push_a, a), (push_b, b), (sink, results), clock) = (channel(64), channel(64), collect(), ManualClock::new());
    let idle = Watermarks::bounded(ms(0)).idle_after(ms(60_000));
    let timed = |name: &str, source| Pipeline::from(source).event_time(name, idle, |event: &Event| event.time);
    let flow = Flow::merge([timed("a", a), timed("b", b)]).map("on", |event| event);
    let (out, side) = flow.window("window", Windows::Tumbling(ms(10)), numbers());
    let (out, side) = (out.map("out", |window| window.value).sink(sink), side.sink(for_each(|_| {})));
    let handle = out.and(side).clock(clock.clone()).spawn().unwrap();
    // `b` never says a word.
    [1, 2, 12].into_iter().for_each(|millis| push_a.send(event(millis)).unwrap());
    thread::sleep(ms(50));
    assert!(results.is_empty(), "nobody knows yet what `b` has to say");
    // Both are idle now, and `a` alone decides when it speaks again.
    clock.advance(Duration::from_secs(61));
    thread::sleep(ms(50));
    push_a.send(event(25)).unwrap();
    wait_for(&results, 2);
    // It counts again from when it speaks: time stands still with it.
    push_b.send(event(26)).unwrap();
    thread::sleep(ms(50));
    push_a.send(event(99)).unwrap();
    thread::sleep(ms(50));
    assert_eq!(results.take(), [vec![1, 2], vec![12]]);
    handle.drain().unwrap();
    assert_eq!(results.take(), [vec![25, 26], vec![99]]);
}

#[test]
fn windows_by_count_need_no_time() {
    let (sink, results) = collect();
    let sum = fold(|| 0, |sum: &mut u64, x: &u64| *sum += x, |sum, other| *sum += other);
    let (out, side) = Pipeline::from(from_iter(0..10u64)).key_by("parity", |x| x % 2).window("count", Windows::Count(2), sum);
    out.map("sum", |window| window.value).sink(sink).and(side.sink(for_each(|_| {}))).run().unwrap();
    let mut sums = results.take();
    sums.sort_unstable();
    // 0+2, 4+6, 8; 1+3, 5+7, 9.
    assert_eq!(sums, [2, 4, 8, 9, 10, 12]);
}

#[test]
fn a_panic_in_an_aggregate_costs_its_record_and_no_window() {
    let ends = Ends::new();
    let (sink, results) = collect();
    let add = |sum: &mut u64, x: &u64| {
        assert_ne!(*x, 57, "poison");
        *sum += x;
    };
    let mut supervision = Supervision::default();
    supervision.backoff = ms(2);
    let (out, side) = Pipeline::from(from_iter(0..100u64)).event_time("time", Watermarks::bounded(ms(0)), |x| *x as i64).window(
        "window",
        Windows::Tumbling(Duration::from_micros(10)),
        fold(|| 0, add, |sum, other| *sum += other),
    );
    let pipeline = out.map("sum", |window| window.value).sink(sink).and(side.sink(for_each(|_| {})));
    let report = pipeline.supervision(supervision).observe(ends.clone()).run().unwrap();
    ends.check(&report);
    let sums = results.take();
    assert_eq!(sums.len(), 10);
    assert_eq!(sums.iter().sum::<u64>(), 99 * 100 / 2 - 57);
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (99 + 10, 1));
}

#[test]
fn windows_need_times_a_length_and_no_total_order() {
    let build = |windows| {
        let (out, side) = Pipeline::from(from_iter(0..3u32)).window("window", windows, fold(|| 0, |n: &mut u32, _: &u32| *n += 1, |n, m| *n += m));
        out.sink(for_each(|_| {})).and(side.sink(for_each(|_| {})))
    };
    let report = build(Windows::Tumbling(ms(1))).run().unwrap();
    assert_eq!(report.counts.dead_lettered, 3);
    assert!(report.dead_letters[0].fault.to_string().contains("without an event time"));
    let refused = build(Windows::Tumbling(ms(0))).order(Order::TOTAL).run().unwrap_err().to_string();
    assert!(refused.contains("stage `window` has empty windows") && refused.contains("no place in a total order"), "{refused}");
}
