//! How often a remote model is asked, how long an answer may take, and what is done when none comes.

use std::time::Duration;

use millstream_remote::{RateLimit, RemoteModel, Retries, Throttle};

use crate::{
    description::RemotePlan,
    table::{At, Table},
};

/// What is left out is as `RemoteModel` has it.
pub(super) struct Manners {
    /// How long one try may take.
    timeout: Duration,
    retries: Retries,
    throttle: Option<Throttle>,
    /// Requests a second, and at once.
    rate: Option<(f64, f64)>,
}

/// How long one try may take, where the file does not say.
const TIMEOUT: Duration = Duration::from_secs(30);

impl Manners {
    pub(super) fn read(table: &Table<'_>) -> Self {
        let timeout = table.read_if::<Duration>("timeout", |time| !time.is_zero(), "more than nothing").map_or(TIMEOUT, |time| time.value);
        Manners { timeout, retries: retries(table), throttle: throttle(table), rate: table.table("rate_limit").and_then(|table| rate(&table)) }
    }

    pub(super) fn apply<I, O>(&self, model: RemoteModel<I, O>) -> RemoteModel<I, O> {
        let model = model.timeout(self.timeout).retries(self.retries).throttle(self.throttle);
        match self.rate {
            Some((rate, burst)) => model.rate_limit(RateLimit::per_second(rate, burst)),
            None => model,
        }
    }

    /// For `--dry`.
    pub(super) fn tell(&self, plan: &mut RemotePlan) {
        plan.timeout = self.timeout;
        plan.retries = self.retries.times;
        plan.pauses = (self.retries.pause, self.retries.longest);
        plan.throttled = self.throttle.is_some();
        plan.requests_per_second = self.rate.map(|(rate, _)| rate);
    }
}

/// `retries = 4`, or a table.
fn retries(table: &Table<'_>) -> Retries {
    let mut retries = Retries::default();
    let times = |times: Option<At<u64>>, into: &mut u32| {
        if let Some(times) = times {
            *into = u32::try_from(times.value).unwrap_or(u32::MAX);
        }
    };
    if !table.is_table("retries") {
        times(table.read_if("retries", |times| u32::try_from(*times).is_ok(), "below 4294967296"), &mut retries.times);
        return retries;
    }
    let Some(table) = table.table("retries") else { return retries };
    times(table.read_if("times", |times| u32::try_from(*times).is_ok(), "below 4294967296"), &mut retries.times);
    let (pause, longest) = (table.read::<Duration>("pause"), table.read::<Duration>("longest"));
    table.done();
    retries.pause = pause.as_ref().map_or(retries.pause, |pause| pause.value);
    retries.longest = longest.as_ref().map_or(retries.longest.max(retries.pause), |longest| longest.value);
    if let Some(longest) = longest.filter(|longest| longest.value < retries.pause) {
        table.findings.add(&longest.span, format!("`longest` must be at least the first pause, {:?}", retries.pause));
    }
    retries
}

/// `throttle = false`, or a table.
fn throttle(table: &Table<'_>) -> Option<Throttle> {
    let mut rules = Throttle::default();
    if !table.is_table("throttle") {
        return table.read::<bool>("throttle").is_none_or(|on| on.value).then_some(rules);
    }
    let Some(table) = table.table("throttle") else { return Some(rules) };
    if let Some(overload) = table.read_if::<f64>("overload", |times| *times >= 1.0, "at least 1, the requests for each success") {
        rules.overload = overload.value;
    }
    let time = |key, into: &mut Duration| {
        if let Some(time) = table.read_if::<Duration>(key, |time| !time.is_zero(), "more than nothing") {
            *into = time.value;
        }
    };
    time("window", &mut rules.window);
    time("pause", &mut rules.pause);
    table.done();
    Some(rules)
}

/// `rate_limit = { per_second = 50, burst = 10 }`.
fn rate(table: &Table<'_>) -> Option<(f64, f64)> {
    // Slower than once in eleven days is a mistake, and what lies below would be no time that can be waited.
    let rate = table.need::<f64>("per_second");
    let burst = table.read_if::<f64>("burst", |burst| *burst >= 1.0, "at least 1").map_or(1.0, |burst| burst.value);
    table.done();
    let rate = rate?;
    if rate.value < 1e-6 {
        table.findings.add(&rate.span, "`per_second` must be more than 0, and at least 0.000001");
        return None;
    }
    Some((rate.value, burst))
}
