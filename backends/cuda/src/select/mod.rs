//! What runs on the device: from an operator, types and shapes to launches.

mod attention;
mod decoder;
mod elementwise;
mod movement;
mod norm;
mod product;
mod quantise;
#[cfg(test)]
mod tests;
mod window;

pub(crate) use movement::copy;

use crate::call::Calls;
use millstream_gemm::Activation;
use millstream_graph::{Fact, Node, Op, Spec};
use millstream_tensor::DType;

/// What is known of a node before it runs.
pub(crate) struct Site<'a> {
    op: &'a dyn Op,
    /// Says of each output whether somebody reads it.
    wanted: &'a [bool],
    facts: &'a [Option<&'a Fact>],
    /// Says of an input whether it is a constant of the graph.
    weight: &'a dyn Fn(usize) -> bool,
    inputs: Vec<Option<Spec>>,
    outputs: &'a [Spec],
}

impl Site<'_> {
    fn input(&self, i: usize) -> Option<&Spec> {
        self.inputs.get(i)?.as_ref()
    }

    fn dims(&self, i: usize) -> Option<&[usize]> {
        Some(self.input(i)?.shape().dims())
    }

    /// True if somebody reads output `i`.
    fn wants(&self, i: usize) -> bool {
        self.wanted.get(i).copied().unwrap_or(false)
    }

    /// True if the input is a constant of the graph, of any size.
    fn is_weight(&self, i: usize) -> bool {
        (self.weight)(i)
    }

    fn output(&self) -> Option<&Spec> {
        self.outputs.first()
    }

    /// The element type's name in kernels, if all inputs and the output are the same type of floats.
    fn float(&self) -> Option<&'static str> {
        let dtype = self.output()?.dtype;
        self.inputs.iter().flatten().all(|s| s.dtype == dtype).then_some(())?;
        float(dtype)
    }
}

/// The name in kernels of floats that they compute with.
fn float(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F32 => Some("f32"),
        DType::F16 => Some("f16"),
        DType::BF16 => Some("bf16"),
        _ => None,
    }
}

/// The name in kernels of an element's width.
fn width(dtype: DType) -> Option<&'static str> {
    match dtype.size() {
        1 => Some("b1"),
        2 => Some("b2"),
        4 => Some("b4"),
        8 => Some("b8"),
        _ => None,
    }
}

/// An activation as kernels have it: its number, alpha and beta.
fn activation(of: Activation) -> Option<(i32, f32, f32)> {
    Some(match of {
        Activation::None => (0, 0.0, 0.0),
        Activation::Relu => (1, 0.0, 0.0),
        Activation::Clip { lo, hi } => (2, lo, hi),
        Activation::LeakyRelu { slope } => (3, slope, 0.0),
        Activation::Sigmoid => (4, 0.0, 0.0),
        Activation::Silu => (5, 0.0, 0.0),
        Activation::Gelu => (6, 0.0, 0.0),
        Activation::GeluTanh => (7, 0.0, 0.0),
        Activation::Tanh => (8, 0.0, 0.0),
        Activation::HardSwish => (9, 0.0, 0.0),
        Activation::HardSigmoid { alpha, beta } => (10, alpha, beta),
        _ => return None,
    })
}

/// How a node runs on the device; `None` if the host runs it. Depends on the operator, types and shapes, and on small constants.
///
/// `weight` says of an input whether it is a constant of the graph.
pub(crate) fn select(node: &Node, facts: &[Option<&Fact>], outputs: &[Spec], weight: &dyn Fn(usize) -> bool) -> Option<Calls> {
    let wanted: Vec<bool> = node.outputs.iter().map(Option::is_some).collect();
    launches(&*node.op, &wanted, facts, outputs, weight)
}

/// The same for an operator outside of a graph; `wanted` says of each output whether somebody reads it.
pub(crate) fn launches(op: &dyn Op, wanted: &[bool], facts: &[Option<&Fact>], outputs: &[Spec], weight: &dyn Fn(usize) -> bool) -> Option<Calls> {
    let spec = |f: &Option<&Fact>| match f {
        None => Some(None),
        Some(f) => Some(Some(Spec::row_major(f.dtype, f.shape()?.ok()?))),
    };
    let inputs = facts.iter().map(spec).collect::<Option<Vec<_>>>()?;
    // An empty tensor is not launched; a cache may be empty.
    let is_launched = |(i, s): (usize, &Option<Spec>)| s.is_none_or(|s| s.dtype != DType::String && (s.bytes() > 0 || attention::may_be_empty(op, i)));
    if outputs.is_empty() || outputs.iter().any(|s| s.bytes() == 0 || s.dtype == DType::String) || !inputs.iter().enumerate().all(is_launched) {
        return None;
    }
    let site = Site { op, wanted, facts, weight, inputs, outputs };
    let made = movement::select(&site)
        .or_else(|| only(&site, elementwise::select(&site)))
        .or_else(|| only(&site, norm::select(&site)))
        .or_else(|| only(&site, product::select(&site)))
        .or_else(|| only(&site, window::select(&site)))
        .or_else(|| only(&site, quantise::select(&site)))
        .or_else(|| only(&site, decoder::select(&site)))
        .or_else(|| quantise::dynamic(&site))
        .or_else(|| attention::select(&site))?;
    // A launch that does not fit its kernel is none: the host runs the node, and tests find it.
    debug_assert_eq!(made.check(), Ok(()), "{op:?}");
    made.check().is_ok().then_some(made)
}

/// Nothing where somebody reads more than the first output.
fn only(site: &Site<'_>, calls: Option<Calls>) -> Option<Calls> {
    calls.filter(|_| !site.wanted.iter().skip(1).any(|&wanted| wanted))
}

/// True if the device runs this operator for some types and shapes.
pub fn runs_on_cuda(op: &dyn Op) -> bool {
    op.is_alias()
        || elementwise::knows(op)
        || movement::knows(op)
        || norm::knows(op)
        || product::knows(op)
        || window::knows(op)
        || quantise::knows(op)
        || decoder::knows(op)
        || attention::knows(op)
}
