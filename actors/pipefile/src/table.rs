//! Reading a table of the file key by key.
//!
//! A key that is asked for is a key that exists: [`Table::done`] reports all others, with the nearest of those that were
//! asked for. So there is no list of keys beside the code that reads them.

use std::{cell::RefCell, time::Duration};

use serde_json::Value as Json;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    problem::{Findings, Span},
    units,
};

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// A table, and which of its keys were asked for.
pub(crate) struct Table<'t> {
    entries: &'t DeTable<'t>,
    /// What messages call it.
    what: String,
    pub(crate) span: Span,
    asked: RefCell<Vec<&'static str>>,
    pub(crate) findings: &'t Findings,
}

/// A value of a key.
pub(crate) struct Value<'t> {
    key: String,
    inner: &'t DeValue<'t>,
    span: Span,
    findings: &'t Findings,
}

/// Why a value cannot be read.
pub(crate) enum Wrong {
    /// It is something else.
    Kind,
    /// That has been reported already.
    Reported,
}

/// What values can be read as.
pub(crate) trait FromToml: Sized {
    /// What such a value is, for messages.
    fn what() -> String;
    fn read(value: &Value<'_>) -> Result<Self, Wrong>;
}

impl<'t> Table<'t> {
    pub(crate) fn new(entries: &'t DeTable<'t>, what: impl Into<String>, span: Span, findings: &'t Findings) -> Self {
        Table { entries, what: what.into(), span, asked: RefCell::default(), findings }
    }

    /// Says more precisely what it is.
    pub(crate) fn called(mut self, what: impl Into<String>) -> Self {
        self.what = what.into();
        self
    }

    fn value(&self, key: &'static str) -> Option<Value<'t>> {
        self.asked.borrow_mut().push(key);
        let value = self.entries.get(key)?;
        Some(Value { key: key.to_owned(), inner: value.get_ref(), span: value.span(), findings: self.findings })
    }

    /// The value of a key that may be left out.
    pub(crate) fn read<T: FromToml>(&self, key: &'static str) -> Option<At<T>> {
        self.value(key)?.read_or_report()
    }

    /// The value of a key that may be left out and must satisfy a condition.
    pub(crate) fn read_if<T: FromToml>(&self, key: &'static str, holds: impl FnOnce(&T) -> bool, condition: &str) -> Option<At<T>> {
        let read = self.read::<T>(key)?;
        if !holds(&read.value) {
            self.findings.add(&read.span, format!("`{key}` must be {condition}"));
            return None;
        }
        Some(read)
    }

    /// A whole number of at least 1 that may be left out.
    pub(crate) fn count(&self, key: &'static str) -> Option<usize> {
        self.read_if::<usize>(key, |count| *count > 0, "at least 1").map(|count| count.value)
    }

    /// The value of a key that may not be left out.
    pub(crate) fn need<T: FromToml>(&self, key: &'static str) -> Option<At<T>> {
        if !self.entries.contains_key(key) {
            self.asked.borrow_mut().push(key);
            self.findings.hint(&self.span, format!("{} needs `{key}`", self.what), format!("`{key}` is {}", T::what()));
            return None;
        }
        self.read(key)
    }

    /// One of several words.
    pub(crate) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let word: At<String> = self.read(key)?;
        let chosen = choices.iter().find(|(name, _)| *name == word.value).map(|(_, chosen)| *chosen);
        if chosen.is_none() {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            self.findings.suggest(&word.span, format!("`{key}` cannot be `{}`", word.value), &word.value, &names);
        }
        chosen
    }

    /// A table in this one.
    pub(crate) fn table(&self, key: &'static str) -> Option<Table<'t>> {
        let value = self.value(key)?;
        let table = value.as_table(format!("`{key}`"));
        if table.is_none() {
            value.report("a table");
        }
        table
    }

    /// Whether a key has a table for its value.
    pub(crate) fn is_table(&self, key: &'static str) -> bool {
        self.value(key).is_some_and(|value| matches!(value.inner, DeValue::Table(_)))
    }

    /// The value of a key, if it is text.
    pub(crate) fn text(&self, key: &'static str) -> Option<&'t str> {
        self.value(key)?.as_str()
    }

    /// A list of tables.
    pub(crate) fn tables(&self, key: &'static str) -> Vec<Table<'t>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let items = value.items();
        let tables: Vec<_> = items.iter().flatten().filter_map(|item| item.as_table(format!("`{key}`"))).collect();
        if items.is_none_or(|items| items.len() != tables.len()) {
            value.report("a list of tables");
        }
        tables
    }

    /// Where a key stands.
    pub(crate) fn key_span(&self, key: &str) -> Span {
        self.entries.get_key_value(key).map_or_else(|| self.span.clone(), |(key, _)| key.span())
    }

    /// Whether a key is there; it counts as one that exists.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// Reports keys that nobody asked for.
    pub(crate) fn done(&self) {
        let asked = self.asked.borrow();
        for key in self.entries.keys().filter(|key| !asked.contains(&&**key.get_ref())) {
            self.findings.suggest(&key.span(), format!("`{}` is no key of {}", key.get_ref(), self.what), key.get_ref(), &asked);
        }
    }
}

impl<'t> Value<'t> {
    fn read_or_report<T: FromToml>(&self) -> Option<At<T>> {
        match T::read(self) {
            Ok(value) => Some(At { value, span: self.span.clone() }),
            Err(Wrong::Kind) => {
                self.report(&T::what());
                None
            }
            Err(Wrong::Reported) => None,
        }
    }

    fn report(&self, expected: &str) {
        let found = match self.inner {
            DeValue::String(text) => format!("the text {text:?}"),
            DeValue::Integer(number) => format!("the number {number}"),
            DeValue::Float(number) => format!("the number {number}"),
            DeValue::Boolean(flag) => flag.to_string(),
            DeValue::Datetime(_) => "a date".to_owned(),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        };
        self.findings.add(&self.span, format!("`{}` must be {expected}, it is {found}", self.key));
    }

    fn part(&self, value: &'t Spanned<DeValue<'t>>) -> Value<'t> {
        Value { key: self.key.clone(), inner: value.get_ref(), span: value.span(), findings: self.findings }
    }

    fn items(&self) -> Option<Vec<Value<'t>>> {
        match self.inner {
            DeValue::Array(items) => Some(items.iter().map(|item| self.part(item)).collect()),
            _ => None,
        }
    }

    /// The value as a table of keys.
    pub(crate) fn as_table(&self, what: String) -> Option<Table<'t>> {
        match self.inner {
            DeValue::Table(entries) => Some(Table::new(entries, what, self.span.clone(), self.findings)),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&'t str> {
        self.inner.as_str()
    }
}

impl FromToml for String {
    fn what() -> String {
        "text".to_owned()
    }

    fn read(value: &Value<'_>) -> Result<Self, Wrong> {
        value.as_str().map(str::to_owned).ok_or(Wrong::Kind)
    }
}

impl FromToml for bool {
    fn what() -> String {
        "true or false".to_owned()
    }

    fn read(value: &Value<'_>) -> Result<Self, Wrong> {
        value.inner.as_bool().ok_or(Wrong::Kind)
    }
}

impl FromToml for u64 {
    fn what() -> String {
        "a whole number of 0 or more".to_owned()
    }

    fn read(value: &Value<'_>) -> Result<Self, Wrong> {
        value.inner.as_integer().and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok()).ok_or(Wrong::Kind)
    }
}

impl FromToml for usize {
    fn what() -> String {
        u64::what()
    }

    fn read(value: &Value<'_>) -> Result<Self, Wrong> {
        usize::try_from(u64::read(value)?).map_err(|_| Wrong::Kind)
    }
}

impl FromToml for f64 {
    fn what() -> String {
        "a number".to_owned()
    }

    fn read(value: &Value<'_>) -> Result<Self, Wrong> {
        let number = match value.inner {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number as f64),
            _ => None,
        };
        number.filter(|number: &f64| number.is_finite()).ok_or(Wrong::Kind)
    }
}

impl FromToml for Duration {
    fn what() -> String {
        "a time such as \"5 ms\"".to_owned()
    }

    fn read(value: &Value<'_>) -> Result<Self, Wrong> {
        value.as_str().and_then(units::duration).ok_or(Wrong::Kind)
    }
}

/// A size in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size(pub(crate) u64);

impl FromToml for Size {
    fn what() -> String {
        "a size such as \"64 MiB\"".to_owned()
    }

    fn read(value: &Value<'_>) -> Result<Self, Wrong> {
        value.as_str().and_then(units::bytes).map(Size).ok_or(Wrong::Kind)
    }
}

impl<T: FromToml> FromToml for At<T> {
    fn what() -> String {
        T::what()
    }

    fn read(value: &Value<'_>) -> Result<Self, Wrong> {
        Ok(At { value: T::read(value)?, span: value.span.clone() })
    }
}

/// A list, or one alone.
impl<T: FromToml> FromToml for Vec<T> {
    fn what() -> String {
        format!("{}, or a list of it", T::what())
    }

    fn read(value: &Value<'_>) -> Result<Self, Wrong> {
        let Some(items) = value.items() else { return Ok(vec![T::read(value)?]) };
        let read: Vec<_> = items.iter().filter_map(|item| item.read_or_report::<T>()).map(|item| item.value).collect();
        if read.len() == items.len() { Ok(read) } else { Err(Wrong::Reported) }
    }
}

/// Text, a number, a flag, or a list of these.
impl FromToml for Json {
    fn what() -> String {
        "text, a number, a flag or a list of these".to_owned()
    }

    fn read(value: &Value<'_>) -> Result<Self, Wrong> {
        match value.inner {
            DeValue::String(text) => Ok(Json::from(text.as_ref())),
            DeValue::Boolean(flag) => Ok(Json::from(*flag)),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).map(Json::from).map_err(|_| Wrong::Kind),
            DeValue::Float(_) => f64::read(value).map(Json::from),
            DeValue::Array(_) => value.items().unwrap_or_default().iter().map(Json::read).collect(),
            DeValue::Datetime(_) | DeValue::Table(_) => Err(Wrong::Kind),
        }
    }
}

/// A table from words to values, in the order of the words.
#[derive(Clone, Debug)]
pub(crate) struct Pairs<T>(pub(crate) Vec<(At<String>, T)>);

impl<T: FromToml> FromToml for Pairs<T> {
    fn what() -> String {
        format!("a table whose values are {}", T::what())
    }

    fn read(value: &Value<'_>) -> Result<Self, Wrong> {
        let DeValue::Table(entries) = value.inner else { return Err(Wrong::Kind) };
        let pair = |(key, item): (&'_ Spanned<toml::de::DeString<'_>>, &Spanned<DeValue<'_>>)| {
            let name = format!("{}.{}", value.key, key.get_ref());
            let item = Value { key: name, inner: item.get_ref(), span: item.span(), findings: value.findings };
            Some((At { value: key.get_ref().to_string(), span: key.span() }, item.read_or_report::<T>()?.value))
        };
        let pairs: Vec<_> = entries.iter().filter_map(pair).collect();
        if pairs.len() == entries.len() { Ok(Pairs(pairs)) } else { Err(Wrong::Reported) }
    }
}
