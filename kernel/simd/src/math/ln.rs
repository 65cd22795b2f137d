//! `ln(x) = e ln 2 + log1p(m - 1)` with `x = 2^e m` and `m` in [2/3, 4/3).

use super::splat;
use crate::{Simd, SimdF32, SimdI32};

/// The natural logarithm, within 2 ULP; denormal arguments included. `ln(±0) = -inf`, `ln(x < 0) = NaN`.
#[inline(always)]
pub fn ln<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let tiny = x.lt(splat(s, f32::MIN_POSITIVE));
    let scaled = S::F32::select(tiny, x * splat(s, 8_388_608.0), x);
    let bits = scaled.to_bits();
    let e = (bits - S::I32::splat(s, 0x3f2a_aaab)) & S::I32::splat(s, 0xff80_0000_u32 as i32);
    let m = S::F32::from_bits(bits - e);
    let exponent = e.to_f32().mul_add(splat(s, 1.0 / 8_388_608.0), S::F32::select(tiny, splat(s, -23.0), splat(s, 0.0)));
    let f = m - splat(s, 1.0);
    let f2 = f * f;
    // Even and odd coefficients apart, for two shorter chains.
    let r = splat(s, -0.130_310_06).mul_add(f2, splat(s, -0.121_483_51)).mul_add(f2, splat(s, -0.166_846_13)).mul_add(f2, splat(s, -0.249_996_2));
    let t = splat(s, 0.140_869_14).mul_add(f2, splat(s, 0.139_814_85)).mul_add(f2, splat(s, 0.200_120_35));
    let r = t.mul_add(f, r).mul_add(f, splat(s, 0.333_331_97)).mul_add(f, splat(s, -0.5));
    let r = r.mul_add(f2, f);
    // ln 2 in two parts, the first of which times any exponent is exact.
    let r = exponent.mul_add(splat(s, 0.693_145_75), exponent.mul_add(splat(s, 1.428_606_8e-6), r));
    let r = S::F32::select(x.eq(splat(s, f32::INFINITY)), x, r);
    let r = S::F32::select(x.eq(splat(s, 0.0)), splat(s, f32::NEG_INFINITY), r);
    // Negative numbers and NaN.
    S::F32::select(x.ge(splat(s, 0.0)), r, splat(s, f32::NAN))
}

#[cfg(test)]
mod tests {
    use crate::math::ulp::sweep;

    #[test]
    fn error_bound() {
        sweep("ln", libm::log, -1.0, f32::MAX, 2.0);
        sweep("ln", libm::log, 0.5, 2.0, 2.0);
    }
}
