//! Spans as a collector gets them: over real HTTP, read with OpenTelemetry's own definitions of the messages.

mod collector;

use std::time::{Duration, Instant};

use collector::{Answer, Collector};
use millstream_runtime::{Pipeline, Record, RunInference, StageError, channel, for_each, from_iter, handler, ms};
use millstream_telemetry::{Otlp, Traceparent};
use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};

fn attribute<'a>(pairs: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    pairs.iter().find(|pair| pair.key == key)?.value.as_ref()?.value.as_ref()
}

fn text<'a>(pairs: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match attribute(pairs, key) {
        Some(Value::StringValue(text)) => Some(text),
        _ => None,
    }
}

fn number(span: &Span, key: &str) -> Option<i64> {
    match attribute(&span.attributes, key) {
        Some(Value::IntValue(number)) => Some(*number),
        _ => None,
    }
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[test]
fn a_collector_gets_spans_parents_and_links() {
    let collector = Collector::start(|_| Answer::Ok);
    let tracer = Otlp::new(&collector.url()).service("doubling").resource("deployment.environment.name", "test").header("X-Token", "secret").start().unwrap();
    let model = handler("double", |batch: &[&u32]| Ok::<_, StageError>(batch.iter().map(|x| **x * 2).collect::<Vec<_>>()));
    Pipeline::from(from_iter(0..4u32))
        .map("picky", |x| if x == 3 { panic!("no threes") } else { x })
        .infer("double", RunInference::new(model).batch(3..=3).max_delay(ms(60_000)))
        .sink(for_each(|_| {}))
        .trace(tracer.clone())
        .run()
        .unwrap();
    let counts = tracer.shutdown(Duration::from_secs(20));

    let requests = collector.requests();
    let spans: Vec<Span> = requests.iter().flat_map(|request| request.spans()).collect();
    assert_eq!((counts.exported, counts.lost()), (spans.len() as u64, 0));
    for request in &requests {
        assert_eq!((request.path.as_str(), request.header("content-type")), ("/v1/traces", Some("application/x-protobuf")));
        assert_eq!(request.header("x-token"), Some("secret"));
        let from = request.resource();
        assert_eq!((text(&from, "service.name"), text(&from, "deployment.environment.name")), (Some("doubling"), Some("test")));
    }

    let batches = named(&spans, "batch double");
    assert_eq!(batches.len(), 1);
    let batch = batches[0];
    assert_eq!((number(batch, "millstream.batch.size"), text(&batch.attributes, "millstream.model.name")), (Some(3), Some("double")));
    assert!(batch.parent_span_id.is_empty() && batch.links.len() == 3);
    let admissions: Vec<_> = spans.iter().filter(|span| span.kind() == SpanKind::Consumer).collect();
    assert_eq!(admissions.len(), 4);
    for span in &spans {
        assert!((span.trace_id.len(), span.span_id.len()) == (16, 8) && span.start_time_unix_nano <= span.end_time_unix_nano);
        if span.kind() == SpanKind::Internal && span.name != "batch double" {
            let parent = admissions.iter().find(|parent| parent.span_id == span.parent_span_id).expect("its record's admission");
            assert_eq!((&parent.trace_id, number(parent, "millstream.record")), (&span.trace_id, number(span, "millstream.record")));
        }
    }
    for ran in named(&spans, "double") {
        assert_eq!((&ran.links[0].trace_id, &ran.links[0].span_id), (&batch.trace_id, &batch.span_id));
        assert!(batch.links.iter().any(|link| (&link.trace_id, &link.span_id) == (&ran.trace_id, &ran.span_id)));
    }
    let picky = named(&spans, "picky");
    let failed: Vec<_> = picky.iter().filter(|span| span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)).collect();
    assert_eq!((picky.len(), failed.len()), (4, 1));
    assert!(failed[0].status.as_ref().unwrap().message.contains("no threes"));
    assert_eq!(text(&failed[0].attributes, "millstream.outcome"), Some("dead_lettered"));
}

#[test]
fn the_senders_trace_goes_through_to_the_collector() {
    let collector = Collector::start(|_| Answer::Ok);
    let tracer = Otlp::new(&collector.url()).sample(0.0).start().unwrap();
    let (push, source) = channel(8);
    let followed = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for header in [followed, "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"] {
        push.send(Record::new(1u32).trace(header.parse::<Traceparent>().unwrap().0)).unwrap();
    }
    push.send(Record::new(2)).unwrap();
    drop(push);
    Pipeline::from(source).map("plus", |x| x + 1).sink(for_each(|_| {})).trace(tracer.clone()).run().unwrap();
    assert!(tracer.flush(Duration::from_secs(20)), "without an end");

    let spans = collector.spans();
    assert_eq!(spans.len(), 3, "the admission, the stage and the sink of the one that is followed");
    let admission = spans.iter().find(|span| span.kind() == SpanKind::Consumer).unwrap();
    assert_eq!(admission.parent_span_id, 0xb7ad_6b71_6920_3331u64.to_be_bytes());
    assert!(spans.iter().all(|span| span.trace_id == 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319cu128.to_be_bytes() && span.flags & 1 == 1));
    // The sender is another process, and says so.
    assert_eq!(admission.flags >> 8 & 3, 3);
}

#[test]
fn a_collector_that_is_away_costs_counted_spans_only() {
    // Nobody listens there any more.
    let url = Collector::start(|_| Answer::Ok).url();
    let tracer = Otlp::new(&url).queue(16).every(ms(1)).start().unwrap();
    let began = Instant::now();
    let report = Pipeline::from(from_iter(0..500u32)).map("plus", |x| x + 1).sink(for_each(|_| {})).trace(tracer.clone()).run().unwrap();
    assert_eq!(report.counts.ok, 500);
    let counts = tracer.shutdown(Duration::from_secs(20));
    assert!(began.elapsed() < Duration::from_secs(15), "who ends tries once");
    assert_eq!((counts.exported, counts.rejected, counts.dropped + counts.failed), (0, 0, 1500), "{counts:?}");
    assert!(counts.dropped >= 1500 - 3 * 16, "{counts:?}");
    assert_eq!(tracer.shutdown(Duration::ZERO), counts, "there is only one end");
}

#[test]
fn a_collector_that_is_busy_is_asked_again_and_what_it_rejects_is_counted() {
    let collector = Collector::start(|request| if request == 0 { Answer::Busy } else { Answer::Rejects(2) });
    let tracer = Otlp::new(&collector.url()).every(ms(1)).start().unwrap();
    let deliver = |records| Pipeline::from(from_iter(0..records)).sink(for_each(|_: u32| {})).trace(tracer.clone()).run().unwrap();
    deliver(5);
    assert!(tracer.flush(Duration::from_secs(30)));
    let (requests, counts) = (collector.requests(), tracer.counts());
    assert!(requests.len() >= 2 && requests[0].body == requests[1].body);
    let answered = requests.len() as u64 - 1;
    assert_eq!((counts.exported, counts.rejected, counts.lost()), (10 - 2 * answered, 2 * answered, 2 * answered));
}

#[test]
fn a_collector_that_refuses_is_not_asked_again() {
    let collector = Collector::start(|_| Answer::Refuses);
    let tracer = Otlp::new(&collector.url()).every(ms(60_000)).start().unwrap();
    Pipeline::from(from_iter(0..5u32)).sink(for_each(|_| {})).trace(tracer.clone()).run().unwrap();
    assert!(tracer.flush(Duration::from_secs(20)));
    assert_eq!((collector.requests().len(), tracer.counts().failed), (1, 10));
}
