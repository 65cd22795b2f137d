//! Integers that stand for floats: from them and to them.

use super::{Site, float};
use crate::call::{Argument, Calls};
use millstream_graph::{InferCx, Op};
use millstream_ops::quantize::{dequantize_linear::DequantizeLinear, quantize_linear::QuantizeLinear};
use millstream_tensor::DType;

pub(super) fn knows(op: &dyn Op) -> bool {
    op.downcast_ref::<QuantizeLinear>().is_some() || op.downcast_ref::<DequantizeLinear>().is_some()
}

pub(super) fn select(site: &Site<'_>) -> Option<Calls> {
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
