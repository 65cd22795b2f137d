//! How far a source's records are done, in a file that is whole at any time.
//!
//! ```text
//! commit: write everything into a file beside it → fsync → rename → fsync the folder
//! ```

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use millstream_runtime::{Committer, Position, StageError};

use crate::IoError;

/// For each partition, the offset up to which everything is done.
///
/// A line of text for each: the partition, a space, the offset. A committer for sources of one's own:
///
/// ```
/// use millstream_io::OffsetFile;
/// use millstream_runtime::{Committer, Position};
///
/// let path = std::env::temp_dir().join(format!("offsets-{}", std::process::id()));
/// let mut offsets = OffsetFile::open(&path)?;
/// offsets.commit(&[Position { partition: 3, offset: 41 }]).unwrap();
/// assert_eq!(OffsetFile::open(&path)?.done(3), Some(41));
/// # std::fs::remove_file(&path).ok();
/// # Ok::<(), millstream_io::IoError>(())
/// ```
pub struct OffsetFile {
    path: PathBuf,
    done: BTreeMap<u32, u64>,
}

impl OffsetFile {
    /// Reads the file; without one, nothing is done.
    ///
    /// # Errors
    /// If it cannot be read, or holds something else: beginning anew by mistake would be worse.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, IoError> {
        let path = path.into();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(IoError::File { path, error }),
        };
        let parse = |line: &str| {
            let (partition, offset) = line.split_once(' ')?;
            Some((partition.parse().ok()?, offset.parse().ok()?))
        };
        match text.lines().map(parse).collect() {
            Some(done) => Ok(OffsetFile { path, done }),
            None => Err(IoError::Offsets { path }),
        }
    }

    /// Up to where a partition is done.
    pub fn done(&self, partition: u32) -> Option<u64> {
        self.done.get(&partition).copied()
    }

    fn write(&self) -> std::io::Result<()> {
        let mut beside = self.path.clone().into_os_string();
        beside.push(".new");
        let mut file = File::create(&beside)?;
        for (partition, offset) in &self.done {
            writeln!(file, "{partition} {offset}")?;
        }
        millstream_runtime::fail_point!("before-offsets-sync");
        file.sync_all()?;
        millstream_runtime::fail_point!("before-offsets-rename");
        fs::rename(&beside, &self.path)?;
        millstream_runtime::fail_point!("after-offsets-rename");
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

impl Committer for OffsetFile {
    fn commit(&mut self, done: &[Position]) -> Result<(), StageError> {
        self.done.extend(done.iter().map(|position| (position.partition, position.offset)));
        Ok(self.write().map_err(IoError::file(&self.path))?)
    }
}
