//! `Resize`: an image sampled at other places: the nearest element, or linear or cubic interpolation, one axis after the other
//! (innermost first), in whatever dense memory order it comes.
//!
//! Opset 10 takes (X, scales), later ones (X, roi, scales, sizes), of which absent and empty ones are the same. Any type is
//! moved by `nearest`; interpolation takes floats, and rounds after every axis.

use super::{
    coordinate::{Mode, Nearest, ResizeAxis, Sampling, Transform},
    pass::{self, Table},
};
use crate::{
    carve::{carve, carved},
    matmul::number::Number,
};
use alloc::{boxed::Box, string::String, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, Scratch, StepCx};
use millstream_tensor::{AlignedBytes, Bool, DType, Layout, Order, Shape, Tensor, bf16, f16};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Resize",
    since: &[10, 11, 13, 18, 19],
    inputs: Arity::range(1, 4),
    outputs: Arity::exactly(1),
    attributes: &[
        "antialias",
        "axes",
        "coordinate_transformation_mode",
        "cubic_coeff_a",
        "exclude_outside",
        "extrapolation_value",
        "keep_aspect_ratio_policy",
        "mode",
        "nearest_mode",
    ],
    subgraphs: &[],
    dtypes: "all but strings (nearest), floats (linear, cubic)",
    build,
};

fn build(cx: &BuildCx<'_>) -> Result<Box<dyn Op>, BuildError> {
    let text = |name: &'static str, default: &'static str| cx.attributes.string_or(name, default);
    let unsupported = |name: &'static str, value: &str| BuildError::UnsupportedAttribute { name, value: value.into() };
    let old = cx.version < 11;
    let nearest = match text("nearest_mode", if old { "floor" } else { "round_prefer_floor" })? {
        "round_prefer_floor" => Nearest::RoundPreferFloor,
        "round_prefer_ceil" => Nearest::RoundPreferCeil,
        "floor" => Nearest::Floor,
        "ceil" => Nearest::Ceil,
        other => return Err(unsupported("nearest_mode", other)),
    };
    let mode = match text("mode", "nearest")? {
        "nearest" => Mode::Nearest(nearest),
        "linear" => Mode::Linear,
        "cubic" => Mode::Cubic(cx.attributes.float_or("cubic_coeff_a", -0.75)?),
        other => return Err(unsupported("mode", other)),
    };
    let transform = match text("coordinate_transformation_mode", if old { "asymmetric" } else { "half_pixel" })? {
        "half_pixel" => Transform::HalfPixel,
        "half_pixel_symmetric" => Transform::HalfPixelSymmetric,
        "pytorch_half_pixel" => Transform::PytorchHalfPixel,
        "align_corners" => Transform::AlignCorners,
        "asymmetric" => Transform::Asymmetric,
        "tf_half_pixel_for_nn" => Transform::TfHalfPixelForNn,
        "tf_crop_and_resize" => Transform::TfCropAndResize,
        other => return Err(unsupported("coordinate_transformation_mode", other)),
    };
    let policy = match text("keep_aspect_ratio_policy", "stretch")? {
        "stretch" => Policy::Stretch,
        "not_larger" => Policy::NotLarger,
        "not_smaller" => Policy::NotSmaller,
        other => return Err(unsupported("keep_aspect_ratio_policy", other)),
    };
    Ok(Box::new(Resize {
        sampling: Sampling {
            mode,
            transform,
            exclude_outside: cx.attributes.flag_or("exclude_outside", false)?,
            antialias: cx.attributes.flag_or("antialias", false)? && !matches!(mode, Mode::Nearest(_)),
        },
        extrapolation: cx.attributes.float_or("extrapolation_value", 0.0)?,
        axes: cx.attributes.ints("axes")?.cloned(),
        policy,
        scales: if old { Scales::Input(1) } else { Scales::Input(2) },
        later: !old,
    }))
}

/// What sizes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Stretch,
    NotLarger,
    NotSmaller,
}

/// Where the scales are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scales {
    Input(usize),
    Attribute(Vec<f32>),
}

/// An image sampled at other places.
#[derive(Debug, Clone)]
pub struct Resize {
    pub(crate) sampling: Sampling,
    pub(crate) extrapolation: f32,
    pub(crate) axes: Option<Vec<i64>>,
    pub(crate) policy: Policy,
    pub(crate) scales: Scales,
    /// Inputs are X, roi, scales, sizes.
    pub(crate) later: bool,
}

fn floats(t: &Tensor) -> Option<Vec<f64>> {
    match t.dtype() {
        DType::F32 => t.as_slice::<f32>().ok().map(|s| s.iter().map(|&x| x.into()).collect()),
        DType::F64 => t.as_slice::<f64>().ok().map(<[f64]>::to_vec),
        DType::F16 => t.as_slice::<f16>().ok().map(|s| s.iter().map(|x| x.to_f64()).collect()),
        _ => None,
    }
}

impl Resize {
    /// The axes that scales, sizes and roi speak of.
    fn targets(&self, rank: usize) -> Result<Vec<usize>, InferError> {
        match &self.axes {
            Some(axes) => axes.iter().map(|&a| InferCx::axis(a, rank)).collect(),
            None => Ok((0..rank).collect()),
        }
    }

    /// The scales, if they are known and not empty. The error says which input is missing.
    fn known_scales(&self, cx: &InferCx<'_>) -> Result<Option<Vec<f64>>, InferError> {
        match &self.scales {
            Scales::Attribute(s) => Ok(Some(s.iter().map(|&x| x.into()).collect())),
            &Scales::Input(i) => {
                let Some(fact) = cx.optional(i).filter(|f| !f.dims.iter().any(|d| d.is(0))) else { return Ok(None) };
                let tensor = fact.as_const().and_then(|c| c.to_tensor().ok());
                tensor.and_then(|t| floats(&t)).map(Some).ok_or(InferError::NeedsValue(i))
            }
        }
    }

    /// All axes of a step.
    fn resolve(&self, dims: &[usize], scales: Option<&[f64]>, sizes: Option<&[i64]>, roi: Option<&[f64]>) -> Result<Vec<ResizeAxis>, InferError> {
        let targets = self.targets(dims.len())?;
        let wrong = || InferError::Invalid("scales, sizes or roi do not have an element for each axis, or are out of range");
        let mut out: Vec<ResizeAxis> = dims.iter().map(|&d| ResizeAxis { input: d, output: d, scale: 1.0, roi: (0.0, 1.0) }).collect();
        if let Some(scales) = scales {
            if scales.len() != targets.len() {
                return Err(wrong());
            }
            for (&axis, &scale) in targets.iter().zip(scales) {
                // Scales are f32 in the model: their product with a dim is rounded as such.
                let output = libm::floorf(dims[axis] as f32 * scale as f32);
                if !(scale > 0.0 && output.is_finite() && f64::from(output) < u32::MAX.into()) {
                    return Err(wrong());
                }
                (out[axis].scale, out[axis].output) = (scale, output as usize);
            }
        } else if let Some(sizes) = sizes {
            if sizes.len() != targets.len() || sizes.iter().any(|&s| s < 0 || s >= u32::MAX.into()) {
                return Err(wrong());
            }
            let ratio = |(&axis, &size): (&usize, &i64)| size as f64 / dims[axis].max(1) as f64;
            let ratios = targets.iter().zip(sizes).map(ratio);
            let uniform = match self.policy {
                Policy::Stretch => None,
                Policy::NotLarger => Some(ratios.fold(f64::INFINITY, f64::min)),
                Policy::NotSmaller => Some(ratios.fold(0.0, f64::max)),
            };
            for (&axis, &size) in targets.iter().zip(sizes) {
                let (scale, output) = match uniform {
                    Some(u) => (u, libm::floor(u * dims[axis] as f64 + 0.5)),
                    None => (size as f64 / dims[axis].max(1) as f64, size as f64),
                };
                if output >= u32::MAX.into() {
                    return Err(wrong());
                }
                (out[axis].scale, out[axis].output) = (scale, output as usize);
            }
        } else {
            return Err(InferError::Invalid("neither scales nor sizes are given"));
        }
        if let Some(roi) = roi.filter(|_| self.sampling.transform == Transform::TfCropAndResize) {
            if roi.len() != 2 * targets.len() {
                return Err(wrong());
            }
            for (i, &axis) in targets.iter().enumerate() {
                out[axis].roi = (roi[i], roi[i + targets.len()]);
            }
        }
        if out.iter().any(|a| a.input == 0 && a.output > 0 || a.input >= u32::MAX as usize) {
            return Err(InferError::Invalid("an empty axis cannot be resized"));
        }
        Ok(out)
    }

    /// Bytes of scratch for these axes, in memory order: tables, and two images between passes.
    fn need(&self, axes: &[ResizeAxis], element: usize) -> usize {
        let passes = axes.iter().filter(|a| !a.is_identity(&self.sampling)).count();
        let mut bytes = 0usize;
        let mut between = 0usize;
        let mut size: usize = axes.iter().map(|a| a.input).product();
        let mut done = 0;
        for axis in axes.iter().rev().filter(|a| !a.is_identity(&self.sampling)) {
            let pairs = axis.output.saturating_mul(ResizeAxis::width(axis.input, axis.output, &self.sampling));
            bytes = bytes.saturating_add(carved::<u32>(pairs)).saturating_add(carved::<f32>(pairs));
            size = (size / axis.input.max(1)).saturating_mul(axis.output);
            done += 1;
            if done < passes {
                between = between.max(size);
            }
        }
        let buffers = passes.saturating_sub(1).min(2);
        bytes.saturating_add(buffers.saturating_mul(carved::<u8>(between.saturating_mul(element))))
    }

    fn run<T: millstream_tensor::Element>(&self, cx: &mut EvalCx<'_>, axes: &[ResizeAxis], step: Step<T>) -> Result<(), EvalError> {
        let (x, mut y) = (cx.input::<T>(0)?, cx.output::<T>(0)?);
        let order = x.layout().order().ok_or(EvalError::Invalid("the image is strided"))?;
        let (shape, y_layout) = (*y.shape(), *y.layout());
        if shape.elements() == 0 {
            return Ok(());
        }
        if !y_layout.same_memory(&Layout::dense(shape, order)) {
            return Err(EvalError::Output(0));
        }
        let axes_in_memory: Vec<ResizeAxis> = order.axes().map(|a| axes[a]).collect();
        let need = self.need(&axes_in_memory, size_of::<T>());
        let planned = cx.scratch();
        // Scales that change an axis' coordinates but not its extent are not seen by the plan.
        let mut own = AlignedBytes::zeroed(if planned.len() < need { need } else { 0 })?;
        let mut scratch: &mut [u8] = if planned.len() < need { own.as_mut() } else { planned };
        let short = || EvalError::Invalid("Resize's scratch memory is too short");
        let passes: Vec<usize> = (0..axes_in_memory.len()).rev().filter(|&i| !axes_in_memory[i].is_identity(&self.sampling)).collect();
        let mut dims: Vec<usize> = axes_in_memory.iter().map(|a| a.input).collect();
        let mut source: &[T] = x.data();
        for (n, &i) in passes.iter().enumerate() {
            let axis = axes_in_memory[i];
            let width = ResizeAxis::width(axis.input, axis.output, &self.sampling);
            let pairs = axis.output * width;
            let (places, weights) = (carve::<u32>(&mut scratch, pairs).ok_or_else(short)?, carve::<f32>(&mut scratch, pairs).ok_or_else(short)?);
            pass::fill(&axis, &self.sampling, width, places, weights)?;
            let table = Table { input: axis.input, output: axis.output, width, places, weights };
            let inner: usize = dims[i + 1..].iter().product();
            dims[i] = axis.output;
            let len = dims.iter().product();
            if n + 1 == passes.len() {
                step(cx, table, inner, source, &mut y.data_mut()[..len])?;
                break;
            }
            let target = carve::<T>(&mut scratch, len).ok_or_else(short)?;
            step(cx, table, inner, source, target)?;
            source = target;
        }
        if passes.is_empty() {
            y.data_mut()[..shape.elements()].copy_from_slice(&source[..shape.elements()]);
        }
        if self.sampling.transform == Transform::TfCropAndResize {
            self.extrapolate(axes, &shape, &y_layout, y.data_mut())?;
        }
        Ok(())
    }

    /// Sets what lies outside of the image.
    fn extrapolate<T: millstream_tensor::Element>(&self, axes: &[ResizeAxis], shape: &Shape, layout: &Layout, y: &mut [T]) -> Result<(), EvalError> {
        let value = Tensor::from_slice(&[1], &[self.extrapolation])?;
        let narrow = match T::DTYPE {
            DType::F32 => value,
            DType::F64 => Tensor::from_slice(&[1], &[f64::from(self.extrapolation)])?,
            DType::F16 => Tensor::from_slice(&[1], &[f16::from_f32(self.extrapolation)])?,
            DType::BF16 => Tensor::from_slice(&[1], &[bf16::from_f32(self.extrapolation)])?,
            other => return Err(EvalError::DType(other)),
        };
        let value = narrow.as_slice::<T>()?[0];
        let outside: Vec<Vec<bool>> = axes.iter().map(|a| (0..a.output).map(|o| a.is_outside(self.sampling.transform, o)).collect()).collect();
        for (index, offset) in layout.offsets().enumerate() {
            let mut rest = index;
            let mut is_outside = false;
            for axis in (0..shape.rank()).rev() {
                is_outside |= outside[axis][rest % shape[axis]];
                rest /= shape[axis];
            }
            if is_outside {
                y[offset] = value;
            }
        }
        Ok(())
    }
}

/// A pass over one axis.
type Step<T> = fn(&EvalCx<'_>, Table<'_>, usize, &[T], &mut [T]) -> Result<(), EvalError>;

fn interpolate<T: Number>(cx: &EvalCx<'_>, table: Table<'_>, inner: usize, x: &[T], y: &mut [T]) -> Result<(), EvalError>
where
    T::Sum: From<f32>,
{
    pass::weighted::<T, T>(cx, table, inner, x, y)
}

impl Op for Resize {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        let moves = matches!(self.sampling.mode, Mode::Nearest(_)) && (self.sampling.transform != Transform::TfCropAndResize || x.dtype.is_float());
        if x.dtype == DType::String || !moves && !x.dtype.is_float() {
            return Err(InferError::DType { input: 0, found: x.dtype });
        }
        let targets = self.targets(x.rank())?;
        let extents: Option<Vec<usize>> = x.dims.iter().map(Dim::as_extent).collect();
        let mut dims = x.dims.clone();
        if let Some(scales) = self.known_scales(cx)? {
            if let Some(extents) = extents {
                let axes = self.resolve(&extents, Some(&scales), None, None)?;
                return Ok(vec![Fact::new(x.dtype, axes.iter().map(|a| Dim::from(a.output)).collect())]);
            }
            if scales.len() != targets.len() {
                return Err(InferError::Invalid("scales do not have an element for each axis"));
            }
            for (&axis, &scale) in targets.iter().zip(&scales) {
                dims[axis] = match dims[axis].as_extent() {
                    Some(d) => Dim::from(libm::floorf(d as f32 * scale as f32) as i64),
                    None if libm::floor(scale) == scale && (1.0..1e6).contains(&scale) => dims[axis].mul(&Dim::from(scale as i64)),
                    None => return Err(InferError::NeedsDims(0)),
                };
            }
            return Ok(vec![Fact::new(x.dtype, dims)]);
        }
        let sizes = if self.later { cx.int_dims(3)? } else { return Err(InferError::MissingInput(1)) };
        if sizes.len() != targets.len() {
            return Err(InferError::Invalid("sizes do not have an element for each axis"));
        }
        if self.policy == Policy::Stretch {
            for (&axis, size) in targets.iter().zip(&sizes) {
                dims[axis] = size.clone();
            }
            return Ok(vec![Fact::new(x.dtype, dims)]);
        }
        let numbers: Option<Vec<i64>> = sizes.iter().map(Dim::as_const).collect();
        let axes = self.resolve(&extents.ok_or(InferError::NeedsDims(0))?, None, Some(&numbers.ok_or(InferError::NeedsValue(3))?), None)?;
        Ok(vec![Fact::new(x.dtype, axes.iter().map(|a| Dim::from(a.output)).collect())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let shape = *cx.spec(0).ok_or(EvalError::MissingInput(0))?.shape();
        let read = |i: usize| -> Result<Option<Tensor>, EvalError> {
            if !cx.has(i) {
                return Ok(None);
            }
            Ok(Some(Tensor::from_view(cx.tensor(i)?)?).filter(|t| t.shape().elements() > 0))
        };
        let scales = match &self.scales {
            Scales::Attribute(s) => Some(s.iter().map(|&x| x.into()).collect()),
            &Scales::Input(i) => read(i)?.as_ref().and_then(floats),
        };
        let (sizes, roi) = if self.later { (read(3)?, read(1)?) } else { (None, None) };
        let sizes = match &sizes {
            Some(t) => Some(t.as_slice::<i64>()?.to_vec()),
            None => None,
        };
        let roi = roi.as_ref().and_then(floats);
        let axes = self.resolve(&shape, scales.as_deref(), sizes.as_deref(), roi.as_deref())?;
        let planned = cx.output_spec(0).ok_or(EvalError::Output(0))?;
        if !axes.iter().map(|a| a.output).eq(planned.shape().iter().copied()) {
            return Err(EvalError::Output(0));
        }
        if matches!(self.sampling.mode, Mode::Nearest(_)) {
            macro_rules! moved {
                ($($d:ident: $t:ty),*) => {
                    match cx.dtype(0)? {
                        $( DType::$d => self.run::<$t>(cx, &axes, pass::nearest::<$t>), )*
                        other => Err(EvalError::DType(other)),
                    }
                };
            }
            return moved!(F32: f32, F64: f64, F16: f16, BF16: bf16, I8: i8, I16: i16, I32: i32, I64: i64, U8: u8, U16: u16, U32: u32, U64: u64, Bool: Bool);
        }
        match cx.dtype(0)? {
            DType::F32 => self.run::<f32>(cx, &axes, interpolate::<f32>),
            DType::F64 => self.run::<f64>(cx, &axes, interpolate::<f64>),
            DType::F16 => self.run::<f16>(cx, &axes, interpolate::<f16>),
            DType::BF16 => self.run::<bf16>(cx, &axes, interpolate::<bf16>),
            other => Err(EvalError::DType(other)),
        }
    }

    fn scratch(&self, cx: &StepCx<'_>) -> Scratch {
        let (Some(Some(x)), Some(y)) = (cx.inputs.first(), cx.outputs.first()) else { return Scratch::default() };
        let order = x.layout.order().unwrap_or(Order::row_major(x.shape().rank()));
        let axis = |a: usize| {
            let (input, output) = (x.shape()[a], y.shape().get(a).copied().unwrap_or(0));
            let scale = if input == output { 1.0 } else { 2.0 };
            ResizeAxis { input, output, scale, roi: (0.0, 1.0) }
        };
        let axes: Vec<ResizeAxis> = order.axes().map(axis).collect();
        Scratch { shared: self.need(&axes, x.dtype.size()), per_worker: 0 }
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        let rank = cx.input_shape(0)?.rank();
        let order = inputs.first().copied()?.unwrap_or(Order::row_major(rank));
        let mut wanted = vec![Some(order)];
        wanted.extend((1..inputs.len()).map(|i| cx.input_shape(i).map(|s| Order::row_major(s.rank()))));
        Some(Permutation { inputs: wanted, outputs: vec![order] })
    }

    fn kernel(&self, cx: &StepCx<'_>) -> String {
        let mode = match self.sampling.mode {
            Mode::Nearest(_) => "nearest",
            Mode::Linear => "linear",
            Mode::Cubic(_) => "cubic",
        };
        alloc::format!("resize-{mode}-{}", cx.level.vectors())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};

    /// Two innermost axes, asymmetric coordinates, by the definition of each mode.
    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let scales = case.optional(2).unwrap().as_slice::<f32>().unwrap().to_vec();
        let d = x.shape().to_vec();
        let out: Vec<usize> = d.iter().zip(&scales).map(|(&d, &s)| (d as f32 * s) as usize).collect();
        let linear = case.attributes.string_or("mode", "").unwrap() == "linear";
        let v = x.as_slice::<f32>().unwrap();
        let mut y = vec![];
        for plane in 0..d[0] * d[1] {
            for (oy, ox) in (0..out[2]).flat_map(|y| {
                let w = out[3];
                (0..w).map(move |x| (y, x))
            }) {
                let (fy, fx) = (oy as f32 / scales[2], ox as f32 / scales[3]);
                let at = |y: usize, x: usize| v[(plane * d[2] + y.min(d[2] - 1)) * d[3] + x.min(d[3] - 1)];
                let (iy, ix) = (fy as usize, fx as usize);
                let (ty, tx) = (fy - iy as f32, fx - ix as f32);
                y.push(if linear {
                    (at(iy, ix) * (1.0 - tx) + at(iy, ix + 1) * tx) * (1.0 - ty) + (at(iy + 1, ix) * (1.0 - tx) + at(iy + 1, ix + 1) * tx) * ty
                } else {
                    at(iy, ix)
                });
            }
        }
        vec![t(&out, &y)]
    }

    fn case(dims: &[usize], scales: &[f32], mode: &str) -> Case {
        let c = Case::new([random(dims, 1)]).input(None).input(t(&[scales.len()], scales)).constant(2);
        c.string("mode", mode).string("nearest_mode", "floor").string("coordinate_transformation_mode", "asymmetric")
    }

    op_tests! { DEF, reference, Tolerance { rel: 1e-5, abs: 1e-6 };
        nearest_double => case(&[2, 20, 5, 6], &[1.0, 1.0, 2.0, 2.0], "nearest");
        nearest_shrink => case(&[1, 3, 8, 9], &[1.0, 1.0, 0.5, 0.4], "nearest");
        nearest_one_axis => case(&[1, 3, 8, 9], &[1.0, 1.0, 1.0, 3.0], "nearest");
        linear_double => case(&[2, 17, 5, 6], &[1.0, 1.0, 2.0, 2.0], "linear");
        linear_uneven => case(&[1, 3, 5, 6], &[1.0, 1.0, 1.5, 3.0], "linear");
        unchanged => case(&[1, 3, 5, 6], &[1.0, 1.0, 1.0, 1.0], "linear");
        same_extent => case(&[1, 3, 2, 6], &[1.0, 1.0, 1.25, 2.0], "linear");
        empty => case(&[0, 3, 5, 6], &[1.0, 1.0, 2.0, 2.0], "nearest");
    }

    fn run(case: Case) -> Vec<f32> {
        let cx = BuildCx { version: 19, attributes: &case.attributes, inputs: case.inputs.len(), outputs: 1, subgraphs: &[] };
        let op = DEF.instantiate(19, cx).unwrap();
        let facts: Vec<Option<Fact>> = (0..case.inputs.len()).map(|i| case.optional(i).map(|t| Fact::constant(t.clone().into()))).collect();
        let refs: Vec<Option<&Fact>> = facts.iter().map(Option::as_ref).collect();
        let fact = op.infer(&InferCx { path: "", inputs: &refs, outputs: 1 }).unwrap();
        let spec = millstream_graph::Spec::row_major(fact[0].dtype, fact[0].shape().unwrap().unwrap());
        let y = millstream_graph::eval_to_values(&*op, millstream_simd::Level::detect(), &case.inputs, &[Some(spec)]).unwrap();
        y[0].as_tensor().unwrap().as_slice::<f32>().unwrap().to_vec()
    }

    /// Values from the ONNX standard's own examples.
    #[test]
    fn standard_examples() {
        let square = |n: usize| t(&[1, 1, n, n], &(1..=n * n).map(|i| i as f32).collect::<Vec<_>>());
        let close = |got: Vec<f32>, want: &[f32]| {
            assert_eq!(got.len(), want.len());
            got.iter().zip(want).for_each(|(g, w)| assert!((g - w).abs() < 1e-4, "{got:?} against {want:?}"));
        };
        let scales = |s: f32| t(&[4], &[1.0, 1.0, s, s]);
        let up = run(Case::new([square(2)]).input(None).input(scales(2.0)).string("mode", "linear"));
        close(up, &[1.0, 1.25, 1.75, 2.0, 1.5, 1.75, 2.25, 2.5, 2.5, 2.75, 3.25, 3.5, 3.0, 3.25, 3.75, 4.0]);
        let corners =
            run(Case::new([square(2)]).input(None).input(scales(2.0)).string("mode", "linear").string("coordinate_transformation_mode", "align_corners"));
        close(corners[..4].to_vec(), &[1.0, 1.333_333_3, 1.666_666_6, 2.0]);
        let cubic = run(Case::new([square(4)]).input(None).input(scales(0.8)).string("mode", "cubic"));
        close(cubic, &[1.471_191_4, 2.781_25, 4.082_519_5, 6.711_426, 8.021_484, 9.322_754, 11.916_504, 13.226_562, 14.527_832]);
        let anti = run(Case::new([square(4)]).input(None).input(scales(0.6)).string("mode", "linear").int("antialias", 1));
        close(anti, &[2.875, 4.5, 9.375, 11.0]);
        let sizes = t(&[2], &[1i64, 3]);
        let shrunk = run(Case::new([t(&[1, 1, 2, 4], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])])
            .input(None)
            .input(None)
            .input(sizes)
            .ints("axes", &[2, 3])
            .string("mode", "linear"));
        close(shrunk, &[3.166_666_5, 4.5, 5.833_333_5]);
    }
}
