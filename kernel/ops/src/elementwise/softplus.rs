//! `Softplus`: ln(1 + e^x), computed as max(x, 0) + ln(1 + e^-|x|), which cannot overflow.

use super::map::{Map, map_op};
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};
use millstream_simd::{Simd, SimdF32, math};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Softplus",
    since: &[1, 22],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "f16, bf16, f32, f64",
    build: |_: &BuildCx<'_>| Ok(Box::new(Softplus)),
};

/// Ln(1 + e^x).
#[derive(Debug, Clone, Copy)]
pub struct Softplus;

impl Map for Softplus {
    const WORK: usize = 16;

    fn real(&self, x: f64) -> f64 {
        if x > 0.0 { x + libm::log1p(libm::exp(-x)) } else { libm::log1p(libm::exp(x)) }
    }

    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, x: S::F32) -> S::F32 {
        let one = S::F32::splat(s, 1.0);
        let tail = math::ln(s, one + math::exp(s, -x.abs()));
        S::F32::splat(s, 0.0).max(x) + tail
    }
}
map_op!(Softplus);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, map, spread, t};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        map(case, |x| if x > 0.0 { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() })
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
    }
}
