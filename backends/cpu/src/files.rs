//! Files of weights: mapped, let go of piece by piece, and opened beside a model without leaving its folder.
//!
//! [`MappedFile`] is a [`WeightSource`] over a read-only mapping: pages come in when they are read, and
//! [`WeightSource::release`] gives them back to the system, which reads them again from the file should anyone ask.
//! [`Files`] opens what a model refers to, after links are resolved.

use memmap2::Mmap;
use millstream_tensor::WeightSource;
use std::{
    fs::File,
    io,
    ops::Range,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

/// At least the size of a page: less than a page is never given back.
const PAGE: usize = if cfg!(any(target_arch = "x86", target_arch = "x86_64")) { 4096 } else { 65536 };

/// A file beside a model that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The system refused, or it is no regular file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A location that leads out of the folder, by itself or through a link.
    #[error("`{0}` leads out of the model's folder")]
    Outside(String),
}

/// A file of weights, mapped into memory.
#[derive(Debug)]
pub struct MappedFile {
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Mmap>,
}

impl MappedFile {
    /// Maps a file. It must not be changed or cut while it is mapped, as with any mapped file: replace it by renaming.
    pub fn open(path: impl AsRef<Path>) -> io::Result<MappedFile> {
        let path = path.as_ref();
        // What is no file is not opened at all: opening a pipe would wait for its writer.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(MappedFile { map: None });
        }
        // SAFETY: the mapping is read-only and lives as long as `map`. That nobody changes the file meanwhile cannot be
        // enforced; the documentation asks it of the caller.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(MappedFile { map: Some(map) })
    }
}

impl WeightSource for MappedFile {
    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    fn release(&self, range: Range<usize>) {
        let Some(map) = &self.map else { return };
        let (start, end) = (range.start.next_multiple_of(PAGE), range.end.min(map.len()) / PAGE * PAGE);
        if start >= end {
            return;
        }
        #[cfg(unix)]
        {
            // SAFETY: the pages lie inside of the mapping, which is read-only and backed by a file: whoever reads them
            // afterwards, through slices that exist now or later, finds the same bytes, read from the file again.
            let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
            // A system that does not take the advice keeps the pages until it needs memory.
            drop(advised);
        }
    }
}

/// The files beside a model: what the model refers to is opened here, and nowhere else.
#[derive(Debug, Clone)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    /// The folder that a model file lies in.
    pub fn beside(model: impl AsRef<Path>) -> io::Result<Files> {
        let parent = match model.as_ref().parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Ok(Files { root: parent.canonicalize()? })
    }

    /// Maps the file at `location`, relative to the folder. Links are followed as long as they stay inside.
    pub fn open(&self, location: &str) -> Result<Arc<dyn WeightSource>, FileError> {
        let relative = Path::new(location);
        if !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(FileError::Outside(location.into()));
        }
        let path = self.root.join(relative).canonicalize()?;
        if !path.starts_with(&self.root) {
            return Err(FileError::Outside(location.into()));
        }
        Ok(Arc::new(MappedFile::open(path)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str) -> Temporary {
            let dir = std::env::temp_dir().join(format!("millstream-files-{name}-{}", std::process::id()));
            fs::create_dir_all(dir.join("model/data")).unwrap();
            Temporary(dir)
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn files_are_mapped() {
        let dir = Temporary::new("map");
        fs::write(dir.0.join("a"), [1, 2, 3]).unwrap();
        fs::write(dir.0.join("empty"), []).unwrap();
        assert_eq!(MappedFile::open(dir.0.join("a")).unwrap().bytes(), [1, 2, 3]);
        assert!(MappedFile::open(dir.0.join("empty")).unwrap().bytes().is_empty());
        assert!(MappedFile::open(dir.0.join("none")).is_err_and(|e| e.kind() == io::ErrorKind::NotFound));
        assert!(MappedFile::open(&dir.0).is_err_and(|e| e.kind() == io::ErrorKind::InvalidInput));
    }

    /// KiB of the mapping that are in memory; `None` where the system does not tell.
    fn resident(address: usize) -> Option<usize> {
        let maps = fs::read_to_string("/proc/self/smaps").ok()?;
        let mut lines = maps.lines().skip_while(|l| !l.starts_with(&format!("{address:x}-")));
        lines.find_map(|l| l.strip_prefix("Rss:"))?.trim().trim_end_matches(" kB").parse().ok()
    }

    #[test]
    fn released_pages_leave_memory_and_come_back() {
        let dir = Temporary::new("release");
        let bytes: Vec<u8> = (0..8 << 20).map(|i| (i % 251) as u8).collect();
        fs::write(dir.0.join("w"), &bytes).unwrap();
        let file = MappedFile::open(dir.0.join("w")).unwrap();
        assert!(file.bytes() == bytes);
        let address = file.bytes().as_ptr().addr();
        if cfg!(target_os = "linux") {
            assert_eq!(resident(address), Some(8 << 10));
        }
        file.release(0..4096 * 16 + 1);
        file.release(1 << 20..7 << 20);
        file.release(5..9);
        file.release(9 << 20..usize::MAX);
        if cfg!(target_os = "linux") {
            assert!(resident(address) <= Some((2 << 10) - 64), "at least the released pages are gone");
        }
        assert!(file.bytes() == bytes);
    }

    #[test]
    fn nothing_outside_of_the_folder_is_opened() {
        let dir = Temporary::new("folder");
        fs::write(dir.0.join("model/data/w"), [7]).unwrap();
        fs::write(dir.0.join("secret"), [9]).unwrap();
        let files = Files::beside(dir.0.join("model/m.onnx")).unwrap();
        assert_eq!(files.open("data/w").unwrap().bytes(), [7]);
        assert_eq!(files.open("./data/w").unwrap().bytes(), [7]);
        for location in ["../secret", "data/../../secret", "/etc/hostname"] {
            assert!(matches!(files.open(location), Err(FileError::Outside(_))), "{location}");
        }
        assert!(matches!(files.open("data"), Err(FileError::Io(_))));
        assert!(matches!(files.open(""), Err(FileError::Io(_))));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("../secret", dir.0.join("model/link")).unwrap();
            std::os::unix::fs::symlink("data/w", dir.0.join("model/inside")).unwrap();
            std::os::unix::fs::symlink("..", dir.0.join("model/up")).unwrap();
            assert!(matches!(files.open("link"), Err(FileError::Outside(_))));
            assert!(matches!(files.open("up/secret"), Err(FileError::Outside(_))));
            assert_eq!(files.open("inside").unwrap().bytes(), [7]);
        }
    }
}
