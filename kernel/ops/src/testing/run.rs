//! Runs a case every way that a plan could, and compares.

use super::{Case, Tolerance, newest, parallel::FourThreads};
use alloc::{string::String, sync::Arc, vec, vec::Vec};
use millstream_graph::{BuildCx, EvalCx, Fact, InferCx, Input, Op, OpDef, Output, Packed, Parallel, PrepackCx, Serial, Spec, StepCx};
use millstream_simd::Level;
use millstream_tensor::{AlignedBytes, DType, Layout, Order, Shape, Tensor, TensorView, TensorViewMut, Value, WorkerScratch};

/// How one run of a case differs from another.
struct Way<'a> {
    level: Level,
    parallel: &'a dyn Parallel,
    /// The memory order of each input and output.
    inputs: Vec<Option<Order>>,
    outputs: Vec<Order>,
    /// Constants in their packed form.
    packed: bool,
    /// An (input, output) pair that shares memory.
    in_place: Option<(usize, usize)>,
    label: String,
}

/// Holds an operator against its reference on one case, in every way that a plan could run it.
pub(crate) fn check(def: &OpDef, reference: fn(&Case) -> Vec<Tensor>, tolerance: Tolerance, case: &Case) {
    let version = case.version.unwrap_or_else(|| newest(def));
    let cx = BuildCx { version, attributes: &case.attributes, inputs: case.inputs.len(), outputs: case.outputs, subgraphs: &[] };
    let op = def.instantiate(version, cx).expect("the case builds");
    let facts = infer(&*op, case);
    let want = reference(case);
    assert_eq!(facts.len().min(want.len()), want.len(), "infer gives a fact for every output");
    for (fact, want) in facts.iter().zip(&want) {
        assert_eq!(fact.dtype, want.dtype(), "inferred type");
        if let Some(shape) = fact.shape() {
            assert_eq!(&shape.expect("a valid shape"), want.shape(), "inferred shape");
        }
    }
    for way in ways(&*op, case, &want) {
        for (i, (got, want)) in run(&*op, case, &want, &facts, &way).iter().zip(&want).enumerate() {
            compare(got, want, tolerance, &alloc::format!("output {i}, {}", way.label));
        }
    }
}

fn infer(op: &dyn Op, case: &Case) -> Vec<Fact> {
    let facts: Vec<Option<Fact>> = case.inputs.iter().map(|v| v.as_ref().and_then(|v| v.as_tensor().ok()).map(|t| Fact::constant(t.clone().into()))).collect();
    // Elements of inputs that are no constants are known too: a bound plan may know them, and infer may ask for them.
    let refs: Vec<Option<&Fact>> = facts.iter().map(Option::as_ref).collect();
    op.infer(&InferCx { path: "test", inputs: &refs, outputs: case.outputs }).expect("the case infers")
}

fn specs(case: &Case, orders: &[Option<Order>]) -> Vec<Option<Spec>> {
    let one = |(v, order): (&Option<Value>, &Option<Order>)| {
        let t = v.as_ref()?.as_tensor().ok()?;
        Some(Spec { dtype: t.dtype(), layout: Layout::dense(*t.shape(), order.unwrap_or_else(|| Order::row_major(t.shape().rank()))) })
    };
    case.inputs.iter().zip(orders).map(one).collect()
}

/// Every way to run the case: levels × (row-major, orders that `permute` accepts) × packed × in place × threads.
fn ways<'a>(op: &dyn Op, case: &Case, want: &[Tensor]) -> Vec<Way<'a>> {
    let row_major: Vec<Option<Order>> = case.inputs.iter().map(|v| Some(Order::row_major(v.as_ref()?.as_tensor().ok()?.shape().rank()))).collect();
    let rows: Vec<Order> = want.iter().map(|t| Order::row_major(t.shape().rank())).collect();
    let mut out = vec![];
    for level in Level::available() {
        let mut add = |label: &str, inputs: &[Option<Order>], outputs: &[Order], packed: bool, in_place, parallel: &'a dyn Parallel| {
            out.push(Way { level, parallel, inputs: inputs.to_vec(), outputs: outputs.to_vec(), packed, in_place, label: alloc::format!("{level} {label}") });
        };
        add("row-major", &row_major, &rows, false, None, &Serial);
        add("four threads", &row_major, &rows, !case.constants.is_empty(), None, &FourThreads);
        if !case.constants.is_empty() {
            add("packed", &row_major, &rows, true, None, &Serial);
        }
        for &(i, o) in op.in_place() {
            let same = case.optional(i).zip(want.get(o)).is_some_and(|(a, b)| a.dtype() == b.dtype() && a.shape() == b.shape() && a.dtype() != DType::String);
            if same && !case.constants.contains(&i) {
                add("in place", &row_major, &rows, false, Some((i, o)), &Serial);
            }
        }
        let input_specs = specs(case, &row_major);
        let output_specs: Vec<Spec> = want.iter().map(|t| Spec::row_major(t.dtype(), *t.shape())).collect();
        let packed: Vec<bool> = (0..case.inputs.len()).map(|i| case.constants.contains(&i)).collect();
        let cx = StepCx { inputs: &input_specs, outputs: &output_specs, packed: &packed, level };
        for proposal in proposals(case, &row_major) {
            if let Some(p) = op.permute(&cx, &proposal) {
                assert_eq!(p.outputs.len().min(rows.len()), rows.len(), "permute gives an order for every output");
                let inputs: Vec<Option<Order>> = p.inputs.iter().zip(&proposal).zip(&row_major).map(|((want, have), row)| want.or(*have).or(*row)).collect();
                add(&alloc::format!("permuted {inputs:?}"), &inputs, &p.outputs, !case.constants.is_empty(), None, &Serial);
            }
        }
    }
    out
}

/// Memory orders to offer to `permute`: channels-last for all, then reversed for each input alone.
fn proposals(case: &Case, row_major: &[Option<Order>]) -> Vec<Vec<Option<Order>>> {
    let dynamic = |i: usize, o: &Option<Order>| o.filter(|_| !case.constants.contains(&i));
    let offered: Vec<Option<Order>> = row_major.iter().enumerate().map(|(i, o)| dynamic(i, o)).collect();
    let mut out = vec![offered.clone(), offered.iter().map(|o| o.map(|o| Order::channels_last(o.rank()))).collect()];
    for i in 0..offered.len() {
        if let Some(o) = offered[i] {
            let mut one = offered.clone();
            let axes: Vec<usize> = (0..o.rank()).rev().collect();
            one[i] = Order::from_axes(&axes);
            out.push(one);
        }
    }
    out
}

/// A copy of a tensor's bytes in the memory order of `spec`.
fn arranged(t: &Tensor, spec: &Spec) -> AlignedBytes {
    let size = t.dtype().size();
    let mut bytes = AlignedBytes::zeroed(spec.bytes()).expect("memory for a test");
    let from = t.view().bytes().expect("a numeric tensor");
    for (chunk, at) in from.chunks_exact(size).zip(spec.layout.offsets()) {
        bytes.as_mut()[at * size..(at + 1) * size].copy_from_slice(chunk);
    }
    bytes
}

fn run(op: &dyn Op, case: &Case, want: &[Tensor], facts: &[Fact], way: &Way<'_>) -> Vec<Tensor> {
    let input_specs = specs(case, &way.inputs);
    let output_specs: Vec<Spec> = want.iter().zip(&way.outputs).map(|(t, o)| Spec { dtype: t.dtype(), layout: Layout::dense(*t.shape(), *o) }).collect();
    let packed: Vec<Option<Arc<dyn Packed>>> = (0..case.inputs.len()).map(|i| pack(op, case, i, way)).collect();
    let is_packed: Vec<bool> = packed.iter().map(Option::is_some).collect();
    let need = op.scratch(&StepCx { inputs: &input_specs, outputs: &output_specs, packed: &is_packed, level: way.level });
    let memory: Vec<Option<AlignedBytes>> = case
        .inputs
        .iter()
        .zip(&input_specs)
        .map(|(v, s)| Some(arranged(v.as_ref()?.as_tensor().ok()?, s.as_ref().filter(|s| s.dtype != DType::String)?)))
        .collect();
    let workers = way.parallel.workers();
    let mut shared = AlignedBytes::zeroed(need.shared).expect("memory for a test");
    let mut per_worker = AlignedBytes::zeroed(need.per_worker * workers).expect("memory for a test");
    // Scratch and outputs begin as garbage, as in an arena.
    shared.as_mut().fill(0xa5);
    per_worker.as_mut().fill(0xa5);
    let mut outputs: Vec<AlignedBytes> = output_specs.iter().map(|s| AlignedBytes::zeroed(s.bytes()).expect("memory for a test")).collect();
    outputs.iter_mut().for_each(|b| b.as_mut().fill(0xa5));
    if let Some((i, o)) = way.in_place {
        let shared = memory[i].as_ref().expect("the pair's input is a tensor");
        outputs[o] = AlignedBytes::copy_of(shared.as_ref()).expect("memory for a test");
    }
    let mut slots: Vec<Option<Value>> = vec![None; want.len()];
    {
        let scratch = WorkerScratch::new(per_worker.as_mut(), need.per_worker, workers);
        let mut cx = EvalCx::new(way.level, way.parallel, shared.as_mut(), scratch);
        for i in 0..case.inputs.len() {
            cx.push_input(match (&case.inputs[i], &packed[i], &input_specs[i], &memory[i]) {
                (None, ..) => Input::Absent,
                _ if way.in_place.is_some_and(|(p, _)| p == i) => Input::InPlace(way.in_place.map_or(0, |(_, o)| o)),
                (_, Some(p), Some(spec), _) => Input::Packed(&**p, spec),
                (_, None, Some(spec), Some(bytes)) => {
                    Input::Tensor(TensorView::new(spec.dtype, &spec.layout, bytes.as_ref()).expect("memory covers the layout"))
                }
                (Some(Value::Tensor(t)), ..) => Input::Tensor(t.view()),
                (Some(v), ..) => Input::Value(v),
            });
        }
        for (((spec, bytes), slot), fact) in output_specs.iter().zip(&mut outputs).zip(&mut slots).zip(facts) {
            cx.push_output(if spec.dtype == DType::String || fact.shape().is_none() {
                Output::Slot(slot)
            } else {
                Output::Tensor(TensorViewMut::new(spec.dtype, &spec.layout, bytes.as_mut()).expect("memory covers the layout"))
            });
        }
        op.eval(&mut cx).unwrap_or_else(|e| panic!("{}: {e}", way.label));
    }
    let collect = |((spec, bytes), slot): ((&Spec, &AlignedBytes), Option<Value>)| match slot {
        Some(v) => v.into_tensor().expect("a tensor"),
        None => Tensor::from_view(TensorView::new(spec.dtype, &spec.layout, bytes.as_ref()).expect("memory covers the layout")).expect("memory for a test"),
    };
    output_specs.iter().zip(&outputs).zip(slots).map(collect).collect()
}

fn pack(op: &dyn Op, case: &Case, i: usize, way: &Way<'_>) -> Option<Arc<dyn Packed>> {
    if !way.packed || !case.constants.contains(&i) {
        return None;
    }
    let facts: Vec<Option<Fact>> = (0..case.inputs.len()).map(|j| case.optional(j).map(|t| Fact::concrete(t.dtype(), t.shape()))).collect();
    let refs: Vec<Option<&Fact>> = facts.iter().map(Option::as_ref).collect();
    op.prepack(i, case.tensor(i).view(), &PrepackCx { level: way.level, inputs: &refs }).expect("packing works")
}

fn compare(got: &Tensor, want: &Tensor, tolerance: Tolerance, label: &str) {
    assert_eq!(got.dtype(), want.dtype(), "{label}: type");
    assert_eq!(got.shape(), want.shape(), "{label}: shape");
    if got.dtype() == DType::String {
        assert_eq!(got, want, "{label}");
        return;
    }
    for (i, (g, w)) in numbers(got).zip(numbers(want)).enumerate() {
        let close = g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= tolerance.abs + tolerance.rel * w.abs();
        assert!(close, "{label}: element {i} of {} is {g}, the reference says {w}", Shape::clone(want.shape()));
    }
}

/// Elements as f64 (integers past 2⁵³ round, alike on both sides of a comparison).
fn numbers(t: &Tensor) -> alloc::vec::IntoIter<f64> {
    macro_rules! widen {
        ($($d:ident: $t:ty => $f:expr),*) => {
            match t.dtype() {
                $( DType::$d => t.as_slice::<$t>().expect("a dense tensor").iter().map($f).collect::<Vec<f64>>(), )*
                other => panic!("no numbers in a tensor of {other}"),
            }
        };
    }
    widen!(F32: f32 => |&x| x.into(), F64: f64 => |&x| x, F16: millstream_tensor::f16 => |x| x.to_f64(), BF16: millstream_tensor::bf16 => |x| x.to_f64(),
        I8: i8 => |&x| x.into(), I16: i16 => |&x| x.into(), I32: i32 => |&x| x.into(), I64: i64 => |&x| x as f64, U8: u8 => |&x| x.into(),
        U16: u16 => |&x| x.into(), U32: u32 => |&x| x.into(), U64: u64 => |&x| x as f64, Bool: millstream_tensor::Bool => |&x| f64::from(u8::from(bool::from(x))))
    .into_iter()
}
