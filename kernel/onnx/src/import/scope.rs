//! Names: which value each stands for, in which graph, and how outer values come into inner graphs.

use super::Importer;
use crate::{
    LoadError,
    messages::{AttributeProto, Opset},
};
use alloc::{format, string::String, vec::Vec};
use hashbrown::HashMap;
use millstream_graph::{Declared, Graph, ValueId};
use millstream_tensor::Weight;

/// A graph that is being built, and what it reads of the one around it.
pub(super) struct Growing {
    pub(super) graph: Graph,
    pub(super) captures: Vec<ValueId>,
}

impl Growing {
    pub(super) fn new(name: &str) -> Growing {
        Growing { graph: Graph::new(name), captures: Vec::new() }
    }
}

/// What a name stands for.
#[derive(Clone, Copy)]
struct Bound {
    /// `None`: an optional input of a function that the call leaves out.
    value: Option<ValueId>,
    /// False for outputs of a function until its body defines them.
    defined: bool,
}

/// The body of a graph or of a called function, while it is imported.
pub(super) struct Frame<'a> {
    names: HashMap<&'a str, Bound>,
    /// The graph that its nodes go to; bodies of functions go to their callers'.
    graph: usize,
    /// The frame whose names it sees.
    parent: Option<usize>,
    /// The called function's own opsets and the attributes of the call.
    pub(super) call: Option<Call<'a>>,
    /// The path of its nodes' names, empty for the main graph.
    pub(super) path: String,
}

/// What a function's body reads of its call.
pub(super) struct Call<'a> {
    pub(super) opsets: Vec<Opset<'a>>,
    pub(super) attributes: Vec<AttributeProto<'a>>,
}

impl<'a> Frame<'a> {
    pub(super) fn main() -> Frame<'a> {
        Frame { names: HashMap::new(), graph: 0, parent: None, call: None, path: String::new() }
    }

    /// `name` below this frame's path.
    pub(super) fn join(&self, name: &str) -> String {
        if self.path.is_empty() { name.into() } else { format!("{}/{name}", self.path) }
    }
}

impl<'a> Importer<'a, '_> {
    pub(super) fn frame(&self) -> &Frame<'a> {
        self.frames.last().expect("the main frame is there from the first to the last node")
    }

    pub(super) fn graph(&mut self) -> &mut Growing {
        self.graphs.last_mut().expect("the main graph is there from the first to the last node")
    }

    /// Enters the body of a subgraph: a graph of its own, which sees the names of the innermost frame.
    pub(super) fn enter_subgraph(&mut self, name: &str, path: String) -> Result<(), LoadError> {
        self.check_depth()?;
        self.graphs.push(Growing::new(name));
        self.frames.push(Frame { names: HashMap::new(), graph: self.graphs.len() - 1, parent: Some(self.frames.len() - 1), call: None, path });
        Ok(())
    }

    /// Enters the body of a function: in the same graph, with names of its own.
    pub(super) fn enter_function(&mut self, call: Call<'a>, path: String) -> Result<(), LoadError> {
        self.check_depth()?;
        self.frames.push(Frame { names: HashMap::new(), graph: self.graphs.len() - 1, parent: None, call: Some(call), path });
        Ok(())
    }

    fn check_depth(&self) -> Result<(), LoadError> {
        if self.frames.len() > self.limits.depth {
            return Err(LoadError::Limit { what: "levels of subgraphs and functions", limit: self.limits.depth as u64 });
        }
        Ok(())
    }

    fn count_value(&mut self) -> Result<(), LoadError> {
        if self.values == self.limits.values {
            return Err(LoadError::Limit { what: "values", limit: self.limits.values as u64 });
        }
        self.values += 1;
        Ok(())
    }

    fn bind(&mut self, name: &'a str, bound: Bound) -> Result<(), LoadError> {
        let frame = self.frames.last_mut().expect("the main frame is there from the first to the last node");
        if frame.names.insert(name, bound).is_some() {
            let scope = if frame.path.is_empty() { "the main graph".into() } else { frame.path.clone() };
            return Err(LoadError::Duplicate { name: name.into(), scope });
        }
        Ok(())
    }

    /// An input of the graph.
    pub(super) fn declare_input(&mut self, name: &'a str, declared: Declared) -> Result<(), LoadError> {
        self.count_value()?;
        let id = self.graph().graph.add_input(name, declared);
        self.bind(name, Bound { value: Some(id), defined: true })
    }

    /// A value that a function's call gives; `None` if it gives none.
    pub(super) fn bind_input(&mut self, name: &'a str, value: Option<ValueId>) -> Result<(), LoadError> {
        self.bind(name, Bound { value, defined: true })
    }

    /// A value of the caller that a function's body has to define.
    pub(super) fn bind_output(&mut self, name: &'a str, value: ValueId) -> Result<(), LoadError> {
        self.bind(name, Bound { value: Some(value), defined: false })
    }

    /// The value's name in its graph: a function's values stand below the call's path, for it may be called again.
    fn value_name(&self, name: &str) -> String {
        if self.frame().call.is_some() { self.frame().join(name) } else { name.into() }
    }

    /// If the name waits for its definition: defines it.
    fn promised(&mut self, name: &str) -> Option<ValueId> {
        let bound = self.frames.last_mut()?.names.get_mut(name).filter(|b| !b.defined)?;
        bound.defined = true;
        bound.value
    }

    /// A value that a node will produce.
    pub(super) fn declare(&mut self, name: &'a str, declared: Declared) -> Result<(), LoadError> {
        if self.promised(name).is_some() {
            return Ok(());
        }
        self.count_value()?;
        let full = self.value_name(name);
        let id = self.graph().graph.add_placeholder(&full, declared);
        self.bind(name, Bound { value: Some(id), defined: true })
    }

    /// A constant.
    pub(super) fn declare_constant(&mut self, name: &'a str, weight: Weight) -> Result<(), LoadError> {
        if let Some(id) = self.promised(name) {
            self.graph().graph.set_constant(id, weight);
            return Ok(());
        }
        self.count_value()?;
        let full = self.value_name(name);
        let id = self.graph().graph.add_constant(&full, weight);
        self.bind(name, Bound { value: Some(id), defined: true })
    }

    /// True if the body defines the name, or will.
    pub(super) fn is_bound(&self, name: &str) -> bool {
        self.frame().names.contains_key(name)
    }

    /// True if the name is an output of the function that its body has not defined.
    pub(super) fn is_promised(&self, name: &str) -> bool {
        self.frame().names.get(name).is_some_and(|b| !b.defined)
    }

    /// The value of a name in the innermost frame: `None` if nothing defines it, `Some(None)` if the call left it out.
    pub(super) fn resolve_here(&mut self, name: &'a str) -> Result<Option<Option<ValueId>>, LoadError> {
        self.resolve(self.frames.len() - 1, name)
    }

    fn resolve(&mut self, frame: usize, name: &'a str) -> Result<Option<Option<ValueId>>, LoadError> {
        if let Some(bound) = self.frames[frame].names.get(name) {
            return Ok(Some(bound.value));
        }
        let Some(parent) = self.frames[frame].parent else { return Ok(None) };
        let Some(found) = self.resolve(parent, name)? else { return Ok(None) };
        let value = match found {
            None => None,
            Some(outer) => {
                self.count_value()?;
                let value = self.graphs[self.frames[parent].graph].graph.value(outer).clone();
                let inner = &mut self.graphs[self.frames[frame].graph];
                Some(match value.constant() {
                    Some(weight) => inner.graph.add_constant(&value.name, weight.clone()),
                    None => {
                        inner.captures.push(outer);
                        inner.graph.add_input(&value.name, value.declared)
                    }
                })
            }
        };
        self.frames[frame].names.insert(name, Bound { value, defined: true });
        Ok(Some(value))
    }

    /// The attributes of the call around the innermost frame, if it lies in a function's body.
    pub(super) fn call(&self) -> Option<&Call<'a>> {
        let mut at = self.frames.len() - 1;
        loop {
            let frame = &self.frames[at];
            match (&frame.call, frame.parent) {
                (Some(call), _) => return Some(call),
                (None, Some(parent)) => at = parent,
                (None, None) => return None,
            }
        }
    }
}
