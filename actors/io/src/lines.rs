//! Lines of text as records.

use std::{
    fs::File,
    io::{BufRead, BufReader, stdin},
    path::PathBuf,
    sync::Arc,
    thread,
};

use millstream_runtime::{ChannelSource, Committer, Position, Progress, Pulled, Record, Signal, Source, StageError, channel};

use crate::{IoError, OffsetFile};

/// Lines that standard input may be ahead of the pipeline.
const STDIN_AHEAD: usize = 256;

/// A line of text, without its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Line {
    /// Its number, from 1.
    pub number: u64,
    /// The text.
    pub text: String,
}

/// The lines of a file or of any reader.
pub struct LineSource {
    name: String,
    path: Option<PathBuf>,
    reader: Option<Box<dyn BufRead + Send>>,
    number: u64,
    /// Where it is remembered how many lines are done.
    offsets: Option<PathBuf>,
    /// As many lines are done already.
    skip: u64,
    /// Another process would read the same.
    repeatable: bool,
}

/// The lines of a file. It is opened when the pipeline starts.
pub fn lines(path: impl Into<PathBuf>) -> LineSource {
    let path = path.into();
    LineSource { name: path.display().to_string(), path: Some(path), reader: None, number: 0, offsets: None, skip: 0, repeatable: true }
}

/// The lines of a reader, which must not block for long: a drain waits for the line that is being read.
pub fn lines_of(name: &str, reader: impl BufRead + Send + 'static) -> LineSource {
    LineSource { name: name.to_owned(), path: None, reader: Some(Box::new(reader)), number: 0, offsets: None, skip: 0, repeatable: false }
}

impl LineSource {
    /// Remembers in this file how many lines are done, and begins behind them: each line is delivered at least once, however
    /// often the process dies. The file is replaced as a whole, so it is never half written.
    #[must_use]
    pub fn resume(mut self, offsets: impl Into<PathBuf>) -> Self {
        self.offsets = Some(offsets.into());
        self
    }
}

/// The lines of standard input, up to 256 ahead of the pipeline.
///
/// A thread of its own reads them, because nothing can interrupt a read of standard input: when the pipeline drains, that
/// thread stays behind until the next line comes or the process ends. Lines that are no text end the input.
///
/// # Errors
/// If that thread cannot be started.
pub fn stdin_lines() -> Result<ChannelSource<Line>, IoError> {
    let (push, source) = channel(STDIN_AHEAD);
    let read = move || {
        for (index, text) in stdin().lock().lines().map_while(Result::ok).enumerate() {
            let number = index as u64 + 1;
            if push.send(record(Line { number, text })).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("millstream-stdin".into()).spawn(read).map_err(IoError::file("<stdin>"))?;
    Ok(source)
}

fn record(line: Line) -> Record<Line> {
    let bytes = (size_of::<Line>() + line.text.len()) as u64;
    let position = Position { partition: 0, offset: line.number };
    Record::new(line).bytes(bytes).position(position)
}

impl Source<Line> for LineSource {
    fn name(&self) -> Arc<str> {
        "lines".into()
    }

    fn committer(&mut self) -> Result<Option<Box<dyn Committer>>, StageError> {
        let Some(path) = &self.offsets else { return Ok(None) };
        let offsets = OffsetFile::open(path).map_err(StageError::fatal)?;
        self.skip = offsets.done(0).unwrap_or(0);
        Ok(Some(Box::new(offsets)))
    }

    fn snapshot(&mut self) -> Result<Option<Vec<u8>>, StageError> {
        // A reader cannot be read again.
        Ok(self.repeatable.then(|| self.number.max(self.skip).to_le_bytes().to_vec()))
    }

    fn restore(&mut self, position: &[u8]) -> Result<(), StageError> {
        self.skip = position.try_into().map(u64::from_le_bytes).map_err(StageError::fatal)?;
        Ok(())
    }

    fn pull(&mut self, out: &mut Pulled<Line>, stop: &Signal) -> Result<Progress, StageError> {
        if let Some(path) = self.path.take() {
            let file = File::open(&path).map_err(IoError::file(path)).map_err(StageError::fatal)?;
            self.reader = Some(Box::new(BufReader::new(file)));
        }
        let Some(reader) = &mut self.reader else { return Ok(Progress::End) };
        while !out.is_full() && !stop.is_set() {
            let mut bytes = Vec::new();
            let read = reader.read_until(b'\n', &mut bytes);
            if read.map_err(IoError::file(&self.name)).map_err(StageError::fatal)? == 0 {
                return Ok(Progress::End);
            }
            self.number += 1;
            if self.number <= self.skip {
                continue;
            }
            while matches!(bytes.last(), Some(b'\n' | b'\r')) {
                bytes.pop();
            }
            match String::from_utf8(bytes) {
                Ok(text) => out.push(record(Line { number: self.number, text })),
                Err(_) => {
                    let position = Position { partition: 0, offset: self.number };
                    let error = IoError::Text { name: self.name.clone(), line: self.number };
                    out.fault_at(position, format!("{}:{}", self.name, self.number), error);
                }
            }
        }
        Ok(if stop.is_set() { Progress::End } else { Progress::More })
    }
}
