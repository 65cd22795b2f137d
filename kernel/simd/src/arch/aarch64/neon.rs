//! NEON: eight lanes in two registers.
//!
//! A register has four lanes. A vector is a pair of them because the two halves are two chains: a loop of one expression then hides the four
//! cycles of a multiply-add without being unrolled, and a constant costs one register for both halves. Of the 32 registers a 6 × 16 tile of a
//! product takes 24 for its sums and 4 for a row of B, which leaves 4 for elements of A, multiplied by lane; with eight lanes it is the same
//! tile of 6 × 2 vectors as AVX2's.

use core::arch::aarch64::*;
use core::arch::asm;
use core::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Sub};

use crate::Level;
use crate::vector::{Simd, SimdF32, SimdI32, SimdMask, sealed::Sealed};

/// Proof of NEON, which is part of every target that has this type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neon {
    _private: (),
}

impl Neon {
    /// Every machine of this target has this level.
    pub const fn new() -> Self {
        Self { _private: () }
    }
}

/// Register-only intrinsics.
macro_rules! isa {
    ($call:expr) => {
        // SAFETY: touches no memory, and this module is compiled only for targets whose machines all have NEON.
        unsafe { $call }
    };
}

pub(super) use isa;

/// An intrinsic for both halves.
macro_rules! halves {
    ($f:ident($($v:expr),*)) => {
        Self(isa!($f($($v.0),*)), isa!($f($($v.1),*)))
    };
    ($out:ident: $f:ident($($v:expr),*)) => {
        $out(isa!($f($($v.0),*)), isa!($f($($v.1),*)))
    };
}

const N: usize = 8;

/// 8 f32.
#[derive(Clone, Copy, Debug)]
pub struct F32x8(float32x4_t, float32x4_t);

/// 8 i32.
#[derive(Clone, Copy, Debug)]
pub struct I32x8(pub(super) int32x4_t, pub(super) int32x4_t);

/// 8 truth values: all bits set, or none.
#[derive(Clone, Copy, Debug)]
pub struct Mask8(uint32x4_t, uint32x4_t);

impl Sealed for Neon {}

impl Simd for Neon {
    type F32 = F32x8;
    type I32 = I32x8;
    type Mask = Mask8;

    #[inline(always)]
    fn level(self) -> Level {
        Level::Neon(self)
    }

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        // The instruction set is enabled everywhere.
        f()
    }

    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a prefetch never faults and changes neither memory nor flags.
        unsafe { asm!("prfm pldl1keep, [{}]", in(reg) p.addr(), options(nomem, nostack, preserves_flags)) }
    }

    #[inline(always)]
    fn prefetch_far(self, p: *const f32) {
        // SAFETY: a prefetch never faults and changes neither memory nor flags.
        unsafe { asm!("prfm pldl2keep, [{}]", in(reg) p.addr(), options(nomem, nostack, preserves_flags)) }
    }

    #[inline(always)]
    fn transpose_square(self, src: &[f32], src_stride: usize, dst: &mut [f32], dst_stride: usize) {
        let x: [F32x8; N] = core::array::from_fn(|j| F32x8::load(self, &src[j * src_stride..]));
        let upper = quarters([x[0].0, x[1].0, x[2].0, x[3].0]).into_iter().zip(quarters([x[4].0, x[5].0, x[6].0, x[7].0]));
        let lower = quarters([x[0].1, x[1].1, x[2].1, x[3].1]).into_iter().zip(quarters([x[4].1, x[5].1, x[6].1, x[7].1]));
        for (i, (left, right)) in upper.chain(lower).enumerate() {
            F32x8(left, right).store(&mut dst[i * dst_stride..]);
        }
    }
}

/// The transpose of four rows of four.
#[inline(always)]
fn quarters([a, b, c, d]: [float32x4_t; 4]) -> [float32x4_t; 4] {
    // Even and odd columns of pairs of rows, then pairs of their halves.
    let wide = |x| isa!(vreinterpretq_f64_f32(x));
    let (ab, cd) = (wide(isa!(vtrn1q_f32(a, b))), wide(isa!(vtrn1q_f32(c, d))));
    let (ab_odd, cd_odd) = (wide(isa!(vtrn2q_f32(a, b))), wide(isa!(vtrn2q_f32(c, d))));
    let narrow = |x| isa!(vreinterpretq_f32_f64(x));
    [narrow(isa!(vtrn1q_f64(ab, cd))), narrow(isa!(vtrn1q_f64(ab_odd, cd_odd))), narrow(isa!(vtrn2q_f64(ab, cd))), narrow(isa!(vtrn2q_f64(ab_odd, cd_odd)))]
}

macro_rules! operator {
    ($vec:ident: $($op:ident $method:ident $intrinsic:ident;)*) => {$(
        impl $op for $vec {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                halves!($intrinsic(self, other))
            }
        }
    )*};
}

operator! { F32x8:
    Add add vaddq_f32;
    Sub sub vsubq_f32;
    Mul mul vmulq_f32;
    Div div vdivq_f32;
}
operator! { I32x8:
    Add add vaddq_s32;
    Sub sub vsubq_s32;
    Mul mul vmulq_s32;
    BitAnd bitand vandq_s32;
    BitOr bitor vorrq_s32;
    BitXor bitxor veorq_s32;
}
operator! { Mask8:
    BitAnd bitand vandq_u32;
    BitOr bitor vorrq_u32;
}

impl Not for Mask8 {
    type Output = Self;
    #[inline(always)]
    fn not(self) -> Self {
        halves!(vmvnq_u32(self))
    }
}

impl Neg for F32x8 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        halves!(vnegq_f32(self))
    }
}

/// The first `n < 4` elements, then zeros.
///
/// # Safety
/// `src` must be valid for reads of `n` f32.
#[inline]
unsafe fn load_few(src: *const f32, n: usize) -> float32x4_t {
    // SAFETY: each arm reads the elements for which the caller vouches.
    unsafe {
        let zeros = vdupq_n_f32(0.0);
        match n {
            0 => zeros,
            1 => vld1q_lane_f32::<0>(src, zeros),
            2 => vcombine_f32(vld1_f32(src), vdup_n_f32(0.0)),
            _ => vld1q_lane_f32::<2>(src.add(2), vcombine_f32(vld1_f32(src), vdup_n_f32(0.0))),
        }
    }
}

/// Writes the first `n < 4` lanes.
///
/// # Safety
/// `dst` must be valid for writes of `n` f32.
#[inline]
unsafe fn store_few(x: float32x4_t, dst: *mut f32, n: usize) {
    // SAFETY: the arms write the elements for which the caller vouches.
    unsafe {
        match n {
            0 => {}
            1 => vst1q_lane_f32::<0>(dst, x),
            2 => vst1_f32(dst, vget_low_f32(x)),
            _ => {
                vst1_f32(dst, vget_low_f32(x));
                vst1q_lane_f32::<2>(dst.add(2), x);
            }
        }
    }
}

impl F32x8 {
    /// Folds the upper half onto the lower half until one lane is left; `pick` chooses the lanes of its first operand.
    #[inline(always)]
    fn extreme(self, pick: impl Fn(float32x4_t, float32x4_t) -> uint32x4_t) -> f32 {
        // The upper lanes of the second and third step are not looked at.
        isa!({
            let v = vbslq_f32(pick(self.0, self.1), self.0, self.1);
            let upper = vextq_f32::<2>(v, v);
            let v = vbslq_f32(pick(v, upper), v, upper);
            let upper = vextq_f32::<1>(v, v);
            vgetq_lane_f32::<0>(vbslq_f32(pick(v, upper), v, upper))
        })
    }
}

impl SimdF32<Neon> for F32x8 {
    const LANES: usize = N;

    #[inline(always)]
    fn splat(_: Neon, x: f32) -> Self {
        let x = isa!(vdupq_n_f32(x));
        Self(x, x)
    }
    #[inline(always)]
    fn load(s: Neon, src: &[f32]) -> Self {
        let src = &src[..N];
        // SAFETY: src has N elements.
        unsafe { Self::load_ptr(s, src.as_ptr()) }
    }
    #[inline(always)]
    fn load_partial(s: Neon, src: &[f32]) -> Self {
        // SAFETY: src has src.len() elements.
        unsafe { Self::load_ptr_partial(s, src.as_ptr(), src.len()) }
    }
    #[inline(always)]
    fn store(self, dst: &mut [f32]) {
        let dst = &mut dst[..N];
        // SAFETY: dst has N elements.
        unsafe { self.store_ptr(dst.as_mut_ptr()) }
    }
    #[inline(always)]
    fn store_partial(self, dst: &mut [f32]) {
        // SAFETY: dst has dst.len() elements.
        unsafe { self.store_ptr_partial(dst.as_mut_ptr(), dst.len()) }
    }
    #[inline(always)]
    unsafe fn load_ptr(_: Neon, src: *const f32) -> Self {
        // SAFETY: the caller vouches for N elements; the target has the instruction.
        unsafe { Self(vld1q_f32(src), vld1q_f32(src.add(4))) }
    }
    #[inline(always)]
    unsafe fn load_ptr_partial(s: Neon, src: *const f32, n: usize) -> Self {
        // SAFETY: the caller vouches for min(n, N) elements; the target has the instructions.
        unsafe {
            match n {
                N.. => Self::load_ptr(s, src),
                4.. => Self(vld1q_f32(src), load_few(src.add(4), n - 4)),
                _ => Self(load_few(src, n), vdupq_n_f32(0.0)),
            }
        }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, dst: *mut f32) {
        // SAFETY: the caller vouches for N elements; the target has the instruction.
        unsafe {
            vst1q_f32(dst, self.0);
            vst1q_f32(dst.add(4), self.1);
        }
    }
    #[inline(always)]
    unsafe fn store_ptr_partial(self, dst: *mut f32, n: usize) {
        // SAFETY: the caller vouches for min(n, N) elements; the target has the instructions.
        unsafe {
            match n {
                N.. => self.store_ptr(dst),
                4.. => {
                    vst1q_f32(dst, self.0);
                    store_few(self.1, dst.add(4), n - 4);
                }
                _ => store_few(self.0, dst, n),
            }
        }
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        halves!(vfmaq_f32(c, self, b))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // The instruction of this name keeps any NaN and orders zeros.
        Self::select(self.lt(other), self, other)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self::select(self.gt(other), self, other)
    }
    #[inline(always)]
    fn abs(self) -> Self {
        halves!(vabsq_f32(self))
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        let bit = isa!(vdupq_n_u32(1 << 31));
        Self::select(Mask8(bit, bit), sign, self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        halves!(vsqrtq_f32(self))
    }
    #[inline(always)]
    fn floor(self) -> Self {
        halves!(vrndmq_f32(self))
    }
    #[inline(always)]
    fn ceil(self) -> Self {
        halves!(vrndpq_f32(self))
    }
    #[inline(always)]
    fn round_ties_even(self) -> Self {
        halves!(vrndnq_f32(self))
    }
    #[inline(always)]
    fn trunc(self) -> Self {
        halves!(vrndq_f32(self))
    }
    #[inline(always)]
    fn scale_by_pow2(self, n: Self) -> Self {
        // Two normal powers of two: the first product is exact, the second rounds.
        let pow2 = |e: I32x8| Self::from_bits((e + I32x8::splat(Neon::new(), 127)).shl(23));
        let n = n.to_i32();
        let half = n.shr(1);
        self * pow2(half) * pow2(n - half)
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Mask8 {
        halves!(Mask8: vceqq_f32(self, other))
    }
    #[inline(always)]
    fn lt(self, other: Self) -> Mask8 {
        halves!(Mask8: vcltq_f32(self, other))
    }
    #[inline(always)]
    fn le(self, other: Self) -> Mask8 {
        halves!(Mask8: vcleq_f32(self, other))
    }
    #[inline(always)]
    fn select(mask: Mask8, yes: Self, no: Self) -> Self {
        halves!(vbslq_f32(mask, yes, no))
    }

    #[inline(always)]
    fn splat_in_quads<const LANE: usize>(self) -> Self {
        match LANE % 4 {
            0 => Self(isa!(vdupq_laneq_f32::<0>(self.0)), isa!(vdupq_laneq_f32::<0>(self.1))),
            1 => Self(isa!(vdupq_laneq_f32::<1>(self.0)), isa!(vdupq_laneq_f32::<1>(self.1))),
            2 => Self(isa!(vdupq_laneq_f32::<2>(self.0)), isa!(vdupq_laneq_f32::<2>(self.1))),
            _ => Self(isa!(vdupq_laneq_f32::<3>(self.0)), isa!(vdupq_laneq_f32::<3>(self.1))),
        }
    }
    #[inline(always)]
    fn permute(self, from: I32x8) -> Self {
        // Lane i is bytes 4 i .. 4 i + 4 of a table of 32.
        isa!({
            let table = uint8x16x2_t(vreinterpretq_u8_f32(self.0), vreinterpretq_u8_f32(self.1));
            let bytes = |from| vreinterpretq_u8_s32(vmlaq_s32(vdupq_n_s32(0x0302_0100), from, vdupq_n_s32(0x0404_0404)));
            let half = |from| vreinterpretq_f32_u8(vqtbl2q_u8(table, bytes(from)));
            Self(half(from.0), half(from.1))
        })
    }

    #[inline(always)]
    fn reduce_add(self) -> f32 {
        isa!({
            let v = vaddq_f32(self.0, self.1);
            let v = vadd_f32(vget_low_f32(v), vget_high_f32(v));
            vget_lane_f32::<0>(v) + vget_lane_f32::<1>(v)
        })
    }
    #[inline(always)]
    fn reduce_max(self) -> f32 {
        self.extreme(|a, b| isa!(vcgtq_f32(a, b)))
    }
    #[inline(always)]
    fn reduce_min(self) -> f32 {
        self.extreme(|a, b| isa!(vcltq_f32(a, b)))
    }

    #[inline(always)]
    fn to_i32(self) -> I32x8 {
        halves!(I32x8: vcvtq_s32_f32(self))
    }
    #[inline(always)]
    fn to_bits(self) -> I32x8 {
        halves!(I32x8: vreinterpretq_s32_f32(self))
    }
    #[inline(always)]
    fn from_bits(bits: I32x8) -> Self {
        halves!(vreinterpretq_f32_s32(bits))
    }
}

impl SimdI32<Neon> for I32x8 {
    const LANES: usize = N;

    #[inline(always)]
    fn splat(_: Neon, x: i32) -> Self {
        let x = isa!(vdupq_n_s32(x));
        Self(x, x)
    }
    #[inline(always)]
    fn load(_: Neon, src: &[i32]) -> Self {
        let src = &src[..N];
        // SAFETY: src has N elements; the target has the instruction.
        unsafe { Self(vld1q_s32(src.as_ptr()), vld1q_s32(src.as_ptr().add(4))) }
    }
    #[inline(always)]
    fn load_partial(s: Neon, src: &[i32]) -> Self {
        // SAFETY: src has src.len() elements of four bytes; a load does not look at their meaning.
        unsafe { F32x8::load_ptr_partial(s, src.as_ptr().cast(), src.len()) }.to_bits()
    }
    #[inline(always)]
    fn load_u8(_: Neon, src: &[u8]) -> Self {
        let src = &src[..N];
        // SAFETY: src has N bytes; the target has the instructions.
        unsafe {
            let x = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(src.as_ptr())));
            Self(vmovl_s16(vget_low_s16(x)), vmovl_high_s16(x))
        }
    }
    #[inline(always)]
    fn load_i8(_: Neon, src: &[i8]) -> Self {
        let src = &src[..N];
        // SAFETY: src has N bytes; the target has the instructions.
        unsafe {
            let x = vmovl_s8(vld1_s8(src.as_ptr()));
            Self(vmovl_s16(vget_low_s16(x)), vmovl_high_s16(x))
        }
    }
    #[inline(always)]
    fn load_u16(_: Neon, src: &[u16]) -> Self {
        let src = &src[..N];
        // SAFETY: src has N elements; the target has the instructions.
        unsafe {
            let x = vld1q_u16(src.as_ptr());
            Self(vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(x))), vreinterpretq_s32_u32(vmovl_high_u16(x)))
        }
    }
    #[inline(always)]
    fn store(self, dst: &mut [i32]) {
        let dst = &mut dst[..N];
        // SAFETY: dst has N elements; the target has the instruction.
        unsafe {
            vst1q_s32(dst.as_mut_ptr(), self.0);
            vst1q_s32(dst.as_mut_ptr().add(4), self.1);
        }
    }
    #[inline(always)]
    fn store_partial(self, dst: &mut [i32]) {
        // SAFETY: dst has dst.len() elements of four bytes; a store moves bits.
        unsafe { F32x8::from_bits(self).store_ptr_partial(dst.as_mut_ptr().cast(), dst.len()) }
    }
    #[inline(always)]
    fn store_u16(self, dst: &mut [u16]) {
        let dst = &mut dst[..N];
        // SAFETY: dst has N elements; the target has the instructions.
        unsafe { vst1q_u16(dst.as_mut_ptr(), vreinterpretq_u16_s16(vmovn_high_s32(vmovn_s32(self.0), self.1))) }
    }
    #[inline(always)]
    fn store_u8(self, dst: &mut [u8]) {
        let dst = &mut dst[..N];
        // SAFETY: dst has N bytes; the target has the instructions.
        unsafe { vst1_u8(dst.as_mut_ptr(), vreinterpret_u8_s8(vmovn_s16(vmovn_high_s32(vmovn_s32(self.0), self.1)))) }
    }
    #[inline(always)]
    fn shl(self, n: u32) -> Self {
        let n = Self::splat(Neon::new(), n as i32);
        halves!(vshlq_s32(self, n))
    }
    #[inline(always)]
    fn shr(self, n: u32) -> Self {
        let n = Self::splat(Neon::new(), -(n as i32));
        halves!(vshlq_s32(self, n))
    }
    #[inline(always)]
    fn shr_logical(self, n: u32) -> Self {
        let n = isa!(vdupq_n_s32(-(n as i32)));
        let shift = |x| isa!(vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(x), n)));
        Self(shift(self.0), shift(self.1))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        halves!(vminq_s32(self, other))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        halves!(vmaxq_s32(self, other))
    }
    #[inline(always)]
    fn eq(self, other: Self) -> Mask8 {
        halves!(Mask8: vceqq_s32(self, other))
    }
    #[inline(always)]
    fn gt(self, other: Self) -> Mask8 {
        halves!(Mask8: vcgtq_s32(self, other))
    }
    #[inline(always)]
    fn select(mask: Mask8, yes: Self, no: Self) -> Self {
        halves!(vbslq_s32(mask, yes, no))
    }
    #[inline(always)]
    fn reduce_add(self) -> i32 {
        isa!(vaddvq_s32(vaddq_s32(self.0, self.1)))
    }
    #[inline(always)]
    fn to_f32(self) -> F32x8 {
        halves!(F32x8: vcvtq_f32_s32(self))
    }
}

impl SimdMask for Mask8 {
    #[inline(always)]
    fn any(self) -> bool {
        isa!(vmaxvq_u32(vorrq_u32(self.0, self.1))) != 0
    }
    #[inline(always)]
    fn all(self) -> bool {
        isa!(vminvq_u32(vandq_u32(self.0, self.1))) != 0
    }
}

/// Eight lanes at a time.
impl Neon {
    #[inline(always)]
    pub(crate) fn f16_to_f32(self, src: &[u16; N], dst: &mut [f32; N]) {
        // SAFETY: both arrays have N elements; the target has the instructions.
        unsafe {
            let x = vreinterpretq_f16_u16(vld1q_u16(src.as_ptr()));
            vst1q_f32(dst.as_mut_ptr(), vcvt_f32_f16(vget_low_f16(x)));
            vst1q_f32(dst.as_mut_ptr().add(4), vcvt_high_f32_f16(x));
        }
    }

    #[inline(always)]
    pub(crate) fn f32_to_f16(self, src: &[f32; N], dst: &mut [u16; N]) {
        // SAFETY: both arrays have N elements; the target has the instructions.
        unsafe {
            let low = vcvt_f16_f32(vld1q_f32(src.as_ptr()));
            let both = vcvt_high_f16_f32(low, vld1q_f32(src.as_ptr().add(4)));
            vst1q_u16(dst.as_mut_ptr(), vreinterpretq_u16_f16(both));
        }
    }
}
