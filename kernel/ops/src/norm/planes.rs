//! Normalisation of groups of channels of row-major images, in f64: `InstanceNormalization` and `GroupNormalization`.

use crate::{grains, numeric::Number};
use alloc::{vec, vec::Vec};
use millstream_graph::{EvalCx, EvalError, Fact, InferCx, InferError};
use millstream_tensor::tile::Tiles;

/// Type and dims pass through; scale and bias are vectors.
pub(crate) fn infer(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let x = cx.input(0)?;
    if !x.dtype.is_float() {
        return Err(InferError::DType { input: 0, found: x.dtype });
    }
    if x.rank() < 2 {
        return Err(InferError::Rank { input: 0, found: x.rank(), wanted: "batch, channels and other axes are expected" });
    }
    for i in 1..3 {
        let f = cx.input(i)?;
        if f.dtype != x.dtype {
            return Err(InferError::DType { input: i, found: f.dtype });
        }
        if f.rank() != 1 {
            return Err(InferError::Rank { input: i, found: f.rank(), wanted: "1" });
        }
    }
    Ok(vec![Fact::new(x.dtype, x.dims.clone())])
}

/// Normalises `groups` groups of channels (each channel alone if `None`); scale and bias have a value a channel, or a group.
pub(crate) fn eval(cx: &mut EvalCx<'_>, groups: Option<usize>, epsilon: f64) -> Result<(), EvalError> {
    let dtype = cx.dtype(0)?;
    by_dtype!(floats, dtype, T => run::<T>(cx, groups, epsilon))
}

fn run<T: Number>(cx: &mut EvalCx<'_>, groups: Option<usize>, epsilon: f64) -> Result<(), EvalError> {
    let x = if cx.in_place(0).is_some() { None } else { Some(cx.input::<T>(0)?) };
    let vector = |i: usize| -> Result<Vec<f64>, EvalError> { Ok(cx.input::<T>(i)?.iter().map(Number::to_f64).collect()) };
    let (scale, bias) = (vector(1)?, vector(2)?);
    let y = cx.output::<T>(0)?;
    let shape = *y.shape();
    let channels = shape[1];
    let groups = groups.unwrap_or(channels);
    if groups == 0 || !channels.is_multiple_of(groups) || scale.len() != bias.len() || (scale.len() != channels && scale.len() != groups) {
        return if channels == 0 { Ok(()) } else { Err(EvalError::Invalid("groups, scales or biases do not fit the channels")) };
    }
    let plane: usize = shape[2..].iter().product();
    let per_group = channels / groups;
    let n = per_group * plane;
    let (x, y) = (x.and_then(|x| x.as_slice()), y.into_data());
    let rows = grains::rows(y.len().checked_div(n).unwrap_or(0), n, 4);
    let tiles = Tiles::rows(y, n, rows).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        for (i, y) in tile.as_slice()?.chunks_exact_mut(n).enumerate() {
            let row = grain * rows + i;
            if let Some(x) = x {
                y.copy_from_slice(&x[row * n..(row + 1) * n]);
            }
            let mean = y.iter().map(|&v| Number::to_f64(v)).sum::<f64>() / n as f64;
            let square = y.iter().map(|&v| (Number::to_f64(v) - mean) * (Number::to_f64(v) - mean)).sum::<f64>() / n as f64;
            let inverse = 1.0 / libm::sqrt(square + epsilon);
            for (c, y) in y.chunks_exact_mut(plane).enumerate() {
                let channel = row % groups * per_group + c;
                let at = if scale.len() == channels { channel } else { row % groups };
                y.iter_mut().for_each(|y| *y = T::from_f64((Number::to_f64(*y) - mean) * inverse * scale[at] + bias[at]));
            }
        }
        Some(())
    })
}
