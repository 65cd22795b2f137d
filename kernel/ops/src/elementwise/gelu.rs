//! `Gelu`: x * Φ(x), with the error function (`none`) or its approximation by a hyperbolic tangent (`tanh`).

use super::map::{Map, map_op};
use alloc::boxed::Box;
use core::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
use millstream_graph::{Arity, BuildCx, BuildError, OpDef};
use millstream_simd::{Simd, SimdF32, math};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Gelu",
    since: &[20],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["approximate"],
    subgraphs: &[],
    dtypes: "f16, bf16, f32, f64",
    build: |cx: &BuildCx<'_>| match cx.attributes.string_or("approximate", "none")? {
        "none" => Ok(Box::new(Gelu { tanh: false })),
        "tanh" => Ok(Box::new(Gelu { tanh: true })),
        other => Err(BuildError::UnsupportedAttribute { name: "approximate", value: other.into() }),
    },
};

/// x * Φ(x).
#[derive(Debug, Clone, Copy)]
pub struct Gelu {
    /// True for the approximation by a hyperbolic tangent.
    pub tanh: bool,
}

const SQRT_2_OVER_PI: f64 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;

impl Map for Gelu {
    const WORK: usize = 16;

    fn real(&self, x: f64) -> f64 {
        let phi = if self.tanh { libm::tanh(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)) } else { libm::erf(x * FRAC_1_SQRT_2) };
        0.5 * x * (1.0 + phi)
    }

    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, x: S::F32) -> S::F32 {
        if !self.tanh {
            return math::gelu(s, x);
        }
        let one = S::F32::splat(s, 1.0);
        let cubic = (x * x).mul_add(S::F32::splat(s, 0.044_715), one);
        let phi = math::tanh(s, S::F32::splat(s, SQRT_2_OVER_PI as f32) * x * cubic);
        S::F32::splat(s, 0.5) * x * (one + phi)
    }
}
map_op!(Gelu);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, map, spread};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        let tanh = case.attributes.string_or("approximate", "none").unwrap() == "tanh";
        let c = (2.0 / core::f64::consts::PI).sqrt();
        map(case, |x| 0.5 * x * (1.0 + if tanh { (c * (x + 0.044_715 * x.powi(3))).tanh() } else { libm::erf(x / 2f64.sqrt()) }))
    }

    // 1 + erf(x) cancels far below 0, where the result itself is next to nothing.
    op_tests! { DEF, reference, Tolerance { rel: 4e-6, abs: 1e-6 };
        exact => Case::new([spread(DType::F32, &[2, 3, 5, 7], 6.0, 1)]);
        approximate => Case::new([spread(DType::F32, &[2, 3, 5, 7], 6.0, 1)]).string("approximate", "tanh");
        f64s => Case::new([spread(DType::F64, &[33], 6.0, 1)]);
        f16s => Case::new([spread(DType::F16, &[33], 6.0, 1)]).string("approximate", "tanh");
        many => Case::new([spread(DType::F32, &[70_001], 6.0, 1)]);
        empty => Case::new([spread(DType::F32, &[0], 6.0, 1)]);
    }
}
