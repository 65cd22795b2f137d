//! Conditions on a record: `field operator value`.
//!
//! A field that is missing, or is of another kind than the value, is unequal to it and neither less nor greater: so every
//! record either satisfies a condition or does not, and none fails on it.

use std::{cmp::Ordering, fmt};

use serde_json::Value as Json;

use crate::{
    problem::Findings,
    row::{Datum, Found, Path, Row},
    table::At,
};

/// One comparison.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Comparison {
    field: Path,
    operator: Operator,
    value: Json,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Contains,
    Lacks,
}

/// The longer ones first: one may begin like another.
const OPERATORS: [(&str, Operator); 8] = [
    ("==", Operator::Equal),
    ("!=", Operator::Unequal),
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("<", Operator::Less),
    (">", Operator::Greater),
    (" contains ", Operator::Contains),
    (" lacks ", Operator::Lacks),
];

/// Comparisons that must all hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition(Vec<Comparison>);

impl Condition {
    /// Reads all of them, and reports those that are none.
    pub(crate) fn read(texts: &At<Vec<At<String>>>, findings: &Findings) -> Option<Condition> {
        if texts.value.is_empty() {
            findings.add(&texts.span, "a list of conditions that must all hold is empty");
            return None;
        }
        let parse = |text: &At<String>| {
            let parsed = Comparison::parse(&text.value);
            if let Err(problem) = &parsed {
                findings.hint(&text.span, format!("`{}` is no condition: {problem}", text.value), "as in 'probability >= 0.6'");
            }
            parsed.ok()
        };
        let parsed: Vec<_> = texts.value.iter().filter_map(parse).collect();
        (parsed.len() == texts.value.len()).then_some(Condition(parsed))
    }

    pub(crate) fn holds(&self, row: &Row) -> bool {
        self.0.iter().all(|comparison| comparison.holds(row))
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Comparison { field, operator, value }) in self.0.iter().enumerate() {
            let sign = OPERATORS.iter().find(|(_, known)| known == operator).map_or("", |(sign, _)| sign.trim());
            write!(f, "{}{field} {sign} {value}", if index > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl Comparison {
    fn parse(text: &str) -> Result<Self, String> {
        // What is quoted may hold the signs of operators.
        let unquoted = text.find(['\'', '"']).unwrap_or(text.len());
        let first = |(sign, operator): (&'static str, Operator)| Some((text[..unquoted].find(sign)?, sign, operator));
        let found = OPERATORS.into_iter().filter_map(first).min_by_key(|(at, sign, _)| (*at, usize::MAX - sign.len()));
        let Some((at, sign, operator)) = found else {
            return Err("it has none of ==, !=, <, <=, >, >=, contains and lacks".to_owned());
        };
        let (field, value) = (text[..at].trim(), text[at + sign.len()..].trim());
        if field.is_empty() {
            return Err(format!("no field stands before {}", sign.trim()));
        }
        let quoted = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)).filter(|inner| !inner.contains(quote));
        let value = match quoted('\'').or_else(|| quoted('"')) {
            Some(inner) => Json::String(inner.to_owned()),
            None => match serde_json::from_str(value) {
                Ok(json @ (Json::Number(_) | Json::Bool(_) | Json::Null)) => json,
                _ => return Err("a number, true, false, null or quoted text must stand behind the operator".to_owned()),
            },
        };
        Ok(Comparison { field: Path::new(field), operator, value })
    }

    fn holds(&self, row: &Row) -> bool {
        let found = self.field.find(row);
        if let Operator::Contains | Operator::Lacks = self.operator {
            return found.is_some_and(|found| contains(&found, &self.value)) == (self.operator == Operator::Contains);
        }
        let order = found.and_then(|found| compare(&found, &self.value));
        match self.operator {
            Operator::Equal => order == Some(Ordering::Equal),
            Operator::Unequal => order != Some(Ordering::Equal),
            Operator::Less => order == Some(Ordering::Less),
            Operator::AtMost => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Operator::Greater => order == Some(Ordering::Greater),
            Operator::AtLeast => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            Operator::Contains | Operator::Lacks => false,
        }
    }
}

fn compare(found: &Found<'_>, value: &Json) -> Option<Ordering> {
    match (found, value) {
        (Found::Json(Json::Number(a)), Json::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
        (Found::Json(Json::String(a)), Json::String(b)) => Some(a.cmp(b)),
        (Found::Json(Json::Bool(a)), Json::Bool(b)) => Some(a.cmp(b)),
        (Found::Json(Json::Null), Json::Null) => Some(Ordering::Equal),
        (Found::Datum(Datum::Bytes(a)), Json::String(b)) => Some((**a).cmp(b.as_bytes())),
        _ => None,
    }
}

/// Text in text or in bytes; a value in a list.
fn contains(found: &Found<'_>, value: &Json) -> bool {
    match (found, value) {
        (Found::Json(Json::String(text)), Json::String(part)) => text.contains(part.as_str()),
        (Found::Datum(Datum::Bytes(bytes)), Json::String(part)) => part.is_empty() || bytes.windows(part.len()).any(|window| window == part.as_bytes()),
        (Found::Json(Json::Array(items)), value) => items.iter().any(|item| compare(&Found::Json(item), value) == Some(Ordering::Equal)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_hold_or_not_and_never_fail() {
        let bytes = Datum::Bytes(b"ab\0c".as_slice().into());
        let row = Row::new().with("n", Datum::Json(json!(3))).with("s", Datum::text("b")).with("o", Datum::Json(json!({ "x": [1, "y"] }))).with("bytes", bytes);
        let holds = |text: &str| Comparison::parse(text).expect(text).holds(&row);
        for text in [
            "n == 3",
            "n>=3",
            "n < 3.5",
            "n != 'b'",
            "s == 'b'",
            "s > \"a\"",
            "missing != 1",
            "o.x contains 1",
            "o.x contains 'y'",
            "bytes contains 'b'",
            "bytes != ''",
            "n != null",
            "s lacks 'x'",
            "missing lacks 1",
        ] {
            assert!(holds(text), "{text}");
        }
        for text in ["n == 4", "n > 3", "s < 3", "missing == 1", "missing < 1", "missing >= 1", "o contains 1", "n == true", "s == '>= b'"] {
            assert!(!holds(text), "{text}");
        }
    }

    #[test]
    fn what_is_no_condition_is_said() {
        for (text, problem) in [
            ("n", "it has none of ==, !=, <, <=, >, >=, contains and lacks"),
            (">= 3", "no field stands before >="),
            ("n >= much", "a number, true, false, null or quoted text must stand behind the operator"),
            ("n == 'a' or n == 'b'", "a number, true, false, null or quoted text must stand behind the operator"),
        ] {
            assert_eq!(Comparison::parse(text).unwrap_err(), problem, "{text}");
        }
        assert_eq!(Condition(vec![Comparison::parse("a<=1").unwrap(), Comparison::parse("b contains 'x'").unwrap()]).to_string(), "a <= 1, b contains \"x\"");
    }
}
