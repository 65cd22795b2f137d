//! Activations: one definition for epilogues and for element-wise operators, so that a fused step gives what the unfused one gives.

use millstream_simd::{Level, Simd, SimdF32, dispatch, math, slice};

/// A function of one element. NaN gives NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// `x`
    #[default]
    None,
    /// `max(0, x)`
    Relu,
    /// `min(hi, max(lo, x))`
    Clip {
        /// The least result.
        lo: f32,
        /// The greatest result.
        hi: f32,
    },
    /// `x < 0 ? slope x : x`
    LeakyRelu {
        /// The slope of the negative side.
        slope: f32,
    },
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `x sigmoid(x)`
    Silu,
    /// `x / 2 (1 + erf(x / √2))`
    Gelu,
    /// `x / 2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`
    GeluTanh,
    /// `tanh(x)`
    Tanh,
    /// `x max(0, min(1, x / 6 + 1 / 2))`
    HardSwish,
    /// `max(0, min(1, alpha x + beta))`
    HardSigmoid {
        /// The factor.
        alpha: f32,
        /// The term.
        beta: f32,
    },
}

impl Activation {
    /// The bounds of an activation that is a clamp, which epilogues apply in registers.
    #[inline]
    pub(crate) fn clamp(self) -> Option<(f32, f32)> {
        match self {
            Self::None => Some((f32::NEG_INFINITY, f32::INFINITY)),
            Self::Relu => Some((0.0, f32::INFINITY)),
            Self::Clip { lo, hi } => Some((lo, hi)),
            _ => None,
        }
    }

    /// `x[i] = f(x[i])`
    pub fn apply_in_place(self, level: Level, x: &mut [f32]) {
        dispatch!(level, s => self.run(s, x));
    }

    /// `dst[i] = f(src[i])`
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn apply(self, level: Level, src: &[f32], dst: &mut [f32]) {
        dst.copy_from_slice(src);
        self.apply_in_place(level, dst);
    }

    /// The body of [`Activation::apply_in_place`] for a caller that holds a token.
    #[inline(always)]
    pub fn run<S: Simd>(self, s: S, x: &mut [f32]) {
        macro_rules! each {
            ($f:expr) => {
                slice::map_in_place(
                    s,
                    x,
                    #[inline(always)]
                    $f,
                )
            };
        }
        let splat = |v| S::F32::splat(s, v);
        match self {
            Self::None => {}
            Self::Relu | Self::Clip { .. } => {
                let (lo, hi) = self.clamp().unwrap_or_default();
                let (lo, hi) = (splat(lo), splat(hi));
                each!(|v: S::F32| hi.min(lo.max(v)));
            }
            Self::LeakyRelu { slope } => {
                let (zero, slope) = (splat(0.0), splat(slope));
                each!(|v: S::F32| S::F32::select(v.lt(zero), v * slope, v));
            }
            Self::Sigmoid => each!(|v: S::F32| math::sigmoid(s, v)),
            Self::Silu => each!(|v: S::F32| v * math::sigmoid(s, v)),
            Self::Gelu => each!(|v: S::F32| math::gelu(s, v)),
            Self::GeluTanh => {
                let (half, cubic, scale) = (splat(0.5), splat(0.044_715), splat(0.797_884_6));
                each!(|v: S::F32| {
                    let h = v * half;
                    let inner = scale * (v * v * v).mul_add(cubic, v);
                    h.mul_add(math::tanh(s, inner), h)
                });
            }
            Self::Tanh => each!(|v: S::F32| math::tanh(s, v)),
            Self::HardSwish => {
                let (zero, one, half, sixth) = (splat(0.0), splat(1.0), splat(0.5), splat(1.0 / 6.0));
                each!(|v: S::F32| v * one.min(zero.max(v.mul_add(sixth, half))));
            }
            Self::HardSigmoid { alpha, beta } => {
                let (zero, one, alpha, beta) = (splat(0.0), splat(1.0), splat(alpha), splat(beta));
                each!(|v: S::F32| one.min(zero.max(v.mul_add(alpha, beta))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn reference(f: Activation, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + libm::exp(-x));
        match f {
            Activation::None => x,
            Activation::Relu => x.max(0.0),
            Activation::Clip { lo, hi } => x.clamp(lo.into(), hi.into()),
            Activation::LeakyRelu { slope } => {
                if x < 0.0 {
                    x * f64::from(slope)
                } else {
                    x
                }
            }
            Activation::Sigmoid => sigmoid(x),
            Activation::Silu => x * sigmoid(x),
            Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x / 2_f64.sqrt())),
            Activation::GeluTanh => 0.5 * x * (1.0 + libm::tanh((2.0 / core::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x))),
            Activation::Tanh => libm::tanh(x),
            Activation::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Activation::HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
        }
    }

    #[test]
    fn agree_with_their_definitions_on_every_level() {
        let x: Vec<f32> = (-4_000..4_001).map(|i| i as f32 / 200.0).collect();
        for level in Level::available() {
            for f in [
                Activation::None,
                Activation::Relu,
                Activation::Clip { lo: -0.5, hi: 6.0 },
                Activation::LeakyRelu { slope: 0.01 },
                Activation::Sigmoid,
                Activation::Silu,
                Activation::Gelu,
                Activation::GeluTanh,
                Activation::Tanh,
                Activation::HardSwish,
                Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
            ] {
                let mut y = vec![0.0; x.len()];
                f.apply(level, &x, &mut y);
                for (x, y) in x.iter().zip(&y) {
                    let want = reference(f, f64::from(*x));
                    // Absolute at one near zero: x/2 (1 + tanh) cancels on the far negative side.
                    assert!((f64::from(*y) - want).abs() <= 1e-6 * want.abs().max(1.0), "{f:?}({x}) = {y} at {level}, want {want}");
                }
                let mut special = [f32::NAN, f32::INFINITY];
                f.apply_in_place(level, &mut special);
                assert!(special[0].is_nan(), "{f:?} at {level}");
                assert!(!special[1].is_nan(), "{f:?} at {level}");
            }
        }
    }
}
