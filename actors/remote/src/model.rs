//! A model that is asked over HTTP.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    marker::PhantomData,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use millstream_runtime::{ErrorKind, ModelHandler, ModelId, StageError, Start};
use ureq::{
    Agent,
    http::{HeaderName, HeaderValue, Uri},
};

use crate::pacing::{Bucket, RateLimit, Throttle, Throttling};

/// The most that an answer may take.
const ANSWER: u64 = 64 << 20;

/// How often a request is tried again, and after which pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How many times it is tried again.
    pub times: u32,
    /// The first pause; it doubles with each, and varies by a fifth.
    pub pause: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Retries { times: 4, pause: Duration::from_millis(500), longest: Duration::from_secs(30) }
    }
}

/// Why a request failed for good, or cannot be made at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The address is none.
    #[error("`{url}` is no address of a model: `http://HOST:PORT/PATH` is one")]
    Address {
        /// The address.
        url: String,
    },
    /// The address needs TLS.
    #[error("`{url}` needs TLS: the feature `tls` of millstream-remote")]
    Tls {
        /// The address.
        url: String,
    },
    /// A header's name, or what it says, cannot be sent. What it says is not told: it may be a secret.
    #[error("the header `{name}` cannot be sent: {part} is none")]
    Header {
        /// The header's name.
        name: String,
        /// Which of both is wrong.
        part: &'static str,
    },
    /// The endpoint answered with an error.
    #[error("{url} answered {status}: {answer}")]
    Status {
        /// The endpoint.
        url: String,
        /// The status.
        status: u16,
        /// The beginning of its answer.
        answer: String,
    },
    /// There was no answer.
    #[error("{url} cannot be reached")]
    Transport {
        /// The endpoint.
        url: String,
        /// Why.
        #[source]
        error: Box<ureq::Error>,
    },
    /// It answered for another number of examples.
    #[error("{url} answered for {found} examples of {wanted}")]
    Count {
        /// The endpoint.
        url: String,
        /// How many were asked for.
        wanted: usize,
        /// How many came.
        found: usize,
    },
}

type Encode<I> = Box<dyn Fn(&[&I]) -> Result<Vec<u8>, StageError> + Send + Sync>;
type Measure<I> = Box<dyn Fn(&I) -> u64 + Send + Sync>;
type Decode<O> = Box<dyn Fn(&[u8], usize) -> Result<Vec<O>, StageError> + Send + Sync>;

/// A model behind an HTTP endpoint: a batch is one `POST`.
///
/// A redirection is not followed, as a `POST` would lose its body and headers might go to somebody else. Answers 408, 425, 429 and 5xx and failures of the network are tried again, not before a `Retry-After` that came with
/// them; other errors are the examples' fault, and the runtime looks for the guilty one. Waiting blocks the replica: give the
/// stage as many replicas as requests are to be under way at once.
pub struct RemoteModel<I, O> {
    id: ModelId,
    url: String,
    headers: Vec<(String, String)>,
    encode: Encode<I>,
    decode: Decode<O>,
    max_batch: Option<usize>,
    measure: Option<Measure<I>>,
    timeout: Duration,
    retries: Retries,
    throttling: Option<Arc<Throttling>>,
    bucket: Option<Arc<Bucket>>,
    types: PhantomData<fn(I) -> O>,
}

impl<I, O> fmt::Debug for RemoteModel<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteModel").field("id", &self.id).field("url", &self.url).finish_non_exhaustive()
    }
}

impl<I, O> RemoteModel<I, O> {
    /// A model that is asked at this address: `encode` makes a request's body of a batch, `decode` outputs of an answer, for
    /// so many examples.
    pub fn new(
        name: &str,
        url: &str,
        encode: impl Fn(&[&I]) -> Result<Vec<u8>, StageError> + Send + Sync + 'static,
        decode: impl Fn(&[u8], usize) -> Result<Vec<O>, StageError> + Send + Sync + 'static,
    ) -> Self {
        RemoteModel {
            id: ModelId::new(name, "remote"),
            url: url.to_owned(),
            headers: vec![("Content-Type".to_owned(), "application/octet-stream".to_owned())],
            encode: Box::new(encode),
            decode: Box::new(decode),
            max_batch: None,
            measure: None,
            timeout: Duration::from_secs(30),
            retries: Retries::default(),
            throttling: Some(Arc::new(Throttling::new(Throttle::default()))),
            bucket: None,
            types: PhantomData,
        }
    }

    /// Names the version, which is "remote" otherwise.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        self.id.version = version.to_owned();
        self
    }

    /// Sends a header with each request, in place of another of its name.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The most examples of a request.
    #[must_use]
    pub fn max_batch(mut self, examples: usize) -> Self {
        self.max_batch = Some(examples.max(1));
        self
    }

    /// What an example weighs, for the batcher's `max_bytes`; what stands in it without what it points to, if nothing else is said.
    #[must_use]
    pub fn measure(mut self, bytes: impl Fn(&I) -> u64 + Send + Sync + 'static) -> Self {
        self.measure = Some(Box::new(bytes));
        self
    }

    /// How long one try may take; 30 seconds by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How often a request is tried again.
    #[must_use]
    pub fn retries(mut self, retries: Retries) -> Self {
        self.retries = retries;
        self
    }

    /// How the model is asked less when it refuses; `None` asks on.
    #[must_use]
    pub fn throttle(mut self, throttle: Option<Throttle>) -> Self {
        self.throttling = throttle.map(|rules| Arc::new(Throttling::new(rules)));
        self
    }

    /// How often it may be asked.
    #[must_use]
    pub fn rate_limit(mut self, limit: RateLimit) -> Self {
        self.bucket = Some(Arc::new(Bucket::new(limit)));
        self
    }

    /// Whether requests can be made: the address and the headers are such, and there is TLS if that is asked for.
    ///
    /// # Errors
    /// What is wrong. Without this call, the first batch tells.
    pub fn check(&self) -> Result<(), RemoteError> {
        let wrong = || RemoteError::Address { url: self.url.clone() };
        let uri: Uri = self.url.parse().map_err(|_| wrong())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err(wrong());
        }
        if uri.scheme_str() == Some("https") && !cfg!(feature = "tls") {
            return Err(RemoteError::Tls { url: self.url.clone() });
        }
        for (name, value) in &self.headers {
            let wrong = |part| RemoteError::Header { name: name.clone(), part };
            HeaderName::try_from(name.as_str()).map_err(|_| wrong("its name"))?;
            HeaderValue::try_from(value.as_str()).map_err(|_| wrong("its value"))?;
        }
        Ok(())
    }

    /// Waits until the model may be asked.
    fn wait_for_turn(&self) {
        if let Some(throttling) = &self.throttling {
            while throttling.holds_back(Instant::now()) {
                tracing::debug!(model = %self.id, "held back");
                thread::sleep(throttling.pause());
            }
        }
        if let Some(bucket) = &self.bucket {
            thread::sleep(bucket.take(Instant::now()));
        }
    }

    /// One try.
    fn ask(&self, agent: &Agent, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let mut request = agent.post(&self.url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let transport = |error: ureq::Error| Refusal {
            // What is wrong with the request itself stays wrong.
            again: !matches!(error, ureq::Error::BadUri(_) | ureq::Error::Http(_)),
            after: None,
            error: RemoteError::Transport { url: self.url.clone(), error: Box::new(error) },
        };
        let mut response = request.send(body).map_err(transport)?;
        let status = response.status().as_u16();
        let after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok()).map(Duration::from_secs);
        let answer = response.body_mut().with_config().limit(ANSWER).read_to_vec().map_err(transport)?;
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let text: String = String::from_utf8_lossy(&answer).trim().chars().take(200).collect();
        Err(Refusal { again: matches!(status, 408 | 425 | 429 | 500..=599), after, error: RemoteError::Status { url: self.url.clone(), status, answer: text } })
    }

    fn answer(&self, agent: &Agent, body: &[u8]) -> Result<Vec<u8>, StageError> {
        let mut pause = self.retries.pause;
        let mut attempt = 0;
        loop {
            self.wait_for_turn();
            let refusal = match self.ask(agent, body) {
                Ok(answer) => {
                    if let Some(throttling) = &self.throttling {
                        throttling.succeeded(Instant::now());
                    }
                    return Ok(answer);
                }
                Err(refusal) => refusal,
            };
            if !refusal.again {
                // It was answered: the endpoint is well, the request is not.
                if let (Some(throttling), RemoteError::Status { .. }) = (&self.throttling, &refusal.error) {
                    throttling.succeeded(Instant::now());
                }
                return Err(StageError::permanent(refusal.error));
            }
            if attempt >= self.retries.times {
                return Err(StageError::new(ErrorKind::Transient, refusal.error));
            }
            tracing::debug!(model = %self.id, error = %refusal.error, ?pause, "tried again");
            // Two that failed together do not come back together.
            let jitter = 0.9 + (RandomState::new().hash_one(0) % 1024) as f64 / 1024.0 * 0.2;
            thread::sleep(refusal.after.unwrap_or_default().max(pause.mul_f64(jitter)).min(self.retries.longest));
            pause = pause.saturating_mul(2).min(self.retries.longest);
            attempt += 1;
        }
    }
}

/// A try that failed.
struct Refusal {
    again: bool,
    /// Not before this time.
    after: Option<Duration>,
    error: RemoteError,
}

impl<I: Send + 'static, O: Send + 'static> ModelHandler for RemoteModel<I, O> {
    type Input = I;
    type Output = O;
    type Model = Agent;

    fn id(&self) -> ModelId {
        self.id.clone()
    }

    fn load(&self, _: &Start) -> Result<Agent, StageError> {
        Ok(Agent::config_builder().timeout_global(Some(self.timeout)).http_status_as_error(false).max_redirects(0).build().into())
    }

    fn max_batch(&self) -> Option<usize> {
        self.max_batch
    }

    fn bytes(&self, input: &I) -> u64 {
        self.measure.as_ref().map_or(size_of_val(input) as u64, |measure| measure(input))
    }

    fn run(&self, agent: &mut Agent, batch: &[&I]) -> Result<Vec<O>, StageError> {
        let body = (self.encode)(batch)?;
        let answer = self.answer(agent, &body)?;
        let outputs = (self.decode)(&answer, batch.len())?;
        if outputs.len() == batch.len() {
            Ok(outputs)
        } else {
            Err(StageError::permanent(RemoteError::Count { url: self.url.clone(), wanted: batch.len(), found: outputs.len() }))
        }
    }
}
