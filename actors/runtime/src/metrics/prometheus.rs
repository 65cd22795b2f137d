//! A snapshot as a page in Prometheus' text format, version 0.0.4.

use std::fmt::{Display, Write};

use super::{HistogramSnapshot, SequenceSnapshot, Snapshot, StageSnapshot};
use crate::{outcome::Outcome, supervise::StageState};

/// Buckets that a page shows: from 2⁷ ns to 2³⁷ ns (137 s) in steps of four, the rest in the last.
const SECONDS: [usize; 16] = [7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33, 35, 37];
/// From 1 to 4096 items.
const SIZES: [usize; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

impl Snapshot {
    /// The page. Every sample carries the pipeline's name, so that pages of several pipelines can be joined.
    ///
    /// ```
    /// use millstream_runtime::{Pipeline, for_each, from_iter};
    ///
    /// let report = Pipeline::from(from_iter(0..3)).sink(for_each(|_| {})).run()?;
    /// let page = report.snapshot.prometheus("thumbnails");
    /// assert!(page.contains("millstream_outcomes_total{pipeline=\"thumbnails\",outcome=\"ok\"} 3\n"));
    /// # Ok::<(), millstream_runtime::PipelineError>(())
    /// ```
    pub fn prometheus(&self, pipeline: &str) -> String {
        let mut page = Page { text: String::new(), family: String::new(), pipeline };
        self.outcomes(&mut page);
        self.stages(&mut page);
        self.batches(&mut page);
        self.sequences(&mut page);
        self.edges(&mut page);
        page.text
    }

    fn outcomes(&self, page: &mut Page<'_>) {
        let counts = &self.counts;
        page.family("millstream_admitted_total", "counter", "Records let in, or rejected.");
        page.sample("", &[], counts.admitted);
        page.family("millstream_outcomes_total", "counter", "Records that ended, by how.");
        for outcome in Outcome::ALL {
            let count = match outcome {
                Outcome::Ok => counts.ok,
                Outcome::Cancelled => counts.cancelled,
                Outcome::Expired => counts.expired,
                Outcome::Rejected => counts.rejected,
                Outcome::DeadLettered => counts.dead_lettered,
            };
            page.sample("", &[("outcome", &outcome.name())], count);
        }
        if let Some(seconds) = &self.checkpoint_seconds {
            page.family("millstream_checkpoint_seconds", "summary", "Time from a checkpoint's request until it was stored.");
            page.sample("_sum", &[], seconds.sum as f64 * 1e-9);
            page.sample("_count", &[], seconds.count());
        }
        page.family("millstream_inflight_records", "gauge", "Records on their way.");
        page.sample("", &[], counts.in_flight());
        page.family("millstream_inflight_bytes", "gauge", "Bytes reserved of the entry budget.");
        page.sample("", &[], self.reserved.bytes);
        if let Some(bytes) = self.budget_bytes {
            page.family("millstream_budget_bytes", "gauge", "Bytes that may be reserved at once.");
            page.sample("", &[], bytes);
        }
        page.family("millstream_inflight_bytes_peak", "gauge", "The most bytes that were ever reserved at once.");
        page.sample("", &[], self.peak_reserved_bytes);
        page.family("millstream_overdraft_bytes", "gauge", "Bytes that records hold beyond their reservations.");
        page.sample("", &[], self.overdraft_bytes);
    }

    fn stages(&self, page: &mut Page<'_>) {
        page.family("millstream_records_total", "counter", "Records by stage and what became of them there.");
        for stage in &self.stages {
            let became = [
                ("taken", stage.records_in),
                ("passed", stage.records_out),
                ("consumed", stage.consumed),
                ("given_up", stage.given_up),
                ("dead_lettered", stage.dead_letters),
            ];
            for (outcome, count) in became {
                page.sample("", &[("stage", &stage.name), ("outcome", &outcome)], count);
            }
        }
        let counters: [(&str, &str, fn(&StageSnapshot) -> u64); 5] = [
            ("millstream_errors_total", "Errors of user code.", |s| s.errors),
            ("millstream_retries_total", "Executions that were repeated.", |s| s.retries),
            ("millstream_panics_total", "Panics of user code.", |s| s.panics),
            ("millstream_hangs_total", "Runs of user code that passed their time limit.", |s| s.hangs),
            ("millstream_dead_letters_total", "Records that went to the dead letters.", |s| s.dead_letters),
        ];
        for (name, help, read) in counters {
            page.family(name, "counter", help);
            for stage in &self.stages {
                page.sample("", &[("stage", &stage.name)], read(stage));
            }
        }
        page.family("millstream_restarts_total", "counter", "Workers that were started again.");
        for stage in &self.stages {
            page.sample("", &[("stage", &stage.name), ("cause", &"crash")], stage.restarts);
            page.sample("", &[("stage", &stage.name), ("cause", &"recall")], stage.recalls);
        }
        page.family("millstream_replicas", "gauge", "Threads of a stage.");
        for stage in &self.stages {
            page.sample("", &[("stage", &stage.name)], stage.replicas);
        }
        page.family("millstream_stage_state", "gauge", "1 for the state that a stage is in.");
        for stage in &self.stages {
            for state in StageState::ALL {
                page.sample("", &[("stage", &stage.name), ("state", &state.name())], u8::from(state == stage.state));
            }
        }
        page.family("millstream_busy_seconds_total", "counter", "Time in user code, over all replicas.");
        for stage in &self.stages {
            page.sample("", &[("stage", &stage.name)], stage.busy.as_secs_f64());
        }
        page.family("millstream_credit_wait_seconds_total", "counter", "Time spent waiting for the next edge, over all replicas.");
        for stage in &self.stages {
            page.sample("", &[("stage", &stage.name)], stage.credit_wait.as_secs_f64());
        }
        page.family("millstream_stage_seconds", "histogram", "Time per chunk or batch.");
        for stage in &self.stages {
            page.histogram(&stage.name, &stage.seconds, &SECONDS, 1e-9);
        }
    }

    fn batches(&self, page: &mut Page<'_>) {
        let batching: Vec<&StageSnapshot> = self.stages.iter().filter(|stage| stage.batch_size.count() > 0).collect();
        if batching.is_empty() {
            return;
        }
        page.family("millstream_batch_size", "histogram", "Records per batch.");
        for stage in &batching {
            page.histogram(&stage.name, &stage.batch_size, &SIZES, 1.0);
        }
        page.family("millstream_batch_release_total", "counter", "Batches by what released them.");
        for stage in &batching {
            for (reason, count) in &stage.releases {
                page.sample("", &[("stage", &stage.name), ("reason", &reason.name())], *count);
            }
        }
        page.family("millstream_batch_limit", "gauge", "The largest batch that memory and sizing allow.");
        for stage in &batching {
            page.sample("", &[("stage", &stage.name)], stage.batch_limit);
        }
        page.family("millstream_tokens_total", "counter", "What batches held, in what the model counts; padding apart.");
        for stage in &batching {
            page.sample("", &[("stage", &stage.name), ("kind", &"real")], stage.tokens);
            page.sample("", &[("stage", &stage.name), ("kind", &"padding")], stage.padded_tokens.saturating_sub(stage.tokens));
        }
        page.family("millstream_model_info", "gauge", "1 for the model that a stage ran last.");
        for stage in &batching {
            if let Some(model) = &stage.model {
                page.sample("", &[("stage", &stage.name), ("model", &model.name), ("version", &model.version)], 1);
            }
        }
    }

    fn sequences(&self, page: &mut Page<'_>) {
        let remembering: Vec<&StageSnapshot> = self.stages.iter().filter(|stage| stage.sequences != SequenceSnapshot::default()).collect();
        if remembering.is_empty() {
            return;
        }
        page.family("millstream_sequences", "gauge", "Sequences whose states are held.");
        for stage in &remembering {
            page.sample("", &[("stage", &stage.name)], stage.sequences.held);
        }
        page.family("millstream_sequence_bytes", "gauge", "What the states of sequences weigh.");
        for stage in &remembering {
            page.sample("", &[("stage", &stage.name)], stage.sequences.bytes);
        }
        page.family("millstream_sequences_total", "counter", "Sequences by what became of them; refused are records.");
        for stage in &remembering {
            let SequenceSnapshot { begun, ended, expired, evicted, refused, .. } = stage.sequences;
            for (event, count) in [("begun", begun), ("ended", ended), ("expired", expired), ("evicted", evicted), ("refused", refused)] {
                page.sample("", &[("stage", &stage.name), ("event", &event)], count);
            }
        }
    }

    fn edges(&self, page: &mut Page<'_>) {
        page.family("millstream_queue_depth", "gauge", "Records that wait for a stage.");
        for edge in &self.edges {
            page.sample("", &[("stage", &edge.into)], edge.queued.records);
        }
        page.family("millstream_queue_bytes", "gauge", "Bytes that wait for a stage.");
        for edge in &self.edges {
            page.sample("", &[("stage", &edge.into)], edge.queued.bytes);
        }
        page.family("millstream_queue_limit", "gauge", "Records that may wait for a stage.");
        for edge in &self.edges {
            page.sample("", &[("stage", &edge.into)], edge.limits.records);
        }
    }
}

struct Page<'p> {
    text: String,
    /// The family that samples belong to.
    family: String,
    pipeline: &'p str,
}

impl Page<'_> {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        name.clone_into(&mut self.family);
        // Writing to a string cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// A sample of the last family.
    fn sample(&mut self, suffix: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        let _ = write!(self.text, "{}{suffix}{{pipeline=\"{}\"", self.family, escaped(self.pipeline));
        for (label, text) in labels {
            let _ = write!(self.text, ",{label}=\"{}\"", escaped(&text.to_string()));
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    fn histogram(&mut self, stage: &str, histogram: &HistogramSnapshot, bounds: &[usize], unit: f64) {
        let mut below = 0;
        let mut buckets = histogram.buckets.iter().enumerate().peekable();
        for bound in bounds {
            while let Some((_, count)) = buckets.next_if(|(bucket, _)| bucket <= bound) {
                below += count;
            }
            self.sample("_bucket", &[("stage", &stage), ("le", &((1u64 << bound) as f64 * unit))], below);
        }
        self.sample("_bucket", &[("stage", &stage), ("le", &"+Inf")], histogram.count());
        self.sample("_sum", &[("stage", &stage)], histogram.sum as f64 * unit);
        self.sample("_count", &[("stage", &stage)], histogram.count());
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use crate::{Pipeline, RunInference, StageError, for_each, from_iter, handler};

    /// Every line is a comment or a sample of the family above it, histograms rise, and nothing comes twice.
    #[test]
    fn the_page_is_well_formed() {
        let model = handler("m", |batch: &[&u64]| Ok::<_, StageError>(vec![(); batch.len()]));
        let report = Pipeline::from(from_iter(0..100u64)).infer("a \"b\"\\c", RunInference::new(model).batch(1..=8)).sink(for_each(|_| {})).run().unwrap();
        let page = report.snapshot.prometheus("p\n1");
        let (mut family, mut seen) = ("", std::collections::HashSet::new());
        let mut last: Option<(String, f64)> = None;
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().unwrap();
                assert!(seen.insert(family.to_owned()), "{family} comes twice");
                continue;
            }
            if line.starts_with("# HELP ") {
                continue;
            }
            let (name, rest) = line.split_once('{').expect("a sample has labels");
            assert!(name.strip_prefix(family).is_some_and(|suffix| ["", "_bucket", "_sum", "_count"].contains(&suffix)), "{line}");
            let (labels, value) = rest.rsplit_once("} ").expect("a sample has a value");
            let value: f64 = value.parse().expect("a number");
            assert!(labels.starts_with("pipeline=\"p\\n1\""), "{line}");
            assert!(seen.insert(format!("{name}{labels}")), "twice: {line}");
            if let Some((series, _)) = labels.split_once(",le=") {
                if let Some((before, below)) = &last
                    && before == series
                    && name.ends_with("_bucket")
                {
                    assert!(value >= *below, "{line}");
                }
                last = Some((series.to_owned(), value));
            }
        }
        for part in ["outcome=\"ok\"} 100\n", "stage=\"a \\\"b\\\"\\\\c\",reason=\"full\"}", "model=\"m\",version=\"1\"} 1\n", "le=\"+Inf\"}"] {
            assert!(page.contains(part), "{part}\n{page}");
        }
    }
}
