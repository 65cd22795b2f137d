//! AVX-512 F, BW, DQ and VL: sixteen lanes and mask registers.

use core::arch::x86_64::*;
use core::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Sub};

use super::{detect, holds};
use crate::Level;
use crate::vector::{Simd, SimdF32, SimdI32, SimdMask, sealed::Sealed};

/// Proof of AVX-512 F, BW, DQ and VL, and of AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Avx512 {
    _private: (),
}

impl Avx512 {
    /// The token, if this machine has the instructions.
    pub fn detect() -> Option<Self> {
        detect::has(detect::AVX512).then_some(Self { _private: () })
    }

    /// The token, unchecked.
    ///
    /// # Safety
    /// The machine must have AVX-512 F, BW, DQ, VL, AVX2, FMA and F16C, with their state saved by the operating system.
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
        let v = $f256(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
        let v = $f128(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = $f128(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32($f1(v, _mm_movehdup_ps(v)))
    }};
}

/// Proof of AVX-512 VNNI on top of [`Avx512`]: four products of bytes added to an i32 in one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Avx512Vnni {
    base: Avx512,
}

impl Avx512Vnni {
    /// The token, if this machine has the instructions.
    pub fn detect() -> Option<Self> {
        if detect::has(detect::AVX512_VNNI) { Avx512::detect().map(|base| Self { base }) } else { None }
    }

    /// The level that is included.
    pub const fn base(self) -> Avx512 {
        self.base
    }

    /// Runs `f` with the instruction set enabled. Write the closure as `#[inline(always)] || ...`.
    #[inline(always)]
    pub fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn frame<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: self proves that the machine has these features.
        unsafe { frame(f) }
    }

    /// In each lane: `acc` plus the products of its four unsigned bytes of `a` with its four signed bytes of `b`, wrapping.
    #[inline(always)]
    pub fn dot_u8_i8(self, acc: I32x16, a: I32x16, b: I32x16) -> I32x16 {
        I32x16(isa!(_mm512_dpbusd_epi32(acc.0, a.0, b.0)))
    }
}

/// A mask whose first `min(n, 16)` lanes are set.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1_u32 << n.min(N)) - 1) as __mmask16
}

const N: usize = 16;

/// 16 f32.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct F32x16(__m512);

/// 16 i32.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct I32x16(__m512i);

/// 16 truth values.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Mask16(__mmask16);

impl F32x16 {
    /// The register.
    #[inline(always)]
    pub const fn raw(self) -> __m512 {
        self.0
    }

    /// The vector in a register.
    #[inline(always)]
    pub const fn from_raw(_: Avx512, raw: __m512) -> Self {
        Self(raw)
    }
}

impl Avx512 {
    /// The transpose of 16 rows of 16.
    #[inline(always)]
    pub fn transpose(self, rows: [F32x16; N]) -> [F32x16; N] {
        let mut x = [rows[0].0; N];
        for (x, row) in x.iter_mut().zip(rows) {
            *x = row.0;
        }
        // Pairs of rows, then of pairs: each quarter of a register holds a square of 4 by 4, transposed.
        for i in (0..N).step_by(2) {
            (x[i], x[i + 1]) = (isa!(_mm512_unpacklo_ps(x[i], x[i + 1])), isa!(_mm512_unpackhi_ps(x[i], x[i + 1])));
        }
        let mut y = x;
        for i in (0..N).step_by(4) {
            for j in 0..2 {
                let (a, b) = (isa!(_mm512_castps_pd(x[i + j])), isa!(_mm512_castps_pd(x[i + j + 2])));
                y[i + 2 * j] = isa!(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)));
                y[i + 2 * j + 1] = isa!(_mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
            }
        }
        // The quarters: y[4 i + j] holds columns j, 4 + j, 8 + j and 12 + j of rows 4 i to 4 i + 3.
        let mut columns = [F32x16(y[0]); N];
        for j in 0..4 {
            let (even_low, odd_low) = (isa!(_mm512_shuffle_f32x4::<0x88>(y[j], y[4 + j])), isa!(_mm512_shuffle_f32x4::<0xdd>(y[j], y[4 + j])));
            let (even_high, odd_high) = (isa!(_mm512_shuffle_f32x4::<0x88>(y[8 + j], y[12 + j])), isa!(_mm512_shuffle_f32x4::<0xdd>(y[8 + j], y[12 + j])));
            columns[j] = F32x16(isa!(_mm512_shuffle_f32x4::<0x88>(even_low, even_high)));
            columns[8 + j] = F32x16(isa!(_mm512_shuffle_f32x4::<0xdd>(even_low, even_high)));
            columns[4 + j] = F32x16(isa!(_mm512_shuffle_f32x4::<0x88>(odd_low, odd_high)));
            columns[12 + j] = F32x16(isa!(_mm512_shuffle_f32x4::<0xdd>(odd_low, odd_high)));
        }
        columns
    }
}

impl I32x16 {
    /// The register.
    #[inline(always)]
    pub const fn raw(self) -> __m512i {
        self.0
    }

    /// The vector in a register.
    #[inline(always)]
    pub const fn from_raw(_: Avx512, raw: __m512i) -> Self {
        Self(raw)
    }
}

impl Sealed for Avx512 {}

impl Simd for Avx512 {
    type F32 = F32x16;
    type I32 = I32x16;
    type Mask = Mask16;

    #[inline(always)]
    fn level(self) -> Level {
        Level::Avx512(self)
    }

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
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
        let rows = core::array::from_fn(|j| unsafe { F32x16::load_ptr(self, src.as_ptr().add(j * src_stride)) });
        for (i, column) in self.transpose(rows).into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { column.store_ptr(dst.as_mut_ptr().add(i * dst_stride)) };
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

operator! { F32x16:
    Add add _mm512_add_ps;
    Sub sub _mm512_sub_ps;
    Mul mul _mm512_mul_ps;
    Div div _mm512_div_ps;
}
operator! { I32x16:
    Add add _mm512_add_epi32;
    Sub sub _mm512_sub_epi32;
    Mul mul _mm512_mullo_epi32;
    BitAnd bitand _mm512_and_si512;
    BitOr bitor _mm512_or_si512;
    BitXor bitxor _mm512_xor_si512;
}

impl BitAnd for Mask16 {
    type Output = Self;
    #[inline(always)]
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Mask16 {
    type Output = Self;
    #[inline(always)]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Not for Mask16 {
    type Output = Self;
    #[inline(always)]
    fn not(self) -> Self {
        Self(!self.0)
    }
}

impl Neg for F32x16 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(isa!(_mm512_xor_ps(self.0, _mm512_set1_ps(-0.0))))
    }
}

impl SimdF32<Avx512> for F32x16 {
    const LANES: usize = N;

    #[inline(always)]
    fn splat(_: Avx512, x: f32) -> Self {
        Self(isa!(_mm512_set1_ps(x)))
    }
    #[inline(always)]
    fn load(s: Avx512, src: &[f32]) -> Self {
        let src = &src[..N];
        // SAFETY: src has N elements.
        unsafe { Self::load_ptr(s, src.as_ptr()) }
    }
    #[inline(always)]
    fn load_partial(s: Avx512, src: &[f32]) -> Self {
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
    unsafe fn load_ptr(_: Avx512, src: *const f32) -> Self {
        // SAFETY: the caller vouches for N elements; the token proves the instruction.
        Self(unsafe { _mm512_loadu_ps(src) })
    }
    #[inline(always)]
    unsafe fn load_ptr_partial(_: Avx512, src: *const f32, n: usize) -> Self {
        // SAFETY: masked-off lanes are not read; the caller vouches for the others; the token proves the instructions.
        Self(unsafe { _mm512_maskz_loadu_ps(first(n), src) })
    }
    #[inline(always)]
    unsafe fn store_ptr(self, dst: *mut f32) {
        // SAFETY: the caller vouches for N elements; self proves the instruction.
        unsafe { _mm512_storeu_ps(dst, self.0) }
    }
    #[inline(always)]
    unsafe fn store_ptr_partial(self, dst: *mut f32, n: usize) {
        // SAFETY: masked-off lanes are not written; the caller vouches for the others; self proves the instructions.
        unsafe { _mm512_mask_storeu_ps(dst, first(n), self.0) }
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self(isa!(_mm512_fmadd_ps(self.0, b.0, c.0)))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(isa!(_mm512_min_ps(self.0, other.0)))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(isa!(_mm512_max_ps(self.0, other.0)))
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Self(isa!(_mm512_andnot_ps(_mm512_set1_ps(-0.0), self.0)))
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        Self(isa!({
            let bit = _mm512_set1_ps(-0.0);
            _mm512_or_ps(_mm512_and_ps(bit, sign.0), _mm512_andnot_ps(bit, self.0))
        }))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(isa!(_mm512_sqrt_ps(self.0)))
    }
    #[inline(always)]
    fn floor(self) -> Self {
        Self(isa!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(self.0)))
    }
    #[inline(always)]
    fn ceil(self) -> Self {
        Self(isa!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC }>(self.0)))
    }
    #[inline(always)]
    fn round_ties_even(self) -> Self {
        Self(isa!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)))
    }
    #[inline(always)]
    fn trunc(self) -> Self {
        Self(isa!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(self.0)))
    }
    #[inline(always)]
    fn scale_by_pow2(self, n: Self) -> Self {
        Self(isa!(_mm512_scalef_ps(self.0, n.0)))
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Mask16 {
        Mask16(isa!(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0)))
    }
    #[inline(always)]
    fn lt(self, other: Self) -> Mask16 {
        Mask16(isa!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0)))
    }
    #[inline(always)]
    fn le(self, other: Self) -> Mask16 {
        Mask16(isa!(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(self.0, other.0)))
    }
    #[inline(always)]
    fn select(mask: Mask16, yes: Self, no: Self) -> Self {
        Self(isa!(_mm512_mask_blend_ps(mask.0, no.0, yes.0)))
    }

    #[inline(always)]
    fn splat_in_quads<const LANE: usize>(self) -> Self {
        Self(match LANE % 4 {
            0 => isa!(_mm512_permute_ps::<0b00_00_00_00>(self.0)),
            1 => isa!(_mm512_permute_ps::<0b01_01_01_01>(self.0)),
            2 => isa!(_mm512_permute_ps::<0b10_10_10_10>(self.0)),
            _ => isa!(_mm512_permute_ps::<0b11_11_11_11>(self.0)),
        })
    }
    #[inline(always)]
    fn permute(self, from: I32x16) -> Self {
        Self(isa!(_mm512_permutexvar_ps(from.0, self.0)))
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
    fn to_i32(self) -> I32x16 {
        I32x16(isa!(_mm512_cvttps_epi32(self.0)))
    }
    #[inline(always)]
    fn to_bits(self) -> I32x16 {
        I32x16(isa!(_mm512_castps_si512(self.0)))
    }
    #[inline(always)]
    fn from_bits(bits: I32x16) -> Self {
        Self(isa!(_mm512_castsi512_ps(bits.0)))
    }
}

impl SimdI32<Avx512> for I32x16 {
    const LANES: usize = N;

    #[inline(always)]
    fn splat(_: Avx512, x: i32) -> Self {
        Self(isa!(_mm512_set1_epi32(x)))
    }
    #[inline(always)]
    fn load(_: Avx512, src: &[i32]) -> Self {
        let src = &src[..N];
        // SAFETY: src has N elements; the token proves the instruction.
        Self(unsafe { _mm512_loadu_si512(src.as_ptr().cast()) })
    }
    #[inline(always)]
    fn load_partial(s: Avx512, src: &[i32]) -> Self {
        // SAFETY: src has src.len() elements of four bytes; a load does not look at their meaning.
        unsafe { F32x16::load_ptr_partial(s, src.as_ptr().cast(), src.len()) }.to_bits()
    }
    #[inline(always)]
    fn load_u8(_: Avx512, src: &[u8]) -> Self {
        let src = &src[..N];
        // SAFETY: src has N bytes; the token proves the instructions.
        Self(unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(src.as_ptr().cast())) })
    }
    #[inline(always)]
    fn load_i8(_: Avx512, src: &[i8]) -> Self {
        let src = &src[..N];
        // SAFETY: src has N bytes; the token proves the instructions.
        Self(unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(src.as_ptr().cast())) })
    }
    #[inline(always)]
    fn load_u16(_: Avx512, src: &[u16]) -> Self {
        let src = &src[..N];
        // SAFETY: src has N elements; the token proves the instructions.
        Self(unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(src.as_ptr().cast())) })
    }
    #[inline(always)]
    fn store(self, dst: &mut [i32]) {
        let dst = &mut dst[..N];
        // SAFETY: dst has N elements; self proves the instruction.
        unsafe { _mm512_storeu_si512(dst.as_mut_ptr().cast(), self.0) }
    }
    #[inline(always)]
    fn store_partial(self, dst: &mut [i32]) {
        // SAFETY: dst has dst.len() elements of four bytes; a store moves bits.
        unsafe { F32x16::from_bits(self).store_ptr_partial(dst.as_mut_ptr().cast(), dst.len()) }
    }
    #[inline(always)]
    fn store_u16(self, dst: &mut [u16]) {
        let dst = &mut dst[..N];
        // SAFETY: dst has N elements; self proves the instructions.
        unsafe {
            _mm256_storeu_si256(dst.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(self.0));
        }
    }
    #[inline(always)]
    fn store_u8(self, dst: &mut [u8]) {
        let dst = &mut dst[..N];
        // SAFETY: dst has N bytes; self proves the instructions.
        unsafe {
            _mm_storeu_si128(dst.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(self.0));
        }
    }
    #[inline(always)]
    fn shl(self, n: u32) -> Self {
        Self(isa!(_mm512_sll_epi32(self.0, _mm_cvtsi32_si128(n as i32))))
    }
    #[inline(always)]
    fn shr(self, n: u32) -> Self {
        Self(isa!(_mm512_sra_epi32(self.0, _mm_cvtsi32_si128(n as i32))))
    }
    #[inline(always)]
    fn shr_logical(self, n: u32) -> Self {
        Self(isa!(_mm512_srl_epi32(self.0, _mm_cvtsi32_si128(n as i32))))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(isa!(_mm512_min_epi32(self.0, other.0)))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(isa!(_mm512_max_epi32(self.0, other.0)))
    }
    #[inline(always)]
    fn eq(self, other: Self) -> Mask16 {
        Mask16(isa!(_mm512_cmpeq_epi32_mask(self.0, other.0)))
    }
    #[inline(always)]
    fn gt(self, other: Self) -> Mask16 {
        Mask16(isa!(_mm512_cmpgt_epi32_mask(self.0, other.0)))
    }
    #[inline(always)]
    fn select(mask: Mask16, yes: Self, no: Self) -> Self {
        Self(isa!(_mm512_mask_blend_epi32(mask.0, no.0, yes.0)))
    }
    #[inline(always)]
    fn reduce_add(self) -> i32 {
        isa!({
            let v = _mm256_add_epi32(_mm512_castsi512_si256(self.0), _mm512_extracti64x4_epi64::<1>(self.0));
            let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
            _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v)))
        })
    }
    #[inline(always)]
    fn to_f32(self) -> F32x16 {
        F32x16(isa!(_mm512_cvtepi32_ps(self.0)))
    }
}

impl SimdMask for Mask16 {
    #[inline(always)]
    fn any(self) -> bool {
        self.0 != 0
    }
    #[inline(always)]
    fn all(self) -> bool {
        self.0 == u16::MAX
    }
}

/// Eight lanes or sixteen at a time; the slices have the same length, a multiple of `N`.
impl Avx512 {
    #[inline(always)]
    pub(crate) fn f16_to_f32(self, src: &[u16; N], dst: &mut [f32; N]) {
        // SAFETY: both arrays have N elements; self proves the instructions.
        unsafe { _mm512_storeu_ps(dst.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(src.as_ptr().cast()))) }
    }

    #[inline(always)]
    pub(crate) fn f32_to_f16(self, src: &[f32; N], dst: &mut [u16; N]) {
        // SAFETY: both arrays have N elements; self proves the instructions.
        unsafe { _mm256_storeu_si256(dst.as_mut_ptr().cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm512_loadu_ps(src.as_ptr()))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_rows_become_columns() {
        let Some(s) = Avx512::detect() else { return };
        let rows: [[f32; N]; N] = core::array::from_fn(|i| core::array::from_fn(|j| (16 * i + j) as f32));
        let columns = s.transpose(rows.map(|row| F32x16::load(s, &row)));
        for (j, column) in columns.into_iter().enumerate() {
            let mut got = [0.0; N];
            column.store(&mut got);
            assert_eq!(got, core::array::from_fn(|i| rows[i][j]));
        }
    }
}
