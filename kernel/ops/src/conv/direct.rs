//! Convolution as loops over taps and channels, for element types without a product of their own. Row-major.

use super::{
    conv::Conv,
    geometry::{position, visit},
    weights::WeightDims,
};
use crate::{grains, matmul::number::Number};
use millstream_graph::{EvalCx, EvalError};
use millstream_tensor::tile::Tiles;

/// Runs a plain convolution (the fused form is f32's).
pub(crate) fn run<T: Number>(conv: &Conv, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
    let strided = || EvalError::Invalid("an input is not row-major");
    let (x, w, bias) = (cx.input::<T>(0)?, cx.input::<T>(1)?, cx.optional::<T>(2)?);
    let (shape, channels) = (*x.shape(), x.shape()[1]);
    let dims = WeightDims::new(w.shape(), conv.group).ok_or(EvalError::Invalid("weights do not divide into groups"))?;
    let axes = conv.sliding.axes(&shape[2..], &w.shape()[2..])?;
    let (x, w) = (x.as_slice().ok_or_else(strided)?, w.as_slice().ok_or_else(strided)?);
    let bias = match bias {
        Some(b) => Some(b.as_slice().ok_or_else(strided)?),
        None => None,
    };
    let pixels_in: usize = axes.iter().map(|a| a.input).product();
    let pixels_out: usize = axes.iter().map(|a| a.output).product();
    let outputs = dims.group * dims.out;
    let mut y = cx.output::<T>(0)?;
    let y = y.as_slice_mut().ok_or(EvalError::Output(0))?;
    let rows = grains::rows(shape[0] * outputs, pixels_out, dims.k());
    let tiles = Tiles::rows(y, pixels_out, rows).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let first = tile.origin().0;
        for row in 0..tile.rows() {
            let (image, out) = ((first + row) / outputs, (first + row) % outputs);
            let x = &x[(image * channels + out / dims.out * dims.channels) * pixels_in..][..dims.channels * pixels_in];
            let w = &w[out * dims.k()..][..dims.k()];
            let start = bias.map_or(T::Sum::default(), |b| b[out].wide());
            for (pixel, y) in tile.row(row).iter_mut().enumerate() {
                let mut sum = T::Sum::default();
                visit(&axes, &position(&axes, pixel)[..axes.len()], &mut |plane, tap| {
                    for c in 0..dims.channels {
                        sum = T::mul_add(x[c * pixels_in + plane].wide(), w[c * dims.taps + tap].wide(), sum);
                    }
                });
                *y = T::narrow(sum + start);
            }
        }
        Some(())
    })
}
