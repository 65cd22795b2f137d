//! Where spans go and how many ([`Otlp`]), and the tracer that sees to it.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use millstream_runtime::{Span, Tracer};
use ureq::http::Uri;

use crate::{
    client::Client,
    encode,
    sender::{Limits, Queue},
};

/// How long a tracer that is dropped may take to send what it has.
const AT_THE_END: Duration = Duration::from_secs(5);
/// Traces are chosen by their last 56 bits, as the W3C's Trace Context and OpenTelemetry's samplers have it.
const RANDOM_BITS: u32 = 56;

/// Where spans go, and how many.
#[derive(Clone)]
pub struct Otlp {
    url: String,
    service: String,
    resource: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    sample: f64,
    limits: Limits,
}

impl fmt::Debug for Otlp {
    /// Without the headers, which hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Otlp").field("url", &self.url).field("service", &self.service).field("sample", &self.sample).finish_non_exhaustive()
    }
}

/// Why no spans can be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The address is none.
    #[error("`{url}` is no address of a collector: `http://HOST:4318` is one")]
    Address {
        /// The address.
        url: String,
    },
    /// The address needs TLS.
    #[error("`{url}` needs TLS: the feature `tls` of millstream-telemetry")]
    Tls {
        /// The address.
        url: String,
    },
    /// The share of traces to follow is none.
    #[error("{share} is no share of traces: it lies between 0 and 1")]
    Share {
        /// The share.
        share: f64,
    },
    /// The sender's thread cannot be started.
    #[error("the thread that sends spans cannot be started")]
    Thread(#[source] io::Error),
}

impl Otlp {
    /// To the collector at this address, usually `http://HOST:4318`. An address without a path gets OTLP's `/v1/traces`.
    pub fn new(url: &str) -> Self {
        Otlp {
            url: url.to_owned(),
            service: "millstream".to_owned(),
            resource: Vec::new(),
            headers: Vec::new(),
            sample: 1.0,
            limits: Limits { queue: 2048, batch: 512, every: Duration::from_secs(1), timeout: Duration::from_secs(10) },
        }
    }

    /// The service's name, `service.name`; "millstream" otherwise.
    #[must_use]
    pub fn service(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service);
        self
    }

    /// Says something else of who sends the spans: `deployment.environment.name`, for example.
    #[must_use]
    pub fn resource(mut self, key: &str, value: &str) -> Self {
        self.resource.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Sends a header with each request: what a collector wants to see of who may send.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The share of records that are followed, of those that come without a trace; all by default. A record whose sender
    /// has decided is followed as the sender says.
    #[must_use]
    pub fn sample(mut self, share: f64) -> Self {
        self.sample = share;
        self
    }

    /// The most spans that wait, 2048 by default; one of them takes 6 KiB at most, and usually a few hundred bytes.
    #[must_use]
    pub fn queue(mut self, spans: usize) -> Self {
        self.limits.queue = spans.max(1);
        self
    }

    /// The most spans of a request, 512 by default.
    #[must_use]
    pub fn batch(mut self, spans: usize) -> Self {
        self.limits.batch = spans.max(1);
        self
    }

    /// How long a span waits for others to go with; a second by default.
    #[must_use]
    pub fn every(mut self, time: Duration) -> Self {
        self.limits.every = time;
        self
    }

    /// How long a request may take; 10 seconds by default.
    #[must_use]
    pub fn timeout(mut self, time: Duration) -> Self {
        self.limits.timeout = time.max(Duration::from_millis(1));
        self
    }

    /// Whether a tracer can be started with it; nothing is sent.
    ///
    /// # Errors
    /// If the address is none, or needs TLS that this program has not, or the share of traces is no share.
    pub fn check(&self) -> Result<(), TelemetryError> {
        self.address()?;
        threshold(self.sample).map(drop)
    }

    /// Starts the thread that sends spans. The tracer goes to [`millstream_runtime::Pipeline::trace`], of any number of
    /// pipelines.
    ///
    /// # Errors
    /// As [`Otlp::check`], and if the thread cannot be started.
    pub fn start(self) -> Result<Arc<OtlpTracer>, TelemetryError> {
        let (url, reject_below) = (self.address()?, threshold(self.sample)?);
        let queue = Arc::new(Queue::new(Limits { batch: self.limits.batch.min(self.limits.queue), ..self.limits }));
        let resource = encode::resource(&self.service, &self.resource);
        let (client, theirs) = (Client::new(url, self.headers), queue.clone());
        let send = move || theirs.send(&client, &resource);
        let sender = thread::Builder::new().name("millstream-otlp".to_owned()).spawn(send).map_err(TelemetryError::Thread)?;
        Ok(Arc::new(OtlpTracer { queue, reject_below, sender: Mutex::new(Some(sender)) }))
    }

    fn address(&self) -> Result<String, TelemetryError> {
        let wrong = || TelemetryError::Address { url: self.url.clone() };
        let uri: Uri = self.url.parse().map_err(|_| wrong())?;
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        if !known || uri.host().is_none_or(str::is_empty) {
            return Err(wrong());
        }
        if uri.scheme_str() == Some("https") && !cfg!(feature = "tls") {
            return Err(TelemetryError::Tls { url: self.url.clone() });
        }
        Ok(if matches!(uri.path(), "" | "/") { format!("{}/v1/traces", self.url.trim_end_matches('/')) } else { self.url.clone() })
    }
}

/// Traces whose random bits are below this are not followed: what all who sample by it agree on.
fn threshold(share: f64) -> Result<u64, TelemetryError> {
    if !(0.0..=1.0).contains(&share) {
        return Err(TelemetryError::Share { share });
    }
    Ok(((1.0 - share) * (1u64 << RANDOM_BITS) as f64) as u64)
}

/// What became of spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportCounts {
    /// The collector has them.
    pub exported: u64,
    /// The collector said that it did not take them.
    pub rejected: u64,
    /// They found the queue full, or the tracer shut down.
    pub dropped: u64,
    /// The collector could not be reached, or refused the requests that they were in.
    pub failed: u64,
}

impl ExportCounts {
    /// Spans that the collector does not have.
    pub fn lost(&self) -> u64 {
        self.rejected + self.dropped + self.failed
    }
}

/// Sends the spans of sampled records to a collector. Dropping the last handle sends what is left, for 5 seconds at most.
pub struct OtlpTracer {
    queue: Arc<Queue>,
    reject_below: u64,
    sender: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for OtlpTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtlpTracer").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl OtlpTracer {
    /// What became of spans so far.
    pub fn counts(&self) -> ExportCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Queue { exported, rejected, dropped, failed, .. } = &*self.queue;
        ExportCounts { exported: count(exported), rejected: count(rejected), dropped: count(dropped), failed: count(failed) }
    }

    /// Sends what there is, without waiting for more to go with it; whether that was done in time.
    pub fn flush(&self, within: Duration) -> bool {
        self.queue.flush(within)
    }

    /// Sends what there is, each request once, and ends. Spans that come later are dropped.
    pub fn shutdown(&self, within: Duration) -> ExportCounts {
        self.queue.close(Instant::now() + within);
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        // It does not panic, and if it did, what it held would be lost all the same.
        drop(sender.map(JoinHandle::join));
        self.counts()
    }
}

impl Drop for OtlpTracer {
    fn drop(&mut self) {
        self.shutdown(AT_THE_END);
    }
}

impl Tracer for OtlpTracer {
    fn samples(&self, trace: u128) -> bool {
        trace as u64 & ((1 << RANDOM_BITS) - 1) >= self.reject_below
    }

    fn ended(&self, span: &Span<'_>) {
        self.queue.offer(|| encode::span(span));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed_or_refused() {
        let address = |url: &str| Otlp::new(url).address();
        for url in ["http://localhost:4318", "http://localhost:4318/"] {
            assert_eq!(address(url).unwrap(), "http://localhost:4318/v1/traces");
        }
        assert_eq!(address("http://collector/custom").unwrap(), "http://collector/custom");
        for url in ["", "localhost:4318", "/v1/traces", "grpc://localhost", "http://"] {
            assert!(matches!(address(url), Err(TelemetryError::Address { .. })), "{url}");
        }
        assert_eq!(address("https://collector").is_err(), !cfg!(feature = "tls"));
    }

    #[test]
    fn a_share_of_traces_is_followed() {
        let tracer = |share| Otlp::new("http://localhost:4318").sample(share).start();
        for share in [-0.1, 1.1, f64::NAN] {
            assert!(matches!(tracer(share), Err(TelemetryError::Share { .. })));
        }
        let (none, quarter, all) = (tracer(0.0).unwrap(), tracer(0.25).unwrap(), tracer(1.0).unwrap());
        let spread = |n: u64| u128::from(n.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1 << 100;
        let count = |tracer: &OtlpTracer| (0..10_000).filter(|n| tracer.samples(spread(*n))).count();
        assert_eq!((count(&none), count(&all)), (0, 10_000));
        assert!((2_400..2_600).contains(&count(&quarter)), "{}", count(&quarter));
    }
}
