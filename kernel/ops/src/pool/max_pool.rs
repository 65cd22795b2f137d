//! `MaxPool`: the greatest element under each window, and optionally where it lies. NaNs are passed over.
//!
//! `Indices` count elements of the whole input in row-major order, or with `storage_order` 1 with the spatial axes of each
//! plane in column-major order. Of equal elements the first one counts.

use super::window::{Fold, Pool, VectorFold, is_channels_last, permute, run, run_f32, run_greatest};
use crate::{
    conv::geometry::{Sliding, position, positive, visit},
    grains,
    matmul::number::{Number, Wrap},
};
use alloc::{boxed::Box, string::String, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, Cost, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_simd::{Simd, SimdF32};
use millstream_tensor::{DType, Order, bf16, f16, tile::Tiles};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "MaxPool",
    since: &[1, 8, 10, 11, 12, 22],
    inputs: Arity::exactly(1),
    outputs: Arity::range(1, 2),
    attributes: &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"],
    subgraphs: &[],
    dtypes: "floats, i8, u8",
    build,
};

fn build(cx: &BuildCx<'_>) -> Result<Box<dyn Op>, BuildError> {
    let kernel = positive(cx, "kernel_shape", 1)?;
    if kernel.is_empty() {
        return Err(BuildError::MissingAttribute("kernel_shape"));
    }
    Ok(Box::new(MaxPool { kernel, sliding: Sliding::read(cx)?, column_major: cx.attributes.flag_or("storage_order", false)? }))
}

/// The greatest element under each window.
#[derive(Debug, Clone)]
pub struct MaxPool {
    kernel: Vec<usize>,
    sliding: Sliding,
    column_major: bool,
}

/// The dims that a pool gives its input.
pub(crate) fn pooled_dims(x: &Fact, kernel: &[usize], sliding: &Sliding) -> Result<Vec<Dim>, InferError> {
    if x.rank() != kernel.len() + 2 {
        return Err(InferError::Rank { input: 0, found: x.rank(), wanted: "batch, channels and the axes of kernel_shape are expected" });
    }
    sliding.check_rank(kernel.len())?;
    let mut dims = x.dims[..2].to_vec();
    for (i, (dim, &k)) in x.dims[2..].iter().zip(kernel).enumerate() {
        dims.push(sliding.output_dim(i, dim, &Dim::from(k))?);
    }
    Ok(dims)
}

/// A pool over the input of a step.
pub(crate) fn pool_of(cx: &EvalCx<'_>, kernel: &[usize], sliding: &Sliding, count_pads: bool) -> Result<Pool, EvalError> {
    let spec = cx.spec(0).ok_or(EvalError::MissingInput(0))?;
    let space = spec.shape().get(2..).unwrap_or_default();
    Ok(Pool { axes: sliding.axes(space, kernel)?, count_pads })
}

/// The cost of a pool: an operation for each tap of each output.
pub(crate) fn pool_cost(cx: &StepCx<'_>, kernel: &[usize]) -> Cost {
    let base = cx.elementwise_cost();
    Cost { flops: base.flops * kernel.iter().product::<usize>() as f64, ..base }
}

/// The name of the kernel that a pool runs.
pub(crate) fn pool_kernel(cx: &StepCx<'_>) -> String {
    match cx.inputs.first() {
        Some(Some(x)) if matches!(x.dtype, DType::F32 | DType::U8 | DType::I8) && cx.outputs.len() == 1 && is_channels_last(&x.layout) => {
            alloc::format!("pool-nhwc-{}", cx.level.vectors())
        }
        _ => String::from("pool-planes"),
    }
}

impl Op for MaxPool {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        if !x.dtype.is_float() && !matches!(x.dtype, DType::I8 | DType::U8) {
            return Err(InferError::DType { input: 0, found: x.dtype });
        }
        let dims = pooled_dims(x, &self.kernel, &self.sliding)?;
        let mut facts = vec![Fact::new(x.dtype, dims.clone())];
        if cx.outputs > 1 {
            facts.push(Fact::new(DType::I64, dims));
        }
        Ok(facts)
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let pool = pool_of(cx, &self.kernel, &self.sliding, false)?;
        let indices = cx.wants(1);
        let last = !indices && [cx.spec(0), cx.output_spec(0)].iter().all(|s| s.is_some_and(|s| is_channels_last(&s.layout)));
        macro_rules! typed {
            ($t:ty) => {
                if indices { self.eval_indices::<$t>(cx, &pool) } else { run::<$t, Max>(cx, &pool, Max) }
            };
        }
        match cx.dtype(0)? {
            DType::F32 if !indices => run_f32(cx, &pool, Max),
            DType::F32 => self.eval_indices::<f32>(cx, &pool),
            DType::F64 => typed!(f64),
            DType::F16 => typed!(f16),
            DType::BF16 => typed!(bf16),
            DType::I8 if last => run_greatest(cx, &pool, i8::MIN),
            DType::U8 if last => run_greatest(cx, &pool, 0u8),
            DType::I8 => typed!(i8),
            DType::U8 => typed!(u8),
            other => Err(EvalError::DType(other)),
        }
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        permute(cx, inputs)
    }

    fn cost(&self, cx: &StepCx<'_>) -> Cost {
        pool_cost(cx, &self.kernel)
    }

    fn kernel(&self, cx: &StepCx<'_>) -> String {
        pool_kernel(cx)
    }
}

impl MaxPool {
    /// Stride, dilation, leading and trailing pad of each spatial axis, for an input of these spatial dims.
    pub fn windows(&self, input: &[usize]) -> Result<Vec<[usize; 4]>, InferError> {
        self.sliding.windows(input, &self.kernel)
    }

    /// The window's extents.
    pub fn kernel_shape(&self) -> &[usize] {
        &self.kernel
    }

    fn eval_indices<T: Number>(&self, cx: &mut EvalCx<'_>, pool: &Pool) -> Result<(), EvalError>
    where
        Max: Fold<T::Sum>,
    {
        let x = cx.input::<T>(0)?;
        let x = x.as_slice().ok_or(EvalError::Invalid("the input is not row-major"))?;
        let mut best = cx.output::<i64>(1)?;
        let places = best.as_slice_mut().ok_or(EvalError::Output(1))?;
        let pixels_in: usize = pool.axes.iter().map(|a| a.input).product();
        let pixels_out: usize = pool.axes.iter().map(|a| a.output).product();
        let column_major = |mut plane: usize| {
            let mut step: usize = pool.axes.iter().map(|a| a.input).product();
            pool.axes.iter().rev().fold(0, |place, a| {
                step /= a.input.max(1);
                let at = plane % a.input.max(1);
                plane /= a.input.max(1);
                place + at * step
            })
        };
        let planes = places.len().checked_div(pixels_out).unwrap_or(0);
        let taps: usize = self.kernel.iter().product();
        let rows = grains::rows(planes, pixels_out, taps);
        let place_tiles = Tiles::rows(places, pixels_out, rows).ok_or(EvalError::Output(1))?;
        let mut y = if cx.wants(0) { Some(cx.output::<T>(0)?) } else { None };
        let y_tiles = match &mut y {
            Some(y) => Some(Tiles::rows(y.as_slice_mut().ok_or(EvalError::Output(0))?, pixels_out, rows).ok_or(EvalError::Output(0))?),
            None => None,
        };
        cx.parallel(place_tiles.count(), |grain, _| {
            let mut place_tile = place_tiles.claim(grain)?;
            let mut y_tile = match &y_tiles {
                Some(tiles) => Some(tiles.claim(grain)?),
                None => None,
            };
            let first = place_tile.origin().0;
            for row in 0..place_tile.rows() {
                let start = (first + row) * pixels_in;
                let x = &x[start..start + pixels_in];
                for (pixel, place) in place_tile.row(row).iter_mut().enumerate() {
                    let at = position(&pool.axes, pixel);
                    let (mut most, mut most_at) = (Max.start(), None);
                    visit(&pool.axes, &at[..pool.axes.len()], &mut |plane, _| {
                        let v = x[plane].wide();
                        if v > most || most_at.is_none() {
                            (most, most_at) = (v, Some(plane));
                        }
                    });
                    let plane = most_at.unwrap_or(0);
                    *place = (start + if self.column_major { column_major(plane) } else { plane }) as i64;
                    if let Some(y) = &mut y_tile {
                        y.row(row)[pixel] = T::narrow(most);
                    }
                }
            }
            Some(())
        })
    }
}

/// The greatest element; the lowest value of the type for a window that is all padding.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Max;

macro_rules! max_folds {
    ($($t:ty => $lowest:expr),*) => { $(
        impl Fold<$t> for Max {
            #[inline(always)]
            fn start(self) -> $t {
                $lowest
            }
            #[inline(always)]
            fn step(self, sum: $t, x: $t) -> $t {
                if x > sum { x } else { sum }
            }
            #[inline(always)]
            fn finish(self, sum: $t, _count: usize) -> $t {
                sum
            }
        }
    )* };
}
max_folds!(f32 => f32::NEG_INFINITY, f64 => f64::NEG_INFINITY, Wrap<i32> => Wrap(i32::MIN));

impl VectorFold for Max {
    #[inline(always)]
    fn step_vector<S: Simd>(self, _s: S, sum: S::F32, x: S::F32) -> S::F32 {
        x.max(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, random_ints, t};
    use millstream_graph::Attribute;
    use millstream_tensor::Tensor;

    fn list(case: &Case, name: &str, n: usize, default: i64) -> Vec<i64> {
        case.attributes.ints(name).unwrap().cloned().unwrap_or_else(|| vec![default; n])
    }

    /// One plane at a time, all positions tried.
    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let dims: Vec<i64> = x.shape().iter().map(|&d| d as i64).collect();
        let n = dims.len() - 2;
        let (kernel, strides, dilations) = (list(case, "kernel_shape", n, 1), list(case, "strides", n, 1), list(case, "dilations", n, 1));
        let mut pads = list(case, "pads", 2 * n, 0);
        let ceil = case.int_or("ceil_mode", 0) == 1;
        let mut out = dims[..2].to_vec();
        for i in 0..n {
            let reach = (kernel[i] - 1) * dilations[i] + 1;
            if let Some(Attribute::String(auto)) = case.attributes.find("auto_pad") {
                let o = (dims[i + 2] + strides[i] - 1) / strides[i];
                let total = ((o - 1) * strides[i] + reach - dims[i + 2]).max(0);
                let small = total / 2;
                (pads[i], pads[n + i]) = if auto == "SAME_UPPER" { (small, total - small) } else { (total - small, small) };
            }
            let room = dims[i + 2] + pads[i] + pads[n + i] - reach;
            let mut o = if ceil { (room + strides[i] - 1) / strides[i] } else { room / strides[i] } + 1;
            if ceil && (o - 1) * strides[i] >= dims[i + 2] + pads[i] {
                o -= 1;
            }
            out.push(o);
        }
        let x = x.as_slice::<f32>().unwrap();
        let (plane_in, plane_out): (i64, i64) = (dims[2..].iter().product(), out[2..].iter().product());
        let (mut values, mut places) = (vec![], vec![]);
        for plane in 0..out[0] * out[1] {
            for o in 0..plane_out {
                let (mut best, mut at) = (f32::NEG_INFINITY, 0);
                for p in 0..plane_in {
                    let (mut rest_o, mut rest_p, mut inside) = (o, p, true);
                    let (mut column, mut step) = (0, plane_in);
                    for i in (0..n).rev() {
                        let (oi, pi) = (rest_o % out[i + 2], rest_p % dims[i + 2]);
                        (rest_o, rest_p) = (rest_o / out[i + 2], rest_p / dims[i + 2]);
                        let tap = pi + pads[i] - oi * strides[i];
                        inside &= tap >= 0 && tap % dilations[i] == 0 && tap / dilations[i] < kernel[i];
                        step /= dims[i + 2];
                        column += pi * step;
                    }
                    let v = x[(plane * plane_in + p) as usize];
                    if inside && v > best {
                        (best, at) = (v, plane * plane_in + if case.int_or("storage_order", 0) == 1 { column } else { p });
                    }
                }
                values.push(best);
                places.push(at);
            }
        }
        let out: Vec<usize> = out.iter().map(|&d| d as usize).collect();
        let mut all = vec![t(&out, &values)];
        if case.outputs > 1 {
            all.push(t(&out, &places));
        }
        all
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        resnet => Case::new([random(&[1, 20, 14, 14], 1)]).ints("kernel_shape", &[3, 3]).ints("strides", &[2, 2]).ints("pads", &[1, 1, 1, 1]);
        wide => Case::new([random(&[2, 70, 5, 6], 1)]).ints("kernel_shape", &[2, 3]);
        one_axis => Case::new([random(&[2, 3, 17], 2)]).ints("kernel_shape", &[4]).ints("strides", &[3]).ints("pads", &[2, 1]);
        three_axes => Case::new([random(&[1, 3, 5, 6, 4], 3)]).ints("kernel_shape", &[2, 3, 2]).ints("strides", &[1, 2, 2]).outputs(2).int("storage_order", 1);
        dilated => Case::new([random(&[1, 9, 9, 10], 4)]).ints("kernel_shape", &[3, 2]).ints("dilations", &[2, 3]).outputs(2);
        ceil => Case::new([random(&[1, 2, 6, 7], 5)]).ints("kernel_shape", &[3, 3]).ints("strides", &[2, 3]).int("ceil_mode", 1).ints("pads", &[0, 1, 0, 2]);
        same_upper => Case::new([random(&[1, 17, 5, 8], 6)]).ints("kernel_shape", &[3, 4]).ints("strides", &[2, 2]).string("auto_pad", "SAME_UPPER");
        same_lower => Case::new([random(&[1, 2, 5, 8], 7)]).ints("kernel_shape", &[3, 4]).ints("strides", &[2, 3]).string("auto_pad", "SAME_LOWER");
        many_taps => Case::new([random(&[1, 3, 12, 12], 8)]).ints("kernel_shape", &[9, 9]).ints("pads", &[4, 4, 4, 4]);
        no_batch => Case::new([random(&[0, 3, 4, 4], 9)]).ints("kernel_shape", &[2, 2]);
        no_channels => Case::new([random(&[2, 0, 4, 4], 9)]).ints("kernel_shape", &[2, 2]);
    }

    /// Small integers, which every type holds.
    fn typed<T: millstream_tensor::Element>(f: fn(f32) -> T) -> (Case, Vec<Tensor>) {
        let ints = random_ints(&[1, 2, 6, 6], -100, 100, 3);
        let numbers: Vec<f32> = ints.as_slice::<i64>().unwrap().iter().map(|&x| x as f32).collect();
        let of = |x: &[f32], dims: &[usize]| t(dims, &x.iter().map(|&v| f(v)).collect::<Vec<T>>());
        let want = reference(&Case::new([t(&[1, 2, 6, 6], &numbers)]).ints("kernel_shape", &[3, 2]));
        let case = Case::new([of(&numbers, &[1, 2, 6, 6])]).ints("kernel_shape", &[3, 2]);
        (case, vec![of(want[0].as_slice().unwrap(), want[0].shape())])
    }

    #[test]
    fn other_types() {
        crate::testing::check(&DEF, |_| typed(|x| x as i8).1, Tolerance::EXACT, &typed(|x| x as i8).0);
        crate::testing::check(&DEF, |_| typed(|x| (x + 100.0) as u8).1, Tolerance::EXACT, &typed(|x| (x + 100.0) as u8).0);
        crate::testing::check(&DEF, |_| typed(f64::from).1, Tolerance::EXACT, &typed(f64::from).0);
        crate::testing::check(&DEF, |_| typed(f16::from_f32).1, Tolerance::EXACT, &typed(f16::from_f32).0);
        crate::testing::check(&DEF, |_| typed(bf16::from_f32).1, Tolerance::EXACT, &typed(bf16::from_f32).0);
    }
}
