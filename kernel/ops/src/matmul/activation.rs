//! Activations of fused operators as attributes.

use alloc::{format, string::String};
use millstream_gemm::Activation;
use millstream_graph::{BuildCx, BuildError};

/// Attributes that [`read`] knows: the activation's name, and its parameters where it has any.
pub(crate) const ATTRIBUTES: [&str; 3] = ["activation", "alpha", "beta"];

/// Reads `activation` (lower case, empty or absent for none), with `alpha` and `beta` for the bounds of `clip`, the slope of
/// `leaky_relu`, and factor and term of `hard_sigmoid`.
pub(crate) fn read(cx: &BuildCx<'_>) -> Result<Activation, BuildError> {
    let parameter = |name, default| cx.attributes.float_or(name, default);
    Ok(match cx.attributes.string_or(ATTRIBUTES[0], "")? {
        "" | "none" => Activation::None,
        "relu" => Activation::Relu,
        "clip" => Activation::Clip { lo: parameter("alpha", f32::NEG_INFINITY)?, hi: parameter("beta", f32::INFINITY)? },
        "leaky_relu" => Activation::LeakyRelu { slope: parameter("alpha", 0.01)? },
        "sigmoid" => Activation::Sigmoid,
        "silu" => Activation::Silu,
        "gelu" => Activation::Gelu,
        "gelu_tanh" => Activation::GeluTanh,
        "tanh" => Activation::Tanh,
        "hard_swish" => Activation::HardSwish,
        "hard_sigmoid" => Activation::HardSigmoid { alpha: parameter("alpha", 0.2)?, beta: parameter("beta", 0.5)? },
        other => return Err(BuildError::UnsupportedAttribute { name: ATTRIBUTES[0], value: String::from(other) }),
    })
}

/// The suffix of a kernel's name for what happens after the product.
pub(crate) fn suffix(activation: Activation, residual: bool) -> String {
    let add = if residual { "+add" } else { "" };
    let name = match activation {
        Activation::None => return add.into(),
        Activation::Relu => "relu",
        Activation::Clip { .. } => "clip",
        Activation::LeakyRelu { .. } => "leaky_relu",
        Activation::Sigmoid => "sigmoid",
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_tanh",
        Activation::Tanh => "tanh",
        Activation::HardSwish => "hard_swish",
        Activation::HardSigmoid { .. } => "hard_sigmoid",
        _ => "activation",
    };
    format!("{add}+{name}")
}
