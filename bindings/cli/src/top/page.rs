//! Prometheus' text format, version 0.0.4, as far as pages of metrics use it.

use std::str::Chars;

/// A page: its samples in their order.
#[derive(Debug, Default)]
pub(crate) struct Page(Vec<Sample>);

#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

/// A text that is no page.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line} is no sample of a metric: {text}")]
pub(crate) struct PageError {
    line: usize,
    text: String,
}

/// How much of a wrong line is shown.
const SHOWN: usize = 60;

impl Page {
    pub(crate) fn read(text: &str) -> Result<Page, PageError> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        let sample = |(number, line): (usize, &str)| sample(line).ok_or_else(|| PageError { line: number + 1, text: line.chars().take(SHOWN).collect() });
        lines.map(sample).collect::<Result<_, _>>().map(Page)
    }

    /// The sample of this name that has these labels, and perhaps others.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.of(name, labels).next().map(|sample| sample.value)
    }

    /// The values of a label, of the samples of this name that have these labels: each once, in their order.
    pub(crate) fn labels(&self, name: &str, labels: &[(&str, &str)], wanted: &str) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for label in self.of(name, labels).filter_map(|sample| sample.label(wanted)) {
            if !found.iter().any(|other| other == label) {
                found.push(label.to_owned());
            }
        }
        found
    }

    /// A label of the sample of this name whose value is 1: of a metric that tells a state.
    pub(crate) fn flagged(&self, name: &str, labels: &[(&str, &str)], wanted: &str) -> Option<&str> {
        self.of(name, labels).find(|sample| sample.value == 1.0)?.label(wanted)
    }

    /// A histogram's buckets: upper bounds, and how many values lie below each.
    pub(crate) fn buckets(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(f64, f64)> {
        let bucket = |sample: &Sample| Some((number(sample.label("le")?)?, sample.value));
        self.of(&format!("{name}_bucket"), labels).filter_map(bucket).collect()
    }

    fn of<'p>(&'p self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &'p Sample> {
        self.0.iter().filter(move |sample| sample.name == name && labels.iter().all(|(label, value)| sample.label(label) == Some(value)))
    }
}

impl Sample {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| &**value)
    }
}

/// `name{label="value",…} number [timestamp]`.
fn sample(line: &str) -> Option<Sample> {
    let named = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let end = line.find(|c| !named(c))?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest.chars())?,
        None => (Vec::new(), rest),
    };
    let value = number(rest.split_whitespace().next()?)?;
    (!name.is_empty()).then(|| Sample { name: name.to_owned(), labels, value })
}

/// The labels up to the closing brace, and what is behind it.
fn labels(mut rest: Chars<'_>) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        let text = rest.as_str().trim_start_matches([' ', ',']);
        if let Some(behind) = text.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, value) = text.split_once("=\"")?;
        rest = value.chars();
        let mut value = String::new();
        loop {
            match rest.next()? {
                '"' => break,
                '\\' => value.push(match rest.next()? {
                    'n' => '\n',
                    other => other,
                }),
                other => value.push(other),
            }
        }
        labels.push((name.to_owned(), value));
    }
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        text => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read() {
        let text = "# HELP x y\n# TYPE x counter\nx{pipeline=\"a \\\"b\\\"\\\\\\n}\",stage=\"s\"} 3\n\nx 4.5e1 1700000000\nh_bucket{le=\"0.5\"} 1\nh_bucket{le=\"+Inf\"} 2\n";
        let page = Page::read(text).unwrap();
        assert_eq!(page.value("x", &[("stage", "s")]), Some(3.0));
        assert_eq!(page.labels("x", &[], "pipeline"), ["a \"b\"\\\n}"]);
        assert_eq!(page.buckets("h", &[]), [(0.5, 1.0), (f64::INFINITY, 2.0)]);
        assert_eq!((page.value("x", &[("stage", "t")]), page.value("y", &[])), (None, None));
        assert_eq!(page.0.len(), 4);
        for wrong in ["<html>", "x", "x{a=\"b} 1", "x{a=b} 1", "x one", "{} 1"] {
            assert_eq!(Page::read(&format!("x 1\n{wrong}")).unwrap_err(), PageError { line: 2, text: wrong.into() });
        }
    }
}
