//! AVX2, AVX-512 and AMX.

mod amx;
pub(crate) mod avx2;
pub(crate) mod avx512;
mod detect;

pub use amx::Amx;
pub use avx2::Avx2;
pub use avx512::{Avx512, Avx512Vnni};
