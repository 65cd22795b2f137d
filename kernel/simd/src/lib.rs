//! ISA tokens, level detection and portable vectors for millstream's kernels.
//!
//! A *token* ([`Scalar`], on x86-64 `Avx2` and `Avx512`, on AArch64 `Neon`) is a zero-sized proof that this machine executes an instruction set. A [`Level`] holds
//! the one token that was chosen; it is detected once, passed by value, and turned back into a token by [`dispatch!`], which compiles its body
//! once for each level. Kernels are written once, generic over [`Simd`], and marked `#[inline(always)]` so that they are compiled inside the
//! body's `#[target_feature]` frame.
//!
//! ```
//! use millstream_simd::{Level, Simd, SimdF32, dispatch};
//!
//! #[inline(always)]
//! fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
//!     let mut chunks = x.chunks_exact(S::F32::LANES);
//!     let mut acc = S::F32::splat(s, 0.0);
//!     for c in &mut chunks {
//!         acc = acc + S::F32::load(s, c);
//!     }
//!     (acc + S::F32::load_partial(s, chunks.remainder())).reduce_add()
//! }
//!
//! let x = [1.0; 100];
//! let total = dispatch!(Level::detect(), s => sum(s, &x));
//! assert_eq!(total, 100.0);
//! ```
//!
//! Invariants:
//! - A token, and so a vector value, exists only on a machine that has the instructions (the sole safe sources are `detect`, and `new` where every machine of the
//!   target has them).
//! - All memory access in the public API goes through slices with checked lengths.
//! - Nothing here reads the environment or needs `std`.
//! - Results of one level are the same on every machine; two levels may differ in the last bits, because [`Scalar`] has no fused multiply-add.
#![no_std]

#[cfg(test)]
extern crate std;

mod arch;
pub mod convert;
mod level;
pub mod math;
pub mod slice;
mod vector;
#[cfg(test)]
mod vector_tests;

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
pub use arch::aarch64::{Neon, NeonDot};
pub use arch::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
pub use arch::x86_64::{Amx, Avx2, Avx512, Avx512Vnni};
pub use level::Level;
pub use vector::{Simd, SimdF32, SimdI32, SimdMask};

/// Vector types of each level, for signatures that name one level. Generic code writes `S::F32` and `S::I32`.
pub mod types {
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    pub use crate::arch::aarch64::{
        bytes::Bytes as NeonBytes,
        neon::{F32x8 as NeonF32, I32x8 as NeonI32, Mask8 as NeonMask},
    };
    pub use crate::arch::scalar::{F32x8 as ScalarF32, I32x8 as ScalarI32, Mask8 as ScalarMask};
    #[cfg(target_arch = "x86_64")]
    pub use crate::arch::x86_64::{
        avx2::{F32x8 as Avx2F32, I32x8 as Avx2I32, Mask8 as Avx2Mask},
        avx512::{F32x16 as Avx512F32, I32x16 as Avx512I32, Mask16 as Avx512Mask},
    };
}

/// Runs `body` with `s` bound to the token that `level` holds: `dispatch!(level, s => body)`.
///
/// The body is compiled once per level, inside a function that has the level's instructions enabled. It is a closure: `?` and `return` leave
/// the body, not the enclosing function. Functions that the body calls take part only if they are inlined, so mark them `#[inline(always)]`.
#[macro_export]
macro_rules! dispatch {
    ($level:expr, $s:ident => $body:expr) => {
        match $crate::Level::vectors($level) {
            #[cfg(target_arch = "x86_64")]
            $crate::Level::Avx512($s) => $crate::Simd::vectorize(
                $s,
                #[inline(always)]
                || $body,
            ),
            #[cfg(target_arch = "x86_64")]
            $crate::Level::Avx2($s) => $crate::Simd::vectorize(
                $s,
                #[inline(always)]
                || $body,
            ),
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            $crate::Level::Neon($s) => $crate::Simd::vectorize(
                $s,
                #[inline(always)]
                || $body,
            ),
            _ => {
                let $s = $crate::Scalar::new();
                $crate::Simd::vectorize(
                    $s,
                    #[inline(always)]
                    || $body,
                )
            }
        }
    };
}
