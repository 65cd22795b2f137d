//! OTLP's messages: a span, and the request that carries many (`opentelemetry/proto/trace/v1/trace.proto`).

use std::time::{Duration, SystemTime};

use millstream_runtime::{Outcome, Span, SpanKind, TraceContext};

use crate::wire::{Field, Message, find};

/// The most links of a span, as OpenTelemetry's libraries have it. What is left out is counted in the span.
const LINKS: usize = 128;
/// The most bytes of an error's message: with the links, what bounds a span in the queue.
const MESSAGE: usize = 1024;

/// Who says it, and with which version.
const LIBRARY: &str = "millstream";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The bits of a span's and a link's flags beside those of the W3C.
const PARENT_IS_KNOWN: u32 = 1 << 8;
const PARENT_IS_REMOTE: u32 = 1 << 9;

const INTERNAL: u64 = 1;
const CONSUMER: u64 = 5;
const STATUS_ERROR: u64 = 2;

/// A span as the request has it.
pub(crate) fn span(span: &Span<'_>) -> Vec<u8> {
    let admission = span.kind == SpanKind::Admission;
    let mut message = Message::default();
    message.bytes(1, &span.context.trace.to_be_bytes()).bytes(2, &span.context.span.to_be_bytes());
    if let Some(parent) = span.parent {
        message.bytes(4, &parent.to_be_bytes());
    }
    message.bytes(5, name(span).as_bytes()).varint(6, if admission { CONSUMER } else { INTERNAL });
    message.fixed64(7, nanoseconds(span.queued)).fixed64(8, nanoseconds(span.ended));
    attributes(span, &mut message);
    for link in span.links.iter().take(LINKS) {
        message.message(13, |message| {
            message.bytes(1, &link.trace.to_be_bytes()).bytes(2, &link.span.to_be_bytes()).fixed32(6, flags(link, false));
        });
    }
    if span.links.len() > LINKS {
        message.varint(14, (span.links.len() - LINKS) as u64);
    }
    if span.error.is_some() || matches!(span.outcome, Some(Outcome::DeadLettered)) {
        let text = span.error.map(ToString::to_string).unwrap_or_default();
        message.message(15, |status| {
            status.bytes(2, &text.as_bytes()[..text.floor_char_boundary(MESSAGE)]).varint(3, STATUS_ERROR);
        });
    }
    message.fixed32(16, flags(&span.context, admission && span.parent.is_some()));
    message.into_bytes()
}

/// Few of them, as collectors group by it.
fn name(span: &Span<'_>) -> String {
    match span.kind {
        SpanKind::Admission => format!("admit {}", span.stage),
        SpanKind::Batch => format!("batch {}", span.stage),
        _ => span.stage.to_owned(),
    }
}

fn attributes(span: &Span<'_>, message: &mut Message) {
    let wait = span.began.duration_since(span.queued).unwrap_or_default();
    text(message, 9, "millstream.stage", span.stage);
    number(message, "millstream.replica", span.replica as u64);
    message.message(9, |pair| {
        pair.bytes(1, b"millstream.wait_seconds").message(2, |value| {
            value.fixed64(4, wait.as_secs_f64().to_bits());
        });
    });
    if let Some(record) = span.record {
        number(message, "millstream.record", record);
    }
    if let Some(size) = span.batch {
        number(message, "millstream.batch.size", size as u64);
    }
    if let Some(reason) = span.reason {
        text(message, 9, "millstream.batch.reason", reason.name());
    }
    if let Some(model) = span.model {
        text(message, 9, "millstream.model.name", &model.name);
        text(message, 9, "millstream.model.version", &model.version);
    }
    if let Some(outcome) = span.outcome {
        text(message, 9, "millstream.outcome", outcome.name());
    }
}

fn text(message: &mut Message, field: u8, key: &str, value: &str) {
    message.message(field, |pair| {
        pair.bytes(1, key.as_bytes()).message(2, |any| {
            any.bytes(1, value.as_bytes());
        });
    });
}

fn number(message: &mut Message, key: &str, value: u64) {
    message.message(9, |pair| {
        pair.bytes(1, key.as_bytes()).message(2, |any| {
            any.varint(3, value);
        });
    });
}

fn flags(context: &TraceContext, remote_parent: bool) -> u32 {
    u32::from(context.sampled) | PARENT_IS_KNOWN | if remote_parent { PARENT_IS_REMOTE } else { 0 }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// What all requests say of who sends them.
pub(crate) fn resource(service: &str, others: &[(String, String)]) -> Vec<u8> {
    let fixed = [("service.name", service), ("telemetry.sdk.name", LIBRARY), ("telemetry.sdk.language", "rust"), ("telemetry.sdk.version", VERSION)];
    let mut message = Message::default();
    for (key, value) in fixed.into_iter().chain(others.iter().map(|(key, value)| (&**key, &**value))) {
        text(&mut message, 1, key, value);
    }
    message.into_bytes()
}

/// A request with these spans.
pub(crate) fn request(resource: &[u8], spans: &[Vec<u8>]) -> Vec<u8> {
    let mut request = Message::default();
    request.message(1, |of_resource| {
        of_resource.bytes(1, resource).message(2, |of_scope| {
            of_scope.message(1, |scope| {
                scope.bytes(1, LIBRARY.as_bytes()).bytes(2, VERSION.as_bytes());
            });
            for span in spans {
                of_scope.bytes(2, span);
            }
        });
    });
    request.into_bytes()
}

/// How many spans an answer says were not taken.
pub(crate) fn rejected(answer: &[u8]) -> u64 {
    let Some(Field::Bytes(partial)) = find(answer, 1) else { return 0 };
    match find(partial, 1) {
        Some(Field::Number(count)) => count,
        _ => 0,
    }
}
