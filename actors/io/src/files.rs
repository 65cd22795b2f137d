//! Files by pattern or by folder, walked lazily, in the order of their names.

use std::{
    fs::File,
    io::Read,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use globset::{GlobBuilder, GlobMatcher};
use ignore::{Walk, WalkBuilder};
use millstream_runtime::{Progress, Pulled, Record, Signal, Source, StageError};

use crate::IoError;

/// The paths of files, found while the pipeline runs.
pub struct FileSource {
    plan: Plan,
    walk: Option<Walk>,
}

enum Plan {
    Pattern(String, Option<Pattern>),
    Folder(PathBuf),
}

/// Which files match, and where they can be.
pub(crate) struct Pattern {
    matcher: GlobMatcher,
    root: PathBuf,
}

impl Pattern {
    pub(crate) fn new(pattern: &str) -> Result<Self, IoError> {
        let glob = GlobBuilder::new(pattern.strip_prefix("./").unwrap_or(pattern)).literal_separator(true).build();
        let glob = glob.map_err(|error| IoError::Pattern { pattern: pattern.to_owned(), message: error.kind().to_string() })?;
        Ok(Pattern { matcher: glob.compile_matcher(), root: root_of(pattern) })
    }

    /// Everything that could match, by name.
    pub(crate) fn walk(&self) -> Walk {
        let mut builder = WalkBuilder::new(&self.root);
        builder.standard_filters(false).sort_by_file_name(|a, b| a.cmp(b)).build()
    }

    pub(crate) fn wants(&self, path: &Path) -> bool {
        self.matcher.is_match(path.strip_prefix("./").unwrap_or(path))
    }
}

/// The files whose paths match a pattern: `*` and `?` stay within a name, `**` crosses folders, `{a,b}` and `[a-z]` choose.
/// Hidden and ignored files count too.
pub fn files(pattern: impl Into<String>) -> FileSource {
    FileSource { plan: Plan::Pattern(pattern.into(), None), walk: None }
}

/// The files below a folder, without hidden ones and without those that a `.gitignore` or `.ignore` names.
pub fn walk(folder: impl Into<PathBuf>) -> FileSource {
    FileSource { plan: Plan::Folder(folder.into()), walk: None }
}

impl FileSource {
    fn open(&mut self) -> Result<(), IoError> {
        self.walk = Some(match &mut self.plan {
            Plan::Folder(folder) => WalkBuilder::new(&*folder).require_git(false).sort_by_file_name(|a, b| a.cmp(b)).build(),
            Plan::Pattern(text, pattern) => pattern.insert(Pattern::new(text)?).walk(),
        });
        Ok(())
    }

    fn wanted(&self, path: &Path) -> bool {
        match &self.plan {
            Plan::Pattern(_, Some(pattern)) => pattern.wants(path),
            Plan::Pattern(_, None) | Plan::Folder(_) => true,
        }
    }
}

/// The folder that every match lies in: the components before the first with a wildcard.
fn root_of(pattern: &str) -> PathBuf {
    let special = |part: &Component<'_>| part.as_os_str().to_string_lossy().contains(['*', '?', '[', '{', '\\']);
    let mut fixed: PathBuf = Path::new(pattern).components().take_while(|part| !special(part)).collect();
    if fixed.as_os_str().is_empty() {
        fixed.push(".");
    }
    fixed
}

impl Source<PathBuf> for FileSource {
    fn name(&self) -> Arc<str> {
        "files".into()
    }

    fn pull(&mut self, out: &mut Pulled<PathBuf>, stop: &Signal) -> Result<Progress, StageError> {
        if self.walk.is_none() {
            self.open().map_err(StageError::fatal)?;
        }
        while !out.is_full() && !stop.is_set() {
            match self.walk.as_mut().and_then(Iterator::next) {
                None => return Ok(Progress::End),
                Some(Err(error)) => out.fault(path_of(&error), IoError::Walk(error)),
                Some(Ok(entry)) if entry.file_type().is_some_and(|kind| kind.is_file()) => {
                    let path = entry.into_path();
                    if self.wanted(&path) {
                        let bytes = (size_of::<PathBuf>() + path.as_os_str().len()) as u64;
                        out.push(Record::new(path).bytes(bytes));
                    }
                }
                Some(Ok(_)) => {}
            }
        }
        Ok(if stop.is_set() { Progress::End } else { Progress::More })
    }
}

fn path_of(error: &ignore::Error) -> String {
    match error {
        ignore::Error::WithPath { path, .. } => path.display().to_string(),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => path_of(err),
        other => other.to_string(),
    }
}

/// A file's contents, or the beginning of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileBytes {
    /// The path, as the source gave it.
    pub path: PathBuf,
    /// The contents.
    pub bytes: Vec<u8>,
}

/// Reads a file: for a stage after [`files`] or [`walk`].
///
/// # Errors
/// With the path, if the file cannot be read.
pub fn read(path: PathBuf) -> Result<FileBytes, IoError> {
    match std::fs::read(&path) {
        Ok(bytes) => Ok(FileBytes { path, bytes }),
        Err(error) => Err(IoError::File { path, error }),
    }
}

/// Makes a function that reads at most so many bytes from the beginning of a file.
pub fn read_head(most: usize) -> impl Fn(PathBuf) -> Result<FileBytes, IoError> + Clone + Send + Sync {
    move |path| {
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(most as u64).read_to_end(&mut bytes)) {
            Ok(_) => Ok(FileBytes { path, bytes }),
            Err(error) => Err(IoError::File { path, error }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_walked_from_its_fixed_part() {
        for (pattern, root) in [("scans/**/*.png", "scans"), ("*.rs", "."), ("/a/b/{c,d}/e", "/a/b"), ("a/b.txt", "a/b.txt"), ("./x/*", "./x")] {
            assert_eq!(root_of(pattern), Path::new(root), "{pattern}");
        }
    }
}
