//! One element from the elements at the same place.

use super::{Site, float, width};
use crate::call::{Argument, Calls, repeated, walk};
use millstream_graph::{Op, Spec};
use millstream_ops::elementwise::{
    abs::Abs, add::Add, and::And, cast::Cast, ceil::Ceil, clip::Clip, cos::Cos, div::Div, elu::Elu, equal::Equal, erf::Erf, exp::Exp, floor::Floor, gelu::Gelu,
    greater::Greater, greater_or_equal::GreaterOrEqual, hard_sigmoid::HardSigmoid, hard_swish::HardSwish, leaky_relu::LeakyRelu, less::Less,
    less_or_equal::LessOrEqual, log::Log, max::Max, min::Min, mish::Mish, mul::Mul, neg::Neg, not::Not, or::Or, pow::Pow, prelu::PRelu, reciprocal::Reciprocal,
    relu::Relu, round::Round, sigmoid::Sigmoid, sign::Sign, sin::Sin, softplus::Softplus, softsign::Softsign, sqrt::Sqrt, sub::Sub, swish::Swish, tanh::Tanh,
    where_select::Where, xor::Xor,
};
use millstream_tensor::DType;

/// Elements of a block's share of elementwise work.
const EACH: usize = 1024;

/// The first of `$($t => $value),*` whose type the operator is.
macro_rules! find {
    ($op:expr; $($t:ty => $value:expr),* $(,)?) => { 'found: { $( if $op.downcast_ref::<$t>().is_some() { break 'found Some($value); } )* None } };
}

/// Functions of one float: the kernel's name, alpha and beta.
fn unary(op: &dyn Op) -> Option<(&'static str, f32, f32)> {
    let plain = find! { op;
        Abs => "abs", Neg => "neg", Sqrt => "sqrt", Reciprocal => "reciprocal", Exp => "exp", Log => "log", Sin => "sin", Cos => "cos", Tanh => "tanh",
        Sigmoid => "sigmoid", Erf => "erf", Floor => "floor", Ceil => "ceil", Round => "round", Sign => "sign", Relu => "relu", Softplus => "softplus",
        Mish => "mish", HardSwish => "hard_swish", Softsign => "softsign",
    };
    if let Some(name) = plain {
        return Some((name, 0.0, 0.0));
    }
    if let Some(op) = op.downcast_ref::<LeakyRelu>() {
        return Some(("leaky_relu", op.alpha, 0.0));
    }
    if let Some(op) = op.downcast_ref::<Elu>() {
        return Some(("elu", op.alpha, 0.0));
    }
    if let Some(op) = op.downcast_ref::<HardSigmoid>() {
        return Some(("hard_sigmoid", op.alpha, op.beta));
    }
    if op.downcast_ref::<Swish>().is_some() {
        return Some(("silu", 0.0, 0.0));
    }
    op.downcast_ref::<Gelu>().map(|g| (if g.tanh { "gelu_tanh" } else { "gelu" }, 0.0, 0.0))
}

/// A function of two elements.
struct Binary {
    family: &'static str,
    name: &'static str,
    /// The number that strided kernels know it by.
    number: i32,
    /// The operands change places.
    turned: bool,
}

fn binary(op: &dyn Op) -> Option<Binary> {
    let of = |family, name, number| Binary { family, name, number, turned: false };
    let turned = |name, number| Binary { family: "compare", name, number, turned: true };
    find! { op;
        Add => of("binary", "add", 0), Sub => of("binary", "sub", 1), Mul => of("binary", "mul", 2), Div => of("binary", "div", 3),
        Max => of("binary", "max", 4), Min => of("binary", "min", 5), Pow => of("binary", "pow", 6), PRelu => of("binary", "prelu", 7),
        Equal => of("compare", "equal", 8), Less => of("compare", "less", 9), LessOrEqual => of("compare", "less_equal", 10),
        Greater => turned("less", 9), GreaterOrEqual => turned("less_equal", 10),
        And => of("logic", "and", 11), Or => of("logic", "or", 12), Xor => of("logic", "xor", 13),
    }
}

pub(super) fn knows(op: &dyn Op) -> bool {
    unary(op).is_some() || binary(op).is_some() || find! { op; Clip => (), Cast => (), Where => (), Not => () }.is_some()
}

pub(super) fn select(site: &Site<'_>) -> Option<Calls> {
    let output = site.output()?;
    let n = output.shape().elements();
    if let Some(cast) = site.op.downcast_ref::<Cast>() {
        return convert(site.input(0)?.dtype, cast.to, n);
    }
    if site.op.downcast_ref::<Not>().is_some() {
        return Some(Calls::new().call("not_u8", n, 256, vec![Argument::Input(0, 0), Argument::Output(0, 0), Argument::count(n)]));
    }
    if site.op.downcast_ref::<Where>().is_some() {
        return choice(site);
    }
    if let Some(binary) = binary(site.op) {
        return pairs(site, &binary);
    }
    if let Some(swish) = site.op.downcast_ref::<Swish>().filter(|swish| swish.alpha != 1.0) {
        return scaled_swish(site.float()?, output, swish.alpha);
    }
    let (name, alpha, beta) = match site.op.downcast_ref::<Clip>() {
        Some(clip) => {
            let fact = |i: usize| site.facts.get(i).copied().flatten();
            let (low, high) = clip.bounds(fact(1), fact(2))?;
            // With crossed bounds the order of the two steps matters.
            (low <= high).then_some(("clip", low, high))?
        }
        None => unary(site.op)?,
    };
    Some(function(name, site.float()?, n, Argument::Input(0, 0), Argument::Output(0, 0), (alpha, beta), Calls::new()))
}

/// y = f(x) of `n` floats, behind what is there.
pub(super) fn function(name: &str, dtype: &str, n: usize, x: Argument, y: Argument, (alpha, beta): (f32, f32), behind: Calls) -> Calls {
    behind.call(format!("unary_{name}_{dtype}"), n, EACH, vec![x, y, Argument::count(n), Argument::F32(alpha), Argument::F32(beta)])
}

/// x sigmoid(alpha x).
fn scaled_swish(dtype: &str, y: &Spec, alpha: f32) -> Option<Calls> {
    let (n, scaled) = (y.shape().elements(), || Argument::Scratch(0, 0));
    let calls = function("affine", dtype, n, Argument::Input(0, 0), scaled(), (alpha, 0.0), Calls::new().scratch(y.bytes()));
    let calls = function("sigmoid", dtype, n, scaled(), scaled(), (0.0, 0.0), calls);
    let arguments = vec![Argument::Input(0, 0), scaled(), Argument::Output(0, 0), Argument::count(n), Argument::I32(1), Argument::I32(1)];
    Some(calls.call(format!("binary_mul_{dtype}"), n, EACH, arguments))
}

/// A cast between types that kernels have.
fn convert(from: DType, to: DType, n: usize) -> Option<Calls> {
    let number = |dtype| {
        float(dtype).or(match dtype {
            DType::I64 => Some("i64"),
            DType::I32 => Some("i32"),
            DType::I8 => Some("i8"),
            DType::U8 | DType::Bool => Some("u8"),
            _ => None,
        })
    };
    let target = if to == DType::Bool { Some("bool") } else { number(to) };
    let name = format!("cast_{}_{}", number(from)?, target?);
    Some(Calls::new().call(name, n, EACH, vec![Argument::Input(0, 0), Argument::Output(0, 0), Argument::count(n)]))
}

fn pairs(site: &Site<'_>, op: &Binary) -> Option<Calls> {
    let ([Some(a), Some(b)], y) = (site.inputs.as_slice(), site.output()?) else { return None };
    if a.dtype != b.dtype {
        return None;
    }
    let float = float(a.dtype);
    let dtype = match (op.family, a.dtype) {
        ("logic", DType::Bool) => "u8",
        ("compare", DType::I64) => "i64",
        ("binary", DType::I64) if op.number <= 5 => "i64",
        ("binary" | "compare", _) => float?,
        _ => return None,
    };
    let (shape, n) = (y.shape().dims(), y.shape().elements());
    let (left, right) = if op.turned { (1, 0) } else { (0, 1) };
    let (a, b) = (site.dims(left)?, site.dims(right)?);
    let (x, z) = (Argument::Input(left, 0), Argument::Input(right, 0));
    // Contiguous, or one element for all.
    let step = |dims: &[usize]| match dims.iter().product::<usize>() {
        1 => Some(0),
        elements if elements == n => Some(1),
        _ => None,
    };
    if let (Some(step_a), Some(step_b)) = (step(a), step(b)) {
        let arguments = vec![x, z, Argument::Output(0, 0), Argument::count(n), Argument::I32(step_a), Argument::I32(step_b)];
        return Some(Calls::new().call(format!("{}_{}_{dtype}", op.family, op.name), n, EACH, arguments));
    }
    let walk = walk(shape, [&repeated(a, shape)?, &repeated(b, shape)?])?;
    // Logic is a comparison there.
    let family = if op.family == "binary" { "binary" } else { "compare" };
    let arguments = vec![Argument::I32(op.number), x, z, Argument::Output(0, 0), Argument::count(n), Argument::walk(&walk)];
    Some(Calls::new().call(format!("{family}_strided_{dtype}"), n, EACH, arguments))
}

fn choice(site: &Site<'_>) -> Option<Calls> {
    let y = site.output()?;
    let (shape, n) = (y.shape().dims(), y.shape().elements());
    let operand = |i: usize| repeated(site.dims(i)?, shape);
    let [condition, a, b] = [operand(0)?, operand(1)?, operand(2)?];
    let inputs = [0, 1, 2].map(|i| Argument::Input(i, 0));
    let mut arguments = inputs.to_vec();
    arguments.extend([Argument::Output(0, 0), Argument::count(n)]);
    let step = |i: usize| match site.dims(i)?.iter().product::<usize>() {
        1 => Some(0),
        elements => (elements == n).then_some(1),
    };
    if let (Some(c), Some(a), Some(b)) = (step(0), step(1), step(2)) {
        arguments.extend([c, a, b].map(Argument::I32));
        return Some(Calls::new().call(format!("where_{}", width(y.dtype)?), n, EACH, arguments));
    }
    arguments.push(Argument::walk(&walk(shape, [&condition, &a, &b])?));
    Some(Calls::new().call(format!("where_strided_{}", width(y.dtype)?), n, EACH, arguments))
}
