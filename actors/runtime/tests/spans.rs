//! Traces of sampled records: one span a stage, children of the admission's; batches and records linked both ways.

use std::{
    sync::{Arc, Mutex},
    time::SystemTime,
};

use millstream_runtime::{
    Ensemble, Join, ModelId, Outcome, Pipeline, Record, ReleaseReason, RunInference, Span, SpanKind, StageError, TraceContext, Tracer, Watermarks, Windows,
    channel, collect, fold, for_each, from_iter, handler, ms,
};

/// A span, with nothing borrowed.
#[derive(Clone, Debug)]
struct Kept {
    kind: SpanKind,
    context: TraceContext,
    parent: Option<u64>,
    links: Vec<TraceContext>,
    stage: String,
    times: [SystemTime; 3],
    record: Option<u64>,
    batch: Option<usize>,
    reason: Option<ReleaseReason>,
    model: Option<String>,
    outcome: Option<Outcome>,
    error: Option<String>,
}

/// Keeps all spans; samples every second record, beginning with the first, or none.
#[derive(Default)]
struct Keep {
    spans: Mutex<Vec<Kept>>,
    asked: Mutex<u64>,
    never: bool,
}

impl Tracer for Keep {
    fn samples(&self, trace: u128) -> bool {
        assert_ne!(trace, 0);
        let mut asked = self.asked.lock().unwrap();
        *asked += 1;
        !self.never && *asked % 2 == 1
    }

    fn ended(&self, span: &Span<'_>) {
        self.spans.lock().unwrap().push(Kept {
            kind: span.kind,
            context: span.context,
            parent: span.parent,
            links: span.links.to_vec(),
            stage: span.stage.to_owned(),
            times: [span.queued, span.began, span.ended],
            record: span.record,
            batch: span.batch,
            reason: span.reason,
            model: span.model.map(ModelId::to_string),
            outcome: span.outcome,
            error: span.error.map(|error| error.to_string()),
        });
    }
}

impl Keep {
    fn take(&self) -> Vec<Kept> {
        std::mem::take(&mut self.spans.lock().unwrap())
    }
}

/// The spans of the record, by stage.
fn of_record(spans: &[Kept], record: u64) -> Vec<&Kept> {
    spans.iter().filter(|span| span.record == Some(record)).collect()
}

/// Every record's spans are children of its admission's, in one trace, each of its own number, and their times in order.
fn check_tree(spans: &[Kept]) {
    for (at, span) in spans.iter().enumerate() {
        assert!(span.times.is_sorted(), "{span:?}");
        assert!(spans[..at].iter().all(|other| other.context.span != span.context.span), "{span:?}");
        if span.kind == SpanKind::Record {
            let parent = spans.iter().find(|other| other.kind == SpanKind::Admission && other.record == span.record).unwrap();
            assert_eq!((span.parent, span.context.trace), (Some(parent.context.span), parent.context.trace));
            assert!(span.context.sampled);
        }
    }
}

#[test]
fn batches_and_their_records_are_linked() {
    let tracer = Arc::new(Keep::default());
    let model = handler("double", |batch: &[&u32]| Ok::<_, StageError>(batch.iter().map(|x| **x * 2).collect::<Vec<_>>()));
    let report = Pipeline::from(from_iter(0..8u32))
        .map("plus", |x| x + 1)
        .infer("double", RunInference::new(model).batch(8..=8).max_delay(ms(60_000)))
        .sink(for_each(|_| {}))
        .trace(tracer.clone())
        .run()
        .unwrap();
    assert_eq!(report.counts.ok, 8);
    let spans = tracer.take();
    check_tree(&spans);
    let batches: Vec<_> = spans.iter().filter(|span| span.kind == SpanKind::Batch).collect();
    assert_eq!(batches.len(), 1);
    let batch = batches[0];
    assert_eq!((batch.batch, batch.reason, batch.outcome, batch.parent), (Some(8), Some(ReleaseReason::Full), Some(Outcome::Ok), None));
    assert_eq!((batch.stage.as_str(), batch.model.as_deref()), ("double", Some("double@1")));
    let mut links = Vec::new();
    for record in 0..8 {
        let of = of_record(&spans, record);
        let stages: Vec<_> = of.iter().map(|span| span.stage.as_str()).collect();
        if record % 2 == 1 {
            assert!(stages.is_empty());
            continue;
        }
        assert_eq!(stages.len(), 4, "{stages:?}");
        assert!(of.iter().all(|span| span.outcome == Some(Outcome::Ok) && span.error.is_none()));
        let ran = of.iter().find(|span| span.stage == "double").unwrap();
        assert_eq!((ran.links.as_slice(), ran.batch), (&[batch.context][..], Some(8)));
        assert!(ran.times[1] <= ran.times[2] && ran.context.trace != batch.context.trace);
        links.push(ran.context);
    }
    assert_eq!(batch.links, links);
}

#[test]
fn the_senders_decision_and_span_are_kept() {
    let tracer = Arc::new(Keep { never: true, ..Keep::default() });
    let (push, source) = channel(8);
    let sent = |sampled| TraceContext { trace: 7, span: 9, sampled };
    for record in [Record::new(0u32).trace(sent(true)), Record::new(1).trace(sent(false)), Record::new(2)] {
        push.send(record).unwrap();
    }
    drop(push);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = seen.clone();

    let (sink, results) = collect();
    Pipeline::from(source)
        .map("even", move |x: u32| {
            told.lock().unwrap().push(x);
            x
        })
        .sink(sink)
        .trace(tracer.clone())
        .run()
        .unwrap();
    assert_eq!((results.take().len(), seen.lock().unwrap().len()), (3, 3));
    let spans = tracer.take();
    check_tree(&spans);
    assert_eq!(spans.len(), 3);
    assert!(spans.iter().all(|span| span.record == Some(0) && span.context.trace == 7));
    let admission = spans.iter().find(|span| span.kind == SpanKind::Admission).unwrap();
    assert_eq!(admission.parent, Some(9));
    assert_eq!(*tracer.asked.lock().unwrap(), 1, "only who comes without a trace is asked about");
}

#[test]
fn failures_are_told_where_they_happen() {
    let tracer = Arc::new(Keep::default());
    let model = handler(
        "picky",
        |batch: &[&u32]| {
            if batch.contains(&&4) { Err(StageError::permanent("no fours")) } else { Ok(batch.iter().map(|x| **x).collect::<Vec<_>>()) }
        },
    );
    let report = Pipeline::from(from_iter(0..8u32))
        .map("panics", |x| if x == 2 { panic!("no twos") } else { x })
        .infer("picky", RunInference::new(model).batch(1..=8).max_delay(ms(20)))
        .sink(for_each(|_| {}))
        .trace(tracer.clone())
        .run()
        .unwrap();
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (6, 2));
    let spans = tracer.take();
    check_tree(&spans);
    let of_two = of_record(&spans, 2);
    let panicked = of_two.iter().find(|span| span.stage == "panics").unwrap();
    assert_eq!((of_two.len(), panicked.outcome), (2, Some(Outcome::DeadLettered)));
    assert!(panicked.error.as_ref().unwrap().contains("no twos"), "{panicked:?}");
    let of_four = of_record(&spans, 4);
    let failed: Vec<_> = of_four.iter().filter(|span| span.stage == "picky").collect();
    assert_eq!((failed.len(), failed[0].outcome, failed[0].error.as_deref()), (1, Some(Outcome::DeadLettered), Some("no fours")));
    // Each run that failed has a span, and all of them lead to the one of the record, the last one back.
    let runs: Vec<_> = spans.iter().filter(|span| span.kind == SpanKind::Batch && span.links.contains(&failed[0].context)).collect();
    assert!(!runs.is_empty() && runs.iter().all(|run| run.outcome.is_none() && run.error.is_some()));
    assert_eq!(failed[0].links, [runs.last().unwrap().context]);
}

/// Those of a stage.
fn of_stage<'s>(spans: &'s [Kept], stage: &str) -> Vec<&'s Kept> {
    spans.iter().filter(|span| span.stage == stage).collect()
}

/// Two branches of a record meet again, with a link each to the other; so do records of one key, each in its own trace, and
/// the pair goes on in the first one's.
#[test]
fn records_that_meet_are_linked() {
    let tracer = Arc::new(Keep::default());
    let [left, right] = Pipeline::from(from_iter(0..4u32)).tee("tee");
    let slow = |x| {
        std::thread::sleep(ms(20));
        x
    };
    let right = right.map("slow", slow).filter("some", |x| *x != 2);
    let (pairs, alone) = left.join_or("join", right, Join::by_record(ms(10_000)));
    let report = pairs.map("sum", |(a, b)| a + b).sink(for_each(|_| {})).and(alone.sink(for_each(|_| {}))).trace(tracer.clone()).run().unwrap();
    assert_eq!(report.counts.ok, 4);
    let spans = tracer.take();
    check_tree(&spans);
    let met = of_stage(&spans, "join");
    let of = |record| met.iter().filter(|span| span.record == Some(record)).collect::<Vec<_>>();
    let [one, other] = of(0)[..] else { panic!("{met:?}") };
    assert_eq!((&one.links[..], &other.links[..]), (&[other.context][..], &[one.context][..]));
    let waited = |span: &Kept| span.times[2].duration_since(span.times[1]).unwrap();
    assert!(waited(one).max(waited(other)) >= ms(19), "one waits in the join for the other: {met:?}");
    // The third record waited, and nobody came.
    let [lone] = of(2)[..] else { panic!("{met:?}") };
    assert!(lone.links.is_empty() && lone.outcome == Some(Outcome::Ok));
    assert_eq!((of_stage(&spans, "sum").len(), met.len()), (1, 3));

    let keyed = |from: u32| Pipeline::from(from_iter(from..from + 1)).key_by(&format!("key {from}"), |_| 7);
    let joined = keyed(1).join("pair", keyed(2), Join::by_key(ms(10_000))).map("both", |pair| pair);
    let everything = Arc::new(Everything::default());
    joined.sink(for_each(|_| {})).trace(everything.clone()).run().unwrap();
    let spans = everything.0.take();
    check_trees(&spans);
    let [one, other] = of_stage(&spans, "pair")[..] else { panic!("{spans:?}") };
    assert_eq!((&one.links[..], &other.links[..]), (&[other.context][..], &[one.context][..]));
    assert_ne!(one.context.trace, other.context.trace);
    assert_eq!(of_stage(&spans, "both").len(), 1);
}

/// Follows every record.
#[derive(Default)]
struct Everything(Keep);

impl Tracer for Everything {
    fn samples(&self, _: u128) -> bool {
        true
    }

    fn ended(&self, span: &Span<'_>) {
        self.0.ended(span);
    }
}

/// As [`check_tree`], for records of several sources, whose numbers are not those of one count.
fn check_trees(spans: &[Kept]) {
    for span in spans.iter().filter(|span| span.kind == SpanKind::Record) {
        let parent = spans.iter().find(|other| Some(other.context.span) == span.parent).unwrap();
        assert!(parent.kind == SpanKind::Admission && parent.context.trace == span.context.trace && span.times.is_sorted(), "{span:?}");
    }
}

/// The record that is asked about and its answers have a span each; an answer that comes too late has one without links.
#[test]
fn answers_are_linked_with_what_was_asked() {
    let tracer = Arc::new(Everything::default());
    let ask = Ensemble::new(1, ms(10_000)).branch(|flow| flow.map("quick", |x: u32| x)).branch(|flow| {
        flow.map("late", |x| {
            std::thread::sleep(ms(50));
            x
        })
    });
    let report =
        Pipeline::from(from_iter(0..2u32)).ensemble("vote", ask, |asked| asked.answers.len()).sink(for_each(|_| {})).trace(tracer.clone()).run().unwrap();
    assert_eq!(report.counts.ok, 2);
    let spans = tracer.0.take();
    check_trees(&spans);
    for record in 0..2 {
        let voted: Vec<_> = of_stage(&spans, "vote").into_iter().filter(|span| span.record == Some(record)).collect();
        assert_eq!(voted.len(), 3, "{voted:?}");
        let linked: Vec<_> = voted.iter().filter(|span| span.links.len() == 1).collect();
        assert_eq!(linked.len(), 2, "{voted:?}");
        assert_eq!((&linked[0].links[..], &linked[1].links[..]), (&[linked[1].context][..], &[linked[0].context][..]));
    }
}

#[test]
fn asynchronous_stages_have_spans() {
    let tracer = Arc::new(Everything::default());
    let work = |x: u32| async move {
        tokio::time::sleep(ms(20)).await;
        assert_ne!(x, 2, "no twos");
        if x == 1 { Err(StageError::permanent("no ones")) } else { Ok(x) }
    };
    let report = Pipeline::from(from_iter(0..4u32)).map_async("ask", 4, work).map("then", |x| x).sink(for_each(|_| {})).trace(tracer.clone()).run().unwrap();
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (2, 2));
    let spans = tracer.0.take();
    check_tree(&spans);
    let asked = of_stage(&spans, "ask");
    assert_eq!(asked.len(), 4);
    for span in &asked {
        let took = span.times[2].duration_since(span.times[1]).unwrap();
        let failed = matches!(span.record, Some(1 | 2));
        assert_eq!((span.outcome, span.error.is_some()), (Some(if failed { Outcome::DeadLettered } else { Outcome::Ok }), failed), "{span:?}");
        assert!(failed && span.record == Some(2) || took >= ms(19), "{span:?}");
    }
    assert_eq!(of_stage(&spans, "then").len(), 2);
}

/// What a window makes of records begins a trace, with links to the spans of those that are followed.
#[test]
fn what_windows_make_is_linked_with_what_they_hold() {
    let tracer = Arc::new(Keep::default());
    let sum = fold(|| 0, |sum, x: &i64| *sum += x, |sum, other| *sum += other);
    let timed = Pipeline::from(from_iter(0..10i64)).event_time("time", Watermarks::bounded(ms(0)), |x| x * 1_000);
    let (windows, late) = timed.window("five", Windows::Tumbling(ms(5)), sum);
    windows.map("after", |window| window.value).sink(for_each(|_| {})).and(late.sink(for_each(|_| {}))).trace(tracer.clone()).run().unwrap();
    let spans = tracer.take();
    check_tree(&spans);
    let begun: Vec<_> = of_stage(&spans, "five").into_iter().filter(|span| span.kind == SpanKind::Admission).collect();
    assert_eq!(begun.len(), 2);
    let held: Vec<_> = of_stage(&spans, "five").into_iter().filter(|span| span.kind == SpanKind::Record).map(|span| span.context).collect();
    // Every second record is followed: of five three, of the next five two.
    assert_eq!((begun[0].links.clone(), begun[1].links.clone()), (held[..3].to_vec(), held[3..].to_vec()));
    for window in begun {
        let after: Vec<_> = of_stage(&spans, "after").into_iter().filter(|span| span.record == window.record).collect();
        assert_eq!((after.len(), after[0].parent, after[0].context.trace), (1, Some(window.context.span), window.context.trace));
    }
}
