//! AVX2 with FMA and F16C: eight lanes.

use core::arch::x86_64::*;
use core::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Sub};

use super::{detect, holds};
use crate::Level;
use crate::vector::{Simd, SimdF32, SimdI32, SimdMask, sealed::Sealed};

/// Proof of AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Avx2 {
    _private: (),
}

impl Avx2 {
    /// The token, if this machine has the instructions.
    pub fn detect() -> Option<Self> {
        detect::has(detect::AVX2).then_some(Self { _private: () })
    }

    /// The token, unchecked.
    ///
    /// # Safety
    /// The machine must have AVX2, FMA and F16C, with their state saved by the operating system.
    pub const unsafe fn new_unchecked() -> Self {
        Self { _private: () }
    }
}

/// Register-only intrinsics.
macro_rules! isa {
    ($call:expr) => {
        // SAFETY: touches no memory, and a token or a vector in scope proves that the machine has the instruction.
        unsafe { $call }
    };
}

/// Folds the upper half onto the lower half until one lane is left.
macro_rules! fold {
    ($v:expr, $f256:ident, $f128:ident, $f1:ident) => {{
        let v = $v;
        let v = $f128(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = $f128(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32($f1(v, _mm_movehdup_ps(v)))
    }};
}

/// Sixteen words whose window at `8 - n` has the sign bit set in the first `n` lanes.
static WINDOW: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// A mask whose first `min(n, 8)` lanes are set.
#[inline(always)]
fn first(_: Avx2, n: usize) -> __m256i {
    let window = &WINDOW[8 - n.min(8)..][..8];
    // SAFETY: the window has eight words; the token proves the instruction.
    unsafe { _mm256_loadu_si256(window.as_ptr().cast()) }
}

const N: usize = 8;

/// 8 f32.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct F32x8(__m256);

/// 8 i32.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct I32x8(__m256i);

/// 8 truth values.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Mask8(__m256);

impl F32x8 {
    /// The register.
    #[inline(always)]
    pub const fn raw(self) -> __m256 {
        self.0
    }

    /// The vector in a register.
    #[inline(always)]
    pub const fn from_raw(_: Avx2, raw: __m256) -> Self {
        Self(raw)
    }
}

impl I32x8 {
    /// The register.
    #[inline(always)]
    pub const fn raw(self) -> __m256i {
        self.0
    }

    /// The vector in a register.
    #[inline(always)]
    pub const fn from_raw(_: Avx2, raw: __m256i) -> Self {
        Self(raw)
    }
}

impl Sealed for Avx2 {}

impl Simd for Avx2 {
    type F32 = F32x8;
    type I32 = I32x8;
    type Mask = Mask8;

    #[inline(always)]
    fn level(self) -> Level {
        Level::Avx2(self)
    }

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn frame<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: self proves that the machine has these features.
        unsafe { frame(f) }
    }

    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // A prefetch never faults.
        isa!(_mm_prefetch::<_MM_HINT_T0>(p.cast()))
    }

    #[inline(always)]
    fn prefetch_far(self, p: *const f32) {
        // A prefetch never faults.
        isa!(_mm_prefetch::<_MM_HINT_T1>(p.cast()))
    }

    #[inline(always)]
    fn transpose_square(self, src: &[f32], src_stride: usize, dst: &mut [f32], dst_stride: usize) {
        assert!(holds(src.len(), src_stride, N) && holds(dst.len(), dst_stride, N));
        // SAFETY: rows 0..N of both were just checked.
        let x: [F32x8; N] = core::array::from_fn(|j| unsafe { F32x8::load_ptr(self, src.as_ptr().add(j * src_stride)) });
        // Pairs of rows, then of pairs: each half of a register holds a square of 4 by 4, transposed.
        let mut y = x;
        for i in (0..N).step_by(4) {
            for (j, k) in [(0, 2), (1, 3)] {
                let (low, high) = (i + j, i + k);
                let (a, b) = (x[i + 2 * j].0, x[i + 2 * j + 1].0);
                (y[low].0, y[high].0) = (isa!(_mm256_unpacklo_ps(a, b)), isa!(_mm256_unpackhi_ps(a, b)));
            }
        }
        // y[i] and y[i + 1] now hold columns 0 and 1 of rows i to i + 3, y[i + 2] and y[i + 3] columns 2 and 3.
        for i in (0..N).step_by(2) {
            let (a, b) = (y[i].0, y[i + 1].0);
            (y[i].0, y[i + 1].0) = (isa!(_mm256_shuffle_ps::<0x44>(a, b)), isa!(_mm256_shuffle_ps::<0xee>(a, b)));
        }
        for i in 0..4 {
            let (low, high) = (isa!(_mm256_permute2f128_ps::<0x20>(y[i].0, y[i + 4].0)), isa!(_mm256_permute2f128_ps::<0x31>(y[i].0, y[i + 4].0)));
            // SAFETY: as above.
            unsafe {
                F32x8(low).store_ptr(dst.as_mut_ptr().add(i * dst_stride));
                F32x8(high).store_ptr(dst.as_mut_ptr().add((i + 4) * dst_stride));
            }
        }
    }
}

macro_rules! operator {
    ($vec:ident: $($op:ident $method:ident $intrinsic:ident;)*) => {$(
        impl $op for $vec {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(isa!($intrinsic(self.0, other.0)))
            }
        }
    )*};
}

operator! { F32x8:
    Add add _mm256_add_ps;
    Sub sub _mm256_sub_ps;
    Mul mul _mm256_mul_ps;
    Div div _mm256_div_ps;
}
operator! { I32x8:
    Add add _mm256_add_epi32;
    Sub sub _mm256_sub_epi32;
    Mul mul _mm256_mullo_epi32;
    BitAnd bitand _mm256_and_si256;
    BitOr bitor _mm256_or_si256;
    BitXor bitxor _mm256_xor_si256;
}
operator! { Mask8:
    BitAnd bitand _mm256_and_ps;
    BitOr bitor _mm256_or_ps;
}

impl Not for Mask8 {
    type Output = Self;
    #[inline(always)]
    fn not(self) -> Self {
        Self(isa!(_mm256_xor_ps(self.0, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))))
    }
}

impl Neg for F32x8 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(isa!(_mm256_xor_ps(self.0, _mm256_set1_ps(-0.0))))
    }
}

impl SimdF32<Avx2> for F32x8 {
    const LANES: usize = N;

    #[inline(always)]
    fn splat(_: Avx2, x: f32) -> Self {
        Self(isa!(_mm256_set1_ps(x)))
    }
    #[inline(always)]
    fn load(s: Avx2, src: &[f32]) -> Self {
        let src = &src[..N];
        // SAFETY: src has N elements.
        unsafe { Self::load_ptr(s, src.as_ptr()) }
    }
    #[inline(always)]
    fn load_partial(s: Avx2, src: &[f32]) -> Self {
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
    unsafe fn load_ptr(_: Avx2, src: *const f32) -> Self {
        // SAFETY: the caller vouches for N elements; the token proves the instruction.
        Self(unsafe { _mm256_loadu_ps(src) })
    }
    #[inline(always)]
    unsafe fn load_ptr_partial(_: Avx2, src: *const f32, n: usize) -> Self {
        // SAFETY: masked-off lanes are not read; the caller vouches for the others; the token proves the instructions.
        Self(unsafe { if n >= N { _mm256_loadu_ps(src) } else { _mm256_maskload_ps(src, first(Avx2::new_unchecked(), n)) } })
    }
    #[inline(always)]
    unsafe fn store_ptr(self, dst: *mut f32) {
        // SAFETY: the caller vouches for N elements; self proves the instruction.
        unsafe { _mm256_storeu_ps(dst, self.0) }
    }
    #[inline(always)]
    unsafe fn store_ptr_partial(self, dst: *mut f32, n: usize) {
        if n >= N {
            // SAFETY: the caller vouches for N elements.
            return unsafe { self.store_ptr(dst) };
        }
        // Not by a mask: AMD's cores take a dozen cycles or more for a masked store.
        let (mut left, mut dst) = (isa!(_mm256_castps256_ps128(self.0)), dst);
        // SAFETY: four, two and one elements, as far as there are n, for which the caller vouches; self proves the instructions.
        unsafe {
            if n & 4 != 0 {
                _mm_storeu_ps(dst, left);
                (left, dst) = (_mm256_extractf128_ps::<1>(self.0), dst.add(4));
            }
            if n & 2 != 0 {
                _mm_storel_epi64(dst.cast(), _mm_castps_si128(left));
                (left, dst) = (_mm_movehl_ps(left, left), dst.add(2));
            }
            if n & 1 != 0 {
                _mm_store_ss(dst, left);
            }
        }
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self(isa!(_mm256_fmadd_ps(self.0, b.0, c.0)))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(isa!(_mm256_min_ps(self.0, other.0)))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(isa!(_mm256_max_ps(self.0, other.0)))
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Self(isa!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0)))
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        Self(isa!({
            let bit = _mm256_set1_ps(-0.0);
            _mm256_or_ps(_mm256_and_ps(bit, sign.0), _mm256_andnot_ps(bit, self.0))
        }))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(isa!(_mm256_sqrt_ps(self.0)))
    }
    #[inline(always)]
    fn floor(self) -> Self {
        Self(isa!(_mm256_round_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(self.0)))
    }
    #[inline(always)]
    fn ceil(self) -> Self {
        Self(isa!(_mm256_round_ps::<{ _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC }>(self.0)))
    }
    #[inline(always)]
    fn round_ties_even(self) -> Self {
        Self(isa!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)))
    }
    #[inline(always)]
    fn trunc(self) -> Self {
        Self(isa!(_mm256_round_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(self.0)))
    }
    #[inline(always)]
    fn scale_by_pow2(self, n: Self) -> Self {
        // Two normal powers of two: the first product is exact, the second rounds.
        Self(isa!({
            let pow2 = |e| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(e, _mm256_set1_epi32(127))));
            let n = _mm256_cvttps_epi32(n.0);
            let half = _mm256_srai_epi32::<1>(n);
            _mm256_mul_ps(_mm256_mul_ps(self.0, pow2(half)), pow2(_mm256_sub_epi32(n, half)))
        }))
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Mask8 {
        Mask8(isa!(_mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0)))
    }
    #[inline(always)]
    fn lt(self, other: Self) -> Mask8 {
        Mask8(isa!(_mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0)))
    }
    #[inline(always)]
    fn le(self, other: Self) -> Mask8 {
        Mask8(isa!(_mm256_cmp_ps::<_CMP_LE_OQ>(self.0, other.0)))
    }
    #[inline(always)]
    fn select(mask: Mask8, yes: Self, no: Self) -> Self {
        Self(isa!(_mm256_blendv_ps(no.0, yes.0, mask.0)))
    }

    #[inline(always)]
    fn splat_in_quads<const LANE: usize>(self) -> Self {
        Self(match LANE % 4 {
            0 => isa!(_mm256_permute_ps::<0b00_00_00_00>(self.0)),
            1 => isa!(_mm256_permute_ps::<0b01_01_01_01>(self.0)),
            2 => isa!(_mm256_permute_ps::<0b10_10_10_10>(self.0)),
            _ => isa!(_mm256_permute_ps::<0b11_11_11_11>(self.0)),
        })
    }
    #[inline(always)]
    fn permute(self, from: I32x8) -> Self {
        Self(isa!(_mm256_permutevar8x32_ps(self.0, from.0)))
    }

    #[inline(always)]
    fn reduce_add(self) -> f32 {
        isa!(fold!(self.0, _mm256_add_ps, _mm_add_ps, _mm_add_ss))
    }
    #[inline(always)]
    fn reduce_max(self) -> f32 {
        isa!(fold!(self.0, _mm256_max_ps, _mm_max_ps, _mm_max_ss))
    }
    #[inline(always)]
    fn reduce_min(self) -> f32 {
        isa!(fold!(self.0, _mm256_min_ps, _mm_min_ps, _mm_min_ss))
    }

    #[inline(always)]
    fn to_i32(self) -> I32x8 {
        I32x8(isa!(_mm256_cvttps_epi32(self.0)))
    }
    #[inline(always)]
    fn to_bits(self) -> I32x8 {
        I32x8(isa!(_mm256_castps_si256(self.0)))
    }
    #[inline(always)]
    fn from_bits(bits: I32x8) -> Self {
        Self(isa!(_mm256_castsi256_ps(bits.0)))
    }
}

impl SimdI32<Avx2> for I32x8 {
    const LANES: usize = N;

    #[inline(always)]
    fn splat(_: Avx2, x: i32) -> Self {
        Self(isa!(_mm256_set1_epi32(x)))
    }
    #[inline(always)]
    fn load(_: Avx2, src: &[i32]) -> Self {
        let src = &src[..N];
        // SAFETY: src has N elements; the token proves the instruction.
        Self(unsafe { _mm256_loadu_si256(src.as_ptr().cast()) })
    }
    #[inline(always)]
    fn load_partial(s: Avx2, src: &[i32]) -> Self {
        // SAFETY: src has src.len() elements of four bytes; a load does not look at their meaning.
        unsafe { F32x8::load_ptr_partial(s, src.as_ptr().cast(), src.len()) }.to_bits()
    }
    #[inline(always)]
    fn load_u8(_: Avx2, src: &[u8]) -> Self {
        let src = &src[..N];
        // SAFETY: src has N bytes; the token proves the instructions.
        Self(unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(src.as_ptr().cast())) })
    }
    #[inline(always)]
    fn load_i8(_: Avx2, src: &[i8]) -> Self {
        let src = &src[..N];
        // SAFETY: src has N bytes; the token proves the instructions.
        Self(unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(src.as_ptr().cast())) })
    }
    #[inline(always)]
    fn load_u16(_: Avx2, src: &[u16]) -> Self {
        let src = &src[..N];
        // SAFETY: src has N elements; the token proves the instructions.
        Self(unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(src.as_ptr().cast())) })
    }
    #[inline(always)]
    fn store(self, dst: &mut [i32]) {
        let dst = &mut dst[..N];
        // SAFETY: dst has N elements; self proves the instruction.
        unsafe { _mm256_storeu_si256(dst.as_mut_ptr().cast(), self.0) }
    }
    #[inline(always)]
    fn store_partial(self, dst: &mut [i32]) {
        // SAFETY: dst has dst.len() elements of four bytes; a store moves bits.
        unsafe { F32x8::from_bits(self).store_ptr_partial(dst.as_mut_ptr().cast(), dst.len()) }
    }
    #[inline(always)]
    fn store_u16(self, dst: &mut [u16]) {
        let dst = &mut dst[..N];
        // SAFETY: dst has N elements; self proves the instructions.
        unsafe {
            let low = _mm256_and_si256(self.0, _mm256_set1_epi32(0xffff));
            let packed = _mm256_packus_epi32(low, low);
            let packed = _mm256_permute4x64_epi64::<0b10_00_10_00>(packed);
            _mm_storeu_si128(dst.as_mut_ptr().cast(), _mm256_castsi256_si128(packed));
        }
    }
    #[inline(always)]
    fn store_u8(self, dst: &mut [u8]) {
        let dst = &mut dst[..N];
        // SAFETY: dst has N bytes; self proves the instructions.
        unsafe {
            let low = _mm256_and_si256(self.0, _mm256_set1_epi32(0xff));
            let words = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
            _mm_storel_epi64(dst.as_mut_ptr().cast(), _mm_packus_epi16(words, words));
        }
    }
    #[inline(always)]
    fn shl(self, n: u32) -> Self {
        Self(isa!(_mm256_sll_epi32(self.0, _mm_cvtsi32_si128(n as i32))))
    }
    #[inline(always)]
    fn shr(self, n: u32) -> Self {
        Self(isa!(_mm256_sra_epi32(self.0, _mm_cvtsi32_si128(n as i32))))
    }
    #[inline(always)]
    fn shr_logical(self, n: u32) -> Self {
        Self(isa!(_mm256_srl_epi32(self.0, _mm_cvtsi32_si128(n as i32))))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(isa!(_mm256_min_epi32(self.0, other.0)))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(isa!(_mm256_max_epi32(self.0, other.0)))
    }
    #[inline(always)]
    fn eq(self, other: Self) -> Mask8 {
        Mask8(isa!(_mm256_castsi256_ps(_mm256_cmpeq_epi32(self.0, other.0))))
    }
    #[inline(always)]
    fn gt(self, other: Self) -> Mask8 {
        Mask8(isa!(_mm256_castsi256_ps(_mm256_cmpgt_epi32(self.0, other.0))))
    }
    #[inline(always)]
    fn select(mask: Mask8, yes: Self, no: Self) -> Self {
        Self(isa!(_mm256_blendv_epi8(no.0, yes.0, _mm256_castps_si256(mask.0))))
    }
    #[inline(always)]
    fn reduce_add(self) -> i32 {
        isa!({
            let v = self.0;
            let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
            _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v)))
        })
    }
    #[inline(always)]
    fn to_f32(self) -> F32x8 {
        F32x8(isa!(_mm256_cvtepi32_ps(self.0)))
    }
}

impl SimdMask for Mask8 {
    #[inline(always)]
    fn any(self) -> bool {
        isa!(_mm256_movemask_ps(self.0)) != 0
    }
    #[inline(always)]
    fn all(self) -> bool {
        isa!(_mm256_movemask_ps(self.0)) == 0xff
    }
}

/// Eight lanes or sixteen at a time; the slices have the same length, a multiple of `N`.
impl Avx2 {
    /// In each lane: `acc` plus the products of the two 16-bit halves of `a` with those of `b`, wrapping.
    #[inline(always)]
    pub fn dot_i16(self, acc: I32x8, a: I32x8, b: I32x8) -> I32x8 {
        I32x8(isa!(_mm256_add_epi32(acc.0, _mm256_madd_epi16(a.0, b.0))))
    }

    /// In each lane: `acc` plus the products of the four unsigned bytes of `a` with the signed bytes of `b`, wrapping. The products of two
    /// neighbours must add up to 16 bits; they do whatever `a` holds unless [`Avx2::may_saturate`] says otherwise of `b`.
    #[inline(always)]
    pub fn dot_u8_i8(self, acc: I32x8, a: I32x8, b: I32x8) -> I32x8 {
        let pairs = isa!(_mm256_maddubs_epi16(a.0, b.0));
        self.dot_i16(acc, I32x8(pairs), I32x8(isa!(_mm256_set1_epi16(1))))
    }

    /// Whether some bytes of `b`, as the right operand of [`Avx2::dot_u8_i8`], are too large for the largest bytes of the left one.
    #[inline(always)]
    pub fn may_saturate(self, b: I32x8) -> bool {
        isa!({
            // No sum of multiples of 255 is a bound of 16 bits.
            let most = _mm256_maddubs_epi16(_mm256_set1_epi8(-1), b.0);
            let bound = |x| _mm256_cmpeq_epi16(most, _mm256_set1_epi16(x));
            _mm256_movemask_epi8(_mm256_or_si256(bound(i16::MAX), bound(i16::MIN))) != 0
        })
    }

    /// 16 signed bytes, each widened to half a lane.
    #[inline(always)]
    pub fn widen_i8(self, bytes: &[i8; 16]) -> I32x8 {
        // SAFETY: the array has 16 bytes; self proves the instructions.
        I32x8(unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes.as_ptr().cast())) })
    }

    /// Four unsigned bytes, each widened to half a lane, four times. `quad` holds them in this machine's order of bytes.
    #[inline(always)]
    pub fn widen_quad(self, quad: i32) -> I32x8 {
        I32x8(isa!(_mm256_cvtepu8_epi16(_mm_set1_epi32(quad))))
    }

    /// The sums of neighbouring lanes: those of `a`, then those of `b`.
    #[inline(always)]
    pub fn add_pairs(self, a: I32x8, b: I32x8) -> I32x8 {
        // The sums of each half of `a` stand before those of the same half of `b`.
        I32x8(isa!(_mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(a.0, b.0))))
    }

    #[inline(always)]
    pub(crate) fn f16_to_f32(self, src: &[u16; N], dst: &mut [f32; N]) {
        // SAFETY: both arrays have N elements; self proves the instructions.
        unsafe { _mm256_storeu_ps(dst.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(src.as_ptr().cast()))) }
    }

    #[inline(always)]
    pub(crate) fn f32_to_f16(self, src: &[f32; N], dst: &mut [u16; N]) {
        // SAFETY: both arrays have N elements; self proves the instructions.
        unsafe { _mm_storeu_si128(dst.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(src.as_ptr()))) }
    }
}
