//! `x Φ(x)`, where Φ is the normal distribution function: the exact GELU.
//!
//! With a = |x|, the tail is `Φ(-a) = exp(-ln 2 + a q(a))` with a minimax polynomial `q` of degree 9 for `ln(erfc(a / √2)) / a` on 0..7.
//! The result is `x (1 - tail)` on the right and `x tail` on the left, so nothing cancels there. From -7 on leftwards it is -9e-12, as at -7.

use super::{exp::exp_in_range, horner, splat};
use crate::{Simd, SimdF32};

/// `x / 2 (1 + erf(x / √2))`, within `2.5e-7 |x|`; within 3 ULP from 0 on rightwards.
#[inline(always)]
pub fn gelu<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let limit = splat(s, 7.0);
    // min and max return their second operand for NaN, so NaN survives.
    let x = (-limit).max(x);
    let a = limit.min(x.abs());
    // Two chains in a², which wait for their multiply-adds at once.
    let a2 = a * a;
    let odd = horner(s, a2, &[-1.593_329_7e-8, -6.870_492_6e-6, -1.854_242_6e-4, 4.828_050_7e-3, -3.183_054_3e-1]);
    let even = horner(s, a2, &[5.094_416e-7, 4.973_201_8e-5, -1.322_581_7e-5, -3.635_691_5e-2, -7.978_849e-1]);
    let q = odd.mul_add(a, even);
    let tail = exp_in_range(s, q.mul_add(a, splat(s, -core::f32::consts::LN_2)));
    x * S::F32::select(x.lt(splat(s, 0.0)), tail, splat(s, 1.0) - tail)
}

#[cfg(test)]
mod tests {
    use super::gelu;
    use crate::{Level, dispatch, slice};
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn error_bounds() {
        let mut x: Vec<f32> = (-2_000_000..=2_000_000).map(|i| i as f32 / 1.5e5).collect();
        x.extend([0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
        for level in Level::available() {
            let mut y = vec![0.0; x.len()];
            dispatch!(level, s => slice::map(s, &x, &mut y, |v| gelu(s, v)));
            for (&x, &y) in x.iter().zip(&y) {
                let (x, y) = (f64::from(x), f64::from(y));
                if x.is_nan() {
                    assert!(y.is_nan(), "{level}");
                    continue;
                }
                if x == f64::INFINITY {
                    assert_eq!(y, x, "{level}");
                    continue;
                }
                let want = if x == f64::NEG_INFINITY { 0.0 } else { 0.5 * x * libm::erfc(-x / core::f64::consts::SQRT_2) };
                let bound = if x < 0.0 { 2.5e-7 * x.abs().min(20.0) } else { 3.6e-7 * want };
                assert!((y - want).abs() <= bound, "gelu({x}) = {y} at {level}, want {want}");
            }
        }
    }
}
