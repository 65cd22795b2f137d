//! Fuses what stands around a product of matrices into it: a bias, a factor, and transposes of its operands and its result.

use super::{Rewrite, Rule, rewrite::other_operand};
use alloc::{sync::Arc, vec, vec::Vec};
use millstream_gemm::Activation;
use millstream_graph::{NodeId, ValueId};
use millstream_ops::{
    elementwise::{add::Add, div::Div, mul::Mul},
    matmul::mat_mul::MatMul,
    movement::transpose::Transpose,
};
use millstream_tensor::DType;

/// A product as it will be: the operator, its inputs, and the value that it replaces.
struct Fused {
    op: MatMul,
    inputs: Vec<Option<ValueId>>,
    result: ValueId,
}

fn apply(id: NodeId, rewrite: &mut Rewrite<'_>, find: fn(&Rewrite<'_>) -> Option<Fused>) -> bool {
    let Some(Fused { op, inputs, result }) = find(rewrite) else { return false };
    let new = rewrite.add(id, "FusedMatMul", Arc::new(op), inputs);
    rewrite.replace(result, new);
    true
}

/// Adds a constant vector over the columns as the product's bias.
pub(crate) struct FuseBias;

impl Rule for FuseBias {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn apply(&self, id: NodeId, rewrite: &mut Rewrite<'_>) -> bool {
        apply(id, rewrite, bias)
    }
}

fn bias(rewrite: &Rewrite<'_>) -> Option<Fused> {
    let node = rewrite.node()?;
    let op = node.op.downcast_ref::<MatMul>()?;
    if node.input(2).is_some() || op.has_residual() || op.activation() != Activation::None {
        return None;
    }
    let y = node.output(0)?;
    let (_, sum) = rewrite.only_reader(y).filter(|(_, n)| n.op.downcast_ref::<Add>().is_some())?;
    let b = other_operand(sum, y)?;
    let (fact, whole) = (rewrite.graph().fact(b)?, rewrite.graph().fact(y)?);
    let fits = fact.as_const().is_some() && fact.dtype == DType::F32 && whole.dtype == DType::F32 && fact.rank() == 1;
    if !fits || whole.rank() < 2 || fact.dims.last() != whole.dims.last() {
        return None;
    }
    Some(Fused { op: op.clone(), inputs: vec![node.input(0), node.input(1), Some(b)], result: sum.output(0)? })
}

/// Multiplies or divides the product by a constant while it is computed.
pub(crate) struct FuseScale;

impl Rule for FuseScale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn apply(&self, id: NodeId, rewrite: &mut Rewrite<'_>) -> bool {
        apply(id, rewrite, scale)
    }
}

fn scale(rewrite: &Rewrite<'_>) -> Option<Fused> {
    let node = rewrite.node()?;
    let op = node.op.downcast_ref::<MatMul>().filter(|_| node.input(2).is_none())?;
    let y = node.output(0)?;
    let (_, reader) = rewrite.only_reader(y)?;
    let (x, c) = rewrite.with_scalar(reader).filter(|&(x, _)| x == y)?;
    let (out, fact) = (rewrite.graph().fact(reader.output(0)?)?, rewrite.graph().fact(y)?);
    if fact.dtype != DType::F32 || out.dims != fact.dims {
        return None;
    }
    let factor = if reader.op.downcast_ref::<Mul>().is_some() {
        c
    } else {
        reader.op.downcast_ref::<Div>().filter(|_| reader.input(0) == Some(x) && c != 0.0)?;
        1.0 / c
    };
    Some(Fused { op: op.with_scale(factor)?, inputs: vec![node.input(0), node.input(1)], result: reader.output(0)? })
}

/// Reads operands through the transpose that made them, and writes the result as the transpose after it would.
pub(crate) struct FuseTranspose;

impl Rule for FuseTranspose {
    fn name(&self) -> &'static str {
        "transpose"
    }

    fn apply(&self, id: NodeId, rewrite: &mut Rewrite<'_>) -> bool {
        apply(id, rewrite, transposed_input) || apply(id, rewrite, transposed_output)
    }
}

fn transposed_input(rewrite: &Rewrite<'_>) -> Option<Fused> {
    let node = rewrite.node()?;
    let op = node.op.downcast_ref::<MatMul>()?;
    let y = node.output(0)?;
    if rewrite.graph().fact(y)?.dtype != DType::F32 {
        return None;
    }
    (0..2).find_map(|i| {
        let value = node.input(i).filter(|&v| rewrite.is_dynamic(v))?;
        let (_, before, transpose) = rewrite.producer::<Transpose>(value)?;
        let perm = transpose.permutation(rewrite.graph().fact(value)?.rank())?;
        let mut inputs = node.inputs.clone();
        inputs[i] = before.input(0);
        Some(Fused { op: op.with_transposed_input(i, &perm)?, inputs, result: y })
    })
}

fn transposed_output(rewrite: &Rewrite<'_>) -> Option<Fused> {
    let node = rewrite.node()?;
    let op = node.op.downcast_ref::<MatMul>()?;
    let y = node.output(0)?;
    let fact = rewrite.graph().fact(y).filter(|f| f.dtype == DType::F32)?;
    let (_, reader) = rewrite.only_reader(y)?;
    let perm = reader.op.downcast_ref::<Transpose>()?.permutation(fact.rank())?;
    Some(Fused { op: op.with_transposed_output(&perm)?, inputs: node.inputs.clone(), result: reader.output(0)? })
}
