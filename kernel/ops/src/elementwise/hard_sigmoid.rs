//! `HardSigmoid`: max(0, min(1, alpha * x + beta)).

use super::map::{Map, map_op};
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};
use millstream_simd::{Simd, SimdF32};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "HardSigmoid",
    since: &[6, 22],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["alpha", "beta"],
    subgraphs: &[],
    dtypes: "f16, bf16, f32, f64",
    build: |cx: &BuildCx<'_>| Ok(Box::new(HardSigmoid { alpha: cx.attributes.float_or("alpha", 0.2)?, beta: cx.attributes.float_or("beta", 0.5)? })),
};

/// Max(0, min(1, alpha * x + beta)).
#[derive(Debug, Clone, Copy)]
pub struct HardSigmoid {
    /// The attribute `alpha`.
    pub alpha: f32,
    /// The attribute `beta`.
    pub beta: f32,
}

impl Map for HardSigmoid {
    const WORK: usize = 2;

    fn real(&self, x: f64) -> f64 {
        (f64::from(self.alpha) * x + f64::from(self.beta)).clamp(0.0, 1.0)
    }

    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, x: S::F32) -> S::F32 {
        let line = x.mul_add(S::F32::splat(s, self.alpha), S::F32::splat(s, self.beta));
        // With the constants first, NaN stays.
        S::F32::splat(s, 1.0).min(S::F32::splat(s, 0.0).max(line))
    }
}
map_op!(HardSigmoid);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, map, spread, t};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        let (a, b) = (case.float_or("alpha", 0.2), case.float_or("beta", 0.5));
        map(case, |x| (a * x + b).clamp(0.0, 1.0))
    }

    op_tests! { DEF, reference, Tolerance::F32;
        f32s => Case::new([spread(DType::F32, &[3, 5, 7, 11], 8.0, 1)]);
        f64s => Case::new([spread(DType::F64, &[4, 33], 8.0, 2)]);
        f16s => Case::new([spread(DType::F16, &[65], 8.0, 3)]);
        bf16s => Case::new([spread(DType::BF16, &[2, 3, 4], 8.0, 4)]);
        many => Case::new([spread(DType::F32, &[70_001], 8.0, 5)]);
        special => Case::new([t(&[7], &[0.0f32, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0, -1.0])]);
        empty => Case::new([spread(DType::F32, &[2, 0, 3], 1.0, 7)]);
        scalar => Case::new([spread(DType::F32, &[], 8.0, 8)]);
        attributes => Case::new([spread(DType::F32, &[99], 3.0, 9)]).float("alpha", 0.5).float("beta", 0.6);
    }
}
