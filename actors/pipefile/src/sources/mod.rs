//! Kinds of sources: a file each.

mod files;
mod lines;
mod walk;

use std::path::Path;

use millstream_runtime::Flow;

use crate::{build::Workshop, row::Row, table::Table};

/// A source that was read from a file.
pub(crate) trait SourcePart: Send + Sync {
    /// What it reads, for people.
    fn detail(&self) -> String;

    /// The flow that it begins; `None` if a problem was reported.
    fn open(&self, name: &str, workshop: &mut Workshop<'_>) -> Option<Flow<Row>>;
}

/// A kind of source, by name.
pub(crate) type Kind = (&'static str, fn(&Table<'_>) -> Option<Box<dyn SourcePart>>);

/// All of them.
pub(crate) const KINDS: &[Kind] = &[("files", files::read), ("lines", lines::read), ("walk", walk::read)];

/// A record of a file's path.
fn path_row(path: &Path) -> (Row, u64) {
    let row = Row::new().with("path", crate::row::Datum::text(path.to_string_lossy()));
    let bytes = row.bytes();
    (row, bytes)
}
