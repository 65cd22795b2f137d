//! Graphs written by hand, two ways to run them, and tensors of noise.
//!
//! [`Model::run`] goes the way of every model: rules, lowering, a plan, an arena. [`Model::evaluate`] is the oracle: it calls
//! one operator after the other on tensors of their own, and decides between branches itself.

use millstream_compile::{CompiledModel, Options, Template, simplify};
use millstream_engine::{Executable, Request, SerialWorkers, Workspace};
use millstream_graph::{Attribute, Attributes, BuildCx, Control, Declared, Fact, Graph, InferCx, Node, Registry, Spec, Subgraph, ValueId, eval_to_values};
use millstream_simd::Level;
use millstream_tensor::{Bool, DType, Tensor, Value};
use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

/// The opset of nodes that do not say another one.
const OPSET: u32 = 22;

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(millstream_ops::registry)
}

/// A graph while it is written.
#[derive(Default)]
pub(crate) struct Builder {
    graph: Graph,
    inputs: Vec<Tensor>,
}

impl Builder {
    /// An input of which type and dims are declared, and what runs give it.
    pub(crate) fn input(&mut self, given: Tensor) -> ValueId {
        let dims = given.shape().iter().map(|&d| Some(Ok(d))).collect();
        self.declare(given, dims)
    }

    /// An input of which only type and rank are declared.
    pub(crate) fn dynamic_input(&mut self, given: Tensor) -> ValueId {
        let dims = given.shape().iter().map(|_| None).collect();
        self.declare(given, dims)
    }

    fn declare(&mut self, given: Tensor, dims: Vec<Option<Result<usize, String>>>) -> ValueId {
        let name = format!("x{}", self.inputs.len());
        let id = self.graph.add_input(&name, Declared { dtype: Some(given.dtype()), dims: Some(dims) });
        self.inputs.push(given);
        id
    }

    /// An input of a body: what the node that runs it hands in.
    pub(crate) fn formal(&mut self) -> ValueId {
        self.graph.add_input("formal", Declared::default())
    }

    /// A constant.
    pub(crate) fn constant(&mut self, value: Tensor) -> ValueId {
        self.graph.add_constant("c", value)
    }

    /// A constant f32 of rank 0.
    pub(crate) fn scalar(&mut self, x: f32) -> ValueId {
        self.constant(floats(&[], &[x]))
    }

    /// The output of an operator without attributes.
    pub(crate) fn op(&mut self, name: &str, inputs: &[ValueId]) -> ValueId {
        self.op_with(name, inputs, &[])
    }

    /// The output of an operator.
    pub(crate) fn op_with(&mut self, name: &str, inputs: &[ValueId], attributes: &[(&str, Attribute)]) -> ValueId {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        self.node(OPSET, name, inputs, attributes, vec![], 1)[0]
    }

    /// The outputs of a node in full.
    pub(crate) fn node(
        &mut self,
        opset: u32,
        name: &str,
        inputs: Vec<Option<ValueId>>,
        attributes: &[(&str, Attribute)],
        subgraphs: Vec<Subgraph>,
        outputs: usize,
    ) -> Vec<ValueId> {
        let attributes: Attributes = attributes.iter().map(|(n, a)| (n.to_string(), a.clone())).collect();
        let def = registry().find("", name).unwrap_or_else(|| panic!("no operator {name}"));
        let cx = BuildCx { version: 0, attributes: &attributes, inputs: inputs.len(), outputs, subgraphs: &subgraphs };
        let op = def.instantiate(opset, cx).unwrap_or_else(|e| panic!("{name}: {e}"));
        let outputs: Vec<ValueId> = (0..outputs).map(|_| self.graph.add_placeholder("y", Declared::default())).collect();
        let path = format!("{name}{}", self.graph.nodes().count());
        let made = outputs.iter().copied().map(Some).collect();
        self.graph.add_node(Node { path: path.into(), op_name: name.into(), op: op.into(), inputs, outputs: made, subgraphs });
        outputs
    }

    /// The graph with these outputs.
    pub(crate) fn outputs(mut self, outputs: &[ValueId]) -> Model {
        for &y in outputs {
            self.graph.add_output(y);
        }
        Model { graph: self.graph, inputs: self.inputs }
    }
}

/// Writes a model of one output.
pub(crate) fn model(write: impl FnOnce(&mut Builder) -> ValueId) -> Model {
    let mut builder = Builder::default();
    let output = write(&mut builder);
    builder.outputs(&[output])
}

/// A graph, and what runs give it.
pub(crate) struct Model {
    /// The graph as it was written.
    pub(crate) graph: Graph,
    /// The inputs of a run.
    pub(crate) inputs: Vec<Tensor>,
}

impl Model {
    /// The graph after these rules.
    pub(crate) fn simplified(&self, options: &Options) -> Graph {
        let mut graph = self.graph.clone();
        simplify(&mut graph, options).unwrap_or_else(|e| panic!("{e}"));
        graph.verify().unwrap_or_else(|e| panic!("the rules left a broken graph: {e}"));
        graph
    }

    /// The graph after these rules, lowered.
    pub(crate) fn compiled(&self, options: &Options) -> CompiledModel {
        let template = Template::new(self.simplified(options), Level::detect(), 1).expect("it compiles");
        CompiledModel::new(template, Arc::new(SerialWorkers))
    }

    /// The outputs as a plan computes them.
    pub(crate) fn run(&self, options: &Options) -> Vec<Tensor> {
        self.run_in(&mut Workspace::new(), &self.compiled(options))
    }

    /// The same in a workspace of the caller's.
    pub(crate) fn run_in(&self, workspace: &mut Workspace, compiled: &CompiledModel) -> Vec<Tensor> {
        let inputs: Vec<Value> = self.inputs.iter().cloned().map(Value::Tensor).collect();
        let outputs = compiled.run(workspace, Request::new(&inputs)).unwrap_or_else(|e| panic!("{e}"));
        outputs.into_iter().map(|v| v.expect("no buffers were given").into_tensor().expect("a tensor")).collect()
    }

    /// The outputs as the operators compute them, each alone.
    pub(crate) fn evaluate(&self) -> Vec<Tensor> {
        evaluate(&self.graph, &self.inputs)
    }
}

fn evaluate(graph: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
    let mut values: HashMap<ValueId, Tensor> = graph.inputs().iter().copied().zip(inputs.iter().cloned()).collect();
    for (id, info) in graph.values() {
        if let Some(w) = info.constant() {
            values.insert(id, w.to_tensor().expect("a constant's elements"));
        }
    }
    for id in graph.topological_order().expect("no cycle") {
        let node = graph.node(id).expect("an ordered node");
        let outputs = match node.op.control() {
            None => evaluate_node(node, &values),
            Some(Control::If) => evaluate_branch(node, &values),
            Some(_) => panic!("only branches are evaluated"),
        };
        for (v, t) in node.outputs.iter().zip(outputs) {
            values.extend(v.map(|v| (v, t)));
        }
    }
    graph.outputs().iter().map(|v| values[v].clone()).collect()
}

fn evaluate_node(node: &Node, values: &HashMap<ValueId, Tensor>) -> Vec<Tensor> {
    let inputs: Vec<Option<&Tensor>> = node.inputs.iter().map(|v| v.map(|v| &values[&v])).collect();
    let facts: Vec<Option<Fact>> = inputs.iter().map(|t| t.map(|t| Fact::constant(t.clone().into()))).collect();
    let refs: Vec<Option<&Fact>> = facts.iter().map(Option::as_ref).collect();
    let inferred = node.op.infer(&InferCx { path: &node.path, inputs: &refs, outputs: node.outputs.len() });
    let inferred = inferred.unwrap_or_else(|e| panic!("{}: {e}", node.path));
    let specs: Vec<Option<Spec>> = inferred.iter().map(|f| Some(Spec::row_major(f.dtype, f.shape()?.expect("a valid shape")))).collect();
    let owned: Vec<Option<Value>> = inputs.iter().map(|t| t.map(|t| Value::Tensor(t.clone()))).collect();
    let outputs = eval_to_values(&*node.op, Level::scalar(), &owned, &specs).unwrap_or_else(|e| panic!("{}: {e}", node.path));
    outputs.into_iter().map(|v| v.into_tensor().expect("a tensor")).collect()
}

fn evaluate_branch(node: &Node, values: &HashMap<ValueId, Tensor>) -> Vec<Tensor> {
    let condition = &values[&node.input(0).expect("a condition")];
    let taken = condition.as_slice::<Bool>().expect("a boolean")[0];
    let body = &node.subgraphs[if bool::from(taken) { 0 } else { 1 }];
    let captures: Vec<Tensor> = body.captures.iter().map(|v| values[v].clone()).collect();
    evaluate(&body.graph, &captures)
}

/// Holds that tensors are the same, but for rounding: differences are at most `tolerance` of the greatest expected value.
#[track_caller]
pub(crate) fn close(found: &[Tensor], wanted: &[Tensor], tolerance: f32) {
    assert_eq!(found.len(), wanted.len(), "the number of outputs");
    for (i, (a, b)) in found.iter().zip(wanted).enumerate() {
        assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()), "output {i}");
        if a.dtype() != DType::F32 {
            assert_eq!(a, b, "output {i}");
            continue;
        }
        let (a, b) = (a.as_slice::<f32>().expect("f32"), b.as_slice::<f32>().expect("f32"));
        let greatest = b.iter().fold(1e-3, |m: f32, x| m.max(x.abs()));
        for (e, (x, y)) in a.iter().zip(b).enumerate() {
            assert!(x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= tolerance * greatest, "output {i}, element {e}: {x}, expected {y}");
        }
    }
}

/// A tensor of these f32.
pub(crate) fn floats(dims: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(dims, values).expect("as many values as elements")
}

/// A tensor of these i64.
pub(crate) fn integers(dims: &[usize], values: &[i64]) -> Tensor {
    Tensor::from_slice(dims, values).expect("as many values as elements")
}

/// An f32 tensor whose elements lie in −1..1 and depend on `seed` alone.
pub(crate) fn noise(dims: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| next()).collect();
    floats(dims, &values)
}

/// An attribute of integers.
pub(crate) fn ints(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}
