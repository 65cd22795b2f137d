//! Dead letters as JSON lines, each on the disk before its record counts as ended.

use std::{fs::File, io::Write, path::PathBuf, time::UNIX_EPOCH};

use millstream_runtime::{BoxError, DeadLetter, DeadLetterSink, Fault};
use serde::Serialize;

use crate::{IoError, tail::behind_last_line};

/// Appends dead letters to a file.
pub struct LetterFile {
    path: PathBuf,
    file: Option<File>,
}

/// A sink that appends dead letters to a file as lines of JSON. The file appears with the first letter.
pub fn letters(path: impl Into<PathBuf>) -> LetterFile {
    LetterFile { path: path.into(), file: None }
}

#[derive(Serialize)]
struct Line<'a> {
    id: u64,
    key: Option<u64>,
    source: &'a str,
    partition: u32,
    offset: u64,
    locator: Option<&'a str>,
    stage: &'a str,
    model: Option<String>,
    kind: &'static str,
    error: String,
    backtrace: Option<&'a str>,
    attempts: u32,
    failed_at_micros: u64,
    age_micros: u64,
    /// The payload as text, or else in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
}

impl<'a> Line<'a> {
    fn of(letter: &'a DeadLetter) -> Self {
        let bytes = letter.payload.as_deref();
        let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
        let hex = || bytes.map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        Line {
            id: letter.id,
            key: letter.key.map(|key| key.0),
            source: &letter.source,
            partition: letter.position.partition,
            offset: letter.position.offset,
            locator: letter.locator.as_deref(),
            stage: &letter.stage,
            model: letter.model.as_ref().map(ToString::to_string),
            kind: if matches!(letter.fault, Fault::Panic { .. }) { "panic" } else { "error" },
            error: letter.fault.to_string(),
            backtrace: match &letter.fault {
                Fault::Panic { backtrace, .. } => backtrace.as_deref(),
                _ => None,
            },
            attempts: letter.attempts,
            failed_at_micros: letter.failed_at.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_micros() as u64),
            age_micros: letter.age.as_micros() as u64,
            payload: text,
            payload_hex: if text.is_none() { hex() } else { None },
        }
    }
}

impl DeadLetterSink for LetterFile {
    fn put(&mut self, letter: &DeadLetter) -> Result<(), BoxError> {
        let mut line = serde_json::to_vec(&Line::of(letter))?;
        line.push(b'\n');
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(behind_last_line(&self.path).map_err(IoError::file(&self.path))?),
        };
        let stored = file.write_all(&line).and_then(|()| file.sync_data());
        if stored.is_err() {
            // The next letter is not to stand behind half of this one.
            self.file = None;
        }
        Ok(stored.map_err(IoError::file(&self.path))?)
    }
}
