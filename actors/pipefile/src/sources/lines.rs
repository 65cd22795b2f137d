//! `lines`: a record `{ line, text }` for each line of a file, or of standard input (`path = "-"`).

use millstream_io::{Line, lines, stdin_lines};
use millstream_runtime::{Flow, Pipeline, map_source};

use super::SourcePart;
use crate::{
    build::Workshop,
    row::{Datum, Row},
    table::{At, Table},
};

struct Lines {
    path: At<String>,
    /// Where it is remembered how many lines are done.
    resume: Option<String>,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn SourcePart>> {
    let resume: Option<At<String>> = table.read("resume");
    let path: At<String> = table.need("path")?;
    if let Some(resume) = resume.as_ref().filter(|_| path.value == "-") {
        table.findings.add(&resume.span, "`resume` needs a file: standard input cannot be read again");
    }
    Some(Box::new(Lines { path, resume: resume.map(|resume| resume.value) }))
}

impl SourcePart for Lines {
    fn detail(&self) -> String {
        if self.path.value == "-" { "standard input".to_owned() } else { self.path.value.clone() }
    }

    fn open(&self, name: &str, workshop: &mut Workshop<'_>) -> Option<Flow<Row>> {
        let row = |line: Line| {
            let row = Row::new().with("line", Datum::Json(line.number.into())).with("text", Datum::text(line.text));
            let bytes = row.bytes();
            (row, bytes)
        };
        if self.path.value == "-" {
            if !workshop.to_run {
                // A thread that reads what nobody will take would swallow it.
                return Some(Pipeline::from(map_source(name, millstream_runtime::from_iter([]), row)));
            }
            return match stdin_lines() {
                Ok(lines) => Some(Pipeline::from(map_source(name, lines, row))),
                Err(error) => {
                    workshop.findings.add(&self.path.span, format!("`path`: {error}"));
                    None
                }
            };
        }
        let mut source = lines(workshop.path(&self.path.value));
        if let Some(resume) = &self.resume {
            source = source.resume(workshop.path(resume));
        }
        Some(Pipeline::from(map_source(name, source, row)))
    }
}
