//! The named activations of recurrent layers.

use alloc::{format, vec::Vec};
use millstream_graph::{BuildCx, BuildError};
use millstream_simd::{Simd, SimdF32, math, slice};

/// A function of one number, with its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Activation {
    Sigmoid,
    Tanh,
    Relu,
    Affine(f32, f32),
    LeakyRelu(f32),
    ThresholdedRelu(f32),
    ScaledTanh(f32, f32),
    HardSigmoid(f32, f32),
    Elu(f32),
    Softsign,
    Softplus,
}

/// The activations that a node names, or `defaults`; one list for each direction.
pub(crate) fn parse(cx: &BuildCx<'_>, directions: usize, defaults: &[Activation]) -> Result<Vec<Vec<Activation>>, BuildError> {
    let a = cx.attributes;
    let Some(names) = a.strings("activations")? else { return Ok((0..directions).map(|_| defaults.to_vec()).collect()) };
    if names.len() != directions * defaults.len() {
        return Err(BuildError::UnsupportedAttribute { name: "activations", value: format!("{names:?}") });
    }
    let mut alphas = a.floats("activation_alpha")?.into_iter().flatten().copied();
    let mut betas = a.floats("activation_beta")?.into_iter().flatten().copied();
    let all: Result<Vec<Activation>, BuildError> = names.iter().map(|n| one(n, &mut alphas, &mut betas)).collect();
    Ok(all?.chunks(defaults.len()).map(<[Activation]>::to_vec).collect())
}

/// Parameters are consumed in the order of the functions that take them.
fn one(name: &str, alphas: &mut impl Iterator<Item = f32>, betas: &mut impl Iterator<Item = f32>) -> Result<Activation, BuildError> {
    let mut alpha = |default: f32| alphas.next().unwrap_or(default);
    let mut beta = |default: f32| betas.next().unwrap_or(default);
    Ok(match name.to_ascii_lowercase().as_str() {
        "sigmoid" => Activation::Sigmoid,
        "tanh" => Activation::Tanh,
        "relu" => Activation::Relu,
        "affine" => Activation::Affine(alpha(1.0), beta(0.0)),
        "leakyrelu" => Activation::LeakyRelu(alpha(0.01)),
        "thresholdedrelu" => Activation::ThresholdedRelu(alpha(1.0)),
        "scaledtanh" => Activation::ScaledTanh(alpha(1.0), beta(1.0)),
        "hardsigmoid" => Activation::HardSigmoid(alpha(0.2), beta(0.5)),
        "elu" => Activation::Elu(alpha(1.0)),
        "softsign" => Activation::Softsign,
        "softplus" => Activation::Softplus,
        _ => return Err(BuildError::UnsupportedAttribute { name: "activations", value: name.into() }),
    })
}

impl Activation {
    /// Applies the function to every element.
    #[inline(always)]
    pub(crate) fn run<S: Simd>(self, s: S, x: &mut [f32]) {
        match self {
            Activation::Sigmoid => slice::map_in_place(
                s,
                x,
                #[inline(always)]
                |v| math::sigmoid(s, v),
            ),
            Activation::Tanh => slice::map_in_place(
                s,
                x,
                #[inline(always)]
                |v| math::tanh(s, v),
            ),
            Activation::Relu => slice::map_in_place(
                s,
                x,
                #[inline(always)]
                |v| S::F32::splat(s, 0.0).max(v),
            ),
            other => x.iter_mut().for_each(|x| *x = other.of(*x)),
        }
    }

    /// The function of one number.
    pub(crate) fn of(self, x: f32) -> f32 {
        match self {
            Activation::Sigmoid => 1.0 / (1.0 + libm::expf(-x)),
            Activation::Tanh => libm::tanhf(x),
            Activation::Relu => x.max(0.0),
            Activation::Affine(a, b) => a * x + b,
            Activation::LeakyRelu(a) => {
                if x >= 0.0 {
                    x
                } else {
                    a * x
                }
            }
            Activation::ThresholdedRelu(a) => {
                if x >= a {
                    x
                } else {
                    0.0
                }
            }
            Activation::ScaledTanh(a, b) => a * libm::tanhf(b * x),
            Activation::HardSigmoid(a, b) => (a * x + b).clamp(0.0, 1.0),
            Activation::Elu(a) => {
                if x >= 0.0 {
                    x
                } else {
                    a * libm::expm1f(x)
                }
            }
            Activation::Softsign => x / (1.0 + x.abs()),
            Activation::Softplus => {
                if x > 0.0 {
                    x + libm::log1pf(libm::expf(-x))
                } else {
                    libm::log1pf(libm::expf(x))
                }
            }
        }
    }
}
