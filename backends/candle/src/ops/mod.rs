//! millstream's fused operators on Candle's tensors: use them in any model of Candle's, whatever else of millstream is in it.
//!
//! | operator | function | as Candle's custom operator |
//! |---|---|---|
//! | layer and RMS normalisation | [`layer_norm`], [`rms_norm`] | [`LayerNorm`] (2 or 3 inputs), [`RmsNorm`] (2) |
//! | softmax | [`softmax`] | [`Softmax`] (1) |
//! | GELU, SiLU, … | [`activate`] | [`Activation`] (1) |
//! | attention | [`Attention::run`] | [`Attention`] (3: queries, keys, values) |
//! | rotary embedding | [`RotaryEmbedding::run`] | [`RotaryEmbedding`] (3: elements, cosines, sines) |
//! | convolution | [`conv2d`], [`PackedConv2d`] | [`Conv2d`] (2 or 3) |
//! | linear layer | [`PackedLinear`] | `PackedLinear` (1), and [`candle_core::Module`] |
//! | linear layer with 8 or 4 bits a weight | [`QuantisedLinear`] | `QuantisedLinear` (1), and `Module` |
//!
//! All run on the CPU, on the threads of [`workers`](crate::workers) and the best instructions of the machine, and with the feature `cuda` on Candle's CUDA
//! devices, in their streams; a tensor on another device is [`OpError::Device`]. Tensors may lie strided: they are made dense first. None has a backward pass (`apply_op1_no_bwd` and its kin).
//! Results do not depend on the number of threads.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use millstream_candle::ops::{GeluKind, activate, Activation, layer_norm};
//!
//! let x = Tensor::new(&[[1f32, 2.0, 3.0], [4.0, 6.0, 8.0]], &Device::Cpu)?;
//! let (weight, bias) = (Tensor::ones(3, candle_core::DType::F32, &Device::Cpu)?, Tensor::zeros(3, candle_core::DType::F32, &Device::Cpu)?);
//! let y = layer_norm(&x, &weight, Some(&bias), 1e-5)?;
//! let z = activate(&y, Activation::Gelu(GeluKind::Erf))?;
//! assert_eq!(z.dims(), [2, 3]);
//! # Ok::<(), candle_core::Error>(())
//! ```

mod activation;
mod attention;
mod build;
pub(crate) mod call;
mod conv2d;
#[cfg(feature = "cuda")]
mod cuda;
mod error;
mod layer_norm;
mod linear;
mod quantised;
mod rms_norm;
mod rotary;
mod softmax;
mod weight;

pub use activation::{Activation, GeluKind, activate};
pub use attention::{Attention, AttentionMask};
pub use conv2d::{Conv2d, PackedConv2d, conv2d};
pub use error::OpError;
pub use layer_norm::{LayerNorm, layer_norm};
pub use linear::PackedLinear;
pub use millstream_gemm::Activation as Epilogue;
pub use quantised::{Bits, QuantisedLinear};
pub use rms_norm::{RmsNorm, rms_norm};
pub use rotary::RotaryEmbedding;
pub use softmax::{Softmax, softmax};
