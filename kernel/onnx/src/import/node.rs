//! Nodes: inputs, subgraphs, and the operator out of the registry.

use super::Importer;
use crate::{
    LoadError, Reason,
    messages::{AttributeProto, GraphProto, NodeProto, kind},
    wire::malformed,
};
use alloc::{format, string::String, sync::Arc, vec::Vec};
use millstream_graph::{Attributes, BuildCx, BuildError, Node, Op, OpDef, Subgraph, ValueId};

impl<'a> Importer<'a, '_> {
    /// The node's path: its name, or its operator and its position, below the frame's.
    pub(super) fn node_path(&self, node: &NodeProto<'a>, index: usize) -> String {
        if node.name.is_empty() { self.frame().join(&format!("{}_{index}", node.op)) } else { self.frame().join(node.name) }
    }

    /// Imports a node whose outputs are declared.
    pub(super) fn node(&mut self, node: &NodeProto<'a>, index: usize) -> Result<(), LoadError> {
        let path = self.node_path(node, index);
        let inputs = self.inputs(node, &path)?;
        let outputs = self.outputs(node)?;
        let attributes = self.attributes(node)?;
        if let Some(function) = self.called(node) {
            return self.inline(&function, node, path, &inputs, &outputs, attributes);
        }
        let def = self.registry.find(node.domain, node.op);
        let before = self.problems.len();
        let mut values = Attributes::default();
        let mut bodies: Vec<(&str, Subgraph)> = Vec::new();
        for attribute in &attributes {
            if attribute.kind == kind::GRAPH && attribute.reference.is_empty() {
                let body = self.subgraph(attribute, &path)?;
                bodies.push((attribute.name, body));
                continue;
            }
            let value = self.attribute(attribute);
            if let Some(value) = self.accept(value, &path, node.op, node.domain)? {
                values.insert(attribute.name.into(), value);
            }
        }
        match self.operator(def, node, &values, bodies, inputs.len()) {
            // With an attribute left out the operator would not be the model's.
            Ok((op, subgraphs)) if self.problems.len() == before => {
                let op: Arc<dyn Op> = op;
                self.graph().graph.add_node(Node { path: path.into(), op_name: node.op.into(), op, inputs, outputs, subgraphs });
            }
            Ok(_) => {}
            Err(reason) => self.problem(&path, node.op, node.domain, reason),
        }
        Ok(())
    }

    fn inputs(&mut self, node: &NodeProto<'a>, path: &str) -> Result<Vec<Option<ValueId>>, LoadError> {
        // Absent inputs at the end say nothing.
        let used = node.inputs.iter().rposition(|n| !n.is_empty()).map_or(0, |i| i + 1);
        let mut inputs = Vec::with_capacity(used);
        for &name in &node.inputs[..used] {
            inputs.push(match name {
                "" => None,
                _ => self.resolve_here(name)?.ok_or_else(|| LoadError::Undefined { path: path.into(), name: name.into() })?,
            });
        }
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        Ok(inputs)
    }

    fn outputs(&mut self, node: &NodeProto<'a>) -> Result<Vec<Option<ValueId>>, LoadError> {
        node.outputs.iter().map(|&name| if name.is_empty() { Ok(None) } else { Ok(self.resolve_here(name)?.flatten()) }).collect()
    }

    fn subgraph(&mut self, attribute: &AttributeProto<'a>, path: &str) -> Result<Subgraph, LoadError> {
        let mut body = None;
        for field in attribute.body {
            let field = field?;
            if field.number == 6 {
                body = Some(field.message()?);
            }
        }
        let Some(body) = body else { return malformed(attribute.body.offset(), "a graph attribute without a graph") };
        let proto = GraphProto::read(body, self.limits)?;
        self.enter_subgraph(proto.name, format!("{path}/{}", attribute.name))?;
        self.body(proto, false)?;
        self.frames.pop();
        let grown = self.graphs.pop().unwrap_or_else(|| super::Growing::new(""));
        Ok(Subgraph { graph: grown.graph, captures: grown.captures })
    }

    /// The node's operator with its subgraphs in the order that the operator wants.
    fn operator(
        &self,
        def: Option<&'static OpDef>,
        node: &NodeProto<'a>,
        values: &Attributes,
        mut bodies: Vec<(&str, Subgraph)>,
        inputs: usize,
    ) -> Result<(Arc<dyn Op>, Vec<Subgraph>), Reason> {
        let Some(def) = def else {
            let domain = if node.domain.is_empty() { "ai.onnx" } else { node.domain };
            return Err(BuildError::UnknownOperator { domain: domain.into(), name: node.op.into() }.into());
        };
        let opset = self.opset(node.domain)?;
        let mut subgraphs = Vec::with_capacity(def.subgraphs.len());
        for &name in def.subgraphs {
            let at = bodies.iter().position(|(n, _)| *n == name).ok_or(BuildError::MissingAttribute(name))?;
            subgraphs.push(bodies.swap_remove(at).1);
        }
        if let Some((name, _)) = bodies.first() {
            return Err(BuildError::UnknownAttribute((*name).into()).into());
        }
        let cx = BuildCx { version: opset, attributes: values, inputs, outputs: node.outputs.len(), subgraphs: &subgraphs };
        Ok((def.instantiate(opset, cx)?.into(), subgraphs))
    }

    /// The version of the domain's operators in this body.
    fn opset(&self, domain: &str) -> Result<u32, Reason> {
        let own = self.call().map(|call| &call.opsets).filter(|o| !o.is_empty());
        let found = own.into_iter().flatten().chain(&self.opsets).find(|o| o.domain == domain);
        let found = found.ok_or_else(|| Reason::NoOpset(domain.into()))?;
        u32::try_from(found.version).map_err(|_| Reason::Opset(found.version))
    }
}
