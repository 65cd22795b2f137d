//! The traits over which kernels are generic. One implementation for each level stands in `arch/`.

use core::fmt::Debug;
use core::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Sub};

use crate::Level;

/// Keeps the set of implementations inside this crate: a token is a proof that other crates cannot give.
pub(crate) mod sealed {
    /// Implemented by the tokens of this crate.
    pub trait Sealed {}
}

/// A token: the proof that this machine has an instruction set, and the vectors of that set.
pub trait Simd: Copy + Send + Sync + Debug + sealed::Sealed + 'static {
    /// A vector of f32.
    type F32: SimdF32<Self>;
    /// A vector of i32 with as many lanes as [`Simd::F32`].
    type I32: SimdI32<Self>;
    /// The result of a comparison, one truth value for each lane.
    type Mask: SimdMask;

    /// The level whose token this is.
    fn level(self) -> Level;

    /// Runs `f` with the instruction set enabled. Write the closure as `#[inline(always)] || ...`, so that it is compiled in that frame.
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R;

    /// A hint that the cache line at `p` is needed soon. Any address will do.
    fn prefetch(self, p: *const f32);

    /// A hint that the cache line at `p` is needed later: it should come nearer, but not into the nearest cache. Any address will do.
    fn prefetch_far(self, p: *const f32);

    /// Transposes a square of as many rows as a vector has lanes: `dst[i * dst_stride + j] = src[j * src_stride + i]`.
    ///
    /// # Panics
    /// If a slice is shorter.
    fn transpose_square(self, src: &[f32], src_stride: usize, dst: &mut [f32], dst_stride: usize);
}

/// A vector of f32 lanes.
///
/// Rounding is to nearest even. [`min`](SimdF32::min) and [`max`](SimdF32::max) return the SECOND operand if either is NaN or if both are zeros,
/// on every level: `bound.max(x)` keeps a NaN in `x`, `x.max(bound)` replaces it.
pub trait SimdF32<S: Simd>:
    Copy + Send + Sync + Debug + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + Neg<Output = Self> + 'static
{
    /// Lanes of a vector.
    const LANES: usize;

    /// All lanes `x`.
    fn splat(s: S, x: f32) -> Self;
    /// The first `LANES` elements of `src`.
    ///
    /// # Panics
    /// If `src` is shorter.
    fn load(s: S, src: &[f32]) -> Self;
    /// The first `min(LANES, src.len())` elements of `src`, the other lanes zero.
    fn load_partial(s: S, src: &[f32]) -> Self;
    /// Writes the first `LANES` elements of `dst`.
    ///
    /// # Panics
    /// If `dst` is shorter.
    fn store(self, dst: &mut [f32]);
    /// Writes the first `min(LANES, dst.len())` elements of `dst`.
    fn store_partial(self, dst: &mut [f32]);
    /// Reads `LANES` elements.
    ///
    /// # Safety
    /// `src` must be valid for reads of `LANES` f32.
    unsafe fn load_ptr(s: S, src: *const f32) -> Self;
    /// Reads the first `n` lanes, the others are zero.
    ///
    /// # Safety
    /// `src` must be valid for reads of `min(n, LANES)` f32.
    unsafe fn load_ptr_partial(s: S, src: *const f32, n: usize) -> Self;
    /// Writes `LANES` elements.
    ///
    /// # Safety
    /// `dst` must be valid for writes of `LANES` f32.
    unsafe fn store_ptr(self, dst: *mut f32);
    /// Writes the first `n` lanes.
    ///
    /// # Safety
    /// `dst` must be valid for writes of `min(n, LANES)` f32.
    unsafe fn store_ptr_partial(self, dst: *mut f32, n: usize);

    /// `self * b + c`: rounded once where the level has FMA, twice on [`crate::Scalar`].
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// The lesser operand; `other` if either is NaN.
    fn min(self, other: Self) -> Self;
    /// The greater operand; `other` if either is NaN.
    fn max(self, other: Self) -> Self;
    /// The magnitude.
    fn abs(self) -> Self;
    /// The magnitude of `self` with the sign of `sign`.
    fn copysign(self, sign: Self) -> Self;
    /// The square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// The greatest integer that is not greater.
    fn floor(self) -> Self;
    /// The least integer that is not less.
    fn ceil(self) -> Self;
    /// The nearest integer, ties to even.
    fn round_ties_even(self) -> Self;
    /// The integer part.
    fn trunc(self) -> Self;
    /// `self * 2^n` for integral `n` in -240..=240; rounded once, denormal results and overflow included, where `|self|` is in 0.25..=4.
    fn scale_by_pow2(self, n: Self) -> Self;

    /// `self == other`; false for NaN.
    fn eq(self, other: Self) -> S::Mask;
    /// `self < other`; false for NaN.
    fn lt(self, other: Self) -> S::Mask;
    /// `self <= other`; false for NaN.
    fn le(self, other: Self) -> S::Mask;
    /// `self > other`; false for NaN.
    #[inline(always)]
    fn gt(self, other: Self) -> S::Mask {
        other.lt(self)
    }
    /// `self >= other`; false for NaN.
    #[inline(always)]
    fn ge(self, other: Self) -> S::Mask {
        other.le(self)
    }
    /// True where the lane is NaN.
    #[inline(always)]
    fn is_nan(self) -> S::Mask {
        !self.eq(self)
    }
    /// `yes` where the mask is true, `no` elsewhere.
    fn select(mask: S::Mask, yes: Self, no: Self) -> Self;

    /// In each quad of lanes, all four are its lane `LANE` (0..4).
    fn splat_in_quads<const LANE: usize>(self) -> Self;
    /// Lane i is lane `from[i]`, which must be below `LANES`; unspecified (but defined) where it is not.
    fn permute(self, from: S::I32) -> Self;

    /// The sum of the lanes: the upper half is added to the lower half until one lane is left.
    fn reduce_add(self) -> f32;
    /// The greatest lane, folded as [`SimdF32::reduce_add`] does; unspecified which lane if one is NaN.
    fn reduce_max(self) -> f32;
    /// The least lane, folded as [`SimdF32::reduce_add`] does; unspecified which lane if one is NaN.
    fn reduce_min(self) -> f32;

    /// Truncated to an integer; unspecified (but defined) for NaN and values outside of i32.
    fn to_i32(self) -> S::I32;
    /// The bits.
    fn to_bits(self) -> S::I32;
    /// The vector with these bits.
    fn from_bits(bits: S::I32) -> Self;
}

/// A vector of i32 lanes; arithmetic wraps.
pub trait SimdI32<S: Simd>:
    Copy
    + Send
    + Sync
    + Debug
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + BitAnd<Output = Self>
    + BitOr<Output = Self>
    + BitXor<Output = Self>
    + 'static
{
    /// Lanes of a vector.
    const LANES: usize;

    /// All lanes `x`.
    fn splat(s: S, x: i32) -> Self;
    /// The first `LANES` elements of `src`.
    ///
    /// # Panics
    /// If `src` is shorter.
    fn load(s: S, src: &[i32]) -> Self;
    /// The first `min(LANES, src.len())` elements of `src`, the other lanes zero.
    fn load_partial(s: S, src: &[i32]) -> Self;
    /// Widens the first `LANES` bytes of `src`.
    ///
    /// # Panics
    /// If `src` is shorter.
    fn load_u8(s: S, src: &[u8]) -> Self;
    /// Widens the first `LANES` bytes of `src`.
    ///
    /// # Panics
    /// If `src` is shorter.
    fn load_i8(s: S, src: &[i8]) -> Self;
    /// Widens the first `LANES` elements of `src`.
    ///
    /// # Panics
    /// If `src` is shorter.
    fn load_u16(s: S, src: &[u16]) -> Self;
    /// Writes the first `LANES` elements of `dst`.
    ///
    /// # Panics
    /// If `dst` is shorter.
    fn store(self, dst: &mut [i32]);
    /// Writes the first `min(LANES, dst.len())` elements of `dst`.
    fn store_partial(self, dst: &mut [i32]);
    /// Writes the low 16 bits of each lane.
    ///
    /// # Panics
    /// If `dst` is shorter than `LANES`.
    fn store_u16(self, dst: &mut [u16]);
    /// Writes the low 8 bits of each lane.
    ///
    /// # Panics
    /// If `dst` is shorter than `LANES`.
    fn store_u8(self, dst: &mut [u8]);
    /// Shifts left by `n < 32`.
    fn shl(self, n: u32) -> Self;
    /// Shifts right by `n < 32`, copying the sign.
    fn shr(self, n: u32) -> Self;
    /// Shifts right by `n < 32`, inserting zeros.
    fn shr_logical(self, n: u32) -> Self;
    /// The lesser operand.
    fn min(self, other: Self) -> Self;
    /// The greater operand.
    fn max(self, other: Self) -> Self;
    /// `self == other`.
    fn eq(self, other: Self) -> S::Mask;
    /// `self > other`.
    fn gt(self, other: Self) -> S::Mask;
    /// `yes` where the mask is true, `no` elsewhere.
    fn select(mask: S::Mask, yes: Self, no: Self) -> Self;
    /// The wrapping sum of the lanes.
    fn reduce_add(self) -> i32;
    /// Converted to f32, rounded to nearest even.
    fn to_f32(self) -> S::F32;
}

/// One truth value for each lane.
pub trait SimdMask: Copy + Send + Sync + Debug + BitAnd<Output = Self> + BitOr<Output = Self> + Not<Output = Self> + 'static {
    /// True if a lane is true.
    fn any(self) -> bool;
    /// True if all lanes are true.
    fn all(self) -> bool;
}
