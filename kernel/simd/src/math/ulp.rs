//! The oracle of this module: f64 libm, rounded to f32.

use std::vec;
use std::vec::Vec;

use super::{erf, exp, ln, sigmoid, tanh};
use crate::{Level, Simd, dispatch, slice};

#[inline(always)]
fn apply<S: Simd>(s: S, name: &str, x: &[f32], y: &mut [f32]) {
    match name {
        "exp" => slice::map(s, x, y, |v| exp(s, v)),
        "ln" => slice::map(s, x, y, |v| ln(s, v)),
        "erf" => slice::map(s, x, y, |v| erf(s, v)),
        "tanh" => slice::map(s, x, y, |v| tanh(s, v)),
        "sigmoid" => slice::map(s, x, y, |v| sigmoid(s, v)),
        _ => panic!("no function {name}"),
    }
}

/// Asserts `|f(x) - oracle(x)| <= bound` ULP on each level: on a dense grid of bit patterns between `low` and `high`, and on special values.
pub(super) fn sweep(name: &str, oracle: impl Fn(f64) -> f64, low: f32, high: f32, bound: f64) {
    let mut x: Vec<f32> = (0..=u32::MAX).step_by(1531).map(f32::from_bits).filter(|x| (low..=high).contains(x)).collect();
    let span = f64::from(high.min(200.0) - low);
    x.extend((0..1_000_000).map(|i| (f64::from(low) + span * f64::from(i) / 1e6) as f32));
    x.extend([0.0, -0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -1e-45, f32::NAN]);
    for level in Level::available() {
        let mut y = vec![0.0; x.len()];
        dispatch!(level, s => apply(s, name, &x, &mut y));
        let mut worst = (0.0, 0.0);
        for (&x, &y) in x.iter().zip(&y) {
            let exact = oracle(f64::from(x));
            if exact.is_nan() || y.is_nan() {
                assert!(exact.is_nan() && y.is_nan(), "{name}({x}) = {y} at {level}, want {exact}");
                continue;
            }
            if (exact as f32) == y {
                continue;
            }
            assert!(y.is_finite() || exact > f64::from(f32::MAX), "{name}({x}) = {y} at {level}, want {exact}");
            let ulp = (exact as f32).abs().max(f32::MIN_POSITIVE);
            let ulp = f64::from(f32::from_bits(ulp.to_bits() + 1)) - f64::from(ulp);
            let error = if y.is_finite() { (f64::from(y) - exact).abs() / ulp } else { 0.0 };
            if error > worst.0 {
                worst = (error, x);
            }
        }
        assert!(worst.0 <= bound, "{name} at {level}: {} ULP at {:e}", worst.0, worst.1);
    }
}
