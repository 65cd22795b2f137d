//! Checkpoints in a folder: a file each, whole or recognised as torn.
//!
//! ```text
//! save:   write everything into a file beside it → fsync → rename → fsync the folder → remove the oldest
//! latest: from the newest on, the first that is whole
//! ```

use std::{
    fs::{self, File},
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
}

impl CheckpointFolder {
    /// The last three checkpoints are kept there. The folder is made when it is needed.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        CheckpointFolder { folder: folder.into(), keep: 3 }
    }

    /// How many checkpoints are kept: at least one, and only with two or more a torn one has one before it.
    #[must_use]
    pub fn keep(mut self, checkpoints: usize) -> Self {
        self.keep = checkpoints.max(1);
        self
    }

    /// The files, the newest first.
    fn files(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut files = Vec::new();
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(files),
            Err(error) => return Err(error),
        };
        for entry in entries {
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
        if !self.folder.is_dir() {
            fs::create_dir_all(&self.folder)?;
            sync_folder(self.folder.parent().unwrap_or(Path::new("")))?;
        }
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

/// Makes durable which files a folder has.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

impl CheckpointStore for CheckpointFolder {
    fn latest(&mut self) -> Result<Option<Checkpoint>, StageError> {
        Ok(self.read()?)
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> Result<(), StageError> {
        Ok(self.write(checkpoint).map_err(IoError::file(&self.folder))?)
    }
}
