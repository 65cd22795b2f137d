//! f32 convolution of channels-last images: which product it is, what scratch it needs, and its run.
//!
//! | geometry | left operand |
//! |---|---|
//! | one tap, stride 1 | the image as a matrix of pixels × channels |
//! | one or two spatial axes | windows, copied block by block while the product runs |
//! | few planes, packed weights | the planes, read in place: see `planar` |
//! | 3 × 3 where the operator says so | tiles, transformed: see `winograd` |
//! | more axes | pixels gathered by a table of offsets |
//! | groups of few channels | none: the grouped kernel, or, of one channel, `depthwise` for more axes or a residual |
//!
//! A row-major image or output is reordered by the step itself. Whatever the way, an element is one chain of multiply-adds
//! over (tap, channel) in ascending order (of planes: over (line, channel, column); Winograd's chains are a tile's own).

use super::{
    conv::Conv,
    depthwise,
    geometry::{Axes, Axis, position, visit},
    planar,
    reorder::transpose,
    weights::{self, PackedWeights, WeightDims},
    winograd,
};
use crate::{
    carve::{carve, carved},
    matmul::product,
    pool::window::is_channels_last,
};
use alloc::{format, string::String};
use millstream_gemm::{Activation, Epilogue, Gemm, Grouped, Lhs, PackedRef, Planar, Residual, Window, pack_into, packed_len};
use millstream_graph::{EvalCx, EvalError, Scratch, Spec, StepCx};
use millstream_simd::Level;

/// The left operand's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pointwise,
    Window,
    Gathered,
    Depthwise,
    Grouped,
    Winograd,
    Planar,
}

/// A convolution of known shapes.
pub(crate) struct Step {
    axes: Axes,
    weights: WeightDims,
    kind: Kind,
    images: usize,
    level: Level,
    /// Weights are packed by the step.
    pack: bool,
    /// The image is reordered by the step.
    reorder_in: bool,
    /// The output is reordered by the step.
    reorder_out: bool,
    residual: bool,
}

impl Step {
    /// The step that the planner sees.
    pub(crate) fn of(conv: &Conv, cx: &StepCx<'_>) -> Result<Step, EvalError> {
        let input = |i: usize| cx.inputs.get(i).copied().flatten().ok_or(EvalError::MissingInput(i));
        let y = cx.outputs.first().ok_or(EvalError::Output(0))?;
        Step::new(conv, &input(0)?, &input(1)?, y, cx.is_packed(1), cx.level)
    }

    fn new(conv: &Conv, x: &Spec, w: &Spec, y: &Spec, packed: bool, level: Level) -> Result<Step, EvalError> {
        if x.dtype != millstream_tensor::DType::F32 {
            return Err(EvalError::DType(x.dtype));
        }
        let shape = x.shape();
        let weights = WeightDims::new(w.shape(), conv.group).ok_or(EvalError::Invalid("weights do not divide into groups"))?;
        let axes = conv.sliding.axes(shape.get(2..).unwrap_or_default(), &w.shape()[2..])?;
        let kind = match &axes[..] {
            _ if weights.is_depthwise() => Kind::Depthwise,
            _ if conv.suits_grouped(w.shape(), level) => Kind::Grouped,
            _ if packed && conv.suits_planar(w.shape()) => Kind::Planar,
            _ if conv.winograd && packed && conv.suits_winograd(w.shape()) => Kind::Winograd,
            axes if axes.iter().all(Axis::is_pointwise) => Kind::Pointwise,
            axes if axes.len() <= 2 => Kind::Window,
            _ => Kind::Gathered,
        };
        let row_major = x.layout.is_row_major();
        Ok(Step {
            axes,
            weights,
            kind,
            images: shape[0],
            level,
            pack: !packed,
            reorder_in: if kind == Kind::Planar { !row_major } else { !is_channels_last(&x.layout) },
            reorder_out: !is_channels_last(&y.layout),
            residual: conv.residual,
        })
    }

    fn channels(&self) -> usize {
        self.weights.group * self.weights.channels
    }

    fn outputs(&self) -> usize {
        self.weights.group * self.weights.out
    }

    fn pixels_in(&self) -> usize {
        self.axes.iter().map(|a| a.input).product()
    }

    fn pixels_out(&self) -> usize {
        self.axes.iter().map(|a| a.output).product()
    }

    fn rows(&self) -> usize {
        self.images * self.pixels_out()
    }

    fn gemm(&self) -> Gemm {
        Gemm::new(self.level, self.rows(), self.weights.k(), self.weights.out)
    }

    fn winograd(&self) -> winograd::Plan {
        winograd::Plan::new(self.level, &self.window(&[], self.channels()), self.outputs())
    }

    /// The job of groups of few channels, for at most two spatial axes.
    fn grouped(&self) -> Result<Grouped, EvalError> {
        let out = self.window(&[], self.channels()).out;
        let job = Grouped::new(self.level, self.images, out, self.weights.dims(), self.weights.taps);
        job.ok_or(EvalError::Invalid("a grouped convolution's dims exceed the address space"))
    }

    fn planar(&self) -> Planar {
        Planar::new(self.level, &self.window(&[], self.channels()), self.outputs())
    }

    /// Elements of the reordered image, the reordered output, the reordered residual, packed weights, and offsets.
    fn parts(&self) -> [usize; 5] {
        let w = &self.weights;
        let packed = match self.kind {
            Kind::Depthwise => w.group * w.taps,
            Kind::Grouped => self.grouped().ok().and_then(|job| job.packed_len().ok()).unwrap_or(0),
            _ => packed_len(self.level, w.k(), w.out),
        };
        let given = |yes: bool, n: usize| if yes { n } else { 0 };
        let (image, output) = (self.images * self.pixels_in() * self.channels(), self.rows() * self.outputs());
        [
            given(self.reorder_in, image),
            given(self.reorder_out, output),
            given(self.reorder_out && self.residual, output),
            given(self.pack, packed),
            given(self.kind == Kind::Gathered, self.rows() * w.taps),
        ]
    }

    /// The memory that the step needs.
    pub(crate) fn scratch(&self) -> Scratch {
        let [image, output, residual, packed, offsets] = self.parts();
        let floats: usize = [image, output, residual, packed].map(carved::<f32>).iter().sum();
        let per_worker = match self.kind {
            Kind::Depthwise | Kind::Grouped => 0,
            Kind::Winograd => self.winograd().grain_scratch(),
            Kind::Planar => planar::grain_scratch(&self.planar()),
            _ => product::grain_scratch(&self.gemm()),
        };
        Scratch { shared: floats + carved::<usize>(offsets), per_worker }
    }

    /// The kernel's name without its level.
    pub(crate) fn name(&self) -> String {
        let taps = self.axes.iter().enumerate().fold(String::new(), |s, (i, a)| format!("{s}{}{}", if i == 0 { "" } else { "x" }, a.kernel));
        let kind = match self.kind {
            Kind::Pointwise => "gemm",
            Kind::Window => "window-gemm",
            Kind::Gathered => "gather-gemm",
            Kind::Depthwise => "depthwise",
            Kind::Grouped => "grouped",
            Kind::Winograd => "winograd",
            Kind::Planar => "planar",
        };
        format!("conv{taps}-{kind}{}", if self.reorder_in { "-reordered" } else { "" })
    }

    /// The step's windows, for at most two spatial axes, and for channels from the start of `data` on.
    fn window<'a>(&self, data: &'a [f32], channels: usize) -> Window<'a> {
        let at = |i: usize| (self.axes.len() + i).checked_sub(2).map_or(Axis::UNIT, |i| self.axes[i]);
        let axes = [at(0), at(1)];
        Window {
            data,
            batch: self.images,
            size: axes.map(|a| a.input),
            channels,
            pixel_stride: self.channels(),
            kernel: axes.map(|a| a.kernel),
            stride: axes.map(|a| a.stride),
            dilation: axes.map(|a| a.dilation),
            pad: axes.map(|a| a.pad_begin),
            out: axes.map(|a| a.output),
        }
    }

    /// The step's left operand for channels from `first` on.
    fn lhs<'a>(&self, x: &'a [f32], first: usize, offsets: &'a [usize]) -> Lhs<'a> {
        let data = x.get(first..).unwrap_or_default();
        let (pixel_stride, channels) = (self.channels(), self.weights.channels);
        match self.kind {
            Kind::Gathered => Lhs::Gathered { data, offsets, taps: self.weights.taps, channels },
            Kind::Window => Lhs::Window(self.window(data, channels)),
            _ => Lhs::row_major(data, pixel_stride),
        }
    }

    /// For each output pixel and tap, where the tap's first channel lies, or that it lies outside.
    fn fill_offsets(&self, offsets: &mut [usize]) {
        offsets.fill(usize::MAX);
        let (taps, pixels_in, pixels_out, channels) = (self.weights.taps, self.pixels_in(), self.pixels_out(), self.channels());
        for (row, offsets) in offsets.chunks_exact_mut(taps.max(1)).enumerate() {
            let (image, pixel) = (row / pixels_out, row % pixels_out);
            visit(&self.axes, &position(&self.axes, pixel)[..self.axes.len()], &mut |plane, tap| {
                offsets[tap] = (image * pixels_in + plane) * channels;
            });
        }
    }
}

/// Runs a convolution.
pub(crate) fn run(conv: &Conv, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
    let spec = |i: usize| cx.spec(i).ok_or(EvalError::MissingInput(i));
    let y_spec = cx.output_spec(0).ok_or(EvalError::Output(0))?;
    let packed = cx.packed::<PackedWeights>(1);
    let step = Step::new(conv, &spec(0)?, &spec(1)?, &y_spec, packed.is_some(), cx.level())?;
    let short = || EvalError::Invalid("a convolution's scratch memory is too short");
    let mut scratch = cx.scratch();
    let mut take = |n: usize| carve::<f32>(&mut scratch, n).ok_or_else(short);
    let [image, output, residual_len, packed_len, offsets_len] = step.parts();
    let (image, output, residual_copy, packing) = (take(image)?, take(output)?, take(residual_len)?, take(packed_len)?);
    let offsets = carve::<usize>(&mut scratch, offsets_len).ok_or_else(short)?;
    step.fill_offsets(offsets);

    let x = cx.input::<f32>(0)?;
    let x = if step.reorder_in {
        let strange = EvalError::Invalid("the image is neither row-major nor channels-last");
        if step.kind == Kind::Planar {
            let from = is_channels_last(x.layout()).then(|| x.data()).ok_or(strange)?;
            transpose(cx, from, image, step.images, step.pixels_in(), step.channels())?;
        } else {
            transpose(cx, x.as_slice().ok_or(strange)?, image, step.images, step.channels(), step.pixels_in())?;
        }
        &*image
    } else {
        x.data()
    };
    let bias = match cx.optional::<f32>(2)? {
        Some(b) => Some(b.as_slice().ok_or(EvalError::Invalid("the bias is strided"))?),
        None => None,
    };
    let residual = match (conv.residual, step.reorder_out) {
        (false, _) => None,
        (true, false) => {
            let r = cx.input::<f32>(3)?;
            Some(r.layout().same_memory(&y_spec.layout).then(|| r.data()).ok_or(EvalError::Invalid("the residual is not laid out as the output"))?)
        }
        (true, true) => {
            let r = cx.input::<f32>(3)?;
            let r = r.as_slice().ok_or(EvalError::Invalid("the residual is not laid out as the output"))?;
            transpose(cx, r, residual_copy, step.images, step.outputs(), step.pixels_out())?;
            Some(&*residual_copy)
        }
    };
    let mut y = cx.output::<f32>(0)?;
    let target = if step.reorder_out { &mut *output } else { y.data_mut() };
    if let (Kind::Winograd, Some(PackedWeights::Winograd(weights))) = (step.kind, packed) {
        step.winograd().run(cx, step.window(x, step.channels()), weights, bias, residual, conv.activation, target)?;
    } else if let (Kind::Planar, Some(PackedWeights::Planar(weights))) = (step.kind, packed) {
        let residual = residual.map(|data| Residual { data, row_stride: step.outputs(), beta: 1.0 });
        let epilogue = Epilogue { bias_cols: bias, residual, activation: conv.activation, ..Epilogue::default() };
        planar::run(cx, &step.planar(), &step.window(x, step.channels()), weights.view(), &epilogue, target)?;
    } else if matches!(step.kind, Kind::Depthwise | Kind::Grouped) {
        let weights = match packed {
            Some(PackedWeights::Grouped(bytes)) => bytemuck::cast_slice((*bytes).as_ref()),
            _ => {
                weights::grouped(step.level, plain_weights(cx)?, step.weights, packing).map_err(product::refused)?;
                &*packing
            }
        };
        if residual.is_none() && step.axes.len() <= 2 {
            few_channels(cx, &step, x, weights, bias, conv.activation, target)?;
        } else {
            let step = depthwise::Depthwise { axes: &step.axes, channels: step.channels(), weights, bias, residual, activation: conv.activation };
            depthwise::run(cx, step, x, target)?;
        }
    } else {
        groups(conv, cx, &step, x, offsets, packed, packing, bias, residual, target)?;
    }
    if step.reorder_out {
        let y = y.as_slice_mut().ok_or(EvalError::Output(0))?;
        transpose(cx, output, y, step.images, step.pixels_out(), step.outputs())?;
    }
    Ok(())
}

/// Groups of few channels, of one or two spatial axes.
fn few_channels(
    cx: &EvalCx<'_>,
    step: &Step,
    x: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    activation: Activation,
    y: &mut [f32],
) -> Result<(), EvalError> {
    let (image, job) = (step.window(x, step.channels()), step.grouped()?);
    let tiles = job.tiles(y, step.outputs()).map_err(product::refused)?;
    cx.parallel(job.grains(), |grain, _| job.run_grain(grain, &image, weights, bias, activation, &tiles).ok())
}

fn plain_weights<'a>(cx: &EvalCx<'a>) -> Result<&'a [f32], EvalError> {
    cx.input::<f32>(1)?.as_slice().ok_or(EvalError::Invalid("the weights are strided"))
}

/// A product for each group, one after the other.
fn groups(
    conv: &Conv,
    cx: &EvalCx<'_>,
    step: &Step,
    x: &[f32],
    offsets: &[usize],
    packed: Option<&PackedWeights>,
    packing: &mut [f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    y: &mut [f32],
) -> Result<(), EvalError> {
    let (dims, gemm, row_stride) = (step.weights, step.gemm(), step.outputs());
    if step.rows() == 0 || dims.out == 0 {
        return Ok(());
    }
    for group in 0..dims.group {
        let b: PackedRef<'_> = match packed {
            Some(PackedWeights::Groups(groups)) => groups.get(group).ok_or(EvalError::MissingInput(1))?.view(),
            _ => {
                let matrix = dims.matrix(plain_weights(cx)?, group).ok_or(EvalError::MissingInput(1))?;
                pack_into(step.level, matrix, dims.k(), dims.out, packing).map_err(product::refused)?
            }
        };
        let first = group * dims.out;
        let epilogue = Epilogue {
            bias_cols: bias.map(|b| b.get(first..).unwrap_or_default()),
            residual: residual.map(|r| Residual { data: r.get(first..).unwrap_or_default(), row_stride, beta: 1.0 }),
            activation: conv.activation,
            ..Epilogue::default()
        };
        let a = step.lhs(x, group * dims.channels, offsets);
        product::run(cx, &gemm, &a, b, y.get_mut(first..).unwrap_or_default(), row_stride, &epilogue)?;
    }
    Ok(())
}
