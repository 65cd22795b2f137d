//! `Celu`: max(0, x) + min(0, alpha * (e^(x / alpha) - 1)).

use super::map::{Map, map_op};
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};
use millstream_simd::{Simd, SimdF32, math};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Celu",
    since: &[12],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["alpha"],
    subgraphs: &[],
    dtypes: "f16, bf16, f32, f64",
    build: |cx: &BuildCx<'_>| Ok(Box::new(Celu { alpha: cx.attributes.float_or("alpha", 1.0)? })),
};

/// Max(0, x) + min(0, alpha * (e^(x / alpha) - 1)).
#[derive(Debug, Clone, Copy)]
pub struct Celu {
    /// The attribute `alpha`.
    pub alpha: f32,
}

impl Map for Celu {
    const WORK: usize = 10;

    fn real(&self, x: f64) -> f64 {
        let alpha = f64::from(self.alpha);
        if x < 0.0 { alpha * libm::expm1(x / alpha) } else { x }
    }

    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, x: S::F32) -> S::F32 {
        let alpha = S::F32::splat(s, self.alpha);
        let below = alpha * (math::exp(s, x / alpha) - S::F32::splat(s, 1.0));
        S::F32::select(x.lt(S::F32::splat(s, 0.0)), below, x)
    }
}
map_op!(Celu);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, map, spread, t};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        let a = case.float_or("alpha", 1.0);
        map(case, |x| if x < 0.0 { a * (x / a).exp_m1() } else { x })
    }

    op_tests! { DEF, reference, Tolerance::SUM;
        f32s => Case::new([spread(DType::F32, &[3, 5, 7, 11], 8.0, 1)]);
        f64s => Case::new([spread(DType::F64, &[4, 33], 8.0, 2)]);
        f16s => Case::new([spread(DType::F16, &[65], 8.0, 3)]);
        bf16s => Case::new([spread(DType::BF16, &[2, 3, 4], 8.0, 4)]);
        many => Case::new([spread(DType::F32, &[70_001], 8.0, 5)]);
        special => Case::new([t(&[7], &[0.0f32, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0, -1.0])]);
        empty => Case::new([spread(DType::F32, &[2, 0, 3], 1.0, 7)]);
        scalar => Case::new([spread(DType::F32, &[], 8.0, 8)]);
        alpha => Case::new([spread(DType::F32, &[99], 3.0, 9)]).float("alpha", 2.0);
    }
}
