//! Attributes of a node, as the model file gives them.

use crate::BuildError;
use alloc::{string::String, vec::Vec};
use millstream_tensor::Tensor;

/// One attribute's value. Subgraphs are not attributes here: they are [`crate::Subgraph`]s of the node.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Attribute {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f32),
    /// Text (bytes that need not be UTF-8 are refused on import).
    String(String),
    /// A tensor.
    Tensor(Tensor),
    /// Integers.
    Ints(Vec<i64>),
    /// Floats.
    Floats(Vec<f32>),
    /// Texts.
    Strings(Vec<String>),
    /// Tensors.
    Tensors(Vec<Tensor>),
}

/// A node's attributes by name.
#[derive(Debug, Clone, Default)]
pub struct Attributes(Vec<(String, Attribute)>);

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident, $variant:ident, $t:ty, $what:literal;)*) => { $(
        $(#[$doc])*
        pub fn $name(&self, name: &str) -> Result<Option<&$t>, BuildError> {
            match self.find(name) {
                None => Ok(None),
                Some(Attribute::$variant(v)) => Ok(Some(v)),
                Some(_) => Err(BuildError::AttributeKind { name: name.into(), wanted: $what }),
            }
        }
    )* };
}

impl Attributes {
    /// Adds an attribute; a later one of the same name wins.
    pub fn insert(&mut self, name: String, value: Attribute) {
        self.0.retain(|(n, _)| *n != name);
        self.0.push((name, value));
    }

    /// The attribute of this name.
    pub fn find(&self, name: &str) -> Option<&Attribute> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, a)| a)
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(n, _)| n.as_str())
    }

    /// An integer, or `default` where the attribute is absent.
    pub fn int_or(&self, name: &str, default: i64) -> Result<i64, BuildError> {
        Ok(self.int(name)?.copied().unwrap_or(default))
    }

    /// A flag (0 or 1), or `default` where the attribute is absent.
    pub fn flag_or(&self, name: &str, default: bool) -> Result<bool, BuildError> {
        Ok(self.int(name)?.map_or(default, |&v| v != 0))
    }

    /// A float, or `default` where the attribute is absent.
    pub fn float_or(&self, name: &str, default: f32) -> Result<f32, BuildError> {
        Ok(self.float(name)?.copied().unwrap_or(default))
    }

    /// A text, or `default` where the attribute is absent.
    pub fn string_or<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str, BuildError> {
        Ok(self.string(name)?.map_or(default, String::as_str))
    }

    getters! {
        /// An integer.
        int, Int, i64, "an integer";
        /// A float.
        float, Float, f32, "a float";
        /// A text.
        string, String, String, "a string";
        /// A tensor.
        tensor, Tensor, Tensor, "a tensor";
        /// Integers.
        ints, Ints, Vec<i64>, "a list of integers";
        /// Floats.
        floats, Floats, Vec<f32>, "a list of floats";
        /// Texts.
        strings, Strings, Vec<String>, "a list of strings";
    }
}

impl FromIterator<(String, Attribute)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (String, Attribute)>>(iter: I) -> Attributes {
        let mut out = Attributes::default();
        for (name, value) in iter {
            out.insert(name, value);
        }
        out
    }
}
