//! Calls of the model's own functions, which are inlined.
//!
//! The body's nodes join the caller's graph under the call's path. Inputs of the function are the caller's values, outputs
//! the values that the call names; an output that the body merely passes through becomes an `Identity`.

use super::{Importer, scope::Call};
use crate::{
    LoadError, Reason,
    messages::{AttributeProto, FunctionProto, NodeProto, kind},
};
use alloc::{string::String, sync::Arc, vec::Vec};
use hashbrown::HashMap;
use millstream_graph::{Attributes, BuildCx, BuildError, Node, Op, ValueId};

impl<'a> Importer<'a, '_> {
    /// The function that the node calls, if it calls one.
    pub(super) fn called(&self, node: &NodeProto<'a>) -> Option<Arc<FunctionProto<'a>>> {
        self.functions.get(&(node.domain, node.op, node.overload)).cloned()
    }

    /// Inlines a call.
    pub(super) fn inline(
        &mut self,
        function: &FunctionProto<'a>,
        node: &NodeProto<'a>,
        path: String,
        inputs: &[Option<ValueId>],
        outputs: &[Option<ValueId>],
        mut attributes: Vec<AttributeProto<'a>>,
    ) -> Result<(), LoadError> {
        if inputs.len() > function.inputs.len() || outputs.len() > function.outputs.len() {
            let inputs_wrong = inputs.len() > function.inputs.len();
            let (what, found, max) =
                if inputs_wrong { ("inputs", inputs.len(), function.inputs.len()) } else { ("outputs", outputs.len(), function.outputs.len()) };
            self.problem(&path, node.op, node.domain, BuildError::Arity { what, found, min: 0, max }.into());
            return Ok(());
        }
        for graph in attributes.iter().filter(|a| a.kind == kind::GRAPH) {
            self.problem(&path, node.op, node.domain, Reason::AttributeKind { name: graph.name.into(), kind: "a graph given to a function" });
        }
        for default in &function.defaults {
            if attributes.iter().all(|a| a.name != default.name) {
                attributes.push(*default);
            }
        }
        self.enter_function(Call { opsets: function.opsets.clone(), attributes }, path.clone())?;
        for (i, &name) in function.inputs.iter().enumerate() {
            self.bind_input(name, inputs.get(i).copied().flatten())?;
        }
        let mut passed = Vec::new();
        for (&name, value) in function.outputs.iter().zip(outputs) {
            let Some(value) = *value else { continue };
            if self.is_bound(name) {
                passed.push((name, value));
            } else {
                self.bind_output(name, value)?;
            }
        }
        self.nodes(&function.nodes, &HashMap::new())?;
        for (&name, _) in function.outputs.iter().zip(outputs).filter(|(_, v)| v.is_some()) {
            if self.is_promised(name) {
                return Err(LoadError::Undefined { path, name: name.into() });
            }
        }
        for (name, value) in passed {
            let source = self.resolve_here(name)?.flatten();
            self.identity(&path, source, value)?;
        }
        self.frames.pop();
        Ok(())
    }

    fn identity(&mut self, path: &str, from: Option<ValueId>, to: ValueId) -> Result<(), LoadError> {
        let Some(from) = from else { return Err(LoadError::Undefined { path: path.into(), name: "an absent input".into() }) };
        let cx = BuildCx { version: 0, attributes: &Attributes::default(), inputs: 1, outputs: 1, subgraphs: &[] };
        let unknown = || BuildError::UnknownOperator { domain: "ai.onnx".into(), name: "Identity".into() };
        let built = self.registry.find("", "Identity").ok_or_else(unknown).and_then(|def| def.instantiate(u32::MAX, cx));
        match built {
            Ok(op) => {
                let (path, op): (Arc<str>, Arc<dyn Op>) = (self.frame().join("Identity").into(), op.into());
                let node = Node { path, op_name: "Identity".into(), op, inputs: [Some(from)].into(), outputs: [Some(to)].into(), subgraphs: Vec::new() };
                self.graph().graph.add_node(node);
            }
            Err(e) => self.problem(path, "Identity", "", e.into()),
        }
        Ok(())
    }
}
