//! Operators from their schemas' attributes, for those whose fields are their own affair.

use super::OpError;
use millstream_graph::{Attribute, Attributes, BuildCx, Op, OpDef};

/// Attributes of an operator that is being made.
#[derive(Default)]
pub(crate) struct Build(Attributes);

impl Build {
    pub(crate) fn int(mut self, name: &str, value: usize) -> Build {
        self.0.insert(name.into(), Attribute::Int(i64::try_from(value).unwrap_or(i64::MAX)));
        self
    }

    pub(crate) fn ints(mut self, name: &str, values: &[usize]) -> Build {
        self.0.insert(name.into(), Attribute::Ints(values.iter().map(|&v| i64::try_from(v).unwrap_or(i64::MAX)).collect()));
        self
    }

    pub(crate) fn float(mut self, name: &str, value: f32) -> Build {
        self.0.insert(name.into(), Attribute::Float(value));
        self
    }

    /// The newest version of the operator with these attributes.
    pub(crate) fn make(&self, name: &'static str, def: &OpDef) -> Result<Box<dyn Op>, OpError> {
        let version = def.since.last().copied().unwrap_or(1);
        let cx = BuildCx { version, attributes: &self.0, inputs: def.inputs.min, outputs: def.outputs.min, subgraphs: &[] };
        def.instantiate(version, cx).map_err(|error| OpError::Parameter { op: name, error })
    }
}
