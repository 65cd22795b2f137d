//! Reductions, softmax and normalisation, composed from Candle's operations in f32 or f64.

use super::{Direct, Site, at};
use candle_core::{Result, Tensor};
use millstream_graph::{InferCx, Op};
use millstream_ops::{
    norm::{batch_normalization::BatchNormalization, layer_normalization::LayerNormalization, softmax::Softmax},
    reduce::{mean::ReduceMean, sum::ReduceSum},
};

/// Values of the input's size that a composition holds at the most.
const IN_BETWEEN: usize = 6;

/// The axes of a reduction where they are an attribute, whether they stay, and whether it is a mean.
fn reduction(op: &dyn Op) -> Option<(Option<&[i64]>, bool, bool)> {
    let mean = op.downcast_ref::<ReduceMean>().map(|r| (r.axes.axes.as_deref(), r.axes.keepdims, true));
    mean.or_else(|| op.downcast_ref::<ReduceSum>().map(|r| (r.axes.axes.as_deref(), r.axes.keepdims, false)))
}

pub(super) fn knows(op: &dyn Op) -> bool {
    reduction(op).is_some()
        || op.downcast_ref::<Softmax>().is_some()
        || op.downcast_ref::<LayerNormalization>().is_some()
        || op.downcast_ref::<BatchNormalization>().is_some()
}

pub(super) fn select(site: &Site<'_>) -> Option<Direct> {
    let (x, scratch) = (site.dims(0)?, IN_BETWEEN * site.largest());
    let rank = x.len();
    if let Some((axes, kept, mean)) = reduction(site.op) {
        let axes = axes?.iter().map(|&a| InferCx::axis(a, rank).ok()).collect::<Option<Vec<_>>>()?;
        if axes.is_empty() || !site.is_float() {
            return None;
        }
        return Direct::new(scratch, move |inputs| {
            let x = at(inputs, 0)?;
            match (mean, kept) {
                (true, true) => x.mean_keepdim(axes.as_slice()),
                (true, false) => x.mean(axes.as_slice()),
                (false, true) => x.sum_keepdim(axes.as_slice()),
                (false, false) => x.sum(axes.as_slice()),
            }
        });
    }
    if !site.is_float() {
        return None;
    }
    if let Some(softmax) = site.op.downcast_ref::<Softmax>() {
        let axis = InferCx::axis(softmax.axis.axis, rank).ok()?;
        // Before opset 13 this axis and all after it are one line.
        let lines = if softmax.axis.flatten { vec![x[..axis].iter().product(), x[axis..].iter().product()] } else { x.clone() };
        let axis = if softmax.axis.flatten { 1 } else { axis };
        return Direct::new(scratch, move |inputs| soften(&at(inputs, 0)?.reshape(lines.as_slice())?, axis)?.reshape(x.as_slice()));
    }
    if let Some(norm) = site.op.downcast_ref::<LayerNormalization>() {
        let axis = InferCx::axis(norm.rows.axis, rank).ok()?;
        let epsilon = f64::from(norm.rows.epsilon);
        let axes: Vec<usize> = (axis..rank).collect();
        return Direct::new(scratch, move |inputs| {
            let x = at(inputs, 0)?;
            let centred = x.broadcast_sub(&x.mean_keepdim(axes.as_slice())?)?;
            let deviation = centred.sqr()?.mean_keepdim(axes.as_slice())?.affine(1.0, epsilon)?.sqrt()?;
            let y = centred.broadcast_div(&deviation)?.broadcast_mul(at(inputs, 1)?)?;
            match inputs.get(2).copied().flatten() {
                Some(bias) => y.broadcast_add(bias),
                None => Ok(y),
            }
        });
    }
    let norm = site.op.downcast_ref::<BatchNormalization>()?;
    if rank < 2 {
        return None;
    }
    let epsilon = f64::from(norm.epsilon);
    let mut channels = vec![1; rank];
    channels[1] = x[1];
    Direct::new(scratch, move |inputs| {
        let channel = |i: usize| at(inputs, i)?.reshape(channels.as_slice());
        let factor = channel(1)?.div(&channel(4)?.affine(1.0, epsilon)?.sqrt()?)?;
        at(inputs, 0)?.broadcast_sub(&channel(3)?)?.broadcast_mul(&factor)?.broadcast_add(&channel(2)?)
    })
}

/// exp(x - max) over its sum.
fn soften(x: &Tensor, axis: usize) -> Result<Tensor> {
    let e = x.broadcast_sub(&x.max_keepdim(axis)?)?.exp()?;
    e.broadcast_div(&e.sum_keepdim(axis)?)
}
