//! Watching for a newer model file: a path, or the newest of those that match a pattern.
//!
//! A thread looks at the files' names, sizes and times at a low rate. A file counts as new when any of these differ from
//! what is deployed, a reused name too, and when it looked the same twice, so that nobody reads what is still being written.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use millstream_runtime::{Deployment, LoadModel, ModelHandler, SwapError};

use crate::{IoError, files::Pattern};

/// What a watch found and did.
#[derive(Debug)]
#[non_exhaustive]
pub enum Watched<'w> {
    /// The file is the deployment's model now.
    Swapped(&'w Path),
    /// The file cannot be; the model is what it was. It is not tried again until it changes.
    Refused(&'w Path, &'w SwapError),
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

/// Swaps the deployment's model whenever the newest file that matches the pattern is another than before. The file that is
/// there when the watch begins counts as deployed. `load` opens a file; `told` hears of every attempt.
///
/// # Errors
/// If the pattern is none, or the thread cannot be started.
pub fn watch_model<H: ModelHandler>(
    deployment: &Deployment<H>,
    pattern: &str,
    every: Duration,
    load: impl Fn(&Path) -> LoadModel<H> + Send + 'static,
    told: impl Fn(Watched<'_>) + Send + 'static,
) -> Result<Watch, IoError> {
    let pattern = Pattern::new(pattern)?;
    let deployment = deployment.clone();
    let (stop, stopped) = channel();
    let mut deployed = newest(&pattern);
    let mut candidate = None;
    let watching = move || {
        while stopped.recv_timeout(every) == Err::<(), _>(RecvTimeoutError::Timeout) {
            let found = newest(&pattern);
            if found.is_none() || found == deployed {
                candidate = None;
                continue;
            }
            if found != candidate {
                candidate = found;
                continue;
            }
            if let Some(file) = &found {
                match deployment.swap(load(&file.path)) {
                    Ok(()) => told(Watched::Swapped(&file.path)),
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

/// The file that was changed last; of several, the last by name.
fn newest(pattern: &Pattern) -> Option<Identity> {
    // Files that vanish while they are looked at are not there.
    pattern.walk().filter_map(Result::ok).filter(|entry| pattern.wants(entry.path())).filter_map(|entry| Identity::of(entry.into_path()).ok()).max()
}
