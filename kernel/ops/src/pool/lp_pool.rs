//! `LpPool`: the p-norm of the elements under each window.

use super::{
    max_pool::{pool_cost, pool_kernel, pool_of, pooled_dims},
    window::{Fold, VectorFold, permute, run, run_f32},
};
use crate::conv::geometry::{Sliding, positive};
use alloc::{boxed::Box, string::String, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, Cost, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_simd::{Simd, SimdF32};
use millstream_tensor::{DType, Order, bf16, f16};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "LpPool",
    since: &[2, 11, 18, 22],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "p", "pads", "strides"],
    subgraphs: &[],
    dtypes: "floats",
    build,
};

/// The greatest p: powers of f32 beyond it are 0, 1 or infinite for nearly all elements.
const MAX_P: i64 = 64;

/// Reads `p`.
pub(crate) fn read_p(cx: &BuildCx<'_>) -> Result<u32, BuildError> {
    let p = cx.attributes.int_or("p", 2)?;
    if !(1..=MAX_P).contains(&p) {
        return Err(BuildError::UnsupportedAttribute { name: "p", value: alloc::format!("{p}") });
    }
    Ok(p as u32)
}

fn build(cx: &BuildCx<'_>) -> Result<Box<dyn Op>, BuildError> {
    let kernel = positive(cx, "kernel_shape", 1)?;
    if kernel.is_empty() {
        return Err(BuildError::MissingAttribute("kernel_shape"));
    }
    Ok(Box::new(LpPool { kernel, sliding: Sliding::read(cx)?, norm: Norm(read_p(cx)?) }))
}

/// The p-norm under each window.
#[derive(Debug, Clone)]
pub struct LpPool {
    kernel: Vec<usize>,
    sliding: Sliding,
    norm: Norm,
}

impl Op for LpPool {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        if !x.dtype.is_float() {
            return Err(InferError::DType { input: 0, found: x.dtype });
        }
        Ok(vec![Fact::new(x.dtype, pooled_dims(x, &self.kernel, &self.sliding)?)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let pool = pool_of(cx, &self.kernel, &self.sliding, false)?;
        match cx.dtype(0)? {
            DType::F32 => run_f32(cx, &pool, self.norm),
            DType::F64 => run::<f64, _>(cx, &pool, self.norm),
            DType::F16 => run::<f16, _>(cx, &pool, self.norm),
            DType::BF16 => run::<bf16, _>(cx, &pool, self.norm),
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

/// The p-th root of the sum of p-th powers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm(pub(crate) u32);

macro_rules! norm_folds {
    ($($t:ty: $abs:path, $sqrt:path, $pow:path;)*) => { $(
        impl Fold<$t> for Norm {
            #[inline(always)]
            fn start(self) -> $t {
                0.0
            }
            #[inline(always)]
            fn step(self, sum: $t, x: $t) -> $t {
                let x = $abs(x);
                (1..self.0).fold(x, |power, _| power * x) + sum
            }
            #[inline(always)]
            fn finish(self, sum: $t, _count: usize) -> $t {
                match self.0 {
                    1 => sum,
                    2 => $sqrt(sum),
                    p => $pow(sum, 1.0 / p as $t),
                }
            }
        }
    )* };
}
norm_folds! {
    f32: libm::fabsf, libm::sqrtf, libm::powf;
    f64: libm::fabs, libm::sqrt, libm::pow;
}

impl VectorFold for Norm {
    #[inline(always)]
    fn step_vector<S: Simd>(self, _s: S, sum: S::F32, x: S::F32) -> S::F32 {
        let x = x.abs();
        (1..self.0).fold(x, |power, _| power * x) + sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};
    use millstream_tensor::Tensor;

    /// One spatial axis, no pads.
    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let (planes, d) = (x.shape()[0] * x.shape()[1], x.shape()[2]);
        let (kernel, stride) =
            (case.attributes.ints("kernel_shape").unwrap().unwrap()[0] as usize, case.attributes.ints("strides").unwrap().map_or(1, |s| s[0] as usize));
        let p = case.int_or("p", 2) as f64;
        let out = (d - kernel) / stride + 1;
        let x = x.as_slice::<f32>().unwrap();
        let one = |i: usize| {
            let window = &x[i / out * d + i % out * stride..][..kernel];
            libm::pow(window.iter().map(|&v| libm::pow(f64::from(v).abs(), p)).sum::<f64>(), 1.0 / p) as f32
        };
        let y: Vec<f32> = (0..planes * out).map(one).collect();
        vec![t(&[case.tensor(0).shape()[0], case.tensor(0).shape()[1], out], &y)]
    }

    op_tests! { DEF, reference, Tolerance { rel: 1e-5, abs: 1e-6 };
        two => Case::new([random(&[2, 21, 17], 1)]).ints("kernel_shape", &[3]);
        one => Case::new([random(&[2, 40, 17], 1)]).ints("kernel_shape", &[4]).ints("strides", &[3]).int("p", 1);
        three => Case::new([random(&[2, 3, 17], 1)]).ints("kernel_shape", &[4]).ints("strides", &[2]).int("p", 3);
    }
}
