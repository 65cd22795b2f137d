//! What is wrong with a file: where, what, and what may have been meant. All of it is collected before anybody is told.

use std::{cell::RefCell, error::Error, fmt, ops::Range, sync::Arc};

/// A place in the file's text, in bytes.
pub(crate) type Span = Range<usize>;

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// What is wrong; names the key.
    pub message: String,
    /// What may help.
    pub hint: Option<String>,
    span: Span,
}

/// Everything that is wrong with a file, in the order of its lines.
///
/// Its text shows each place as compilers do:
///
/// ```text
/// error: `replcas` is no key of a stage of kind `infer`
///   --> languages.toml:31:1
///    |
/// 31 | replcas = 2
///    | ^^^^^^^ did you mean `replicas`?
/// ```
#[derive(Clone, Debug)]
pub struct Problems {
    file: String,
    text: Arc<str>,
    list: Vec<Problem>,
}

impl Problems {
    /// Each of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Problem> {
        self.list.iter()
    }
}

impl Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f, "\n")?;
            }
            problem.show(f, &self.file, &self.text)?;
        }
        Ok(())
    }
}

impl Problem {
    fn show(&self, f: &mut fmt::Formatter<'_>, file: &str, text: &str) -> fmt::Result {
        let start = text[..self.span.start].rfind('\n').map_or(0, |at| at + 1);
        let line = text[start..].split(['\n', '\r']).next().unwrap_or_default();
        let end = self.span.end.clamp(self.span.start, start + line.len().max(self.span.start - start));
        let wide = |part: &str| part.chars().map(|c| if c == '\t' { 4 } else { 1 }).sum::<usize>();
        let number = self.line.to_string();
        let margin = number.len();
        writeln!(f, "error: {}", plain(&self.message))?;
        writeln!(f, "{:margin$}--> {file}:{}:{}", "", self.line, self.column)?;
        writeln!(f, "{:margin$} |", "")?;
        writeln!(f, "{number} | {}", plain(&line.replace('\t', "    ")))?;
        let (before, below) = (wide(&text[start..self.span.start]), wide(&text[self.span.start..end]).max(1));
        write!(f, "{:margin$} | {:before$}{}", "", "", "^".repeat(below))?;
        match &self.hint {
            Some(hint) => write!(f, " {}", plain(hint)),
            None => Ok(()),
        }
    }
}

/// Without characters that would move a terminal's cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Collects problems while a file is read.
#[derive(Default)]
pub(crate) struct Findings(RefCell<Vec<(Span, String, Option<String>)>>);

impl Findings {
    pub(crate) fn add(&self, span: &Span, message: impl Into<String>) {
        self.push(span, message.into(), None);
    }

    pub(crate) fn hint(&self, span: &Span, message: impl Into<String>, hint: impl Into<String>) {
        self.push(span, message.into(), Some(hint.into()));
    }

    /// With the likeliest of the words that would have been right, or all of them.
    pub(crate) fn suggest(&self, span: &Span, message: impl Into<String>, word: &str, right: &[&str]) {
        let hint = match closest(word, right) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if right.is_empty() => return self.add(span, message),
            None => format!("there are {}", listed(right)),
        };
        self.hint(span, message, hint);
    }

    fn push(&self, span: &Span, message: String, hint: Option<String>) {
        self.0.borrow_mut().push((span.clone(), message, hint));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// What was found, for this text.
    pub(crate) fn problems(self, file: &str, text: &Arc<str>) -> Problems {
        let located = |(span, message, hint): (Span, String, Option<String>)| {
            let span = within(text, span.start)..within(text, span.end.max(span.start));
            let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
            let line = text[..start].matches('\n').count() + 1;
            Problem { line, column: text[start..span.start].chars().count() + 1, message, hint, span }
        };
        let mut list: Vec<_> = self.0.into_inner().into_iter().map(located).collect();
        list.sort_by_key(|problem| (problem.span.start, problem.span.end));
        list.dedup();
        Problems { file: file.to_owned(), text: text.clone(), list }
    }
}

/// The place itself, or the beginning of the character or of the text's end that it lies in.
fn within(text: &str, place: usize) -> usize {
    (0..=place.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// The word that is nearly this one.
fn closest<'w>(word: &str, right: &[&'w str]) -> Option<&'w str> {
    let near = |candidate: &&str| strsim::damerau_levenshtein(word, candidate);
    let best = right.iter().copied().min_by_key(near)?;
    (near(&best) <= (word.chars().count() / 3).max(1)).then_some(best)
}

/// ``a`, `b` and `c``.
pub(crate) fn listed(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_shown_under_their_line() {
        let text: Arc<str> = "a = 1\n\tbé = 'x'\r\n".into();
        let findings = Findings::default();
        let at = text.find('\'').unwrap();
        findings.hint(&(at..at + 3), "`bé` is wrong", "try `y`");
        findings.add(&(text.len() + 5..text.len() + 9), "something is missing");
        let problems = findings.problems("f.toml", &text);
        let shown = "error: `bé` is wrong\n --> f.toml:2:7\n  |\n2 |     bé = 'x'\n  |          ^^^ try `y`\n\n\
                     error: something is missing\n --> f.toml:3:1\n  |\n3 | \n  | ^";
        assert_eq!(problems.to_string(), shown);
        assert_eq!(problems.iter().map(|p| (p.line, p.column)).collect::<Vec<_>>(), [(2, 7), (3, 1)]);
    }

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        assert_eq!(closest("replcas", &["replicas", "retry"]), Some("replicas"));
        assert_eq!(closest("bacth", &["batch", "pool"]), Some("batch"));
        assert_eq!(closest("threads", &["batch", "pool"]), None);
        assert_eq!(listed(&["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
