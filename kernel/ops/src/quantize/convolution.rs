//! Convolutions of 8-bit integers with zero points, in i32: for each output element its taps, row-major.

use super::product::{check_count, pick};
use crate::{
    conv::geometry::{Sliding, position, positive, visit},
    grains,
    numeric::Number,
};
use alloc::{vec, vec::Vec};
use millstream_graph::{BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError};
use millstream_tensor::{DType, View, tile::Tiles};

/// The attributes' names.
pub(crate) const ATTRIBUTES: &[&str] = &["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"];

/// The attributes of a convolution.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    sliding: Sliding,
    group: usize,
    kernel: Vec<usize>,
}

impl Window {
    /// Reads the attributes.
    pub(crate) fn read(cx: &BuildCx<'_>) -> Result<Window, BuildError> {
        let group = cx.attributes.int_or("group", 1)?;
        let group = usize::try_from(group).ok().filter(|&g| g > 0);
        let group = group.ok_or_else(|| BuildError::UnsupportedAttribute { name: "group", value: alloc::format!("{group:?}") })?;
        Ok(Window { sliding: Sliding::read(cx)?, group, kernel: positive(cx, "kernel_shape", 1)? })
    }

    /// The output's fact, for the image at input `x` and the weights at input `w`.
    pub(crate) fn infer(&self, cx: &InferCx<'_>, x: usize, w: usize, to: DType) -> Result<Vec<Fact>, InferError> {
        let (image, weights) = (cx.input(x)?, cx.input(w)?);
        for (input, fact) in [(x, image), (w, weights)] {
            if !matches!(fact.dtype, DType::U8 | DType::I8) {
                return Err(InferError::DType { input, found: fact.dtype });
            }
            if fact.rank() < 3 || fact.rank() != image.rank() {
                return Err(InferError::Rank { input, found: fact.rank(), wanted: "batch, channels and spatial axes are expected" });
            }
        }
        self.sliding.check_rank(image.rank() - 2)?;
        let known: Option<Vec<usize>> = weights.dims[2..].iter().map(|d| d.as_extent()).collect();
        if known.is_some_and(|k| !self.kernel.is_empty() && k != self.kernel) {
            return Err(InferError::Invalid("the weights do not have the extents of kernel_shape"));
        }
        let mut dims = vec![image.dims[0].clone(), weights.dims[0].clone()];
        for (i, (d, k)) in image.dims[2..].iter().zip(&weights.dims[2..]).enumerate() {
            dims.push(self.sliding.output_dim(i, d, k)?);
        }
        Ok(vec![Fact::new(to, dims)])
    }

    /// Calls `finish(output channel, sum)` for each output element. Weights have one zero point, or one a channel.
    pub(crate) fn run<A: Number, B: Number, U: Number>(
        &self,
        cx: &EvalCx<'_>,
        x: View<'_, A>,
        w: View<'_, B>,
        zeros: (&[i32], &[i32]),
        y: &mut [U],
        finish: &(dyn Fn(usize, i32) -> U + Sync),
    ) -> Result<(), EvalError> {
        let (Some(image), Some(weights)) = (x.as_slice(), w.as_slice()) else { return Err(EvalError::Invalid("row-major memory is expected")) };
        let (xs, ws) = (*x.shape(), *w.shape());
        let axes = self.sliding.axes(&xs[2..], &ws[2..])?;
        let (channels, outputs, per_group) = (xs[1], ws[0], ws[1]);
        if per_group.checked_mul(self.group) != Some(channels) || !outputs.is_multiple_of(self.group) {
            return Err(EvalError::Invalid("channels do not divide into groups"));
        }
        check_count(zeros.0, 1)?;
        check_count(zeros.1, outputs)?;
        let plane_in: usize = xs[2..].iter().product();
        let plane: usize = axes.iter().map(|a| a.output).product();
        let taps: usize = ws[2..].iter().product();
        let rows = grains::rows(xs[0] * outputs, plane, per_group * taps);
        let tiles = Tiles::rows(y, plane, rows).ok_or(EvalError::Output(0))?;
        cx.parallel(tiles.count(), |grain, _| {
            let mut tile = tiles.claim(grain)?;
            for (i, y) in tile.as_slice()?.chunks_exact_mut(plane).enumerate() {
                let (batch, o) = ((grain * rows + i) / outputs, (grain * rows + i) % outputs);
                let first = batch * channels + o / (outputs / self.group) * per_group;
                let (x_zero, w_zero) = (zeros.0[0], pick(zeros.1, o));
                for (at, y) in y.iter_mut().enumerate() {
                    let mut sum = 0i32;
                    // Pads are zero points: they add nothing.
                    visit(&axes, &position(&axes, at)[..axes.len()], &mut |pixel, tap| {
                        for c in 0..per_group {
                            let a = image[(first + c) * plane_in + pixel].to_i128() as i32 - x_zero;
                            let b = weights[(o * per_group + c) * taps + tap].to_i128() as i32 - w_zero;
                            sum = sum.wrapping_add(a * b);
                        }
                    });
                    *y = finish(o, sum);
                }
            }
            Some(())
        })
    }
}
