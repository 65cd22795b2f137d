//! The contract of an operator.

use crate::{Dim, EvalCx, EvalError, Fact, InferError};
use alloc::{string::String, sync::Arc, vec::Vec};
use core::{any::Any, fmt::Debug};
use millstream_simd::Level;
use millstream_tensor::{DType, Layout, Order, Shape, TensorError, TensorView};

/// An operator with its attributes: immutable, shared by every run.
pub trait Op: Any + Debug + Send + Sync {
    /// The outputs' facts from the inputs', whether dims are symbolic or numbers. One fact for each output that the node
    /// has (at least the required ones). A dim that only a run can tell is a fresh symbol ([`InferCx::fresh`]).
    ///
    /// Asked for elements that are not known, it returns [`InferError::NeedsValue`]: the plan then runs what comes before.
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError>;

    /// Computes the outputs. Inputs may be strided unless [`Op::permute`] is left at its default (then they are
    /// row-major); outputs are dense in the order that `permute` gave, row-major by default.
    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError>;

    /// Pairs (input, output) that may share memory: `eval` reads each element of the input before, or when, it writes the
    /// output's element at the same place. Only used when type and layout of both are the same.
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[]
    }

    /// True if output 0 is input 0's row-major memory under another shape: the plan then makes no copy, and no step.
    fn is_alias(&self) -> bool {
        false
    }

    /// Scratch memory that a step of these shapes needs.
    fn scratch(&self, _cx: &StepCx<'_>) -> Scratch {
        Scratch::default()
    }

    /// Another form of constant input `input`, made once at load, which [`EvalCx::packed`] finds. `None`: kept as it is.
    fn prepack(&self, _input: usize, _weight: TensorView<'_>, _cx: &PrepackCx<'_>) -> Result<Option<Arc<dyn Packed>>, TensorError> {
        Ok(None)
    }

    /// How the operator runs when its inputs lie in these memory orders: the orders that it wants its inputs in, and those
    /// of its outputs. `None`: row-major only. Inputs that are absent or constant have no order.
    fn permute(&self, _cx: &StepCx<'_>, _inputs: &[Option<Order>]) -> Option<Permutation> {
        None
    }

    /// An upper bound in bytes of an output whose dims only a run can tell.
    fn bound(&self, _cx: &InferCx<'_>, _output: usize) -> Option<usize> {
        None
    }

    /// The kind of control flow, for operators that run subgraphs; the executor then runs them, not `eval`.
    fn control(&self) -> Option<Control> {
        None
    }

    /// Arithmetic and memory traffic of a step of these shapes, for profiles and cost models.
    fn cost(&self, cx: &StepCx<'_>) -> Cost {
        cx.elementwise_cost()
    }

    /// The name of the kernel that a step of these shapes runs, for people who read plans. Operators of one kernel need none.
    fn kernel(&self, _cx: &StepCx<'_>) -> String {
        String::from("default")
    }

    /// False for operators whose outputs are not a function of their inputs (random numbers): they are never folded.
    fn is_pure(&self) -> bool {
        true
    }
}

impl dyn Op {
    /// The operator as its own type, for rules that recognise it.
    pub fn downcast_ref<T: Op>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

/// A constant in a form that only its operator reads.
pub trait Packed: Any + Debug + Send + Sync {
    /// Bytes of memory that the packed form holds.
    fn bytes_len(&self) -> usize;
}

impl dyn Packed {
    /// The packed form as its own type.
    pub fn downcast_ref<T: Packed>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

/// What an operator with subgraphs does with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// Input 0 is a boolean: subgraph 0 runs if it is true, subgraph 1 if not.
    If,
    /// ONNX `Loop`: trip count, condition, carried values; subgraph 0 is the body.
    Loop,
    /// ONNX `Scan`: subgraph 0 is the body.
    Scan,
}

/// Scratch memory of a step, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scratch {
    /// One buffer for the whole step ([`EvalCx::scratch`]).
    pub shared: usize,
    /// One buffer for each worker, lent to a grain while it runs.
    pub per_worker: usize,
}

/// Memory orders under which an operator runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permutation {
    /// For each input the order it must come in, `None` for absent inputs and those read strided as they are.
    pub inputs: Vec<Option<Order>>,
    /// The order of each output.
    pub outputs: Vec<Order>,
}

/// What a step costs at the least.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Floating-point (or integer) operations; a multiply-add is two.
    pub flops: f64,
    /// Bytes read and written once.
    pub bytes: f64,
}

/// Type and layout of one input or output of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spec {
    /// The element type.
    pub dtype: DType,
    /// The concrete layout.
    pub layout: Layout,
}

impl Spec {
    /// A row-major value.
    pub fn row_major(dtype: DType, shape: Shape) -> Spec {
        Spec { dtype, layout: Layout::row_major(shape) }
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        self.layout.shape()
    }

    /// Bytes from the first element to the layout's end.
    pub fn bytes(&self) -> usize {
        self.layout.span() * self.dtype.size()
    }
}

/// A step's inputs and outputs as the planner sees them.
#[derive(Debug, Clone, Copy)]
pub struct StepCx<'a> {
    /// The inputs; `None` where absent.
    pub inputs: &'a [Option<Spec>],
    /// The outputs.
    pub outputs: &'a [Spec],
    /// For each input, true if it is a constant of which the plan holds what [`Op::prepack`] made (so that no scratch is needed
    /// to pack it). Inputs past the end are not.
    pub packed: &'a [bool],
    /// The ISA level that kernels will use.
    pub level: Level,
}

impl StepCx<'_> {
    /// True if input `i` is a constant in its packed form.
    pub fn is_packed(&self, i: usize) -> bool {
        self.packed.get(i).copied().unwrap_or(false)
    }

    /// One operation an output element, every input and output passed once.
    pub fn elementwise_cost(&self) -> Cost {
        let bytes: usize = self.inputs.iter().flatten().chain(self.outputs).map(Spec::bytes).sum();
        let flops: usize = self.outputs.iter().map(|s| s.shape().elements()).sum();
        Cost { flops: flops as f64, bytes: bytes as f64 }
    }

    /// The shape of input `i`, if it is there.
    pub fn input_shape(&self, i: usize) -> Option<&Shape> {
        self.inputs.get(i)?.as_ref().map(Spec::shape)
    }
}

/// What [`Op::prepack`] may know beside the weight.
#[derive(Debug, Clone, Copy)]
pub struct PrepackCx<'a> {
    /// The ISA level that kernels will use.
    pub level: Level,
    /// Facts of all inputs (dims may be symbolic); `None` where absent or unknown.
    pub inputs: &'a [Option<&'a Fact>],
}

/// The facts of a node's inputs.
#[derive(Debug, Clone, Copy)]
pub struct InferCx<'a> {
    /// The node's path, for fresh symbols.
    pub path: &'a str,
    /// The inputs; `None` where absent.
    pub inputs: &'a [Option<&'a Fact>],
    /// How many outputs the node names (trailing ones may be unused).
    pub outputs: usize,
}

impl<'a> InferCx<'a> {
    /// Input `i`, which must be there.
    pub fn input(&self, i: usize) -> Result<&'a Fact, InferError> {
        self.optional(i).ok_or(InferError::MissingInput(i))
    }

    /// Input `i`, if it is there.
    pub fn optional(&self, i: usize) -> Option<&'a Fact> {
        self.inputs.get(i).copied().flatten()
    }

    /// The integer elements of input `i`; [`InferError::NeedsValue`] if they are not known as numbers.
    pub fn ints(&self, i: usize) -> Result<Vec<i64>, InferError> {
        let fact = self.input(i)?;
        if !matches!(fact.dtype, DType::I64 | DType::I32) {
            return Err(InferError::DType { input: i, found: fact.dtype });
        }
        fact.ints().ok_or(InferError::NeedsValue(i))
    }

    /// The integer elements of input `i` as expressions; [`InferError::NeedsValue`] if they are not known.
    pub fn int_dims(&self, i: usize) -> Result<Vec<Dim>, InferError> {
        let fact = self.input(i)?;
        if !matches!(fact.dtype, DType::I64 | DType::I32) {
            return Err(InferError::DType { input: i, found: fact.dtype });
        }
        fact.int_dims().ok_or(InferError::NeedsValue(i))
    }

    /// A dim that only a run can tell: a symbol that no other node has.
    pub fn fresh(&self, what: &str) -> Dim {
        Dim::symbol(crate::Symbol::new(&alloc::format!("{}:{what}", self.path)))
    }

    /// The dims that two lists broadcast to. An unknown dim against 1 or itself is clear; against a number greater than 1,
    /// the number wins (a run checks it).
    pub fn broadcast(&self, a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, InferError> {
        let rank = a.len().max(b.len());
        let one = Dim::from(1);
        (0..rank)
            .map(|i| {
                let at = |d: &'_ [Dim]| (i + d.len()).checked_sub(rank).map_or_else(|| one.clone(), |j| d[j].clone());
                let (x, y) = (at(a), at(b));
                match (x.as_const(), y.as_const()) {
                    _ if x == y => Ok(x),
                    (Some(1), _) => Ok(y),
                    (_, Some(1)) => Ok(x),
                    (Some(p), Some(q)) => {
                        Err(InferError::Mismatch { what: "dims do not broadcast", left: alloc::format!("{p}"), right: alloc::format!("{q}") })
                    }
                    (Some(_), None) => Ok(x),
                    (None, Some(_)) => Ok(y),
                    (None, None) => Ok(self.fresh(&alloc::format!("broadcast{i}"))),
                }
            })
            .collect()
    }

    /// `axis` counted from the front, for axes given in −rank..rank.
    pub fn axis(axis: i64, rank: usize) -> Result<usize, InferError> {
        let r = rank as i64;
        if axis < -r || axis >= r.max(1) {
            return Err(InferError::Mismatch { what: "axis out of range", left: alloc::format!("{axis}"), right: alloc::format!("rank {rank}") });
        }
        Ok(if axis < 0 { axis + r } else { axis } as usize)
    }
}
