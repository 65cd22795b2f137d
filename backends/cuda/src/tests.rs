//! Whole graphs on a device beside the CPU's plan: values that stay, nodes of the host in between, shapes that depend on elements.

use crate::{CudaBackend, Gpu};
use millstream_compile::{Options, simplify};
use millstream_cpu::{CpuBackend, StdClock};
use millstream_engine::{Backend, Clock, Executable, Profiler, Request, StepRecord, Workspace};
use millstream_graph::{Attribute, Attributes, BuildCx, Declared, Graph, Node, ValueId};
use millstream_tensor::{DType, Tensor, Value, bf16, f16};
use std::sync::Arc;

mod decoders;
mod products;
mod quantised;

/// Numbers in −1..1.
fn noise(dims: &[usize], seed: u32) -> Tensor {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let values: Vec<f32> = (0..dims.iter().product())
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / (1u64 << 31) as f32 - 1.0
        })
        .collect();
    Tensor::from_slice(dims, &values).expect("as many values as elements")
}

fn input(graph: &mut Graph, name: &str, dtype: DType, rank: usize) -> ValueId {
    graph.add_input(name, Declared { dtype: Some(dtype), dims: Some(vec![None; rank]) })
}

/// A node with one output.
fn node(graph: &mut Graph, name: &str, op: &str, inputs: &[ValueId], attributes: &[(&str, Attribute)]) -> ValueId {
    let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
    nodes(graph, name, op, &inputs, attributes, 1)[0]
}

/// A node with several outputs, and inputs that may be left out.
fn nodes(graph: &mut Graph, name: &str, op: &str, inputs: &[Option<ValueId>], attributes: &[(&str, Attribute)], outputs: usize) -> Vec<ValueId> {
    let attributes: Attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let cx = BuildCx { version: 0, attributes: &attributes, inputs: inputs.len(), outputs, subgraphs: &[] };
    let registry = millstream_ops::registry();
    let built = registry.find("", op).expect("an operator of ours").instantiate(25, cx).expect("it can be built");
    let made: Vec<_> = (0..outputs).map(|i| graph.add_placeholder(&format!("{name} {i}"), Declared::default())).collect();
    let (inputs, outputs) = (inputs.to_vec(), made.iter().copied().map(Some).collect());
    graph.add_node(Node { path: name.into(), op_name: op.into(), op: built.into(), inputs, outputs, subgraphs: vec![] });
    made
}

fn run(model: &dyn Executable, inputs: &[Value]) -> Vec<Tensor> {
    let made = model.run(&mut Workspace::new(), Request::new(inputs)).unwrap_or_else(|e| panic!("{e}"));
    made.into_iter().map(|v| v.expect("no buffers were given").into_tensor().expect("a tensor")).collect()
}

/// The elements of a tensor of floats, and how far two of them may lie apart: halves are rounded, weights of tensor cores too.
fn floats(t: &Tensor) -> Option<(Vec<f32>, f32)> {
    match t.dtype() {
        DType::F32 => Some((t.as_slice::<f32>().ok()?.to_vec(), 1e-5)),
        DType::F16 => Some((t.as_slice::<f16>().ok()?.iter().map(|x| x.to_f32()).collect(), 2e-3)),
        DType::BF16 => Some((t.as_slice::<bf16>().ok()?.iter().map(|x| x.to_f32()).collect(), 1.6e-2)),
        _ => None,
    }
}

/// The graph's outputs on a device and on the CPU, for several inputs by turns, with products of a library's (where it is) and
/// with ours; the device's lines for the first inputs, with products of a library's.
fn compared(mut graph: Graph, runs: &[Vec<Tensor>]) -> Vec<String> {
    simplify(&mut graph, &Options::default()).expect("it can be simplified");
    let cuda = CudaBackend::new(Gpu::open(0).expect("a device"));
    let lines = compared_on(&cuda, &graph, runs);
    compared_on(&cuda.without_cublas(), &graph, runs);
    lines
}

fn compared_on(cuda: &CudaBackend, graph: &Graph, runs: &[Vec<Tensor>]) -> Vec<String> {
    let cuda = cuda.compile(graph.clone()).expect("it compiles");
    let cpu: Arc<dyn Executable> = CpuBackend::new(1).compile(graph.clone()).expect("it compiles");
    for round in 0..3 {
        for inputs in runs {
            let inputs: Vec<Value> = inputs.iter().cloned().map(Value::Tensor).collect();
            for (found, wanted) in run(&*cuda, &inputs).iter().zip(run(&*cpu, &inputs)) {
                assert_eq!((found.dtype(), found.shape()), (wanted.dtype(), wanted.shape()));
                let (Some((found, tolerance)), Some((wanted, _))) = (floats(found), floats(&wanted)) else {
                    assert_eq!(found, &wanted, "round {round}");
                    continue;
                };
                let largest = wanted.iter().fold(1.0f32, |m, x| m.max(x.abs()));
                for (i, (a, b)) in found.iter().zip(&wanted).enumerate() {
                    let agree = (a - b).abs() <= tolerance * largest || a.is_nan() && b.is_nan();
                    assert!(agree, "round {round}: element {i} is {a}, expected {b}");
                }
            }
        }
    }
    let shapes: Vec<_> = runs[0].iter().map(|t| *t.shape()).collect();
    cuda.describe(&shapes).expect("it can be described")
}

/// Noise as another type of floats.
fn narrow(dtype: DType, dims: &[usize], seed: u32) -> Tensor {
    let wide = noise(dims, seed);
    let values = wide.as_slice::<f32>().expect("f32");
    match dtype {
        DType::F16 => Tensor::from_slice(dims, &values.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>()),
        DType::BF16 => Tensor::from_slice(dims, &values.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>()),
        _ => Ok(wide.clone()),
    }
    .expect("as many values as elements")
}

/// The kernels of a run's steps.
struct Steps(StdClock, Vec<String>);

impl Profiler for Steps {
    fn clock(&self) -> &dyn Clock {
        &self.0
    }

    fn step(&mut self, record: StepRecord<'_>) {
        self.1.push(record.kernel.to_owned());
    }
}

/// The kernels that a run of a graph launches, node by node.
fn kernels(mut graph: Graph, inputs: &[Tensor]) -> Vec<String> {
    simplify(&mut graph, &Options::default()).expect("it can be simplified");
    let model = CudaBackend::new(Gpu::open(0).expect("a device")).compile(graph).expect("it compiles");
    let (inputs, mut steps): (Vec<Value>, _) = (inputs.iter().cloned().map(Value::Tensor).collect(), Steps(StdClock::default(), vec![]));
    model.run(&mut Workspace::new(), Request { profiler: Some(&mut steps), ..Request::new(&inputs) }).expect("it runs");
    steps.1
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn values_stay_and_the_host_steps_in() {
    let mut graph = Graph::new("layers");
    let x = input(&mut graph, "x", DType::F32, 3);
    let (w, b, axis) = (
        graph.add_constant("w", noise(&[20, 30], 1)),
        graph.add_constant("b", noise(&[30], 2)),
        graph.add_constant("axis", Tensor::scalar(1i64).expect("a number")),
    );
    let y = node(&mut graph, "product", "MatMul", &[x, w], &[]);
    let y = node(&mut graph, "bias", "Add", &[y, b], &[]);
    let y = node(&mut graph, "bend", "Relu", &[y], &[]);
    // No kernel sums up along an axis.
    let z = node(&mut graph, "sums", "CumSum", &[y, axis], &[]);
    let y = node(&mut graph, "join", "Concat", &[y, z], &[("axis", Attribute::Int(2))]);
    let s = node(&mut graph, "soft", "Softmax", &[y], &[]);
    let t = node(&mut graph, "turn", "Transpose", &[s], &[("perm", Attribute::Ints(vec![0, 2, 1]))]);
    graph.add_output(t);
    graph.add_output(z);
    let lines = compared(graph, &[vec![noise(&[2, 5, 20], 3)], vec![noise(&[1, 70, 20], 4)], vec![noise(&[2, 5, 20], 5)]]);
    let by = |name: &str| lines.iter().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {lines:?}")).contains("by cuda");
    assert!(by("soft") && by("join") && by("turn") && !by("sums"), "{lines:?}");
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn shapes_may_depend_on_elements() {
    let mut graph = Graph::new("shapes");
    let (x, shape) = (input(&mut graph, "x", DType::F32, 2), input(&mut graph, "shape", DType::I64, 1));
    let y = node(&mut graph, "scale", "Tanh", &[x], &[]);
    let y = node(&mut graph, "form", "Reshape", &[y, shape], &[]);
    let found = node(&mut graph, "found", "NonZero", &[y], &[]);
    let y = node(&mut graph, "bend", "Sigmoid", &[y], &[]);
    let found = node(&mut graph, "twice", "Mul", &[found, found], &[]);
    graph.add_output(found);
    graph.add_output(y);
    let shape = |dims: &[i64]| Tensor::from_slice(&[dims.len()], dims).expect("numbers");
    compared(graph, &[vec![noise(&[4, 6], 1), shape(&[3, 8])], vec![noise(&[4, 6], 2), shape(&[2, 2, 6])]]);
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn outputs_may_be_inputs_and_constants() {
    let mut graph = Graph::new("nothing");
    let x = input(&mut graph, "x", DType::F32, 1);
    let c = graph.add_constant("c", noise(&[3], 1));
    let y = node(&mut graph, "y", "Add", &[x, c], &[]);
    for value in [x, c, y, y] {
        graph.add_output(value);
    }
    compared(graph, &[vec![noise(&[3], 2)]]);
}

/// However many shapes come by: those that were not met for longest are forgotten.
#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn a_lane_keeps_few_plans() {
    let mut graph = Graph::new("sums");
    let x = input(&mut graph, "x", DType::F32, 1);
    let (first, step) =
        (graph.add_constant("first", Tensor::scalar(0i64).expect("a number")), graph.add_constant("step", Tensor::scalar(1i64).expect("a number")));
    let shape = node(&mut graph, "shape", "Shape", &[x], &[]);
    let zero = graph.add_constant("zero", Tensor::from_slice(&[1], &[0i64]).expect("a number"));
    let axis = node(&mut graph, "length", "Squeeze", &[shape, zero], &[]);
    // A constant that each shape has one of.
    let numbers = node(&mut graph, "numbers", "Range", &[first, axis, step], &[]);
    let numbers = node(&mut graph, "floats", "Cast", &[numbers], &[("to", Attribute::Int(1))]);
    let y = node(&mut graph, "sum", "Add", &[x, numbers], &[]);
    graph.add_output(y);
    simplify(&mut graph, &Options::default()).expect("it can be simplified");
    let made = || CudaBackend::new(Gpu::open(0).expect("a device")).model(graph.clone()).expect("it compiles");
    let (model, small) = (made(), made().keeping(0));
    for n in (1..=40).rev() {
        let x = noise(&[n], n as u32);
        let made = run(&model, &[Value::Tensor(x.clone())]);
        let wanted: Vec<f32> = x.as_slice::<f32>().expect("f32").iter().enumerate().map(|(i, x)| x + i as f32).collect();
        assert_eq!(made[0].as_slice::<f32>().expect("f32"), wanted);
        assert_eq!(run(&small, &[Value::Tensor(x)])[0].as_slice::<f32>().expect("f32"), wanted);
    }
    assert_eq!(small.kept(), [1, 1], "the last one, whatever its bytes");
    assert_eq!(model.kept(), [16, 8], "plans of the model, and of its lane");
}
