//! The collector, as the sender sees it: one request, and what to make of its answer.

use std::time::Duration;

use ureq::Agent;

/// The most of an answer that is read: it holds a number and a sentence.
const ANSWER: u64 = 64 << 10;

pub(crate) struct Client {
    agent: Agent,
    url: String,
    headers: Vec<(String, String)>,
}

/// Why a request failed.
pub(crate) struct Refusal {
    /// It may go well another time.
    pub(crate) again: bool,
    /// Not before then.
    pub(crate) after: Option<Duration>,
    pub(crate) why: String,
}

impl Client {
    pub(crate) fn new(url: String, headers: Vec<(String, String)>) -> Self {
        Client { agent: Agent::config_builder().http_status_as_error(false).build().into(), url, headers }
    }

    /// Sends a request; the answer's body, if it was taken.
    pub(crate) fn post(&self, body: &[u8], timeout: Duration) -> Result<Vec<u8>, Refusal> {
        let mut request = self.agent.post(&self.url).header("Content-Type", "application/x-protobuf");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let transport =
            |error: ureq::Error| Refusal { again: !matches!(error, ureq::Error::BadUri(_) | ureq::Error::Http(_)), after: None, why: error.to_string() };
        let mut response = request.config().timeout_global(Some(timeout)).build().send(body).map_err(transport)?;
        let status = response.status().as_u16();
        let after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok()).map(Duration::from_secs);
        let answer = response.body_mut().with_config().limit(ANSWER).read_to_vec();
        if (200..300).contains(&status) {
            // It was taken, whatever became of the answer.
            return Ok(answer.unwrap_or_default());
        }
        // Those that OTLP says to repeat, and no others.
        Err(Refusal { again: matches!(status, 429 | 502 | 503 | 504), after, why: format!("it answered {status}") })
    }
}
