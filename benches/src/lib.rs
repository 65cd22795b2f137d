//! Shared set-up of the criterion benchmarks: graphs of an operator or a few, and the time that their steps take.
//!
//! A [`Sketch`] becomes a model the way that every model does, on one thread. [`measure`] reports the sum of its steps'
//! times as a profiler sees them. `Transpose` and `Reorder` do not count, so that a sketch can give images to a
//! convolution channels-last, which is how they lie between the convolutions of a whole model.
#![forbid(unsafe_code)]

pub mod stored;

use std::time::Duration;

use criterion::{BenchmarkGroup, Throughput, measurement::WallTime};
use millstream::{
    Model, Session, Tensor, Value,
    cpu::StdClock,
    kernel::{
        engine::{Clock, Profiler, Request, StepRecord},
        graph::{Attribute, BuildCx, Declared, Graph, Node, ValueId},
        tensor::Element,
    },
};

/// The opset of all sketches.
const OPSET: u32 = 24;

/// A graph while it is written, with what runs give it.
pub struct Sketch {
    session: Session,
    graph: Graph,
    inputs: Vec<Value>,
}

impl Sketch {
    fn new() -> Sketch {
        Sketch { session: Session::builder().threads(1).build(), graph: Graph::new("benchmark"), inputs: Vec::new() }
    }

    /// An input of declared dims.
    pub fn input(&mut self, given: Tensor) -> ValueId {
        let dims = given.shape().iter().map(|&d| Some(Ok(d))).collect();
        let id = self.graph.add_input(&format!("x{}", self.inputs.len()), Declared { dtype: Some(given.dtype()), dims: Some(dims) });
        self.inputs.push(Value::Tensor(given));
        id
    }

    /// A constant, as weights are.
    pub fn constant(&mut self, value: Tensor) -> ValueId {
        self.graph.add_constant("c", value)
    }

    /// The output of an operator.
    pub fn op(&mut self, name: &str, inputs: &[ValueId], attributes: &[(&str, Attribute)]) -> ValueId {
        let attributes = attributes.iter().map(|(n, a)| (n.to_string(), a.clone())).collect();
        let def = self.session.registry().find("", name).unwrap_or_else(|| panic!("no operator {name}"));
        let cx = BuildCx { version: 0, attributes: &attributes, inputs: inputs.len(), outputs: 1, subgraphs: &[] };
        let op = def.instantiate(OPSET, cx).unwrap_or_else(|e| panic!("{name}: {e}"));
        let y = self.graph.add_placeholder("y", Declared::default());
        self.graph.add_node(Node {
            path: name.into(),
            op_name: name.into(),
            op: op.into(),
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some(y)],
            subgraphs: vec![],
        });
        y
    }

    fn finish(mut self, output: ValueId) -> (Model, Vec<Value>) {
        self.graph.add_output(output);
        (self.session.compile(self.graph).unwrap_or_else(|e| panic!("{e}")), self.inputs)
    }
}

/// The model of a graph, with what runs give it.
pub fn sketch(sketch: impl FnOnce(&mut Sketch) -> ValueId) -> (Model, Vec<Value>) {
    let mut graph = Sketch::new();
    let output = sketch(&mut graph);
    graph.finish(output)
}

/// What a rate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Floating point operations, or integer ones, as the steps count them; reported as elements.
    Operations,
    /// Bytes read and written at the least.
    Bytes,
}

/// What the steps of one run took and did.
#[derive(Default)]
struct Steps {
    clock: StdClock,
    time: Duration,
    operations: f64,
    bytes: f64,
}

impl Profiler for Steps {
    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    fn step(&mut self, step: StepRecord<'_>) {
        if !matches!(step.op, "Transpose" | "Reorder") {
            self.time += step.time;
            self.operations += step.cost.flops;
            self.bytes += step.cost.bytes;
        }
    }
}

/// Benchmarks a graph. Its output has a buffer of its own from the start, so that no run waits for the allocator.
pub fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, work: Work, graph: impl FnOnce(&mut Sketch) -> ValueId) {
    let (model, inputs) = sketch(graph);
    let mut buffer = model.run_values(&inputs).and_then(|y| y.first().cloned()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut run = || {
        let mut steps = Steps::default();
        let mut outputs = [Some(buffer.view_mut().expect("nobody shares it"))];
        let request = Request { inputs: &inputs, outputs: &mut outputs, cancel: None, profiler: Some(&mut steps) };
        model.with_workspace(|workspace| model.executable().run(workspace, request)).unwrap_or_else(|e| panic!("{name}: {e}"));
        steps
    };
    let first = run();
    group.throughput(match work {
        Work::Operations => Throughput::Elements(first.operations as u64),
        Work::Bytes => Throughput::Bytes(first.bytes as u64),
    });
    group.bench_function(name, |bench| bench.iter_custom(|runs| (0..runs).map(|_| run().time).sum()));
}

/// Numbers from −1 to 1 in no order.
pub fn noise(dims: &[usize]) -> Tensor {
    tensor(dims, |i| (i * 37 % 101) as f32 / 50.0 - 1.0)
}

/// A tensor whose elements follow from their positions.
pub fn tensor<T: Element>(dims: &[usize], element: impl Fn(usize) -> T) -> Tensor {
    let values: Vec<T> = (0..dims.iter().product()).map(element).collect();
    Tensor::from_slice(dims, &values).expect("as many values as elements")
}

/// A tensor of rank 0.
pub fn scalar<T: Element>(value: T) -> Tensor {
    Tensor::scalar(value).expect("one element")
}

/// An attribute of integers.
pub fn ints(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}
