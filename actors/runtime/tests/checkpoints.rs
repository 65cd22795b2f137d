//! Checkpoints: a pipeline that is cut short at any of them goes on as if nothing had happened.

mod oracle;
mod pieces;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use millstream_runtime::{
    Aggregate, Cause, Checkpoint, CheckpointOptions, CheckpointStore, Collected, Committer, Context, Emit, Exceeded, Flow, Join, Pipeline, PipelineError,
    Position, Progress, Pulled, RunInference, SequenceOptions, Signal, SinkOptions, Source, StageError, StageOptions, Start, State, Step, Supervision,
    Transform, Watermarks, Windowed, Windows, channel, collect, fold, from_iter, handler, ms, sequence, stored,
};
use oracle::{Dice, Ends, failure};
use pieces::{Book, Kept, Memory, numbers, run_in_pieces};

/// Adds up what has come.
struct Total(u64);

impl Transform<(u64, u64), (u64, u64, u64)> for Total {
    fn apply(&mut self, (source, number): (u64, u64), _: &Context<'_>, out: &mut Emit<(u64, u64, u64)>) -> Result<(), StageError> {
        self.0 += number;
        out.push((source, number, self.0));
        Ok(())
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(self)
    }
}

impl State for Total {
    fn snapshot(&mut self) -> Result<Vec<u8>, StageError> {
        Ok(self.0.to_le_bytes().to_vec())
    }

    fn restore(&mut self, snapshot: Option<&[u8]>) -> Result<(), StageError> {
        if let Some(snapshot) = snapshot {
            self.0 = u64::from_le_bytes(snapshot.try_into()?);
        }
        Ok(())
    }
}

#[test]
fn sources_that_merge_go_on_together() {
    let mut cuts = 0;
    for seed in 0..12 {
        let mut dice = Dice::new(seed + 1_000);
        let counts: [u64; 3] = std::array::from_fn(|source| if source == 2 { dice.roll(40) } else { 200 + dice.roll(1_000) });
        let paces: [Duration; 3] = std::array::from_fn(|_| Duration::from_micros(dice.roll(600)));
        let (shape, replicas, budget) = (seed % 5, 1 + dice.roll(3) as usize, dice.roll(2) == 0);
        let book = Book::new();
        let build = || {
            let flows: [Flow<(u64, u64)>; 3] = std::array::from_fn(|source| {
                let flow = Pipeline::from(numbers(source as u64, counts[source], paces[source]));
                // Those of the first source have a longer way.
                if source == 0 { flow.map("before", |item| item) } else { flow }
            });
            let flow = Flow::merge(flows).map_with("share", StageOptions::new().replicas(replicas), |item| item);
            let flow = match shape {
                0 => flow,
                1 => {
                    let model = handler("m", |batch: &[&(u64, u64)]| Ok(vec![(); batch.len()])).bucketed(|item| item.1 % 3);
                    flow.infer("model", RunInference::new(model).batch(2..=7).max_delay(ms(2)).replicas(2)).map("example", |p| p.example)
                }
                2 => {
                    let [even, odd] = flow.split("parity", |item| (item.1 % 2) as usize);
                    let odd = odd.map("slow", |item: (u64, u64)| {
                        thread::sleep(Duration::from_micros(20));
                        item
                    });
                    Flow::merge([even, odd])
                }
                3 => flow.map_async("io", 9, |item: (u64, u64)| async move {
                    tokio::time::sleep(Duration::from_micros(item.1 * 7919 % 700)).await;
                    Ok::<_, StageError>(item)
                }),
                _ => {
                    let (flow, shadow) = flow.shadow("shadow");
                    // A part of the merge comes from where things may be thrown away: of that, nothing is said here.
                    Flow::merge([flow, shadow.filter("nothing", |_| false)])
                }
            };
            let pipeline = flow.stage("total", StageOptions::new(), |_| Ok(Total(0))).sink(book.clone()).edge_records(64);
            if budget { pipeline.memory_budget(8 * 1024) } else { pipeline }
        };
        cuts += run_in_pieces(seed, 5, build);
        let mut sum = 0;
        let mut seen: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (source, number, total) in book.close() {
            sum += number;
            assert_eq!(total, sum, "seed {seed}: the state is that of what is in the sink");
            seen.entry(source).or_default().push(number);
        }
        for (source, count) in (0..).zip(counts) {
            let mut numbers = seen.remove(&source).unwrap_or_default();
            if shape == 0 && replicas == 1 {
                assert!(numbers.is_sorted(), "seed {seed}: the order of one source");
            }
            numbers.sort_unstable();
            assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "seed {seed}: each of source {source} once");
        }
    }
    assert!(cuts > 0, "nothing was cut short");
}

type Event = (i64, u64, u64);

fn gathered() -> impl Aggregate<Event, Output = Vec<u64>> {
    let gather = fold(Vec::new, |all: &mut Vec<u64>, event: &Event| all.push(event.2), |all, other| all.extend(other));
    let encode = |all: &Vec<u64>| all.iter().flat_map(|number| number.to_le_bytes()).collect();
    let decode = |bytes: &[u8]| {
        let (numbers, rest) = bytes.as_chunks::<8>();
        rest.is_empty().then(|| numbers.iter().map(|number| u64::from_le_bytes(*number)).collect())
    };
    stored(gather, encode, decode)
}

fn windowed(events: &[Event], pace: Duration, windows: Windows, replicas: usize) -> (Flow<Windowed<Vec<u64>>>, Flow<Event>) {
    let slow = move |event: &Event| {
        if event.2.is_multiple_of(32) {
            thread::sleep(pace);
        }
    };
    let events = events.to_vec();
    Pipeline::from(from_iter(events.into_iter().inspect(slow)).repeatable())
        .event_time("time", Watermarks::bounded(Duration::from_micros(500)), |event| event.0)
        .key_by("key", |event| event.1)
        .window_with("window", windows, gathered(), StageOptions::new().replicas(replicas))
}

fn sorted(mut windows: Vec<Windowed<Vec<u64>>>) -> Vec<Windowed<Vec<u64>>> {
    windows.iter_mut().for_each(|window| window.value.sort_unstable());
    windows.sort_by_key(|window| (window.key, window.start, window.end, window.value.clone()));
    windows
}

#[test]
fn windows_of_every_kind_go_on() {
    let us = Duration::from_micros;
    let kinds = [
        Windows::Tumbling(us(1_000)),
        Windows::Sliding { size: us(2_000), every: us(700) },
        Windows::Session(us(180)),
        Windows::Session(us(40)),
        Windows::Count(37),
    ];
    let mut cuts = 0;
    for (seed, windows) in (0..).zip(kinds.into_iter().cycle().take(10)) {
        let mut dice = Dice::new(seed + 2_000);
        // Out of order by less than the watermarks wait.
        let events: Vec<Event> = (0..1_200).map(|number| (number as i64 * 20 - dice.roll(400) as i64, dice.roll(4), number)).collect();
        let replicas = 1 + dice.roll(3) as usize;
        let (sink, whole): (_, Collected<_>) = collect();
        let (late_sink, late): (_, Collected<Event>) = collect();
        let (out, side) = windowed(&events, Duration::ZERO, windows, replicas);
        out.sink(sink).and(side.sink(late_sink)).run().unwrap();
        let whole = sorted(whole.take());
        assert!(whole.len() > 20 && late.is_empty());

        let (book, late) = (Book::new(), Book::new());
        cuts += run_in_pieces(seed, 5, || {
            let (out, side) = windowed(&events, us(300), windows, replicas);
            out.sink(book.clone()).and(side.sink(late.clone()))
        });
        assert_eq!(sorted(book.close()), whole, "seed {seed}: {windows:?}");
        assert_eq!(late.close(), [], "seed {seed}: {windows:?}");
    }
    assert!(cuts > 0, "nothing was cut short");
}

/// Sums of what each key has brought; batches fail and panic now and then, sequences end and make room for each other.
#[test]
fn states_of_sequences_go_on() {
    let mut cuts = 0;
    for seed in 0..8 {
        let mut dice = Dice::new(seed + 3_000);
        let (count, keys, replicas) = (600 + dice.roll(600), 1 + dice.roll(12), 1 + dice.roll(3) as usize);
        let bad = [dice.roll(count), dice.roll(count)];
        let pace = Duration::from_micros(500 + dice.roll(1_500));
        let book = Book::new();
        cuts += run_in_pieces(seed, 5, || {
            let step = move |batch: &[Step<'_, (u64, u64), u64>]| {
                assert!(!batch.iter().any(|step| step.input.1 == bad[0]), "worse");
                if batch.iter().any(|step| step.input.1 == bad[1]) {
                    return Err(StageError::permanent("bad"));
                }
                Ok(batch.iter().map(|step| (step.state + step.input.1, step.state + step.input.1)).collect())
            };
            let sums = sequence("sums", |_| 0u64, step).stored(|sum| sum.to_le_bytes().to_vec(), |bytes| bytes.try_into().ok().map(u64::from_le_bytes));
            let run = RunInference::sequences(sums, SequenceOptions::new()).last(|item| item.1 % 41 == 0).batch(1..=8).replicas(replicas);
            let flow = Pipeline::from(numbers(0, count, pace)).key_by("key", move |item| item.1 % keys).infer("sum", run);
            let mut supervision = Supervision::default();
            supervision.backoff = ms(1);
            flow.map("out", |p| (p.example.1, p.inference)).sink(book.clone()).supervision(supervision)
        });
        let mut sums = BTreeMap::new();
        let expected = (0..count).filter_map(|number| {
            let sum: &mut u64 = sums.entry(number % keys).or_default();
            let good = !bad.contains(&number);
            *sum += if good { number } else { 0 };
            let result = (number, *sum);
            if number % 41 == 0 {
                *sum = 0;
            }
            good.then_some(result)
        });
        let expected: Vec<_> = expected.collect();
        let mut results = book.close();
        results.sort_unstable();
        assert_eq!(results, expected, "seed {seed}: {keys} keys, {replicas} replicas");
    }
    assert!(cuts > 0, "nothing was cut short");
}

#[test]
fn a_drain_leaves_windows_open_for_who_goes_on() {
    let events: Vec<Event> = (0..400).map(|number| (number as i64 * 20, 1, number)).collect();
    let (book, late, kept) = (Book::new(), Book::new(), Kept::default());
    let build = || {
        // One window, that the end of the stream closes.
        let (out, side) = windowed(&events, ms(2), Windows::Tumbling(Duration::from_secs(1)), 1);
        out.sink(book.clone()).and(side.sink(late.clone()))
    };
    let handle = build().checkpoint(CheckpointOptions::new(Memory::new(&kept, None)).every(ms(1))).spawn().unwrap();
    let drained = handle.drain().unwrap();
    let before = drained.counts.admitted;
    assert!(before < 400, "{before}: it was drained before the end");
    assert_eq!(book.written(), [], "the window is still open");
    let stored = kept.lock().unwrap().as_ref().expect("a checkpoint").epoch;
    assert_eq!(drained.snapshot.checkpoint_seconds.as_ref().map(|seconds| seconds.count()), Some(stored));
    assert!(drained.snapshot.prometheus("p").contains(&format!("millstream_checkpoint_seconds_count{{pipeline=\"p\"}} {stored}\n")));
    let report = build().checkpoint(CheckpointOptions::new(Memory::new(&kept, None)).every(ms(1))).run().unwrap();
    assert_eq!(report.counts.admitted, 400 - before + 1, "only those that were left, and the window");
    let windows = book.close();
    assert_eq!(windows.len(), 1);
    assert_eq!(windows[0].value, (0..400).collect::<Vec<_>>());
    // It has ended: there is nothing to do.
    assert_eq!(build().checkpoint(CheckpointOptions::new(Memory::new(&kept, None))).run().unwrap().counts.admitted, 0);
    assert_eq!(book.written().len(), 0);
}

#[test]
fn a_panic_costs_state_that_dies_with_its_instance_the_run_and_other_stages_a_restart() {
    let (book, kept) = (Book::new(), Kept::default());
    let panics = Arc::new(AtomicU32::new(0));
    let build = |in_state: bool| {
        let panics = panics.clone();
        let strike = move |number: u64, here: bool| {
            if here && number == 300 && panics.fetch_add(1, Ordering::SeqCst) == 0 {
                panic!("struck");
            }
        };
        let outside = strike.clone();
        let flow = Pipeline::from(numbers(0, 600, ms(1))).map("outside", move |item: (u64, u64)| {
            outside(item.1, !in_state);
            item
        });
        struct Struck<F>(Total, F);
        impl<F: FnMut(u64) + Send> Transform<(u64, u64), (u64, u64, u64)> for Struck<F> {
            fn apply(&mut self, item: (u64, u64), context: &Context<'_>, out: &mut Emit<(u64, u64, u64)>) -> Result<(), StageError> {
                (self.1)(item.1);
                self.0.apply(item, context, out)
            }

            fn state(&mut self) -> Option<&mut dyn State> {
                self.0.state()
            }
        }
        let total = move |_: &Start| {
            let strike = strike.clone();
            Ok(Struck(Total(0), move |number| strike(number, in_state)))
        };
        flow.stage("total", StageOptions::new(), total).sink(book.clone()).checkpoint(CheckpointOptions::new(Memory::new(&kept, None)).every(ms(1)))
    };
    let (cause, _) = failure(build(true).run());
    assert!(matches!(&cause, Cause::StageFailed { stage, .. } if &**stage == "total"), "{cause}");
    assert!(kept.lock().unwrap().is_some(), "checkpoints were stored before");
    build(true).run().unwrap();
    let all = book.close();
    assert_eq!(all.iter().map(|item| item.1).collect::<Vec<_>>(), (0..600).collect::<Vec<_>>(), "the record is tried again");
    assert_eq!(all.last().map(|item| item.2), Some((0..600).sum()));

    *kept.lock().unwrap() = None;
    panics.store(0, Ordering::SeqCst);
    let report = build(false).run().unwrap();
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (599, 1));
    let all = book.close();
    assert_eq!(all.iter().map(|item| item.1).collect::<Vec<_>>(), (0..600).filter(|number| *number != 300).collect::<Vec<_>>());
}

/// Stores nothing.
struct Broken(bool);

impl CheckpointStore for Broken {
    fn latest(&mut self) -> Result<Option<Checkpoint>, StageError> {
        if self.0 { Ok(None) } else { Err(StageError::fatal("unreadable")) }
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> Result<(), StageError> {
        assert!(checkpoint.epoch < 3, "the third panics");
        if checkpoint.epoch == 2 { Err(StageError::fatal("the disk is full")) } else { Ok(()) }
    }
}

/// Nothing ever comes from it.
struct Silent;

impl Source<(u64, u64)> for Silent {
    fn snapshot(&mut self) -> Result<Option<Vec<u8>>, StageError> {
        Ok(Some(Vec::new()))
    }

    fn pull(&mut self, _: &mut Pulled<(u64, u64)>, stop: &Signal) -> Result<Progress, StageError> {
        Ok(if stop.sleep(ms(5)) { Progress::End } else { Progress::More })
    }
}

#[test]
fn a_store_that_fails_ends_the_pipeline_with_its_cause() {
    let options = || CheckpointOptions::new(Broken(true)).every(ms(1));
    for silent in [false, true] {
        let start = Instant::now();
        let endless = Pipeline::from(from_iter((0u64..).map(|number| (0, number))).repeatable());
        let flow = if silent { Pipeline::from(Silent) } else { endless };
        let ends = Ends::new();
        let (cause, report) = failure(flow.sink(Book::new()).checkpoint(options()).observe(ends.clone()).run());
        assert!(matches!(cause, Cause::CheckpointFailed { .. }), "{cause}");
        assert!(cause.to_string().contains("the disk is full"), "{cause}");
        assert!(start.elapsed() < Duration::from_secs(20), "at once, not when the stream has ended");
        ends.check(&report);
    }
    let result = Pipeline::from(Silent).sink(Book::new()).checkpoint(CheckpointOptions::new(Broken(false))).run();
    assert!(matches!(&result, Err(PipelineError::Invalid(problems)) if problems[0].contains("unreadable")));
}

fn problems(pipeline: Pipeline) -> String {
    match pipeline.checkpoint(CheckpointOptions::new(Memory::new(&Kept::default(), None))).run() {
        Err(PipelineError::Invalid(problems)) => problems.join("\n"),
        Err(error) => panic!("{error}"),
        Ok(_) => String::new(),
    }
}

#[test]
fn what_no_checkpoint_could_hold_is_refused() {
    struct Acknowledged;
    impl Source<u64> for Acknowledged {
        fn committer(&mut self) -> Result<Option<Box<dyn Committer>>, StageError> {
            struct Nowhere;
            impl Committer for Nowhere {
                fn commit(&mut self, _: &[Position]) -> Result<(), StageError> {
                    Ok(())
                }
            }
            Ok(Some(Box::new(Nowhere)))
        }

        fn snapshot(&mut self) -> Result<Option<Vec<u8>>, StageError> {
            Ok(Some(Vec::new()))
        }

        fn pull(&mut self, _: &mut Pulled<u64>, _: &Signal) -> Result<Progress, StageError> {
            Ok(Progress::End)
        }
    }
    let source = || Pipeline::from(from_iter(0..10u64).repeatable());
    assert_eq!(problems(source().sink(Book::new())), "");

    let refused = |pipeline: Pipeline, why: &str| {
        let problems = problems(pipeline);
        assert!(problems.contains(why), "`{why}` is not in `{problems}`");
    };
    refused(Pipeline::from(from_iter(0..10u64)).sink(Book::new()), "does not tell positions");
    let (push, pushed) = channel::<u64>(1);
    drop(push);
    refused(Pipeline::from(pushed).sink(Book::new()), "does not tell positions");
    refused(Pipeline::from(Acknowledged).sink(Book::new()), "commits offsets of its own");
    refused(source().sink(collect().0), "cannot take back what it wrote");
    refused(source().sink_with(Book::new(), SinkOptions::new().replicas(2)), "checkpoints need one");
    let [a, b] = source().tee("tee");
    let (a, b) = (a.key_by("a", |x| *x), b.key_by("b", |x| *x));
    refused(a.join("join", b, Join::by_key(ms(10))).sink(Book::new()), "stage `join` waits for partners of records, by their keys");
    let ranged = source().map_with("ranged", StageOptions::new().replicas(1..=2), |x| x).sink(Book::new());
    refused(ranged, "stage `ranged` has a range of replicas, checkpoints need a number");
    let mut supervision = Supervision::default();
    supervision.exceeded = Exceeded::Quarantine;
    refused(source().sink(Book::new()).supervision(supervision), "stages may go into quarantine");
    let count = fold(|| 0u64, |count, _: &u64| *count += 1, |count, other| *count += other);
    let (out, late) = source().event_time("time", Watermarks::bounded(ms(1)), |x| *x as i64).window("window", Windows::Count(3), count);
    refused(out.sink(Book::new()).and(late.sink(Book::new())), "not `stored`");
}

#[test]
fn a_checkpoint_of_another_pipeline_is_refused() {
    let kept = Kept::default();
    let options = || CheckpointOptions::new(Memory::new(&kept, None));
    let build = |name: &str, replicas| Pipeline::from(numbers(0, 10, ms(0))).map_with(name, StageOptions::new().replicas(replicas), |x| x).sink(Book::new());
    build("map", 2).checkpoint(options()).run().unwrap();
    for (name, replicas) in [("map", 1), ("map", 3), ("other", 2)] {
        let result = build(name, replicas).checkpoint(options()).run();
        assert!(matches!(&result, Err(PipelineError::Invalid(problems)) if problems[0].contains("of another pipeline")), "{name} {replicas}");
    }
    build("map", 2).checkpoint(options()).run().unwrap();

    *kept.lock().unwrap() = None;
    let events: Vec<Event> = (0..10).map(|number| (number as i64, 0, number)).collect();
    let build = |windows| {
        let (out, late) = windowed(&events, ms(0), windows, 1);
        out.sink(Book::new()).and(late.sink(Book::new())).checkpoint(options())
    };
    build(Windows::Count(3)).run().unwrap();
    let (cause, _) = failure(build(Windows::Count(4)).run());
    assert!(cause.to_string().contains("no such windows"), "{cause}");
}
