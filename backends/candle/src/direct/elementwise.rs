//! One element from the elements at the same place. `Pow`, `Min` and `Max` stay ours: Candle's differ on negative bases and
//! on NaN.

use super::{Direct, Site, at};
use candle_core::{Result, Tensor};
use millstream_graph::Op;
use millstream_ops::elementwise::{
    abs::Abs, add::Add, ceil::Ceil, clip::Clip, cos::Cos, div::Div, erf::Erf, exp::Exp, floor::Floor, gelu::Gelu, log::Log, mul::Mul, neg::Neg,
    reciprocal::Reciprocal, relu::Relu, sigmoid::Sigmoid, sin::Sin, sqrt::Sqrt, sub::Sub, tanh::Tanh,
};

type Unary = fn(&Tensor) -> Result<Tensor>;
type Binary = fn(&Tensor, &Tensor) -> Result<Tensor>;

fn unary(op: &dyn Op) -> Option<Unary> {
    macro_rules! find {
        ($($t:ty => $f:expr),* $(,)?) => { $( if op.downcast_ref::<$t>().is_some() { return Some($f); } )* };
    }
    find! {
        Abs => Tensor::abs, Ceil => Tensor::ceil, Cos => Tensor::cos, Erf => Tensor::erf, Exp => Tensor::exp, Floor => Tensor::floor,
        Log => Tensor::log, Neg => Tensor::neg, Reciprocal => Tensor::recip, Relu => Tensor::relu, Sin => Tensor::sin, Sqrt => Tensor::sqrt,
        Tanh => Tensor::tanh, Sigmoid => sigmoid,
    }
    op.downcast_ref::<Gelu>().map(|g| if g.tanh { Tensor::gelu as Unary } else { Tensor::gelu_erf })
}

fn binary(op: &dyn Op) -> Option<Binary> {
    macro_rules! find {
        ($($t:ty => $f:expr),* $(,)?) => { $( if op.downcast_ref::<$t>().is_some() { return Some($f); } )* };
    }
    find! { Add => Tensor::broadcast_add, Sub => Tensor::broadcast_sub, Mul => Tensor::broadcast_mul, Div => Tensor::broadcast_div }
    None
}

/// 1 / (1 + exp(-x)).
pub(super) fn sigmoid(x: &Tensor) -> Result<Tensor> {
    x.neg()?.exp()?.affine(1.0, 1.0)?.recip()
}

pub(super) fn knows(op: &dyn Op) -> bool {
    unary(op).is_some() || binary(op).is_some() || op.downcast_ref::<Clip>().is_some()
}

pub(super) fn select(site: &Site<'_>) -> Option<Direct> {
    if !site.is_float() {
        return None;
    }
    // A sigmoid holds three values in between.
    let scratch = 3 * site.output.bytes();
    if let Some(f) = unary(site.op) {
        return Direct::new(scratch, move |x| f(at(x, 0)?));
    }
    if let Some(f) = binary(site.op) {
        return Direct::new(scratch, move |x| f(at(x, 0)?, at(x, 1)?));
    }
    let clip = site.op.downcast_ref::<Clip>()?;
    let fact = |i: usize| site.facts.get(i).copied().flatten();
    let (low, high) = clip.bounds(fact(1), fact(2))?;
    // With crossed bounds the order of the two steps matters.
    (low <= high).then(|| Direct::new(scratch, move |x| at(x, 0)?.clamp(low, high)))?
}
