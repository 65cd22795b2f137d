//! JSON lines: one object a line, buffered, flushed when the pipeline drains.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millstream_runtime::{Context, Sink, SinkFactory, StageError, Start};
use serde::Serialize;

use crate::IoError;

/// Writes each record as a line of JSON.
pub struct JsonLines(Arc<Shared>);

/// One replica's end of the file.
pub struct JsonLinesWriter(Arc<Shared>);

struct Shared {
    path: PathBuf,
    /// Opened by the first replica; it outlives restarts, so nothing that was written is lost.
    file: Mutex<Option<BufWriter<File>>>,
}

/// A sink that writes each record as a line of JSON to a new file. An existing file is replaced when the pipeline starts.
pub fn jsonl(path: impl Into<PathBuf>) -> JsonLines {
    JsonLines(Arc::new(Shared { path: path.into(), file: Mutex::new(None) }))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<BufWriter<File>>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Serialize> SinkFactory<T> for JsonLines {
    type Sink = JsonLinesWriter;

    fn name(&self) -> Arc<str> {
        "jsonl".into()
    }

    fn open(&self, _start: &Start) -> Result<JsonLinesWriter, StageError> {
        let mut file = self.0.lock();
        if file.is_none() {
            let created = File::create(&self.0.path).map_err(IoError::file(&self.0.path));
            *file = Some(BufWriter::new(created.map_err(StageError::fatal)?));
        }
        Ok(JsonLinesWriter(self.0.clone()))
    }
}

impl<T: Serialize> Sink<T> for JsonLinesWriter {
    fn write(&mut self, record: T, _context: &Context<'_>) -> Result<(), StageError> {
        // Made before the file is touched: a record that cannot be written leaves no half of a line.
        let mut line = serde_json::to_vec(&record).map_err(IoError::from)?;
        line.push(b'\n');
        match &mut *self.0.lock() {
            Some(file) => Ok(file.write_all(&line).map_err(IoError::file(&self.0.path))?),
            None => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), StageError> {
        match &mut *self.0.lock() {
            Some(file) => Ok(file.flush().map_err(IoError::file(&self.0.path))?),
            None => Ok(()),
        }
    }
}
