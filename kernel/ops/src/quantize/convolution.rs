//! Convolutions of 8-bit integers with zero points, in i32.
//!
//! With constant weights and at most two spatial axes: a product of the windows of a channels-last image with the packed weights.
//! Otherwise: for each output element its taps, row-major.

use super::{
    packed::{self, PackedBytes},
    product::{check_count, pick},
};
use crate::{
    carve::{carve, carved},
    conv::{
        conv::Conv,
        geometry::{Axes, Axis, Sliding, position, positive, visit},
    },
    grains,
    numeric::Number,
    pool::window::is_channels_last,
};
use alloc::{vec, vec::Vec};
use bytemuck::Pod;
use core::ops::Range;
use millstream_gemm::{Finish, Lhs, QuantisedElement, QuantisedGemm, ZeroPoint, ZeroPoints};
use millstream_graph::{BuildCx, BuildError, Cost, EvalCx, EvalError, Fact, InferCx, InferError, Permutation, Scratch, Spec, StepCx};
use millstream_simd::Level;
use millstream_tensor::{DType, Order, Shape, View, tile::Tiles};

/// The attributes' names.
pub(crate) const ATTRIBUTES: &[&str] = &["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"];

/// The attributes of a convolution.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    sliding: Sliding,
    group: usize,
    kernel: Vec<usize>,
}

/// A convolution of known shapes as products, one for each group.
struct Step {
    axes: Axes,
    images: usize,
    groups: usize,
    /// Channels of a group.
    channels: usize,
    /// Output channels of a group.
    out: usize,
    taps: usize,
}

impl Step {
    fn rows(&self) -> usize {
        self.images * self.pixels()
    }

    fn pixels(&self) -> usize {
        self.axes.iter().map(|a| a.output).product()
    }

    fn outputs(&self) -> usize {
        self.groups * self.out
    }

    fn gemm(&self, level: Level) -> QuantisedGemm {
        QuantisedGemm::new(level, self.rows(), self.taps * self.channels, self.out)
    }

    /// The left operand of a group.
    fn lhs<'a, A: QuantisedElement>(&self, x: &'a [A], group: usize) -> Lhs<'a, A> {
        let data = x.get(group * self.channels..).unwrap_or_default();
        let pixel_stride = self.groups * self.channels;
        if self.axes.iter().all(Axis::is_pointwise) {
            return Lhs::row_major(data, pixel_stride);
        }
        let at = |i: usize| (self.axes.len() + i).checked_sub(2).map_or(Axis::UNIT, |i| self.axes[i]);
        let axes = [at(0), at(1)];
        Lhs::Window(millstream_gemm::Window {
            data,
            batch: self.images,
            size: axes.map(|a| a.input),
            channels: self.channels,
            pixel_stride,
            kernel: axes.map(|a| a.kernel),
            stride: axes.map(|a| a.stride),
            dilation: axes.map(|a| a.dilation),
            pad: axes.map(|a| a.pad_begin),
            out: axes.map(|a| a.output),
        })
    }
}

impl Window {
    /// The window of an f32 convolution.
    pub(crate) fn of(conv: &Conv) -> Window {
        Window { sliding: conv.sliding.clone(), group: conv.group, kernel: conv.kernel.clone() }
    }

    /// How many convolutions stand side by side.
    pub(crate) fn group(&self) -> usize {
        self.group
    }

    fn step(&self, x: &Shape, w: &Shape) -> Result<Step, EvalError> {
        let axes = self.sliding.axes(x.get(2..).unwrap_or_default(), w.get(2..).unwrap_or_default())?;
        if x.rank() < 3 || w.rank() != x.rank() || w[1].checked_mul(self.group) != Some(x[1]) || !w[0].is_multiple_of(self.group) {
            return Err(EvalError::Invalid("channels do not divide into groups"));
        }
        Ok(Step { axes, images: x[0], groups: self.group, channels: w[1], out: w[0] / self.group, taps: w[2..].iter().product() })
    }

    /// The memory that a convolution of input 0 with input `w` needs.
    pub(crate) fn scratch(&self, cx: &StepCx<'_>, w: usize) -> Scratch {
        let (Some(Some(x)), Some(weights)) = (cx.inputs.first(), cx.input_shape(w)) else { return Scratch::default() };
        match self.step(x.shape(), weights) {
            Ok(step) if cx.is_packed(w) => {
                let output = cx.outputs.first().filter(|y| !is_channels_last(&y.layout)).map_or(0, |y| carved::<u8>(y.bytes()));
                Scratch { shared: output + carved::<u8>(reordered(x)), per_worker: packed::grain_scratch(&step.gemm(cx.level)) }
            }
            _ => Scratch::default(),
        }
    }

    /// Channels-last with packed weights, else row-major.
    pub(crate) fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>], w: usize) -> Option<Permutation> {
        if !cx.is_packed(w) {
            return None;
        }
        let last = Order::channels_last(cx.input_shape(0)?.rank());
        let wanted = |(i, o): (usize, &Option<Order>)| o.and_then(|_| if i == 0 { Some(last) } else { cx.input_shape(i).map(|s| Order::row_major(s.rank())) });
        Some(Permutation { inputs: inputs.iter().enumerate().map(wanted).collect(), outputs: vec![last] })
    }

    /// Two operations for each tap and channel of each output element.
    pub(crate) fn cost(&self, cx: &StepCx<'_>, w: usize) -> Cost {
        let base = cx.elementwise_cost();
        let each: usize = cx.input_shape(w).map_or(1, |w| w.get(1..).map_or(1, |d| d.iter().product()));
        Cost { flops: 2.0 * base.flops * each as f64, ..base }
    }

    /// With packed weights; `finish` gives what makes elements of the sums of these output channels.
    pub(crate) fn run_packed<A: QuantisedElement + Number, F: Finish>(
        &self,
        cx: &mut EvalCx<'_>,
        (x, w, y): (View<'_, A>, &PackedBytes, &Spec),
        weights: &Shape,
        zeros: (&[i32], &[i32]),
        out: &mut [F::Output],
        finish: impl Fn(Range<usize>) -> F,
    ) -> Result<(), EvalError>
    where
        F::Output: Pod,
    {
        let step = self.step(x.shape(), weights)?;
        let (outputs, rows, pixels) = (step.outputs(), step.rows(), step.pixels());
        check_count(zeros.0, 1)?;
        check_count(zeros.1, outputs)?;
        if out.is_empty() {
            return Ok(());
        }
        let short = || EvalError::Invalid("a convolution's scratch memory is too short");
        let mut scratch = cx.scratch();
        let in_order = is_channels_last(&y.layout);
        let aside = carve::<F::Output>(&mut scratch, if in_order { 0 } else { rows * outputs }).ok_or_else(short)?;
        let image = carve::<A>(&mut scratch, if is_channels_last(x.layout()) { 0 } else { x.shape().elements() }).ok_or_else(short)?;
        let x = if image.is_empty() {
            x.data()
        } else {
            let from = x.as_slice().ok_or(EvalError::Invalid("the image is neither row-major nor channels-last"))?;
            let (channels, plane) = (x.shape()[1], x.shape()[2..].iter().product::<usize>());
            for (i, &v) in from.iter().enumerate() {
                image[(i / plane / channels * plane + i % plane) * channels + i / plane % channels] = v;
            }
            &*image
        };
        let gemm = step.gemm(cx.level());
        for group in 0..step.groups {
            let of_group = group * step.out..(group + 1) * step.out;
            let zeros = ZeroPoints {
                a: ZeroPoint::All(zeros.0[0]),
                b: if zeros.1.len() > 1 { ZeroPoint::Each(&zeros.1[of_group.clone()]) } else { ZeroPoint::All(zeros.1[0]) },
            };
            let b = w.0.get(group).ok_or_else(short)?.view();
            let to = if in_order { &mut out[of_group.start..] } else { &mut aside[of_group.start..] };
            packed::run(cx, &gemm, &step.lhs(x, group), b, &zeros, &finish(of_group), (to, outputs))?;
        }
        for (r, row) in aside.chunks_exact(outputs).enumerate() {
            for (o, &v) in row.iter().enumerate() {
                out[(r / pixels * outputs + o) * pixels + r % pixels] = v;
            }
        }
        Ok(())
    }

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

/// Elements of an image that the step itself brings to channels-last order.
fn reordered(x: &Spec) -> usize {
    if is_channels_last(&x.layout) { 0 } else { x.shape().elements() }
}
