//! `millstream top`: a running pipeline's live figures, of its page of metrics.

use crate::{
    failure::Failure,
    top::{Figures, Page, Reading, Screen, draw},
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};
use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Shows what a running pipeline does: its stages, their rates, queues, batches and times, and its memory.
///
/// The pipeline serves its metrics: `[metrics] address = "127.0.0.1:9464"` in its file, `io::serve_metrics` in a program of
/// your own. Ctrl-C ends it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The page of metrics.
    #[arg(default_value = "http://127.0.0.1:9464/metrics")]
    url: String,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 1.0)]
    interval: f64,
    /// Print the figures once, and end.
    #[arg(long)]
    once: bool,
}

/// How long the page may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than any pipeline's page.
const MOST: u64 = 16 << 20;
/// How long a signal waits to be seen.
const BLINK: Duration = Duration::from_millis(20);

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let interval = Duration::try_from_secs_f64(arguments.interval).ok().filter(|time| !time.is_zero());
    let interval = interval.ok_or_else(|| Failure::Usage(format!("--interval {}: a positive number of seconds is expected", arguments.interval)))?;
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().into();
    let mut before = read(&agent, &arguments.url)?;
    let stop = stop()?;
    let screen = if arguments.once { None } else { Screen::enter()? };
    let Some(screen) = screen else {
        thread::sleep(interval);
        let now = read(&agent, &arguments.url)?;
        print!("{}", draw(&Figures::between(&before, &now)));
        return Ok(ExitCode::SUCCESS);
    };
    let mut first = true;
    while !stop.load(Ordering::Acquire) {
        // The first figures come soon.
        let pause = if first { interval.min(Duration::from_millis(200)) } else { interval };
        let due = before.at + pause;
        if Instant::now() < due {
            thread::sleep(BLINK.min(due.saturating_duration_since(Instant::now())));
            continue;
        }
        first = false;
        let now = read(&agent, &arguments.url)?;
        screen.show(&draw(&Figures::between(&before, &now)))?;
        before = now;
    }
    Ok(ExitCode::SUCCESS)
}

fn read(agent: &ureq::Agent, url: &str) -> Result<Reading, Failure> {
    let failed = |error: String| Failure::Usage(format!("{url}: {error}"));
    let mut answer = agent.get(url).call().map_err(|error| failed(error.to_string()))?;
    let text = answer.body_mut().with_config().limit(MOST).read_to_string().map_err(|error| failed(error.to_string()))?;
    let page = Page::read(&text).map_err(|error| failed(error.to_string()))?;
    if page.value("millstream_admitted_total", &[]).is_none() {
        return Err(failed("no metrics of a millstream pipeline".to_owned()));
    }
    Ok(Reading { page, at: Instant::now() })
}

/// Set by a signal: Ctrl-C ends it, so that the terminal can stay as it is.
fn stop() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, stop.clone()).map_err(|error| Failure::Usage(error.to_string()))?;
    }
    Ok(stop)
}
