//! What a stage tells the tracer. All of this is for records that are sampled only.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::{Numbers, Span, SpanKind, Traced, Tracer, mix};
use crate::{
    batch::ReleaseReason,
    envelope::{Header, TraceContext},
    infer::ModelId,
    outcome::Outcome,
};

/// A stage's way to the tracer.
pub(crate) struct StageSpans {
    tracer: Arc<dyn Tracer>,
    numbers: Arc<Numbers>,
    stage: Arc<str>,
    /// Makes the numbers of this stage's spans others than those of another stage.
    salt: u64,
}

/// A record's span in a stage, not ended yet.
pub(crate) struct Open {
    traced: Arc<Traced>,
    context: TraceContext,
    record: u64,
    began: Instant,
    outcome: Outcome,
    error: Option<String>,
}

impl Open {
    /// What it is.
    pub(crate) fn context(&self) -> TraceContext {
        self.context
    }

    /// The record ends here.
    pub(crate) fn ends(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// The record ends here, as a dead letter or with the pipeline.
    pub(crate) fn fails(&mut self, error: &dyn fmt::Display) {
        (self.outcome, self.error) = (Outcome::DeadLettered, Some(error.to_string()));
    }
}

/// The run of a batch, as the spans of its records tell of it.
#[derive(Clone, Copy)]
pub(crate) struct Ran {
    /// When its records were first worked on.
    pub(crate) began: Instant,
    /// How many there were.
    pub(crate) size: usize,
    pub(crate) reason: ReleaseReason,
    /// The batch's own span.
    pub(crate) span: Option<TraceContext>,
}

impl StageSpans {
    pub(crate) fn new(tracer: Arc<dyn Tracer>, numbers: Arc<Numbers>, stage: Arc<str>) -> Self {
        let mut hasher = DefaultHasher::new();
        stage.hash(&mut hasher);
        StageSpans { tracer, numbers, salt: hasher.finish(), stage }
    }

    /// A record is let in, with the trace that its sender gave it: what it carries from now on.
    pub(crate) fn admit(&self, given: Option<TraceContext>, head: &Header) -> Option<Arc<Traced>> {
        let trace = match given {
            Some(context) if !context.sampled => return Some(Arc::new(Traced::foreign(context, head.admitted))),
            Some(context) => context.trace,
            None => Some(self.numbers.trace()).filter(|trace| self.tracer.samples(*trace))?,
        };
        let context = TraceContext { trace, span: self.numbers.span(), sampled: true };
        let now = Instant::now();
        let span = Span {
            parent: given.map(|given| given.span),
            record: Some(head.id),
            outcome: Some(Outcome::Ok),
            ..self.span(SpanKind::Admission, context, 0, [head.admitted, now, now])
        };
        self.tracer.ended(&span);
        Some(Arc::new(Traced { context, since: now, came: None, next: self.numbers.span() }))
    }

    /// The span of a record that is about to be worked on.
    pub(crate) fn open(&self, head: &Header) -> Option<Open> {
        let traced = sampled(head)?.clone();
        Some(Open { context: self.context(&traced), traced, record: head.id, began: Instant::now(), outcome: Outcome::Ok, error: None })
    }

    /// What was begun has ended.
    pub(crate) fn close(&self, open: Open, replica: usize) {
        let Open { traced, context, record, began, outcome, error } = open;
        let span = Span {
            parent: Some(traced.context.span),
            record: Some(record),
            outcome: Some(outcome),
            error: error.as_ref().map(|error| error as &dyn fmt::Display),
            ..self.span(SpanKind::Record, context, replica, [traced.since, began, Instant::now()])
        };
        self.tracer.ended(&span);
    }

    /// The record leaves the stage: from now on it waits for the next one.
    pub(crate) fn leaves(&self, head: &mut Header) {
        if let Some(traced) = sampled(head) {
            let left = Traced { context: traced.context, since: Instant::now(), came: None, next: self.numbers.span() };
            head.trace = Some(Arc::new(left));
        }
    }

    /// The record has come into the stage, and waits there for others.
    pub(crate) fn comes(&self, head: &mut Header) {
        if let Some(traced) = sampled(head) {
            head.trace = Some(Arc::new(Traced { came: Some(Instant::now()), ..Traced::clone(traced) }));
        }
    }

    /// Records that have come into the stage have become one, or end there together: a span each, with links to the others'.
    pub(crate) fn meet<'h>(&self, heads: impl Iterator<Item = &'h Header> + Clone, outcome: Outcome, error: Option<&dyn fmt::Display>) {
        let contexts: Vec<_> = heads.clone().filter_map(sampled).map(|traced| self.context(traced)).collect();
        for (head, traced) in heads.filter_map(|head| Some((head, sampled(head)?))) {
            let (context, now) = (self.context(traced), Instant::now());
            let links: Vec<_> = contexts.iter().copied().filter(|other| *other != context).collect();
            let span = Span {
                parent: Some(traced.context.span),
                links: &links,
                record: Some(head.id),
                outcome: Some(outcome),
                error,
                ..self.span(SpanKind::Record, context, 0, [traced.since, traced.came.unwrap_or(now), now])
            };
            self.tracer.ended(&span);
        }
    }

    /// A record begins here, made of these that are followed, if any are: what it carries from now on.
    pub(crate) fn born(&self, links: &[TraceContext], record: u64, replica: usize) -> Option<Arc<Traced>> {
        if links.is_empty() {
            return None;
        }
        let context = TraceContext { trace: self.numbers.trace(), span: self.numbers.span(), sampled: true };
        let now = Instant::now();
        let span = Span { links, record: Some(record), outcome: Some(Outcome::Ok), ..self.span(SpanKind::Admission, context, replica, [now; 3]) };
        self.tracer.ended(&span);
        Some(Arc::new(Traced { context, since: now, came: None, next: self.numbers.span() }))
    }

    /// A batch has run, if one of its records is sampled: its span, to which theirs have a link.
    pub(crate) fn batch<'h>(
        &self,
        heads: impl Iterator<Item = &'h Header>,
        replica: usize,
        (ran, started): (&Ran, Instant),
        model: &ModelId,
        error: Option<&dyn fmt::Display>,
    ) -> Option<TraceContext> {
        let links: Vec<_> = heads.filter_map(sampled).map(|traced| self.context(traced)).collect();
        if links.is_empty() {
            return None;
        }
        let context = TraceContext { trace: self.numbers.trace(), span: self.numbers.span(), sampled: true };
        let span = Span {
            links: &links,
            batch: Some(ran.size),
            reason: Some(ran.reason),
            model: Some(model),
            outcome: error.is_none().then_some(Outcome::Ok),
            error,
            ..self.span(SpanKind::Batch, context, replica, [started, started, Instant::now()])
        };
        self.tracer.ended(&span);
        Some(context)
    }

    /// A record leaves a model's stage, or ends there. Without `ran`, it was never run.
    pub(crate) fn ran(&self, head: &Header, replica: usize, ran: Option<&Ran>, model: &ModelId, outcome: Outcome, error: Option<&dyn fmt::Display>) {
        let Some(traced) = sampled(head) else { return };
        let now = Instant::now();
        let link = ran.and_then(|ran| ran.span);
        let span = Span {
            parent: Some(traced.context.span),
            links: link.as_slice(),
            record: Some(head.id),
            batch: ran.map(|ran| ran.size),
            reason: ran.map(|ran| ran.reason),
            model: Some(model),
            outcome: Some(outcome),
            error,
            ..self.span(SpanKind::Record, self.context(traced), replica, [traced.since, ran.map_or(now, |ran| ran.began), now])
        };
        self.tracer.ended(&span);
    }

    /// The span of a record in this stage: the same, however often it is tried.
    fn context(&self, traced: &Traced) -> TraceContext {
        TraceContext { span: mix(traced.next ^ self.salt), ..traced.context }
    }

    /// A span that says when and where, and nothing else yet.
    fn span(&self, kind: SpanKind, context: TraceContext, replica: usize, times: [Instant; 3]) -> Span<'_> {
        // One look at either clock: the times of a span keep their order and their distances.
        let (now, wall) = (Instant::now(), SystemTime::now());
        let [queued, began, ended] = times.map(|time| wall - now.saturating_duration_since(time));
        Span {
            kind,
            context,
            parent: None,
            links: &[],
            stage: &self.stage,
            replica,
            queued,
            began,
            ended,
            record: None,
            batch: None,
            reason: None,
            model: None,
            outcome: None,
            error: None,
        }
    }
}

fn sampled(head: &Header) -> Option<&Arc<Traced>> {
    head.trace.as_ref().filter(|traced| traced.context.sampled)
}
