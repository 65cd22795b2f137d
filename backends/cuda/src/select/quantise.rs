//! Integers that stand for floats: from them and to them, and layers with weights of bytes.

use super::{Site, float, movement::copy, product::finished};
use crate::{
    call::{Argument, Calls},
    shape,
};
use millstream_gemm::{Activation, BlockBits};
use millstream_graph::{InferCx, Op};
use millstream_ops::quantize::{
    dequantize_linear::DequantizeLinear,
    dynamic_quantize_linear::DynamicQuantizeLinear,
    fused_matmul_integer::{BIAS, FusedMatMulInteger, RESIDUAL, SCALE},
    mat_mul_n_bits::{self, MatMulNBits},
    quantize_linear::QuantizeLinear,
};
use millstream_tensor::DType;

/// Rows up to which reading the weights is all that a layer costs.
const FEW_ROWS: usize = 8;

/// Rows and columns that a block computes of a layer of more.
const TILE: usize = 64;

pub(super) fn knows(op: &dyn Op) -> bool {
    op.downcast_ref::<QuantizeLinear>().is_some()
        || op.downcast_ref::<DequantizeLinear>().is_some()
        || op.downcast_ref::<DynamicQuantizeLinear>().is_some()
        || op.downcast_ref::<FusedMatMulInteger>().is_some()
        || op.downcast_ref::<MatMulNBits>().is_some()
}

/// With a scale and a zero point that the data tell: outputs beside the first, or memory where nobody reads those.
pub(super) fn dynamic(site: &Site<'_>) -> Option<Calls> {
    site.op.downcast_ref::<DynamicQuantizeLinear>()?;
    let n = site.input(0)?.shape().elements();
    let place = |i: usize, at: usize| if site.wants(i) { Argument::Output(i, 0) } else { Argument::Scratch(0, at) };
    let (x, scale, zero) = (|| Argument::Input(0, 0), place(1, 0), place(2, 4));
    let calls = Calls::new().scratch(8).call("quantize_parameters_f32", 1, 1, vec![x(), scale.clone(), zero.clone(), Argument::count(n)]);
    if !site.wants(0) {
        return Some(calls);
    }
    let counts = [n, 1, 1].map(Argument::count);
    Some(calls.call("quantize_f32_u8", n, 1024, [x(), scale, zero, Argument::Output(0, 0)].into_iter().chain(counts).collect()))
}

/// A product of bytes with weights of signed bytes whose zero points are 0: numbers become floats first, and sums are rounded as
/// sums of floats are.
fn layer(site: &Site<'_>, op: &FusedMatMulInteger) -> Option<Calls> {
    let (a, b, y) = (site.input(0)?, site.input(1)?, site.output()?);
    let &[k, n] = b.shape().dims() else { return None };
    let zeros = site.facts.get(3).copied().flatten();
    let is_zero = |fact: &millstream_graph::Fact| {
        fact.as_const().and_then(|w| w.to_tensor().ok()).is_some_and(|t| t.view().bytes().is_ok_and(|b| b.iter().all(|&b| b == 0)))
    };
    let scales = site.input(SCALE)?.shape().elements();
    if b.dtype != DType::I8
        || !zeros.is_none_or(is_zero)
        || !site.is_weight(1)
        || ![1, n].contains(&scales)
        || site.input(2).is_some_and(|z| z.shape().elements() != 1 || z.dtype != a.dtype)
    {
        return None;
    }
    let bytes = if a.dtype == DType::I8 { "i8" } else { "u8" };
    let (elements, m) = (a.shape().elements(), a.shape().elements() / k);
    if a.shape().dims().last() != Some(&k) || y.shape().elements() != m * n || site.input(BIAS).is_some_and(|b| b.shape().elements() != n) {
        return None;
    }
    let (one, floats, wide) = (|| Argument::Scratch(0, 0), || Argument::Scratch(1, 0), || Argument::Scratch(2, 0));
    let optional = |i: usize| if site.input(i).is_some() { Argument::Input(i, 0) } else { Argument::Null };
    let mut calls = Calls::new().scratch(4).scratch(elements * 4).scratch(n * 4);
    calls = calls.call("fill_b4", 1, 1024, vec![one(), Argument::count(1), Argument::I64(i64::from(1f32.to_bits()))]);
    let counts = [elements, 1, 1].map(Argument::count);
    calls = calls.call(
        format!("dequantize_{bytes}_f32"),
        elements,
        1024,
        [Argument::Input(0, 0), one(), optional(2), floats()].into_iter().chain(counts).collect(),
    );
    // One scale for all is repeated.
    let scale = if scales == n { Argument::Input(SCALE, 0) } else { wide() };
    if scales != n {
        calls = copy(calls, DType::F32, &[n], (Argument::Input(SCALE, 0), &[0]), (wide(), &[1]))?;
    }
    let residual = op.has_residual();
    let (activation, alpha, beta) = super::activation(if residual { Activation::None } else { op.activation() })?;
    let shape = shape::Linear { m: m as i64, n: n as i64, k: k as i64, activation, shift: 0, alpha, beta };
    let last = if residual { Argument::Input(RESIDUAL, 0) } else { Argument::Null };
    let arguments = vec![floats(), Argument::Turned(1), scale, optional(BIAS), last, Argument::Output(0, 0), Argument::structure(&shape)];
    let (name, blocks) = layer_grid(m, n);
    finished(calls.call(format!("linear_int8_{name}_f32"), blocks, 1, arguments), y, residual, op.activation())
}

/// Blocks of a layer of m rows and n columns by the kernels for few or many rows, and their names.
fn layer_grid(m: usize, n: usize) -> (&'static str, usize) {
    if m <= FEW_ROWS { ("rows", m.div_ceil(4) * n.div_ceil(8)) } else { ("tiled", m.div_ceil(TILE) * n.div_ceil(TILE)) }
}

/// A layer with weights of 4 or 8 bits in blocks, which kernels read as they are. Halves with many rows take tensor cores.
fn narrow_layer(site: &Site<'_>, op: &MatMulNBits) -> Option<Calls> {
    let (y, [k, n]) = (site.output()?, op.dims());
    let float = float(y.dtype)?;
    let is_float = |i: usize| site.input(i).is_none_or(|s| s.dtype == y.dtype);
    let (bits, least) = match op.bits() {
        BlockBits::Four => (4, 32),
        BlockBits::Eight => (8, 16),
    };
    if !op.block().is_power_of_two()
        || op.block() < least
        || ![0, mat_mul_n_bits::SCALES, mat_mul_n_bits::BIAS, mat_mul_n_bits::RESIDUAL].into_iter().all(is_float)
    {
        return None;
    }
    let residual = op.has_residual();
    let (activation, alpha, beta) = super::activation(if residual { Activation::None } else { op.activation() })?;
    let m = y.shape().elements() / n;
    let shift = (op.block() / least).trailing_zeros() as i32;
    let shape = shape::Linear { m: m as i64, n: n as i64, k: k as i64, activation, shift, alpha, beta };
    let optional = |i: usize| if site.input(i).is_some() { Argument::Input(i, 0) } else { Argument::Null };
    let mut arguments = vec![Argument::Input(0, 0), Argument::Input(1, 0), Argument::Input(mat_mul_n_bits::SCALES, 0)];
    arguments.extend([optional(mat_mul_n_bits::ZEROS), optional(mat_mul_n_bits::BIAS)]);
    arguments.extend([
        if residual { Argument::Input(mat_mul_n_bits::RESIDUAL, 0) } else { Argument::Null },
        Argument::Output(0, 0),
        Argument::structure(&shape),
    ]);
    let (how, blocks) = layer_grid(m, n);
    let name = match (bits, how) {
        (4, "tiled") if float != "f32" => format!("linear_int4_tensor_{float}"),
        (4, _) => format!("linear_int4_{how}_{float}"),
        _ => format!("linear_int8_blocks_{how}_{float}"),
    };
    finished(Calls::new().call(name, blocks, 1, arguments), y, residual, op.activation())
}

pub(super) fn select(site: &Site<'_>) -> Option<Calls> {
    if let Some(op) = site.op.downcast_ref::<FusedMatMulInteger>() {
        return layer(site, op);
    }
    if let Some(op) = site.op.downcast_ref::<MatMulNBits>() {
        return narrow_layer(site, op);
    }
    let quantise = site.op.downcast_ref::<QuantizeLinear>();
    let granularity = match quantise {
        Some(op) => op.granularity,
        None => site.op.downcast_ref::<DequantizeLinear>()?.granularity,
    };
    let (x, scales, y) = (site.input(0)?, site.input(1)?, site.output()?);
    let (wide, narrow) = if quantise.is_some() { (x.dtype, y.dtype) } else { (y.dtype, x.dtype) };
    let bytes = match narrow {
        DType::I8 => "i8",
        DType::U8 => "u8",
        _ => return None,
    };
    // Zero points are of the integers' type, scales of the floats'.
    if granularity.block != 0 || scales.dtype != wide || site.input(2).is_some_and(|z| z.dtype != narrow || z.shape() != scales.shape()) {
        return None;
    }
    let (dims, n) = (x.shape().dims(), x.shape().elements());
    let [outer, axis, inner] = match *scales.shape().dims() {
        [] | [1] => [n, 1, 1],
        [extent] => {
            let axis = InferCx::axis(granularity.axis, dims.len()).ok().filter(|&a| dims[a] == extent)?;
            [dims[..axis].iter().product(), extent, dims[axis + 1..].iter().product()]
        }
        _ => return None,
    };
    let zeros = if site.input(2).is_some() { Argument::Input(2, 0) } else { Argument::Null };
    let arguments = vec![
        Argument::Input(0, 0),
        Argument::Input(1, 0),
        zeros,
        Argument::Output(0, 0),
        Argument::count(outer),
        Argument::count(axis),
        Argument::count(inner),
    ];
    let wide = float(wide)?;
    let name = if quantise.is_some() { format!("quantize_{wide}_{bytes}") } else { format!("dequantize_{bytes}_{wide}") };
    Some(Calls::new().call(name, n, 1024, arguments))
}
