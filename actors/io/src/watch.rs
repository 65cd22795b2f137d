//! Watching for a newer model file: a path, or the newest of those that match a pattern. It goes into place at once, or on
//! trial first.
//!
//! A thread looks at the files' names, sizes and times at a low rate. A file counts as new when any of these differ from
//! what is deployed, a reused name too, and when it looked the same twice, so that nobody reads what is still being written.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::mpsc::{RecvTimeoutError, Sender, TryRecvError, channel},
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use millstream_runtime::{Canary, Deployment, LoadModel, ModelHandler, SwapError, Verdict};

use crate::{IoError, files::Pattern};

/// What a watch found and did.
#[derive(Debug)]
#[non_exhaustive]
pub enum Watched<'w> {
    /// The file is the deployment's model now.
    Swapped(&'w Path),
    /// The file was on trial: it is the deployment's model now, or was rolled back and is not tried again until it changes.
    Tried(&'w Path, &'w Verdict),
    /// The file cannot be; the model is what it was. It is not tried again until it changes.
    Refused(&'w Path, &'w SwapError),
}

/// How a model is watched; a time alone means that what is found goes into place at once.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct WatchOptions {
    /// How often somebody looks.
    pub every: Duration,
    /// What is found goes on trial by these rules. A trial is called off when the watch is dropped.
    pub trial: Option<Canary>,
    /// The file that is there when the watch begins is found too; otherwise it counts as deployed.
    pub present: bool,
}

impl WatchOptions {
    /// Somebody looks so often; what is found goes into place at once.
    pub fn new(every: Duration) -> Self {
        WatchOptions { every, trial: None, present: false }
    }

    /// Puts what is found on trial.
    #[must_use]
    pub fn trial(mut self, rules: Canary) -> Self {
        self.trial = Some(rules);
        self
    }

    /// Takes the file that is there when the watch begins for one that is found.
    #[must_use]
    pub fn present(mut self) -> Self {
        self.present = true;
        self
    }
}

impl From<Duration> for WatchOptions {
    fn from(every: Duration) -> Self {
        WatchOptions::new(every)
    }
}

/// Watches until it is dropped.
pub struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A callback that panicked has ended it already.
            let _ = thread.join();
        }
    }
}

/// What tells a file from another, or from itself later.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    modified: SystemTime,
    path: PathBuf,
    bytes: u64,
    inode: u64,
}

impl Identity {
    fn of(path: PathBuf) -> io::Result<Self> {
        let metadata = fs::metadata(&path)?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Ok(Identity { modified: metadata.modified()?, bytes: metadata.len(), inode, path })
    }
}

/// Swaps the deployment's model whenever the newest file that matches the pattern is another than before, or puts it on trial
/// (see [`WatchOptions`]). The file that is there when the watch begins counts as deployed, unless the options say otherwise.
/// `load` opens a file; `told` hears of every attempt.
///
/// # Errors
/// If the pattern is none, or the thread cannot be started.
pub fn watch_model<H: ModelHandler>(
    deployment: &Deployment<H>,
    pattern: &str,
    options: impl Into<WatchOptions>,
    load: impl Fn(&Path) -> LoadModel<H> + Send + 'static,
    told: impl Fn(Watched<'_>) + Send + 'static,
) -> Result<Watch, IoError> {
    let pattern = Pattern::new(pattern)?;
    let deployment = deployment.clone();
    let (stop, stopped) = channel();
    let WatchOptions { every, trial, present } = options.into();
    let mut deployed = if present { None } else { latest(&pattern) };
    let mut candidate = None;
    let watching = move || {
        while stopped.recv_timeout(every) == Err::<(), _>(RecvTimeoutError::Timeout) {
            let found = latest(&pattern);
            if found.is_none() || found == deployed {
                candidate = None;
                continue;
            }
            if found != candidate {
                candidate = found;
                continue;
            }
            if let Some(file) = &found {
                let called_off = || stopped.try_recv() != Err(TryRecvError::Empty);
                let tried = match trial {
                    None => deployment.swap(load(&file.path)).map(|()| None),
                    Some(rules) => deployment.canary_until(load(&file.path), rules, called_off).map(Some),
                };
                match tried {
                    Ok(None) => told(Watched::Swapped(&file.path)),
                    Ok(Some(verdict)) => told(Watched::Tried(&file.path, &verdict)),
                    Err(error) => {
                        tracing::warn!(path = %file.path.display(), %error, "a new model was refused");
                        told(Watched::Refused(&file.path, &error));
                    }
                }
            }
            (deployed, candidate) = (found, None);
        }
    };
    let thread = thread::Builder::new().name("millstream-watch".into()).spawn(watching).map_err(IoError::Thread)?;
    Ok(Watch { stop: Some(stop), thread: Some(thread) })
}

/// The file that was changed last, of those that match a pattern; of several, the last by name. What [`watch_model`] watches.
///
/// # Errors
/// If the pattern is none.
pub fn newest(pattern: &str) -> Result<Option<PathBuf>, IoError> {
    Ok(latest(&Pattern::new(pattern)?).map(|file| file.path))
}

fn latest(pattern: &Pattern) -> Option<Identity> {
    // Files that vanish while they are looked at are not there.
    pattern.walk().filter_map(Result::ok).filter(|entry| pattern.wants(entry.path())).filter_map(|entry| Identity::of(entry.into_path()).ok()).max()
}
