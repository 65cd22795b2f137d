//! Checkpoints in a folder: a file each, whole or recognised as torn.
//!
//! ```text
//! begin:  lock the folder, so that no two processes take themselves for one
//! save:   write everything into a file beside it → fsync → rename → fsync the folder → remove the oldest
//! latest: from the newest on, the first that is whole
//! ```

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

use millstream_runtime::{Checkpoint, CheckpointStore, StageError};

use crate::IoError;

const SUFFIX: &str = "checkpoint";

/// A folder with the latest checkpoints of one pipeline.
///
/// ```
/// use millstream_io::CheckpointFolder;
/// use millstream_runtime::{CheckpointOptions, ms};
///
/// let options = CheckpointOptions::new(CheckpointFolder::new("state").keep(5)).every(ms(500));
/// # drop(options);
/// ```
pub struct CheckpointFolder {
    folder: PathBuf,
    keep: usize,
    /// Locked as long as this lives.
    lock: Option<File>,
}

impl CheckpointFolder {
    /// The last three checkpoints are kept there. The folder is made when the pipeline starts, and is its own until it ends.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        CheckpointFolder { folder: folder.into(), keep: 3, lock: None }
    }

    /// How many checkpoints are kept: at least one, and only with two or more a torn one has one before it.
    #[must_use]
    pub fn keep(mut self, checkpoints: usize) -> Self {
        self.keep = checkpoints.max(1);
        self
    }

    /// Makes the folder this store's own, where the file system knows locks. The system gives it back when the process dies.
    fn own(&mut self) -> Result<(), IoError> {
        let open = || {
            if !self.folder.is_dir() {
                fs::create_dir_all(&self.folder)?;
                sync_folder(self.folder.parent().unwrap_or(Path::new("")))?;
            }
            let file = File::options().create(true).truncate(false).write(true).open(self.folder.join("lock"))?;
            match file.try_lock() {
                Ok(()) => Ok(Some(file)),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(Some(file)),
                Err(TryLockError::Error(error)) => Err(error),
            }
        };
        if self.lock.is_none() {
            let file = open().map_err(IoError::file(&self.folder))?;
            self.lock = Some(file.ok_or_else(|| IoError::InUse { path: self.folder.clone() })?);
        }
        Ok(())
    }

    /// The files, the newest first.
    fn files(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let epoch = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            if let Some(epoch) = epoch.filter(|_| path.extension().is_some_and(|suffix| suffix == SUFFIX)) {
                files.push((epoch, path));
            }
        }
        files.sort_by_key(|(epoch, _)| std::cmp::Reverse(*epoch));
        Ok(files)
    }

    fn read(&self) -> Result<Option<Checkpoint>, IoError> {
        let files = self.files().map_err(IoError::file(&self.folder))?;
        for (epoch, path) in &files {
            let bytes = fs::read(path).map_err(IoError::file(path))?;
            match Checkpoint::from_bytes(&bytes).filter(|checkpoint| checkpoint.epoch == *epoch) {
                Some(checkpoint) => return Ok(Some(checkpoint)),
                None => tracing::warn!(path = %path.display(), "a torn checkpoint is passed over"),
            }
        }
        if files.is_empty() { Ok(None) } else { Err(IoError::Checkpoints { path: self.folder.clone() }) }
    }

    fn write(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        let path = self.folder.join(format!("{:020}.{SUFFIX}", checkpoint.epoch));
        let beside = self.folder.join("new");
        let mut file = File::create(&beside)?;
        file.write_all(&checkpoint.to_bytes())?;
        millstream_runtime::fail_point!("before-checkpoint-sync");
        file.sync_all()?;
        millstream_runtime::fail_point!("before-checkpoint-rename");
        fs::rename(&beside, &path)?;
        millstream_runtime::fail_point!("after-checkpoint-rename");
        sync_folder(&self.folder)?;
        for (_, old) in self.files()?.into_iter().skip(self.keep) {
            fs::remove_file(old)?;
        }
        Ok(())
    }
}

impl Drop for CheckpointFolder {
    /// Not left to the end of the file: a child that the process is starting may have a copy of it for a moment.
    fn drop(&mut self) {
        if let Some(Err(error)) = self.lock.as_ref().map(File::unlock) {
            tracing::warn!(path = %self.folder.display(), %error, "the lock is given back when the process ends");
        }
    }
}

/// Makes durable which files a folder has.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

impl CheckpointStore for CheckpointFolder {
    fn latest(&mut self) -> Result<Option<Checkpoint>, StageError> {
        self.own()?;
        Ok(self.read()?)
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> Result<(), StageError> {
        self.own()?;
        Ok(self.write(checkpoint).map_err(IoError::file(&self.folder))?)
    }
}
