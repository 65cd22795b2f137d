//! Messages to graph.
//!
//! ```text
//! load: read the model message; import the main graph; list of problems? unsupported; verify
//! body of a graph or function:
//!   1. declare every name that it defines: inputs, initializers and Constant nodes as constants, outputs of nodes
//!   2. import each node: resolve its inputs, import its subgraphs, build its operator; or inline the function it calls
//! ```
//! Names are looked up in the body, then in those around it; a value of an outer graph becomes an input of every graph
//! on the way ([`Subgraph::captures`](millstream_graph::Subgraph)), a constant of an outer graph a constant that shares
//! its memory. Bodies of functions see no names but their own. Nodes may stand in any order; a cycle fails verification.

mod attribute;
mod constant;
mod function;
mod node;
mod scope;

use crate::{
    ExternalData, Limits, LoadError, Problem, Reason, ValueKind,
    error::Fault,
    messages::{FunctionProto, GraphProto, ModelProto, NodeProto, Opset, TypeProto, ValueInfoProto},
    tensor::{Weights, element_type},
    wire::Reader,
};
use alloc::{string::String, sync::Arc, vec, vec::Vec};
use hashbrown::{HashMap, HashSet};
use millstream_graph::{Declared, Graph, Registry};
use millstream_tensor::WeightSource;
use scope::{Frame, Growing};

/// How to load a model.
#[derive(Clone, Copy, Default)]
pub struct LoadOptions<'o> {
    /// How much the file may ask for.
    pub limits: Limits,
    /// Access to the files beside the model; without it a model that needs them fails.
    pub external: Option<&'o dyn ExternalData>,
}

/// An input or output of the model that is no constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The name.
    pub name: String,
    /// What kind of value it is.
    pub kind: ValueKind,
}

/// A loaded model.
#[derive(Debug, Clone)]
pub struct Model {
    /// The graph, verified.
    pub graph: Graph,
    /// The graph's inputs, in its order.
    pub inputs: Vec<Port>,
    /// The graph's outputs, in its order.
    pub outputs: Vec<Port>,
    /// The version of the file format.
    pub ir_version: i64,
    /// The imported operator sets: domain (empty for the default one) and version.
    pub opsets: Vec<(String, u32)>,
    /// The program that wrote the file, and its version.
    pub producer: String,
    /// Whatever else the producer noted, by key.
    pub metadata_props: Vec<(String, String)>,
}

/// Loads an ONNX model. Its weights stay where they are in `source`.
pub fn load(source: Arc<dyn WeightSource>, registry: &Registry, options: &LoadOptions<'_>) -> Result<Model, LoadError> {
    let bytes = source.bytes();
    if bytes.len() > options.limits.bytes {
        return Err(LoadError::Limit { what: "bytes", limit: options.limits.bytes as u64 });
    }
    let model = ModelProto::read(Reader::new(bytes, 0), &options.limits)?;
    let Some(graph) = model.graph else { return Err(LoadError::Malformed { offset: bytes.len(), what: "a model without a graph" }) };
    let graph = GraphProto::read(graph, &options.limits)?;
    let mut importer = Importer::new(registry, &options.limits, Weights::new(Some(source.clone()), &options.limits, options.external));
    importer.opsets(&model);
    importer.functions(model.functions)?;
    let inputs = importer.ports(&graph.inputs, &graph.constants())?;
    let outputs = importer.ports(&graph.outputs, &HashSet::new())?;
    if graph.has_sparse {
        importer.problem("initializers", "", "", Reason::Sparse);
    }
    let graph = importer.main(graph)?;
    if !importer.problems.is_empty() {
        return Err(LoadError::Unsupported(importer.problems));
    }
    graph.verify()?;
    let text = |s: &str| String::from(s);
    let separator = if model.producer_version.is_empty() { "" } else { " " };
    Ok(Model {
        graph,
        inputs,
        outputs,
        ir_version: model.ir_version,
        opsets: model.opsets.iter().map(|o| (text(o.domain), o.version.try_into().unwrap_or(0))).collect(),
        producer: [model.producer_name, separator, model.producer_version].concat(),
        metadata_props: model.metadata.iter().map(|(k, v)| (text(k), text(v))).collect(),
    })
}

/// What a function is called by: domain, name, overload.
type FunctionKey<'a> = (&'a str, &'a str, &'a str);

struct Importer<'a, 'o> {
    registry: &'o Registry,
    limits: &'o Limits,
    weights: Weights<'o>,
    functions: HashMap<FunctionKey<'a>, Arc<FunctionProto<'a>>>,
    opsets: Vec<Opset<'a>>,
    /// The graphs that are being built, innermost last.
    graphs: Vec<Growing>,
    /// The bodies that are being imported, innermost last.
    frames: Vec<Frame<'a>>,
    problems: Vec<Problem>,
    nodes: usize,
    values: usize,
}

impl<'a, 'o> Importer<'a, 'o> {
    fn new(registry: &'o Registry, limits: &'o Limits, weights: Weights<'o>) -> Importer<'a, 'o> {
        Importer {
            registry,
            limits,
            weights,
            functions: HashMap::new(),
            opsets: Vec::new(),
            graphs: Vec::new(),
            frames: Vec::new(),
            problems: Vec::new(),
            nodes: 0,
            values: 0,
        }
    }

    fn problem(&mut self, path: &str, op: &str, domain: &str, reason: Reason) {
        self.problems.push(Problem { path: path.into(), op: op.into(), domain: domain.into(), reason });
    }

    /// The success, or `None` and one more problem.
    fn accept<T>(&mut self, result: Result<T, Fault>, path: &str, op: &str, domain: &str) -> Result<Option<T>, LoadError> {
        match result {
            Ok(t) => Ok(Some(t)),
            Err(Fault::Load(e)) => Err(e),
            Err(Fault::Unsupported(reason)) => {
                self.problem(path, op, domain, reason);
                Ok(None)
            }
        }
    }

    fn opsets(&mut self, model: &ModelProto<'a>) {
        self.opsets.clone_from(&model.opsets);
        // Files older than the list of opsets mean the first one.
        if self.opsets.is_empty() && model.ir_version < 3 {
            self.opsets.push(Opset { domain: "", version: 1 });
        }
        for opset in &model.opsets {
            if opset.domain.is_empty() && !(7..=26).contains(&opset.version) {
                self.problem("model", "", "", Reason::Opset(opset.version));
            }
        }
    }

    fn functions(&mut self, functions: Vec<FunctionProto<'a>>) -> Result<(), LoadError> {
        for f in functions {
            let key = (f.domain, f.name, f.overload);
            if self.functions.insert(key, Arc::new(f)).is_some() {
                return Err(LoadError::Duplicate { name: key.1.into(), scope: "the model's functions".into() });
            }
        }
        Ok(())
    }

    /// Names and kinds of the main graph's inputs or outputs; types that no graph of ours carries are problems.
    fn ports(&mut self, infos: &[ValueInfoProto<'a>], constants: &HashSet<&str>) -> Result<Vec<Port>, LoadError> {
        let mut ports = Vec::new();
        for info in infos.iter().filter(|i| !constants.contains(i.name)) {
            let value_type = info.value_type.map_or(Ok(TypeProto::Unknown), TypeProto::read)?;
            let kind = match value_type {
                TypeProto::Sequence(_) => ValueKind::Sequence,
                TypeProto::Optional(_) => ValueKind::Optional,
                TypeProto::Other(what) => {
                    self.problem(info.name, "", "", Reason::ValueType(what));
                    ValueKind::Tensor
                }
                TypeProto::Tensor { element, .. } => {
                    if let Err(what) = element_type(element)
                        && element != 0
                    {
                        self.problem(info.name, "", "", Reason::ElementType(what));
                    }
                    ValueKind::Tensor
                }
                TypeProto::Unknown => ValueKind::Tensor,
            };
            ports.push(Port { name: info.name.into(), kind });
        }
        Ok(ports)
    }

    fn main(&mut self, graph: GraphProto<'a>) -> Result<Graph, LoadError> {
        self.graphs.push(Growing::new(graph.name));
        self.frames.push(Frame::main());
        self.body(graph, true)?;
        self.frames.pop();
        Ok(self.graphs.pop().map(|g| g.graph).unwrap_or_default())
    }

    /// Imports a graph message into the innermost graph and frame.
    fn body(&mut self, proto: GraphProto<'a>, is_main: bool) -> Result<(), LoadError> {
        let constants = proto.constants();
        for input in &proto.inputs {
            // Before version 4 of the format every initializer had to be an input, too. It is a default value: a constant.
            if constants.contains(input.name) {
                if !is_main {
                    let path = self.frame().path.clone();
                    self.problem(&path, "", "", Reason::SubgraphDefault(input.name.into()));
                }
                continue;
            }
            let declared = self.declared(input)?;
            self.declare_input(input.name, declared)?;
        }
        for tensor in &proto.initializers {
            let weight = self.weights.weight(tensor);
            match self.accept(weight, tensor.name, "", "")? {
                Some(weight) => self.declare_constant(tensor.name, weight)?,
                None => self.declare(tensor.name, Declared::default())?,
            };
        }
        let mut hints = HashMap::new();
        for info in proto.value_info.iter().chain(&proto.outputs) {
            hints.insert(info.name, *info);
        }
        self.nodes(&proto.nodes, &hints)?;
        for output in &proto.outputs {
            let Some(value) = self.resolve_here(output.name)?.flatten() else {
                let path = self.frame().path.clone();
                return Err(LoadError::Undefined { path: if path.is_empty() { proto.name.into() } else { path }, name: output.name.into() });
            };
            self.graph().graph.add_output(value);
        }
        Ok(())
    }

    fn declared(&self, info: &ValueInfoProto<'a>) -> Result<Declared, LoadError> {
        let value_type = info.value_type.map_or(Ok(TypeProto::Unknown), TypeProto::read)?;
        value_type.declared(self.limits)
    }

    /// Imports the nodes of a body: first every name that they define, then the nodes.
    fn nodes(&mut self, nodes: &[NodeProto<'a>], hints: &HashMap<&'a str, ValueInfoProto<'a>>) -> Result<(), LoadError> {
        let mut constant = vec![false; nodes.len()];
        for (i, node) in nodes.iter().enumerate() {
            if self.nodes == self.limits.nodes {
                return Err(LoadError::Limit { what: "nodes", limit: self.limits.nodes as u64 });
            }
            self.nodes += 1;
            constant[i] = node.domain.is_empty() && node.op == "Constant";
            if constant[i] {
                self.constant(node, i)?;
                continue;
            }
            for &name in node.outputs.iter().filter(|n| !n.is_empty()) {
                let declared = hints.get(name).map_or_else(|| Ok(Declared::default()), |info| self.declared(info))?;
                self.declare(name, declared)?;
            }
        }
        for (i, node) in nodes.iter().enumerate().filter(|&(i, _)| !constant[i]) {
            self.node(node, i)?;
        }
        Ok(())
    }
}
