//! AMX: eight registers of 16 rows by 64 bytes, and products of bytes between them.

use super::Avx512Vnni;
use super::detect;

/// Proof of AMX tiles and their products of bytes, on top of [`Avx512Vnni`].
///
/// An operating system lends the tiles to a process that asks for them: the first detection does so, on Linux, for the process as a whole. From
/// then on the kernel refuses alternate signal stacks that cannot hold the tiles' eight kilobytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Amx {
    base: Avx512Vnni,
}

impl Amx {
    /// The token, if this machine has the instructions and this process may use them.
    pub fn detect() -> Option<Self> {
        if detect::has(detect::AMX_INT8) { Avx512Vnni::detect().map(|base| Self { base }) } else { None }
    }

    /// The instructions that are included.
    pub const fn base(self) -> Avx512Vnni {
        self.base
    }
}
