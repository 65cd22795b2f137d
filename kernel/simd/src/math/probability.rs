//! The error function.

use super::{exp, horner, splat};
use crate::{Simd, SimdF32};

/// The error function, within 3 ULP.
///
/// An odd polynomial up to 0.93; above it `1 - exp(p(|x|))` with a minimax polynomial `p`.
#[inline(always)]
pub fn erf<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let t = x.abs();
    let x2 = x * x;
    let small = horner(s, x2, &[-5.967_617e-4, 4.991_194e-3, -2.676_813_5e-2, 1.128_199_25e-1, -3.761_253_4e-1, 1.283_791_7e-1]).mul_add(x, x);
    // From 4 on the result is ±1; min keeps NaN.
    let t4 = splat(s, 4.0).min(t);
    let u = splat(s, -3.883_964_4e-3).mul_add(t4, splat(s, 2.425_462_2e-2));
    let r = splat(s, -1.728_534_7e-5).mul_add(t4, splat(s, 3.831_972e-4)).mul_add(t4 * t4, u);
    let r = r.mul_add(t4, splat(s, -1.067_778_8e-1)).mul_add(t4, splat(s, -6.348_467e-1)).mul_add(t4, splat(s, -1.287_175_1e-1));
    let large = (splat(s, 1.0) - exp(s, r.mul_add(t4, -t4))).copysign(x);
    S::F32::select(t.gt(splat(s, 0.927_734_4)), large, small)
}

#[cfg(test)]
mod tests {
    use crate::math::ulp::sweep;

    #[test]
    fn error_bound() {
        sweep("erf", libm::erf, -6.0, 6.0, 3.0);
    }
}
