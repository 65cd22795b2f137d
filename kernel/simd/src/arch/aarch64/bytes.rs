//! Products of signed bytes: by widening, which all machines can, and by the dot products that most have.

use core::arch::aarch64::*;
use core::arch::asm;

use super::detect;
use super::neon::{I32x8, Neon, isa};

/// 16 signed bytes.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Bytes(int8x16_t);

impl Bytes {
    /// The bytes of an array.
    #[inline(always)]
    pub fn load(_: Neon, bytes: &[u8; 16]) -> Self {
        // SAFETY: the array has 16 bytes; the target has the instruction.
        Self(unsafe { vld1q_s8(bytes.as_ptr().cast()) })
    }

    /// Four bytes, four times.
    #[inline(always)]
    pub fn splat(_: Neon, four: [u8; 4]) -> Self {
        Self(isa!(vreinterpretq_s8_u32(vdupq_n_u32(u32::from_ne_bytes(four)))))
    }

    /// Unsigned bytes less 128.
    #[inline(always)]
    pub fn less_128(self) -> Self {
        Self(isa!(veorq_s8(self.0, vdupq_n_s8(-128))))
    }
}

impl Neon {
    /// In lane i: `acc` plus the products of bytes 2 i and 2 i + 1 of `a` with those of `b`, wrapping.
    #[inline(always)]
    pub fn dot_pairs(self, acc: I32x8, a: Bytes, b: Bytes) -> I32x8 {
        isa!({
            let (low, high) = (vmull_s8(vget_low_s8(a.0), vget_low_s8(b.0)), vmull_high_s8(a.0, b.0));
            I32x8(vpadalq_s16(acc.0, low), vpadalq_s16(acc.1, high))
        })
    }

    /// The sums of neighbouring lanes, wrapping: those of `a`, then those of `b`.
    #[inline(always)]
    pub fn add_pairs(self, a: I32x8, b: I32x8) -> I32x8 {
        isa!(I32x8(vpaddq_s32(a.0, a.1), vpaddq_s32(b.0, b.1)))
    }
}

/// Proof of the dot products of bytes on top of [`Neon`]: four products added to an i32 in one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NeonDot {
    base: Neon,
}

impl NeonDot {
    /// The token, if this machine is known to have the instructions.
    pub fn detect() -> Option<Self> {
        detect::dotprod().then_some(Self { base: Neon::new() })
    }

    /// The level that is included.
    pub const fn base(self) -> Neon {
        self.base
    }

    /// Runs `f`. The instructions need no frame of their own; this is here so that all tokens are used alike.
    #[inline(always)]
    pub fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        f()
    }

    /// In each lane: `acc` plus the products of its four bytes of `b` with bytes 4 LANE .. 4 LANE + 4 of `a`, wrapping.
    #[inline(always)]
    pub fn dot<const LANE: usize>(self, acc: I32x8, a: Bytes, b: [Bytes; 2]) -> I32x8 {
        const { assert!(LANE < 4, "there are four lanes") };
        let half = |mut sum: int32x4_t, b: Bytes| {
            // SAFETY: touches registers only; self proves that the machine has the instruction, which the first line lets the assembler accept.
            unsafe {
                asm!(
                    ".arch_extension dotprod",
                    "sdot {sum:v}.4s, {b:v}.16b, {a:v}.4b[{lane}]",
                    sum = inout(vreg) sum,
                    b = in(vreg) b.0,
                    a = in(vreg) a.0,
                    lane = const LANE,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            sum
        };
        I32x8(half(acc.0, b[0]), half(acc.1, b[1]))
    }
}
