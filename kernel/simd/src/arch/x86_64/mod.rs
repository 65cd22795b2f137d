//! AVX2 and AVX-512.

pub(crate) mod avx2;
pub(crate) mod avx512;
mod detect;

pub use avx2::Avx2;
pub use avx512::{Avx512, Avx512Vnni};
