//! Control flow, laid flat.
//!
//! `If` with a known condition becomes the steps of the chosen branch. With an unknown one it becomes the steps of both
//! branches, each under a guard: the executor skips those whose condition does not hold. Since the branches' steps follow
//! one another, their buffers share memory, and the plan takes what the larger branch takes.

use super::{ProtoGuard, ValKind, trace::Tracer};
use crate::program::NodeKey;
use alloc::{format, vec::Vec};
use millstream_engine::RunError;
use millstream_graph::{Control, Fact, InferError, Node};
use millstream_tensor::Bool;

impl Tracer<'_> {
    /// Traces a node that runs subgraphs.
    pub(super) fn control(&mut self, key: NodeKey, node: &Node, control: Control, inputs: &[Option<Option<usize>>]) -> Result<(), RunError> {
        let unsupported = |what: &str| RunError::DataDependent(format!("{} ({what})", node.path).into());
        if control != Control::If {
            return Err(unsupported("loops are not supported by this backend"));
        }
        let Some(Some(Some(condition))) = inputs.first().copied() else { return Ok(()) };
        let fact = &self.out.vals[condition].fact;
        let Some(weight) = fact.as_const() else { return self.both_branches(key, node, condition) };
        let tensor = weight.to_tensor()?;
        let [flag] = tensor.as_slice::<Bool>()? else { return Err(unsupported("the condition is no scalar")) };
        let outputs = self.branch(key, node, if bool::from(*flag) { 0 } else { 1 })?;
        let whole = outputs.iter().zip(&node.outputs).all(|(val, out)| val.is_some() || out.is_none());
        for (val, out) in outputs.into_iter().zip(&node.outputs) {
            if let (Some(val), Some(out)) = (val, out) {
                self.table[key.graph].insert(*out, val);
            }
        }
        if whole {
            self.done.insert(key);
        }
        Ok(())
    }

    /// Traces the body of a branch and gives its outputs, as far as they exist in this segment.
    fn branch(&mut self, key: NodeKey, node: &Node, branch: usize) -> Result<Vec<Option<usize>>, RunError> {
        let program = self.program;
        let number = program.bodies[key.graph].children.get(&key.node).and_then(|c| c.get(branch)).copied();
        let number = number.ok_or_else(|| RunError::DataDependent(format!("{} has no branch {branch}", node.path).into()))?;
        let inner = &program.bodies[number].graph;
        let captures = &node.subgraphs[branch].captures;
        let formal = &inner.inputs()[inner.inputs().len() - captures.len()..];
        for (&inside, &outside) in formal.iter().zip(captures) {
            if let Some(val) = self.lookup(key.graph, outside) {
                self.table[number].insert(inside, val);
            }
        }
        self.body(number)?;
        Ok(inner.outputs().iter().map(|&v| self.lookup(number, v)).collect())
    }

    /// Traces both branches under guards. If one cannot be told from facts alone, or their outputs differ in type or dims,
    /// nothing is traced: the node waits until its condition has been computed.
    fn both_branches(&mut self, key: NodeKey, node: &Node, condition: usize) -> Result<(), RunError> {
        let before = (self.out.vals.len(), self.out.steps.len(), self.out.guards.len());
        let saved = (self.table.clone(), self.done.clone(), self.reordered.clone(), self.blocked.take(), self.guard);
        let planned = matches!(self.out.vals[condition].kind, ValKind::Input(_) | ValKind::Planned | ValKind::Alias(_));
        let traced = if planned { self.guarded_branches(key, node, condition)? } else { None };
        self.reordered = saved.2;
        self.guard = saved.4;
        if let Some(outputs) = traced.filter(|_| self.blocked.is_none()) {
            self.blocked = saved.3;
            for (val, out) in outputs.into_iter().zip(&node.outputs) {
                if let Some(out) = out {
                    self.table[key.graph].insert(*out, val);
                }
            }
            self.done.insert(key);
            return Ok(());
        }
        self.out.vals.truncate(before.0);
        self.origins.truncate(before.0);
        self.out.steps.truncate(before.1);
        self.out.guards.truncate(before.2);
        (self.table, self.done, self.blocked) = (saved.0, saved.1, saved.3);
        let origins = self.origins[condition].clone();
        self.out.wanted_inputs.extend(origins);
        let waits = self.out.shape_error(node, &[Some(condition)], InferError::NeedsValue(0));
        self.blocked.get_or_insert(waits);
        Ok(())
    }

    fn guarded_branches(&mut self, key: NodeKey, node: &Node, condition: usize) -> Result<Option<Vec<usize>>, RunError> {
        let (parent, reordered) = (self.guard, self.reordered.clone());
        let mut results: Vec<usize> = Vec::new();
        for branch in 0..2 {
            self.guard = Some(self.out.guards.len());
            self.out.guards.push(ProtoGuard { condition, wanted: branch == 0, parent });
            self.reordered = reordered.clone();
            let outputs: Option<Vec<usize>> = self.branch(key, node, branch)?.into_iter().collect();
            let Some(outputs) = outputs.filter(|o| self.blocked.is_none() && o.len() == node.outputs.len()) else { return Ok(None) };
            for (i, val) in outputs.into_iter().enumerate() {
                let fact = Fact { known: None, ..self.out.vals[val].fact.clone() };
                if self.out.vals[val].layout.is_none() || matches!(self.out.vals[val].kind, ValKind::Slot | ValKind::PackedOnly) {
                    return Ok(None);
                }
                if branch == 0 {
                    let merged = self.add_val(fact, ValKind::Planned);
                    self.origins[merged] = self.origins[val].union(&self.origins[condition]).copied().collect();
                    results.push(merged);
                } else {
                    let first = &self.out.vals[results[i]].fact;
                    if first.dtype != fact.dtype || first.dims != fact.dims {
                        return Ok(None);
                    }
                    let more = self.origins[val].clone();
                    self.origins[results[i]].extend(more);
                }
                self.copy_into(val, results[i]);
            }
        }
        Ok(Some(results))
    }
}
