//! How a running pipeline is told to end: the first signal drains it, the second aborts it, the third ends the process.

use crate::{failure::Failure, top::Live};
use indicatif::{ProgressBar, ProgressStyle};
use millstream::runtime::Handle;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// How a pipeline came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its sources had no more.
    Complete,
    /// It was told to finish what it had begun.
    Drained,
    /// It was told to give up.
    Aborted,
}

impl Ended {
    /// The word that reports use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Ended::Complete => "complete",
            Ended::Drained => "drained",
            Ended::Aborted => "aborted",
        }
    }
}

/// What is shown while a pipeline runs.
enum Shown {
    /// A line that counts.
    Line(ProgressBar),
    Live(Live),
}

/// Shows progress until the pipeline has ended, and passes signals on to it.
pub(crate) fn watch(handle: &Handle, what: &str) -> Result<Ended, Failure> {
    let style = ProgressStyle::with_template("{spinner} {pos} {msg} {per_sec} {elapsed}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    until_the_end(handle, Shown::Line(ProgressBar::new_spinner().with_style(style).with_message(what.to_owned())))
}

/// As [`watch`], with all figures on a screen of their own.
pub(crate) fn watch_live(handle: &Handle, name: &str) -> Result<Ended, Failure> {
    until_the_end(handle, Shown::Live(Live::new(handle.monitor(), name)?))
}

fn until_the_end(handle: &Handle, shown: Shown) -> Result<Ended, Failure> {
    let (told, deadly) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    for signal in [SIGINT, SIGTERM] {
        let registered = flag::register_conditional_default(signal, deadly.clone()).and_then(|_| flag::register(signal, told.clone()));
        registered.map_err(|error| Failure::Usage(error.to_string()))?;
    }
    let mut shown = Some(shown);
    let remote = handle.remote();
    let mut ended = Ended::Complete;
    while !handle.has_ended() {
        if told.swap(false, Ordering::AcqRel) {
            if ended == Ended::Complete {
                ended = Ended::Drained;
                remote.drain();
            } else {
                ended = Ended::Aborted;
                // The third signal ends the process on the spot: the terminal has to be in order by then.
                shown = shown.filter(|shown| matches!(shown, Shown::Line(_)));
                deadly.store(true, Ordering::Release);
                remote.abort();
            }
        }
        match &mut shown {
            Some(Shown::Line(bar)) => bar.set_position(handle.snapshot().counts.ended()),
            Some(Shown::Live(live)) => live.refresh()?,
            None => {}
        }
        thread::sleep(Duration::from_millis(20));
    }
    if let Some(Shown::Line(bar)) = shown {
        bar.finish_and_clear();
    }
    Ok(ended)
}
