//! Which operators there are, and how a node becomes one. Open: users add their own.

use crate::{Attributes, BuildError, Op, Subgraph};
use alloc::{boxed::Box, collections::BTreeMap};

/// How many inputs or outputs an operator takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arity {
    /// The fewest.
    pub min: usize,
    /// The most; `usize::MAX` for variadic operators.
    pub max: usize,
}

impl Arity {
    /// Exactly `n`.
    pub const fn exactly(n: usize) -> Arity {
        Arity { min: n, max: n }
    }

    /// `min` to `max`.
    pub const fn range(min: usize, max: usize) -> Arity {
        Arity { min, max }
    }

    /// `min` or more.
    pub const fn at_least(min: usize) -> Arity {
        Arity { min, max: usize::MAX }
    }

    /// An error naming `what` unless `n` fits.
    pub fn check(self, what: &'static str, n: usize) -> Result<(), BuildError> {
        if n < self.min || n > self.max {
            return Err(BuildError::Arity { what, found: n, min: self.min, max: self.max });
        }
        Ok(())
    }
}

/// What a node says of itself when it becomes an operator.
#[derive(Debug, Clone, Copy)]
pub struct BuildCx<'a> {
    /// The newest version of the operator that the model's opset includes.
    pub version: u32,
    /// The attributes.
    pub attributes: &'a Attributes,
    /// How many inputs the node names (absent optional ones in between included).
    pub inputs: usize,
    /// How many outputs the node names.
    pub outputs: usize,
    /// The subgraphs, in the order of their attributes' names in [`OpDef::subgraphs`].
    pub subgraphs: &'a [Subgraph],
}

/// An operator's schema and constructor: the one thing that an operator's file exports.
#[derive(Debug, Clone, Copy)]
pub struct OpDef {
    /// The domain; empty for ONNX's default one.
    pub domain: &'static str,
    /// The operator's name.
    pub name: &'static str,
    /// The versions of ONNX's schema whose semantics `build` knows, ascending.
    pub since: &'static [u32],
    /// The inputs.
    pub inputs: Arity,
    /// The outputs.
    pub outputs: Arity,
    /// The attributes' names, without subgraphs.
    pub attributes: &'static [&'static str],
    /// The names of attributes that are subgraphs.
    pub subgraphs: &'static [&'static str],
    /// Element types that the kernels take, in words, for the page of supported operators.
    pub dtypes: &'static str,
    /// Attributes to operator. An attribute's value that no kernel handles is an error here, never a wrong result.
    pub build: fn(&BuildCx<'_>) -> Result<Box<dyn Op>, BuildError>,
}

impl OpDef {
    /// The schema version that a model of this opset means, if it is known.
    pub fn version_for(&self, opset: u32) -> Option<u32> {
        self.since.iter().copied().rfind(|&v| v <= opset)
    }

    /// Builds the operator after checking arity and the attributes' names.
    pub fn instantiate(&self, opset: u32, cx: BuildCx<'_>) -> Result<Box<dyn Op>, BuildError> {
        let version = self.version_for(opset).ok_or_else(|| BuildError::UnsupportedVersion { name: self.name.into(), opset, since: self.since.into() })?;
        self.inputs.check("inputs", cx.inputs)?;
        self.outputs.check("outputs", cx.outputs)?;
        if let Some(unknown) = cx.attributes.names().find(|n| !self.attributes.contains(n)) {
            return Err(BuildError::UnknownAttribute(unknown.into()));
        }
        (self.build)(&BuildCx { version, ..cx })
    }
}

/// Operators by domain and name.
#[derive(Debug, Clone, Default)]
pub struct Registry(BTreeMap<(&'static str, &'static str), &'static OpDef>);

impl Registry {
    /// A registry without operators.
    pub fn new() -> Registry {
        Registry::default()
    }

    /// Adds an operator, or replaces the one of the same domain and name.
    pub fn add(&mut self, def: &'static OpDef) -> &mut Registry {
        self.0.insert((def.domain, def.name), def);
        self
    }

    /// The operator of this domain (`""` and `"ai.onnx"` are the same) and name.
    pub fn find(&self, domain: &str, name: &str) -> Option<&'static OpDef> {
        let domain = if domain == "ai.onnx" { "" } else { domain };
        self.0.get(&(domain, name)).copied()
    }

    /// All operators, by domain and name.
    pub fn iter(&self) -> impl Iterator<Item = &'static OpDef> {
        self.0.values().copied()
    }
}
