//! Fuses what follows a product into it: a residual, then an activation, applied while the result is in registers.

use super::{Rewrite, Rule, rewrite::other_operand};
use alloc::{sync::Arc, vec::Vec};
use millstream_gemm::Activation;
use millstream_graph::{Node, NodeId, Op, ValueId};
use millstream_ops::{
    conv::conv::Conv,
    elementwise::{
        add::Add, clip::Clip, gelu::Gelu, hard_sigmoid::HardSigmoid, hard_swish::HardSwish, leaky_relu::LeakyRelu, relu::Relu, sigmoid::Sigmoid, swish::Swish,
        tanh::Tanh,
    },
    matmul::mat_mul::MatMul,
    quantize::fused_matmul_integer::{FusedMatMulInteger, RESIDUAL},
};
use millstream_tensor::DType;

/// Fuses the activation that is the only reader of a convolution or a product.
pub(crate) struct FuseActivation;

impl Rule for FuseActivation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn apply(&self, id: NodeId, rewrite: &mut Rewrite<'_>) -> bool {
        let found = || {
            let node = rewrite.node()?;
            let y = node.output(0)?;
            if rewrite.graph().fact(y)?.dtype != DType::F32 {
                return None;
            }
            let (_, reader) = rewrite.only_reader(y)?;
            let next = activation(rewrite, reader, y)?;
            let (name, op, _) = fused(node, |c| c.with_activation(next), |m| m.with_activation(next), |m| m.with_activation(next))?;
            Some((name, op, node.inputs.clone(), reader.output(0)?))
        };
        let Some((name, op, inputs, result)) = found() else { return false };
        let new = rewrite.add(id, name, op, inputs);
        rewrite.replace(result, new);
        true
    }
}

/// Fuses the addition of another value of the same dims to a convolution or a product.
pub(crate) struct FuseResidual;

impl Rule for FuseResidual {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn apply(&self, id: NodeId, rewrite: &mut Rewrite<'_>) -> bool {
        let found = || {
            let node = rewrite.node()?;
            let y = node.output(0)?;
            let (_, sum) = rewrite.only_reader(y).filter(|(_, n)| n.op.downcast_ref::<Add>().is_some())?;
            let other = other_operand(sum, y).filter(|&v| rewrite.is_dynamic(v))?;
            let (a, b) = (rewrite.graph().fact(y)?, rewrite.graph().fact(other)?);
            if a.dtype != DType::F32 || b.dtype != DType::F32 || a.dims != b.dims {
                return None;
            }
            let (name, op, residual) = fused(node, Conv::with_residual, MatMul::with_residual, FusedMatMulInteger::with_residual)?;
            let mut inputs: Vec<Option<ValueId>> = node.inputs.clone();
            inputs.resize(residual, None);
            inputs.push(Some(other));
            Some((name, op, inputs, sum.output(0)?))
        };
        let Some((name, op, inputs, result)) = found() else { return false };
        let new = rewrite.add(id, name, op, inputs);
        rewrite.replace(result, new);
        true
    }
}

/// The node's operator with something fused into it, if it is one that can: its name, itself, and the input where it has a residual.
fn fused(
    node: &Node,
    conv: impl FnOnce(&Conv) -> Option<Conv>,
    product: impl FnOnce(&MatMul) -> Option<MatMul>,
    of_bytes: impl FnOnce(&FusedMatMulInteger) -> Option<FusedMatMulInteger>,
) -> Option<(&'static str, Arc<dyn Op>, usize)> {
    if let Some(c) = node.op.downcast_ref::<Conv>() {
        return Some(("FusedConv", Arc::new(conv(c)?), 3));
    }
    if let Some(m) = node.op.downcast_ref::<FusedMatMulInteger>() {
        return Some(("FusedMatMulInteger", Arc::new(of_bytes(m)?), RESIDUAL));
    }
    let m = node.op.downcast_ref::<MatMul>()?;
    Some(("FusedMatMul", Arc::new(product(m)?), 3))
}

/// The activation that a node applies to `x`.
fn activation(rewrite: &Rewrite<'_>, node: &Node, x: ValueId) -> Option<Activation> {
    if node.input(0) != Some(x) {
        return None;
    }
    let op = &*node.op;
    if let Some(clip) = op.downcast_ref::<Clip>() {
        let fact = |i| node.input(i).and_then(|v| rewrite.graph().fact(v));
        let (lo, hi) = clip.bounds(fact(1), fact(2))?;
        return Some(Activation::Clip { lo, hi });
    }
    if let Some(gelu) = op.downcast_ref::<Gelu>() {
        return Some(if gelu.tanh { Activation::GeluTanh } else { Activation::Gelu });
    }
    if let Some(h) = op.downcast_ref::<HardSigmoid>() {
        return Some(Activation::HardSigmoid { alpha: h.alpha, beta: h.beta });
    }
    if let Some(l) = op.downcast_ref::<LeakyRelu>() {
        return Some(Activation::LeakyRelu { slope: l.alpha });
    }
    if op.downcast_ref::<Swish>().is_some_and(|s| s.alpha == 1.0) {
        return Some(Activation::Silu);
    }
    let simple: [(bool, Activation); 4] = [
        (op.downcast_ref::<Relu>().is_some(), Activation::Relu),
        (op.downcast_ref::<Sigmoid>().is_some(), Activation::Sigmoid),
        (op.downcast_ref::<Tanh>().is_some(), Activation::Tanh),
        (op.downcast_ref::<HardSwish>().is_some(), Activation::HardSwish),
    ];
    simple.iter().find(|(is, _)| *is).map(|(_, a)| *a)
}
