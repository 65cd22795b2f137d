//! AVX2, AVX-512 and AMX.

mod amx;
pub(crate) mod avx2;
pub(crate) mod avx512;
mod detect;

pub use amx::Amx;
pub use avx2::Avx2;
pub use avx512::{Avx512, Avx512Vnni};

/// True if `lanes` rows of as many elements, `stride` apart, lie in `len` elements.
#[inline(always)]
fn holds(len: usize, stride: usize, lanes: usize) -> bool {
    (lanes - 1).checked_mul(stride).and_then(|last| last.checked_add(lanes)).is_some_and(|reach| reach <= len)
}
