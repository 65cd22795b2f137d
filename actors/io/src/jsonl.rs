//! JSON lines: one object a line, buffered, flushed when the pipeline drains.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millstream_runtime::{Context, Sink, SinkFactory, StageError, Start};
use serde::Serialize;

use crate::{IoError, checkpoints::sync_folder, tail::behind_last_line};

/// Writes each record as a line of JSON.
pub struct JsonLines(Arc<Shared>);

/// One replica's end of the file.
pub struct JsonLinesWriter(Arc<Shared>);

struct Shared {
    path: PathBuf,
    mode: Mode,
    /// Opened by the first replica; it outlives restarts, so nothing that was written is lost.
    file: Mutex<Option<BufWriter<File>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A new file.
    Replace,
    /// Goes on behind what the file holds, and each flush reaches the disk.
    Append,
    /// Holds what the pipeline's checkpoints say, and each flush reaches the disk.
    Transactional,
}

/// A sink that writes each record as a line of JSON to a new file. An existing file is replaced when the pipeline starts.
pub fn jsonl(path: impl Into<PathBuf>) -> JsonLines {
    JsonLines(Arc::new(Shared { path: path.into(), mode: Mode::Replace, file: Mutex::new(None) }))
}

impl JsonLines {
    /// Goes on behind what the file holds, for a source that goes on where it was. Half a line at the end of the file, left
    /// by a process that was killed, is cut off: its record was not reported as stored. A flush then lasts until the line is
    /// on the disk.
    #[must_use]
    pub fn append(self) -> Self {
        self.in_mode(Mode::Append)
    }

    /// For a pipeline with checkpoints: when it begins again, the file is cut off behind what the last checkpoint holds;
    /// without one, it is emptied. Whoever reads it while the pipeline runs may see lines that are cut off later.
    #[must_use]
    pub fn transactional(self) -> Self {
        self.in_mode(Mode::Transactional)
    }

    fn in_mode(self, mode: Mode) -> Self {
        JsonLines(Arc::new(Shared { path: self.0.path.clone(), mode, file: Mutex::new(None) }))
    }
}

impl Shared {
    fn open(&self) -> Result<File, IoError> {
        if self.mode == Mode::Replace {
            return File::create(&self.path).map_err(IoError::file(&self.path));
        }
        let open = || {
            if self.mode == Mode::Append {
                return behind_last_line(&self.path);
            }
            // Where it ends is the checkpoint's to say.
            let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&self.path)?;
            sync_folder(self.path.parent().unwrap_or(Path::new("")))?;
            Ok(file)
        };
        open().map_err(IoError::file(&self.path))
    }

    fn lock(&self) -> MutexGuard<'_, Option<BufWriter<File>>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Serialize> SinkFactory<T> for JsonLines {
    type Sink = JsonLinesWriter;

    fn name(&self) -> Arc<str> {
        "jsonl".into()
    }

    fn takes_back(&self) -> bool {
        self.0.mode == Mode::Transactional
    }

    fn open(&self, _start: &Start) -> Result<JsonLinesWriter, StageError> {
        let mut file = self.0.lock();
        if file.is_none() {
            *file = Some(BufWriter::new(self.0.open().map_err(StageError::fatal)?));
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
            Some(file) => {
                let flushed = file.flush().and_then(|()| if self.0.mode != Mode::Replace { file.get_ref().sync_data() } else { Ok(()) });
                Ok(flushed.map_err(IoError::file(&self.0.path))?)
            }
            None => Ok(()),
        }
    }

    fn prepare(&mut self) -> Result<Vec<u8>, StageError> {
        match &mut *self.0.lock() {
            Some(file) => Ok(length(file).map_err(IoError::file(&self.0.path))?.to_le_bytes().to_vec()),
            None => Ok(Vec::new()),
        }
    }

    fn restore(&mut self, prepared: Option<&[u8]>) -> Result<(), StageError> {
        let committed = prepared.map_or(Ok(0), |bytes| bytes.try_into().map(u64::from_le_bytes)).map_err(StageError::fatal)?;
        let mut file = self.0.lock();
        let Some(file) = &mut *file else { return Ok(()) };
        let found = file.get_ref().metadata().map_err(IoError::file(&self.0.path))?.len();
        if found < committed {
            return Err(StageError::fatal(IoError::Short { path: self.0.path.clone(), found, committed }));
        }
        let cut = file.get_ref().set_len(committed).and_then(|()| file.seek(SeekFrom::Start(committed)).map(drop));
        Ok(cut.map_err(IoError::file(&self.0.path))?)
    }
}

/// How long the file is, with everything in it durable.
fn length(file: &mut BufWriter<File>) -> std::io::Result<u64> {
    file.flush()?;
    millstream_runtime::fail_point!("before-prepared");
    file.get_ref().sync_data()?;
    file.stream_position()
}
