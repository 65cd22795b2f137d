//! Elementary functions on vectors.
//!
//! The bounds are the greatest errors found by this module's tests, in units in the last place of the correctly rounded f32, over all levels.
//! [`Scalar`](crate::Scalar) has no fused multiply-add, so levels may differ from each other in the last bits; each keeps the bounds.
//! Special values follow IEEE 754: NaN gives NaN, and the limits at ±inf are exact.

mod exp;
mod gelu;
mod hyperbolic;
mod ln;
mod probability;
#[cfg(test)]
mod ulp;

pub use exp::exp;
pub use gelu::gelu;
pub use hyperbolic::{sigmoid, tanh};
pub use ln::ln;
pub use probability::erf;

use crate::{Simd, SimdF32};

#[inline(always)]
fn splat<S: Simd>(s: S, x: f32) -> S::F32 {
    S::F32::splat(s, x)
}

/// Horner's rule: the coefficients stand from the highest power to the lowest.
#[inline(always)]
fn horner<S: Simd>(s: S, x: S::F32, coefficients: &[f32]) -> S::F32 {
    let mut acc = S::F32::splat(s, coefficients[0]);
    for &c in &coefficients[1..] {
        acc = acc.mul_add(x, S::F32::splat(s, c));
    }
    acc
}
