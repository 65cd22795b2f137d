//! Figures of several records: `"sum amount"`, a function and the field that it is of.

use crate::{problem::Findings, row::Path, table::At};

/// Reads a figure with one of these functions. `alone` says which of them need no field.
pub(crate) fn figure<F: Copy>(text: &At<String>, functions: &[(&'static str, F)], alone: impl Fn(F) -> bool, findings: &Findings) -> Option<(F, Path)> {
    let (word, field) = text.value.trim().split_once(' ').unwrap_or((text.value.trim(), ""));
    let field = field.trim();
    let function = functions.iter().find(|(name, _)| *name == word).map(|(_, function)| *function);
    match function {
        None => {
            let names: Vec<&str> = functions.iter().map(|(name, _)| *name).collect();
            findings.suggest(&text.span, format!("there is no function `{word}`"), word, &names);
        }
        Some(function) if field.is_empty() && !alone(function) => {
            findings.hint(&text.span, format!("`{word}` of what?"), format!("as in \"{word} amount\""));
        }
        Some(_) => {}
    }
    Some((function?, Path::new(field)))
}
