//! `Constant` nodes, which become constants of the graph.

use super::Importer;
use crate::{
    LoadError, Reason,
    error::Fault,
    messages::{AttributeProto, NodeProto, kind},
    tensor::TensorProto,
    wire::malformed,
};
use millstream_graph::{Attribute, BuildError, Declared};
use millstream_tensor::{Tensor, TensorError, Weight};

impl<'a> Importer<'a, '_> {
    /// Declares a `Constant` node's output.
    pub(super) fn constant(&mut self, node: &NodeProto<'a>, index: usize) -> Result<(), LoadError> {
        let Some(&name) = node.outputs.first().filter(|n| !n.is_empty()) else { return Ok(()) };
        let attributes = self.attributes(node)?;
        let value = match attributes.iter().find(|a| a.name == "value" || a.name.starts_with("value_") || a.name == "sparse_value") {
            Some(attribute) => self.constant_value(attribute),
            None => Err(Reason::Build(BuildError::MissingAttribute("value")).into()),
        };
        let path = self.node_path(node, index);
        match self.accept(value, &path, node.op, node.domain)? {
            Some(weight) => self.declare_constant(name, weight),
            None => self.declare(name, Declared::default()),
        }
    }

    fn constant_value(&mut self, attribute: &AttributeProto<'a>) -> Result<Weight, Fault> {
        // A tensor stays where it is in the file.
        if attribute.kind == kind::TENSOR {
            for field in attribute.body {
                let field = field?;
                if field.number == 5 {
                    let proto = TensorProto::read(field.message()?, self.limits)?;
                    return self.weights.weight(&proto);
                }
            }
            return Ok(malformed(attribute.body.offset(), "a tensor attribute without a tensor")?);
        }
        let value = self.attribute(attribute)?;
        let tensor = match &value {
            Attribute::Int(v) => Tensor::scalar(*v),
            Attribute::Float(v) => Tensor::scalar(*v),
            Attribute::Ints(v) => Tensor::from_slice(&[v.len()], v),
            Attribute::Floats(v) => Tensor::from_slice(&[v.len()], v),
            Attribute::String(v) => Tensor::from_strings(&[], [v.clone()].into()),
            Attribute::Strings(v) => Tensor::from_strings(&[v.len()], v.clone()),
            _ => return Err(Reason::AttributeKind { name: attribute.name.into(), kind: "no constant" }.into()),
        };
        let error = |error: TensorError| LoadError::Tensor { name: attribute.name.into(), error };
        Ok(tensor.map_err(error)?.into())
    }
}
