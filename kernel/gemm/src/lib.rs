//! Packed, blocked matrix multiplication with fused epilogues: `C = epilogue(A · B)`.
//!
//! `B` (k × n) is packed once, as a weight ([`PackedB`]) or into the caller's memory ([`pack_into`]). `A` (m × k) is a strided matrix, or the
//! windows of a channels-last image, so that a convolution is this same product without an im2col ([`Lhs`]). A [`Gemm`] cuts the product into
//! grains, which a thread pool (or a loop) runs in any order; nothing here allocates while it runs.
//!
//! [`Winograd`] convolves 3 × 3 windows with a quarter of the multiplications, [`Planar`] the few planes of a picture, [`Grouped`] groups of
//! few channels; [`Attention`] runs a head without its matrix of scores; [`QuantisedGemm`] multiplies bytes exactly, with zero points; [`BlockGemm`] multiplies
//! floats with weights of 8 or 4 bits. All are cut in the
//! same way.
//!
//! ```
//! use millstream_gemm::{Epilogue, Gemm, Lhs, PackedB, Rhs};
//! use millstream_simd::Level;
//!
//! let level = Level::detect();
//! let a = [1.0, 2.0, 3.0, 4.0]; // 2 × 2
//! let b = [5.0, 6.0, 7.0, 8.0];
//! let packed = PackedB::new(level, Rhs::row_major(&b, 2), 2, 2)?;
//! let gemm = Gemm::new(level, 2, 2, 2);
//! let mut scratch = vec![0.0; gemm.scratch_len()];
//! let mut c = [0.0; 4];
//! gemm.run(&Lhs::row_major(&a, 2), packed.view(), &mut c, 2, &Epilogue::default(), &mut scratch)?;
//! assert_eq!(c, [19.0, 22.0, 43.0, 50.0]);
//! # Ok::<(), millstream_gemm::GemmError>(())
//! ```
//!
//! Invariants:
//! - An element of the result is one chain `fma(a[k], b[k], ..)` over k in ascending order from zero, then the epilogue. Position, tile sizes,
//!   grains, threads and neighbours don't change it, so results are the same bit for bit for any partition and any batch.
//! - The number of grains and the scratch are pure functions of the level and the dims.
//! - Every length is checked before unsafe code runs; impossible arguments are a [`GemmError`], never a panic.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod activation;
mod attention;
mod block_weights;
mod blocks;
mod epilogue;
mod error;
mod grouped;
mod job;
mod lhs;
mod micro;
mod planar;
mod quantised;
#[cfg(target_arch = "x86_64")]
mod quantised_avx2;
mod quantised_micro;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod quantised_neon;
mod quantised_rhs;
#[cfg(target_arch = "x86_64")]
mod quantised_tiles;
mod rhs;
mod transform;
mod winograd;

pub use activation::Activation;
pub use attention::{Attention, FewOptions, FewScores, KeyWindow, Mask, MaskElements, Matrix, PackedHead, Scores};
pub use block_weights::{BLOCK, BlockBits, BlockCodes, BlockGroups, BlockScales, BlockZeros, Blocks, PackedBlocks};
pub use blocks::BlockGemm;
pub use epilogue::{Epilogue, Residual};
pub use error::GemmError;
pub use grouped::{GroupDims, Grouped};
pub use job::Gemm;
pub use lhs::{Lhs, LhsElement, Window};
pub use planar::Planar;
pub use quantised::{Block, Exact, Finish, QuantisedElement, QuantisedGemm, ZeroPoint, ZeroPoints};
pub use quantised_rhs::{NR as QUANTISED_PANEL, PackedQuantised, QuantisedRef, quantised_packed_len};
pub use rhs::{PackedB, PackedRef, Rhs, pack_into, pack_panels, packed_len, panels};
pub use winograd::{PackedWinograd, Winograd};
