//! `exp(x) = 2^n * p(r)` with `n = round(x / ln 2)` and `r = x - n ln 2` in two parts (Cody and Waite), `p` a minimax polynomial of degree 6.

use super::{horner, splat};
use crate::{Simd, SimdF32};

/// The natural exponential, within 2 ULP; denormal results are rounded like any other.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F32) -> S::F32 {
    // Past these bounds the result is 0 or inf anyway; max and min return their second operand for NaN, so NaN survives.
    let x = splat(s, 105.0).min(splat(s, -105.0).max(x));
    exp_in_range(s, x)
}

/// [`exp`] of what lies in -105..=105 (or is NaN).
#[inline(always)]
pub(super) fn exp_in_range<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let n = (x * splat(s, core::f32::consts::LOG2_E)).round_ties_even();
    // The high part of ln 2 has trailing zeros, so that n times it is exact even without FMA.
    let r = n.mul_add(splat(s, -0.693_145_75), x);
    let r = n.mul_add(splat(s, -1.428_606_8e-6), r);
    let p = horner(s, r, &[1.378_059_4e-3, 8.373_124_5e-3, 4.166_953_6e-2, 1.666_647_2e-1, 4.999_998_5e-1, 1.0, 1.0]);
    p.scale_by_pow2(n)
}

#[cfg(test)]
mod tests {
    use crate::math::ulp::sweep;

    #[test]
    fn error_bound() {
        sweep("exp", libm::exp, -110.0, 95.0, 2.0);
    }
}
