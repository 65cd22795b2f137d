//! The instruction set that a run uses, chosen once and carried by value.

use core::fmt;

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
use crate::Neon;
use crate::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::{Amx, Avx2, Avx512};

/// An instruction set that this machine has. Ordered from the narrowest to the widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Level {
    /// Portable Rust.
    Scalar(Scalar),
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 F, BW, DQ and VL, and everything of [`Level::Avx2`].
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// Tiles of bytes, for integer products, and everything of [`Level::Avx512`] with VNNI. Results are those of AVX-512.
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
    /// NEON, which is part of AArch64.
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    Neon(Neon),
}

impl Level {
    /// The widest level of this machine. The answer is cached or known to the compiler, so a call costs one load at most after the first.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(s) = Amx::detect() {
                return Self::Amx(s);
            }
            if let Some(s) = Avx512::detect() {
                return Self::Avx512(s);
            }
            if let Some(s) = Avx2::detect() {
                return Self::Avx2(s);
            }
        }
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        return Self::Neon(Neon::new());
        #[cfg(not(all(target_arch = "aarch64", target_feature = "neon")))]
        Self::scalar()
    }

    /// The portable level, which every machine has.
    pub const fn scalar() -> Self {
        Self::Scalar(Scalar::new())
    }

    /// The level called `name` (`scalar`, `avx2`, `avx512`, `amx`, `neon`, `simd128`), if this machine has it.
    pub fn named(name: &str) -> Option<Self> {
        Self::available().find(|l| l.name() == name)
    }

    /// Every level of this machine, from the narrowest to the widest.
    pub fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let wider = [Avx2::detect().map(Self::Avx2), Avx512::detect().map(Self::Avx512), Amx::detect().map(Self::Amx)];
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        let wider = [Some(Self::Neon(Neon::new()))];
        #[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon"))))]
        let wider: [Option<Self>; 0] = [];
        core::iter::once(Self::scalar()).chain(wider.into_iter().flatten())
    }

    /// The level whose vectors this one uses: itself, but for levels that only add something to another.
    #[inline]
    pub const fn vectors(self) -> Self {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx(s) => Self::Avx512(s.base().base()),
            _ => self,
        }
    }

    /// The name that [`Level::named`] takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => "amx",
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            Self::Neon(_) => "neon",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn names_round_trip_and_detection_is_the_widest() {
        for level in Level::available() {
            assert_eq!(Level::named(&level.to_string()), Some(level));
            assert!(level <= Level::detect());
        }
        assert_eq!(Level::available().next(), Some(Level::scalar()));
        assert_eq!(Level::available().last(), Some(Level::detect()));
        assert_eq!(Level::named("avx1024"), None);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn detection_agrees_with_std() {
        let avx2 = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") && std::is_x86_feature_detected!("f16c");
        assert_eq!(Level::named("avx2").is_some(), avx2);
        let avx512 = avx2
            && std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512dq")
            && std::is_x86_feature_detected!("avx512vl");
        assert_eq!(Level::named("avx512").is_some(), avx512);
        assert_eq!(crate::Avx512Vnni::detect().is_some(), avx512 && std::is_x86_feature_detected!("avx512vnni"));
    }

    #[test]
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    fn detection_agrees_with_std() {
        assert_eq!(Level::detect(), Level::Neon(Neon::new()));
        assert!(std::arch::is_aarch64_feature_detected!("neon"));
        let told = cfg!(any(target_feature = "dotprod", target_os = "linux", target_os = "android"));
        assert_eq!(crate::NeonDot::detect().is_some(), told && std::arch::is_aarch64_feature_detected!("dotprod"));
    }

    #[test]
    fn dispatch_hands_out_the_token_of_its_level() {
        use crate::{Simd, dispatch};
        for level in Level::available() {
            assert_eq!(dispatch!(level, s => s.level()), level.vectors());
        }
    }
}
