//! `AveragePool`: the mean of the elements under each window, in ascending order of taps.
//!
//! Pads count as zeros where `count_include_pad` is 1; what a window covers past the trailing pads never counts. A window that
//! covers nothing gives 0.

use super::{
    max_pool::{pool_cost, pool_kernel, pool_of, pooled_dims},
    window::{Fold, VectorFold, permute, run, run_f32},
};
use crate::conv::geometry::{Sliding, positive};
use alloc::{boxed::Box, string::String, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, Cost, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_simd::Simd;
use millstream_tensor::{DType, Order, bf16, f16};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "AveragePool",
    since: &[1, 7, 10, 11, 19, 22],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"],
    subgraphs: &[],
    dtypes: "floats",
    build,
};

fn build(cx: &BuildCx<'_>) -> Result<Box<dyn Op>, BuildError> {
    let kernel = positive(cx, "kernel_shape", 1)?;
    if kernel.is_empty() {
        return Err(BuildError::MissingAttribute("kernel_shape"));
    }
    Ok(Box::new(AveragePool { kernel, sliding: Sliding::read(cx)?, count_pads: cx.attributes.flag_or("count_include_pad", false)? }))
}

/// The mean under each window.
#[derive(Debug, Clone)]
pub struct AveragePool {
    kernel: Vec<usize>,
    sliding: Sliding,
    count_pads: bool,
}

impl AveragePool {
    /// Stride, dilation, leading and trailing pad of each spatial axis, for an input of these spatial dims.
    pub fn windows(&self, input: &[usize]) -> Result<Vec<[usize; 4]>, InferError> {
        self.sliding.windows(input, &self.kernel)
    }

    /// True if pads count as elements of value 0.
    pub fn counts_pads(&self) -> bool {
        self.count_pads
    }

    /// The window's extents.
    pub fn kernel_shape(&self) -> &[usize] {
        &self.kernel
    }
}

impl Op for AveragePool {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        if !x.dtype.is_float() {
            return Err(InferError::DType { input: 0, found: x.dtype });
        }
        Ok(vec![Fact::new(x.dtype, pooled_dims(x, &self.kernel, &self.sliding)?)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let pool = pool_of(cx, &self.kernel, &self.sliding, self.count_pads)?;
        match cx.dtype(0)? {
            DType::F32 => run_f32(cx, &pool, Mean),
            DType::F64 => run::<f64, _>(cx, &pool, Mean),
            DType::F16 => run::<f16, _>(cx, &pool, Mean),
            DType::BF16 => run::<bf16, _>(cx, &pool, Mean),
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

/// The sum over the count.
#[derive(Debug, Clone, Copy)]
struct Mean;

macro_rules! mean_folds {
    ($($t:ty),*) => { $(
        impl Fold<$t> for Mean {
            #[inline(always)]
            fn start(self) -> $t {
                0.0
            }
            #[inline(always)]
            fn step(self, sum: $t, x: $t) -> $t {
                sum + x
            }
            #[inline(always)]
            fn finish(self, sum: $t, count: usize) -> $t {
                if count == 0 { 0.0 } else { sum / count as $t }
            }
        }
    )* };
}
mean_folds!(f32, f64);

impl VectorFold for Mean {
    #[inline(always)]
    fn step_vector<S: Simd>(self, _s: S, sum: S::F32, x: S::F32) -> S::F32 {
        sum + x
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::oracle::list;
    use crate::testing::{Case, Tolerance, random, t};
    use millstream_tensor::Tensor;

    /// Two spatial axes, all positions tried.
    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let d: Vec<i64> = x.shape().iter().map(|&d| d as i64).collect();
        let (kernel, strides, dilations, pads) =
            (list(case, "kernel_shape", 2, 1), list(case, "strides", 2, 1), list(case, "dilations", 2, 1), list(case, "pads", 4, 0));
        let ceil = case.int_or("ceil_mode", 0) == 1;
        let out = |i: usize| {
            let room = d[i + 2] + pads[i] + pads[i + 2] - (kernel[i] - 1) * dilations[i] - 1;
            let o = if ceil { (room + strides[i] - 1) / strides[i] } else { room / strides[i] } + 1;
            if ceil && (o - 1) * strides[i] >= d[i + 2] + pads[i] { o - 1 } else { o }
        };
        let (h, w) = (out(0), out(1));
        let values = x.as_slice::<f32>().unwrap();
        let mut y = vec![];
        for plane in 0..d[0] * d[1] {
            for (oy, ox) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
                let (mut sum, mut count) = (0.0f64, 0);
                for (ky, kx) in (0..kernel[0]).flat_map(|y| (0..kernel[1]).map(move |x| (y, x))) {
                    let (iy, ix) = (oy * strides[0] + ky * dilations[0] - pads[0], ox * strides[1] + kx * dilations[1] - pads[1]);
                    let inside = (0..d[2]).contains(&iy) && (0..d[3]).contains(&ix);
                    let padded = iy < d[2] + pads[2] && ix < d[3] + pads[3];
                    if inside {
                        sum += f64::from(values[((plane * d[2] + iy) * d[3] + ix) as usize]);
                    }
                    count += i64::from(inside || padded && case.int_or("count_include_pad", 0) == 1);
                }
                y.push(if count == 0 { 0.0 } else { sum / count as f64 } as f32);
            }
        }
        vec![t(&[d[0] as usize, d[1] as usize, h as usize, w as usize], &y)]
    }

    op_tests! { DEF, reference, Tolerance { rel: 1e-6, abs: 1e-6 };
        plain => Case::new([random(&[2, 21, 6, 7], 1)]).ints("kernel_shape", &[3, 2]).ints("strides", &[3, 2]);
        pads => Case::new([random(&[1, 40, 6, 7], 1)]).ints("kernel_shape", &[3, 3]).ints("pads", &[1, 1, 1, 1]);
        pads_counted => Case::new([random(&[1, 3, 6, 7], 1)]).ints("kernel_shape", &[3, 3]).ints("pads", &[1, 0, 2, 1]).int("count_include_pad", 1);
        ceil => Case::new([random(&[1, 3, 7, 8], 1)]).ints("kernel_shape", &[3, 3]).ints("strides", &[2, 3]).int("ceil_mode", 1);
        ceil_counted => Case::new([random(&[1, 3, 7, 8], 1)]).ints("kernel_shape", &[3, 3]).ints("strides", &[2, 3]).ints("pads", &[1, 1, 1, 1]).int("ceil_mode", 1).int("count_include_pad", 1);
        dilated => Case::new([random(&[1, 3, 9, 8], 1)]).ints("kernel_shape", &[3, 3]).ints("dilations", &[2, 3]).ints("pads", &[1, 1, 1, 1]);
        empty => Case::new([random(&[0, 3, 9, 8], 1)]).ints("kernel_shape", &[3, 3]);
    }
}
