//! The runs of a transposed convolution.
//!
//! ```text
//! parts[pixel, group, tap, out] = image[pixel, group, ..] · weights[group][.., tap, out]     (a product for each group)
//! y[pixel, channel]  = bias + sum over taps, ascending, of the part that lands on it         (a gather)
//! ```
//! Where exactly one part lands on every pixel, lines run one by one: see `disjoint`.

use super::{
    conv_transpose::{ConvTranspose, SpreadAxis},
    disjoint::Disjoint,
    reorder::transpose,
    weights::{PackedTransposed, by_tap},
};
use crate::{
    carve::{carve, carved},
    grains,
    matmul::{number::Number, product},
    pool::window::is_channels_last,
};
use alloc::vec::Vec;
use millstream_gemm::{Epilogue, Gemm, Lhs, PackedRef, Rhs, pack_into, packed_len};
use millstream_graph::{EvalCx, EvalError, Scratch, Spec, StepCx};
use millstream_simd::{Level, Simd, dispatch};
use millstream_tensor::{DType, MAX_RANK, tile::Tiles};

/// A transposed convolution of known shapes.
pub(crate) struct Step {
    axes: Vec<SpreadAxis>,
    group: usize,
    /// Channels of a group: of the input, of the output.
    channels: usize,
    out: usize,
    taps: usize,
    images: usize,
    level: Level,
    pack: bool,
    reorder_in: bool,
    reorder_out: bool,
}

impl Step {
    /// The step that the planner sees.
    pub(crate) fn of(op: &ConvTranspose, cx: &StepCx<'_>) -> Result<Step, EvalError> {
        let input = |i: usize| cx.inputs.get(i).copied().flatten().ok_or(EvalError::MissingInput(i));
        Step::new(op, &input(0)?, &input(1)?, cx.outputs.first().ok_or(EvalError::Output(0))?, cx.is_packed(1), cx.level)
    }

    fn new(op: &ConvTranspose, x: &Spec, w: &Spec, y: &Spec, packed: bool, level: Level) -> Result<Step, EvalError> {
        let (xs, ws) = (x.shape(), w.shape());
        if x.dtype != DType::F32 {
            return Err(EvalError::DType(x.dtype));
        }
        if xs.rank() < 2 || ws.rank() != xs.rank() || ws[0] != xs[1] || ws[0] % op.group != 0 {
            return Err(EvalError::Invalid("the weights do not fit the image"));
        }
        Ok(Step {
            axes: op.axes(&xs[2..], &ws[2..])?,
            group: op.group,
            channels: xs[1] / op.group,
            out: ws[1],
            taps: ws[2..].iter().product(),
            images: xs[0],
            level,
            pack: !packed,
            reorder_in: !is_channels_last(&x.layout),
            reorder_out: !is_channels_last(&y.layout),
        })
    }

    fn pixels_in(&self) -> usize {
        self.axes.iter().map(|a| a.input).product()
    }

    fn pixels_out(&self) -> usize {
        self.axes.iter().map(|a| a.output).product()
    }

    /// Columns of a group's product.
    fn columns(&self) -> usize {
        self.taps * self.out
    }

    fn outputs(&self) -> usize {
        self.group * self.out
    }

    fn gemm(&self) -> Gemm {
        Gemm::new(self.level, self.images * self.pixels_in(), self.channels, self.columns())
    }

    fn disjoint(&self) -> Option<Disjoint> {
        let one = self.group == 1;
        one.then(|| Disjoint::new(self.level, &self.axes, self.images, self.channels, self.out)).flatten()
    }

    /// True if [`Disjoint`] runs the step.
    pub(crate) fn is_disjoint(&self) -> bool {
        self.disjoint().is_some()
    }

    /// Elements of the reordered image, the reordered output, the parts (or the repeated bias), reordered weights, packed weights.
    fn parts(&self) -> [usize; 5] {
        let given = |yes: bool, n: usize| if yes { n } else { 0 };
        let pixels = self.images * self.pixels_in();
        let parts = self.disjoint().map_or_else(|| pixels.saturating_mul(self.group * self.columns()), |d| d.bias_len());
        [
            given(self.reorder_in, pixels * self.group * self.channels),
            given(self.reorder_out, self.images * self.pixels_out() * self.outputs()),
            parts,
            given(self.pack, self.channels * self.columns()),
            given(self.pack, packed_len(self.level, self.channels, self.columns())),
        ]
    }

    /// The memory that the step needs.
    pub(crate) fn scratch(&self) -> Scratch {
        let shared = self.parts().map(carved::<f32>).iter().fold(0, |a: usize, &b| a.saturating_add(b));
        let per_worker = self.disjoint().map_or_else(|| product::grain_scratch(&self.gemm()), |d| d.grain_scratch());
        Scratch { shared, per_worker }
    }
}

/// Visits the taps that land on the output at `at`, ascending, as (the input's pixel, the tap).
fn visit(axes: &[SpreadAxis], at: &[usize], plane: usize, tap: usize, f: &mut dyn FnMut(usize, usize)) {
    let (Some((axis, axes)), Some((&o, at))) = (axes.split_first(), at.split_first()) else {
        f(plane, tap);
        return;
    };
    for t in 0..axis.kernel {
        if let Some(i) = axis.source(o, t) {
            visit(axes, at, plane * axis.input + i, tap * axis.kernel + t, f);
        }
    }
}

fn position(axes: &[SpreadAxis], mut i: usize) -> [usize; MAX_RANK] {
    let mut at = [0; MAX_RANK];
    for (a, axis) in axes.iter().enumerate().rev() {
        at[a] = i % axis.output.max(1);
        i /= axis.output.max(1);
    }
    at
}

/// Runs f32.
pub(crate) fn run(op: &ConvTranspose, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
    let spec = |i: usize| cx.spec(i).ok_or(EvalError::MissingInput(i));
    let y_spec = cx.output_spec(0).ok_or(EvalError::Output(0))?;
    let packed = cx.packed::<PackedTransposed>(1);
    let step = Step::new(op, &spec(0)?, &spec(1)?, &y_spec, packed.is_some(), cx.level())?;
    let mut scratch = cx.scratch();
    let mut take = |n: usize| carve::<f32>(&mut scratch, n).ok_or(EvalError::Invalid("a transposed convolution's scratch memory is too short"));
    let [image, output, parts, ordered, packing] = step.parts();
    let (image, output, parts, ordered, packing) = (take(image)?, take(output)?, take(parts)?, take(ordered)?, take(packing)?);
    if y_spec.shape().elements() == 0 {
        return Ok(());
    }
    let x = cx.input::<f32>(0)?;
    let x = if step.reorder_in {
        let from = x.as_slice().ok_or(EvalError::Invalid("the image is neither row-major nor channels-last"))?;
        transpose(cx, from, image, step.images, step.group * step.channels, step.pixels_in())?;
        &*image
    } else {
        x.data()
    };
    let bias = match cx.optional::<f32>(2)? {
        Some(b) => Some(b.as_slice().ok_or(EvalError::Invalid("the bias is strided"))?),
        None => None,
    };
    let mut y = cx.output::<f32>(0)?;
    let target = if step.reorder_out { &mut *output } else { y.data_mut() };
    let (gemm, columns, disjoint) = (step.gemm(), step.columns(), step.disjoint());
    for group in 0..step.group {
        let b: PackedRef<'_> = match packed {
            Some(p) => p.0.get(group).ok_or(EvalError::MissingInput(1))?.view(),
            None => {
                let w = cx.input::<f32>(1)?.as_slice().ok_or(EvalError::Invalid("the weights are strided"))?;
                by_tap(w.get(group * ordered.len()..).unwrap_or_default(), step.taps, step.out, ordered);
                pack_into(step.level, Rhs::row_major(ordered, columns), step.channels, columns, packing).map_err(product::refused)?
            }
        };
        if let Some(job) = &disjoint {
            let bias = bias.map(|b| b.get(..step.out).ok_or(EvalError::Invalid("the bias is too short"))).transpose()?;
            for parts in parts.chunks_exact_mut(step.out.max(1)) {
                match bias {
                    Some(bias) => parts.copy_from_slice(bias),
                    None => parts.fill(0.0),
                }
            }
            job.run(cx, x, b, parts, op.activation, target)?;
            continue;
        }
        let a = Lhs::row_major(x.get(group * step.channels..).unwrap_or_default(), step.group * step.channels);
        let c = parts.get_mut(group * columns..).unwrap_or_default();
        product::run(cx, &gemm, &a, b, c, step.group * columns, &Epilogue::default())?;
    }
    if disjoint.is_none() {
        sum_parts(op, cx, &step, parts, bias, target)?;
    }
    if step.reorder_out {
        let y = y.as_slice_mut().ok_or(EvalError::Output(0))?;
        transpose(cx, output, y, step.images, step.pixels_out(), step.outputs())?;
    }
    Ok(())
}

fn sum_parts(op: &ConvTranspose, cx: &EvalCx<'_>, step: &Step, parts: &[f32], bias: Option<&[f32]>, y: &mut [f32]) -> Result<(), EvalError> {
    let (pixels_in, pixels_out, outputs) = (step.pixels_in(), step.pixels_out(), step.outputs());
    let rows = step.images * pixels_out;
    let tiles = Tiles::rows(y, outputs, grains::rows(rows, outputs, step.taps.min(16))).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let first = tile.origin().0;
        for row in 0..tile.rows() {
            let (image, pixel) = ((first + row) / pixels_out, (first + row) % pixels_out);
            let y = tile.row(row);
            match bias {
                Some(bias) => y.copy_from_slice(bias.get(..outputs)?),
                None => y.fill(0.0),
            }
            visit(&step.axes, &position(&step.axes, pixel)[..step.axes.len()], 0, 0, &mut |plane, tap| {
                let from = (image * pixels_in + plane) * step.group * step.columns() + tap * step.out;
                for (group, y) in y.chunks_exact_mut(step.out).enumerate() {
                    let part = &parts[from + group * step.columns()..][..step.out];
                    dispatch!(step.level, s => add(s, y, part));
                }
            });
            op.activation.apply_in_place(step.level, y);
        }
        Some(())
    })
}

#[inline(always)]
fn add<S: Simd>(s: S, y: &mut [f32], part: &[f32]) {
    millstream_simd::slice::zip_map_in_place(s, y, part, |a, b| a + b);
}

/// Runs other floats, row-major, element by element.
pub(crate) fn run_direct<T: Number>(op: &ConvTranspose, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
    let strided = || EvalError::Invalid("an input is not row-major");
    let (x, w, bias) = (cx.input::<T>(0)?, cx.input::<T>(1)?, cx.optional::<T>(2)?);
    let (shape, weights) = (*x.shape(), *w.shape());
    let axes = op.axes(&shape[2..], &weights[2..])?;
    let (channels, out, taps) = (shape[1] / op.group, weights[1], weights[2..].iter().product::<usize>());
    let (x, w) = (x.as_slice().ok_or_else(strided)?, w.as_slice().ok_or_else(strided)?);
    let bias = match bias {
        Some(b) => Some(b.as_slice().ok_or_else(strided)?),
        None => None,
    };
    let pixels_in: usize = axes.iter().map(|a| a.input).product();
    let pixels_out: usize = axes.iter().map(|a| a.output).product();
    let outputs = op.group * out;
    let y = cx.output::<T>(0)?.into_data();
    let rows = grains::rows(shape[0] * outputs, pixels_out, channels * taps);
    let tiles = Tiles::rows(y, pixels_out, rows).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let first = tile.origin().0;
        for row in 0..tile.rows() {
            let (image, channel) = ((first + row) / outputs, (first + row) % outputs);
            let (group, o) = (channel / out, channel % out);
            let start = bias.map_or(T::Sum::default(), |b| b[channel].wide());
            for (pixel, y) in tile.row(row).iter_mut().enumerate() {
                let mut sum = T::Sum::default();
                visit(&axes, &position(&axes, pixel)[..axes.len()], 0, 0, &mut |plane, tap| {
                    for c in group * channels..(group + 1) * channels {
                        let (x, w) = (x[(image * shape[1] + c) * pixels_in + plane], w[(c * out + o) * taps + tap]);
                        sum = T::mul_add(x.wide(), w.wide(), sum);
                    }
                });
                *y = T::narrow(sum + start);
            }
        }
        Some(())
    })
}
