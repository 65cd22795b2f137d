//! Turns what stands between a dequantisation and a quantisation into one operator on bytes.
//!
//! A convolution of dequantised values that is quantised again is `QLinearConv`; a product is `QLinearMatMul`, a sum `QLinearAdd`. Sums are then exact,
//! the same for every instruction set, and rounded once. An operator that only moves or compares elements runs on the bytes
//! themselves, where it keeps scale and zero point. These rules run before any other: folded constants would hide the bytes.

use super::{Rewrite, Rule};
use alloc::{sync::Arc, vec::Vec};
use millstream_graph::{Node, NodeId, Op, ValueId};
use millstream_ops::{
    conv::conv::Conv,
    elementwise::{add::Add, relu::Relu},
    movement::transpose::Transpose,
    pool::max_pool::MaxPool,
    quantize::{
        dequantize_linear::DequantizeLinear, qlinear_add::QLinearAdd, qlinear_conv::QLinearConv, qlinear_matmul::QLinearMatMul, quantize_linear::QuantizeLinear,
    },
    shape::{flatten::Flatten, reshape::Reshape},
};
use millstream_tensor::DType;

/// Makes integer operators of float ones between quantisations.
pub(crate) struct Quantised;

/// An operator on bytes in place of the quantisation at the anchor and what it reads.
struct Found {
    name: &'static str,
    op: Arc<dyn Op>,
    inputs: Vec<Option<ValueId>>,
    result: ValueId,
}

impl Rule for Quantised {
    fn name(&self) -> &'static str {
        "quantised"
    }

    fn apply(&self, id: NodeId, rewrite: &mut Rewrite<'_>) -> bool {
        let Some(found) = find(rewrite) else { return false };
        let new = rewrite.add(id, found.name, found.op, found.inputs);
        rewrite.replace(found.result, new);
        true
    }
}

/// Bytes with a scale and a zero point: values in the graph.
#[derive(Clone, Copy)]
struct Bytes {
    values: ValueId,
    scale: ValueId,
    zero: ValueId,
}

fn find(rewrite: &Rewrite<'_>) -> Option<Found> {
    let node = rewrite.node()?;
    node.op.downcast_ref::<QuantizeLinear>()?;
    let to = parameters(rewrite, node)?;
    if rewrite.constant(to.scale)?.shape().elements() != 1 || !is_byte(rewrite, to.zero) {
        return None;
    }
    let result = node.output(0)?;
    let mut before = producer_of_only(rewrite, to.values)?;
    if before.op.downcast_ref::<Relu>().is_some() {
        // The bounds of the type clip at 0 already.
        let zero = rewrite.constant(to.zero)?;
        let least = match zero.dtype() {
            DType::U8 => zero.as_slice::<u8>().ok()? == [0],
            _ => zero.as_slice::<i8>().ok()? == [-128],
        };
        before = producer_of_only(rewrite, before.input(0).filter(|_| least)?)?;
    }
    let op = &before.op;
    if let Some(conv) = op.downcast_ref::<Conv>() {
        return convolution(rewrite, before, conv, to, result);
    }
    if &*before.op_name == "MatMul" {
        let (a, b) = (dequantised(rewrite, before.input(0)?, None)?, dequantised(rewrite, before.input(1)?, None)?);
        let inputs = [a.values, a.scale, a.zero, b.values, b.scale, b.zero, to.scale, to.zero].map(Some).to_vec();
        return Some(Found { name: "QLinearMatMul", op: Arc::new(QLinearMatMul), inputs, result });
    }
    if op.downcast_ref::<Add>().is_some() {
        let (a, b) = (dequantised(rewrite, before.input(0)?, None)?, dequantised(rewrite, before.input(1)?, None)?);
        let type_of = |v: ValueId| rewrite.graph().fact(v).map(|f| f.dtype);
        if [a.values, b.values].iter().any(|&v| type_of(v) != type_of(to.zero)) {
            return None;
        }
        let inputs = [a.values, a.scale, a.zero, b.values, b.scale, b.zero, to.scale, to.zero].map(Some).to_vec();
        return Some(Found { name: "QLinearAdd", op: Arc::new(QLinearAdd), inputs, result });
    }
    let name = moves(&**op).filter(|_| before.outputs.iter().skip(1).all(Option::is_none))?;
    let from = dequantised(rewrite, before.input(0)?, None)?;
    let same = |a: ValueId, b: ValueId| Some(a == b || rewrite.constant(a)? == rewrite.constant(b)?);
    if !same(from.scale, to.scale)? || !same(from.zero, to.zero)? {
        return None;
    }
    let inputs = core::iter::once(Some(from.values)).chain(before.inputs.iter().skip(1).copied()).collect();
    Some(Found { name, op: op.clone(), inputs, result })
}

fn convolution(rewrite: &Rewrite<'_>, node: &Node, conv: &Conv, to: Bytes, result: ValueId) -> Option<Found> {
    let x = dequantised(rewrite, node.input(0)?, None)?;
    let weights = dequantised(rewrite, node.input(1)?, Some(0))?;
    let mut inputs = [x.values, x.scale, x.zero, weights.values, weights.scale, weights.zero, to.scale, to.zero].map(Some).to_vec();
    rewrite.weight(weights.values)?;
    if let Some(bias) = node.input(2) {
        inputs.push(Some(bias_of(rewrite, bias, x.scale, weights.scale)?));
    }
    Some(Found { name: "QLinearConv", op: Arc::new(QLinearConv::from_conv(conv)?), inputs, result })
}

/// The i32 terms of a dequantised bias, if they count in the products' own scale.
fn bias_of(rewrite: &Rewrite<'_>, bias: ValueId, x: ValueId, weights: ValueId) -> Option<ValueId> {
    let (_, node, _) = rewrite.producer::<DequantizeLinear>(bias)?;
    let values = node.input(0)?;
    let zeros = match node.input(2) {
        Some(z) => rewrite.constant(z)?.as_slice::<i32>().ok()?.iter().all(|&z| z == 0),
        None => true,
    };
    let floats = |v: ValueId| Some(rewrite.constant(v)?.as_slice::<f32>().ok()?.to_vec());
    let (scale, x, weights) = (floats(node.input(1)?)?, *floats(x)?.first()?, floats(weights)?);
    let n = rewrite.constant(values).filter(|b| b.dtype() == DType::I32)?.shape().elements();
    let at = |v: &[f32], i: usize| if v.len() == 1 { v.first().copied() } else { v.get(i).copied() };
    let agrees = |i: usize| at(&scale, i).zip(at(&weights, i)).is_some_and(|(s, w)| (s - x * w).abs() <= 1e-5 * s.abs());
    (zeros && (0..n).all(agrees)).then_some(values)
}

/// The bytes that a value was dequantised from: with one scale, or with one for each index of `axis`.
fn dequantised(rewrite: &Rewrite<'_>, value: ValueId, axis: Option<i64>) -> Option<Bytes> {
    let (_, node, op) = rewrite.producer::<DequantizeLinear>(value)?;
    let bytes = parameters(rewrite, node)?;
    let scales = rewrite.constant(bytes.scale)?.shape().elements();
    let fits = scales == 1 || axis.is_some_and(|axis| op.granularity.axis == axis && op.granularity.block == 0);
    (fits && is_byte(rewrite, bytes.values)).then_some(bytes)
}

/// Data, scale and zero point of a node: constants of as many elements, the scales f32.
fn parameters(rewrite: &Rewrite<'_>, node: &Node) -> Option<Bytes> {
    let bytes = Bytes { values: node.input(0)?, scale: node.input(1)?, zero: node.input(2)? };
    let (scale, zero) = (rewrite.constant(bytes.scale)?, rewrite.constant(bytes.zero)?);
    (scale.dtype() == DType::F32 && scale.shape().elements() == zero.shape().elements()).then_some(bytes)
}

fn is_byte(rewrite: &Rewrite<'_>, value: ValueId) -> bool {
    rewrite.graph().fact(value).is_some_and(|f| matches!(f.dtype, DType::U8 | DType::I8))
}

/// The node that makes a value which nobody else reads.
fn producer_of_only<'r>(rewrite: &'r Rewrite<'_>, value: ValueId) -> Option<&'r Node> {
    rewrite.only_reader(value)?;
    rewrite.graph().producer(value).map(|(_, n)| n)
}

/// The name of an operator whose result has the elements of its first input, compared at the most.
fn moves(op: &dyn Op) -> Option<&'static str> {
    let known = [
        (op.downcast_ref::<MaxPool>().is_some(), "MaxPool"),
        (op.downcast_ref::<Transpose>().is_some(), "Transpose"),
        (op.downcast_ref::<Flatten>().is_some(), "Flatten"),
        (op.downcast_ref::<Reshape>().is_some(), "Reshape"),
    ];
    known.iter().find(|(is, _)| *is).map(|(_, name)| *name)
}
