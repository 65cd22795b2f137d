//! What a pipeline does, of two readings of its page: rates over the time between them, and how things stand at the later.

use super::Page;
use std::time::Instant;

/// A page, and when it was read.
pub(crate) struct Reading {
    pub(crate) page: Page,
    pub(crate) at: Instant,
}

/// A pipeline's figures. Rates are per second.
#[derive(Debug, PartialEq)]
pub(crate) struct Figures {
    pub(crate) pipeline: String,
    pub(crate) admitted: f64,
    /// How records ended: the word, how many a second, how many in all.
    pub(crate) outcomes: Vec<(String, f64, f64)>,
    pub(crate) in_flight: f64,
    pub(crate) reserved: f64,
    pub(crate) peak: f64,
    /// None where nobody set a budget.
    pub(crate) budget: Option<f64>,
    pub(crate) stages: Vec<StageFigures>,
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct StageFigures {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) replicas: f64,
    pub(crate) taken: f64,
    pub(crate) passed: f64,
    /// What waits for it, and what may; nothing waits for a source.
    pub(crate) queue: Option<(f64, f64)>,
    pub(crate) queue_bytes: f64,
    pub(crate) mean_batch: Option<f64>,
    /// Upper bounds of the time of a chunk or batch, in seconds.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    /// Parts of the time that its replicas had.
    pub(crate) busy: f64,
    pub(crate) waiting: f64,
    /// In all.
    pub(crate) restarts: f64,
    pub(crate) dead_letters: f64,
    pub(crate) model: Option<String>,
}

impl Figures {
    /// One for each pipeline of the page.
    pub(crate) fn between(before: &Reading, now: &Reading) -> Vec<Figures> {
        now.page.labels("millstream_admitted_total", &[], "pipeline").iter().map(|pipeline| Between { before, now, pipeline }.figures()).collect()
    }
}

struct Between<'r> {
    before: &'r Reading,
    now: &'r Reading,
    pipeline: &'r str,
}

impl Between<'_> {
    fn labelled<'l>(&'l self, labels: &[(&'l str, &'l str)]) -> Vec<(&'l str, &'l str)> {
        [&[("pipeline", self.pipeline)], labels].concat()
    }

    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.now.page.value(name, &self.labelled(labels))
    }

    /// How much a counter grew in a second. One that began anew, in a fresh process, counts from there.
    fn rate(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let seconds = self.now.at.duration_since(self.before.at).as_secs_f64();
        if seconds > 0.0 { self.growth(name, labels) / seconds } else { 0.0 }
    }

    fn growth(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let now = self.value(name, labels).unwrap_or(0.0);
        let before = self.before.page.value(name, &self.labelled(labels)).unwrap_or(0.0);
        if before > now { now } else { now - before }
    }

    /// How the values between the readings lie in a histogram's buckets; all that there ever were, if there were none between.
    fn buckets(&self, name: &str, stage: &str) -> Vec<(f64, f64)> {
        let labels = [("pipeline", self.pipeline), ("stage", stage)];
        let (now, before) = (self.now.page.buckets(name, &labels), self.before.page.buckets(name, &labels));
        let between: Vec<_> = now.iter().zip(&before).map(|((bound, now), (_, before))| (*bound, now - before)).collect();
        let sound = between.len() == now.len() && between.iter().all(|(_, count)| *count >= 0.0);
        if sound && between.last().is_some_and(|(_, count)| *count > 0.0) { between } else { now }
    }

    fn figures(&self) -> Figures {
        let value = |name| self.value(name, &[]).unwrap_or(0.0);
        let outcome = |outcome: String| {
            let labels = [("outcome", outcome.as_str())];
            let figures = (self.rate("millstream_outcomes_total", &labels), self.value("millstream_outcomes_total", &labels).unwrap_or(0.0));
            (outcome, figures.0, figures.1)
        };
        let labels = self.labelled(&[]);
        let stages = self.now.page.labels("millstream_records_total", &labels, "stage");
        Figures {
            pipeline: self.pipeline.to_owned(),
            admitted: self.rate("millstream_admitted_total", &[]),
            outcomes: self.now.page.labels("millstream_outcomes_total", &labels, "outcome").into_iter().map(outcome).collect(),
            in_flight: value("millstream_inflight_records"),
            reserved: value("millstream_inflight_bytes"),
            peak: value("millstream_inflight_bytes_peak"),
            budget: self.value("millstream_budget_bytes", &[]),
            stages: stages.iter().map(|stage| self.stage(stage)).collect(),
        }
    }

    fn stage(&self, name: &str) -> StageFigures {
        let labels = [("stage", name)];
        let value = |metric| self.value(metric, &labels);
        let records = |outcome| self.rate("millstream_records_total", &[("stage", name), ("outcome", outcome)]);
        let flagged = |metric, label| self.now.page.flagged(metric, &self.labelled(&labels), label).map(str::to_owned);
        let replicas = value("millstream_replicas").unwrap_or(0.0);
        let part = |metric| self.rate(metric, &labels) / replicas.max(1.0);
        let batches = self.growth("millstream_batch_size_count", &labels);
        let mean_batch = match batches {
            0.0 => value("millstream_batch_size_sum").zip(value("millstream_batch_size_count")).map(|(sum, count)| sum / count.max(1.0)),
            batches => Some(self.growth("millstream_batch_size_sum", &labels) / batches),
        };
        let seconds = self.buckets("millstream_stage_seconds", name);
        let restarts = |cause| self.value("millstream_restarts_total", &[("stage", name), ("cause", cause)]);
        let version = flagged("millstream_model_info", "version").map_or_else(String::new, |version| format!("@{version}"));
        StageFigures {
            name: name.to_owned(),
            state: flagged("millstream_stage_state", "state").unwrap_or_default(),
            replicas,
            taken: records("taken"),
            passed: records("passed"),
            queue: value("millstream_queue_depth").zip(value("millstream_queue_limit")),
            queue_bytes: value("millstream_queue_bytes").unwrap_or(0.0),
            mean_batch,
            p50: quantile(&seconds, 0.5),
            p99: quantile(&seconds, 0.99),
            busy: part("millstream_busy_seconds_total"),
            waiting: part("millstream_credit_wait_seconds_total"),
            restarts: restarts("crash").unwrap_or(0.0),
            dead_letters: value("millstream_dead_letters_total").unwrap_or(0.0),
            model: flagged("millstream_model_info", "model").map(|model| model + &version),
        }
    }
}

/// The bound of the bucket that the quantile lies in; none without values, or where that bucket has no bound.
fn quantile(buckets: &[(f64, f64)], q: f64) -> Option<f64> {
    let all = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
    buckets.iter().find(|(_, below)| *below >= all * q).map(|(bound, _)| *bound).filter(|bound| bound.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream::runtime::{Pipeline, RunInference, StageError, channel, for_each, handler};
    use std::{thread, time::Duration};

    fn reading(page: &str, at: Instant) -> Reading {
        Reading { page: Page::read(page).expect("a page"), at }
    }

    /// The figures of a real pipeline's page, read before its records and behind them.
    #[test]
    fn two_pages_make_rates() {
        let model = handler("twice", |batch: &[&u64]| Ok::<_, StageError>(batch.iter().map(|x| **x * 2).collect())).version("7");
        let (push, source) = channel(1000);
        let handle = Pipeline::from(source)
            .filter("even", |x| x % 2 == 0)
            .infer("model", RunInference::new(model).batch(1..=8))
            .sink(for_each(|_| {}))
            .memory_budget(1 << 20)
            .spawn()
            .expect("it starts");
        let start = Instant::now();
        let before = reading(&handle.snapshot().prometheus("p"), start);
        (0..600).for_each(|x| push.send(millstream::runtime::Record::new(x)).expect("it runs"));
        while handle.snapshot().counts.ended() < 600 {
            thread::sleep(Duration::from_millis(1));
        }
        let now = reading(&handle.snapshot().prometheus("p"), start + Duration::from_secs(3));
        let figures = &Figures::between(&before, &now)[0];
        assert_eq!((figures.pipeline.as_str(), figures.admitted, figures.in_flight), ("p", 200.0, 0.0));
        assert_eq!(figures.outcomes[0], ("ok".to_owned(), 200.0, 600.0));
        assert!(figures.budget.is_some_and(|budget| budget > 0.0 && figures.peak <= budget), "{figures:?}");
        let names: Vec<_> = figures.stages.iter().map(|stage| (stage.name.as_str(), stage.taken, stage.passed)).collect();
        assert_eq!(names, [("source", 200.0, 200.0), ("even", 200.0, 100.0), ("model", 100.0, 100.0), ("sink", 100.0, 0.0)]);
        let model = &figures.stages[2];
        assert_eq!((model.state.as_str(), model.model.as_deref(), model.queue.map(|queue| queue.0)), ("running", Some("twice@7"), Some(0.0)));
        assert!(model.mean_batch.is_some_and(|batch| (1.0..=8.0).contains(&batch)) && model.p50 <= model.p99 && model.p50.is_some());
        // A page of a fresh process: its counters begin at 0.
        let again = Figures::between(&now, &reading(&handle.snapshot().prometheus("p").replace("} 600", "} 30"), start + Duration::from_secs(4)));
        assert_eq!(again[0].admitted, 30.0);
        drop(push);
        handle.join().expect("it ends");
    }

    #[test]
    fn quantiles_are_bounds_of_buckets() {
        let buckets = [(0.1, 50.0), (0.4, 90.0), (f64::INFINITY, 100.0)];
        assert_eq!([quantile(&buckets, 0.5), quantile(&buckets, 0.9), quantile(&buckets, 0.99)], [Some(0.1), Some(0.4), None]);
        assert_eq!(quantile(&[(0.1, 0.0)], 0.5), None);
    }
}
