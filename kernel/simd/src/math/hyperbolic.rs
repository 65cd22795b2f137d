//! `tanh` and the logistic function.

use super::{exp, horner, splat};
use crate::{Simd, SimdF32};

/// The hyperbolic tangent, within 7 ULP.
///
/// A rational approximation: an odd polynomial of degree 13 over an even one of degree 6, on the range where the result is not yet ±1.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let limit = splat(s, 7.998_811_7);
    let c = limit.min((-limit).max(x));
    let c2 = c * c;
    let p = horner(s, c2, &[-2.760_768_5e-16, 2.000_188e-13, -8.604_672e-11, 5.122_297e-8, 1.485_722_4e-5, 6.372_619e-4, 4.893_524_6e-3]);
    let q = horner(s, c2, &[1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3]);
    let r = c * p / q;
    let one = splat(s, 1.0);
    let r = one.min((-one).max(r));
    let r = S::F32::select(x.abs().gt(splat(s, 9.02)), one.copysign(x), r);
    // Near zero tanh(x) = x to the last bit, signed zeros and denormals included.
    S::F32::select(x.abs().lt(splat(s, 4e-4)), x, r)
}

/// The logistic function `1 / (1 + exp(-x))`, within 4 ULP on both sides.
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let one = S::F32::splat(s, 1.0);
    // exp of a negative number cannot overflow, and the far negative side keeps its denormals.
    let e = exp(s, -x.abs());
    S::F32::select(x.lt(S::F32::splat(s, 0.0)), e, one) / (one + e)
}

#[cfg(test)]
mod tests {
    use crate::math::ulp::sweep;

    #[test]
    fn error_bounds() {
        sweep("tanh", libm::tanh, -12.0, 12.0, 7.0);
        sweep("sigmoid", |x| 1.0 / (1.0 + libm::exp(-x)), -110.0, 30.0, 4.0);
    }
}
