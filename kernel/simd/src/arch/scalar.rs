//! Portable Rust over arrays of eight, which compilers turn into whatever vectors the target's baseline has.

use core::array;
use core::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Sub};

use crate::Level;
use crate::vector::{Simd, SimdF32, SimdI32, SimdMask, sealed::Sealed};

/// The portable level. Its `mul_add` rounds twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scalar {
    _private: (),
}

impl Scalar {
    /// Every machine has this level.
    pub const fn new() -> Self {
        Self { _private: () }
    }
}

const N: usize = 8;

/// Eight f32.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub struct F32x8([f32; N]);

/// Eight i32.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub struct I32x8([i32; N]);

/// Eight truth values: all bits set, or none.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub struct Mask8([u32; N]);

impl Sealed for Scalar {}

impl Simd for Scalar {
    type F32 = F32x8;
    type I32 = I32x8;
    type Mask = Mask8;

    #[inline(always)]
    fn level(self) -> Level {
        Level::Scalar(self)
    }

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        f()
    }

    #[inline(always)]
    fn prefetch(self, _: *const f32) {}

    #[inline(always)]
    fn prefetch_far(self, _: *const f32) {}

    #[inline(always)]
    fn transpose_square(self, src: &[f32], src_stride: usize, dst: &mut [f32], dst_stride: usize) {
        for i in 0..N {
            for (j, to) in dst[i * dst_stride..][..N].iter_mut().enumerate() {
                *to = src[j * src_stride + i];
            }
        }
    }
}

#[inline(always)]
fn truth(x: bool) -> u32 {
    if x { u32::MAX } else { 0 }
}

/// Folds the upper half onto the lower half until one lane is left.
#[inline(always)]
fn fold<T: Copy>(mut x: [T; N], f: impl Fn(T, T) -> T) -> T {
    for i in 0..4 {
        x[i] = f(x[i], x[i + 4]);
    }
    for i in 0..2 {
        x[i] = f(x[i], x[i + 2]);
    }
    f(x[0], x[1])
}

#[inline(always)]
fn trunc(x: f32) -> f32 {
    // From 2^23 on every value is an integer; NaN fails the comparison and passes through.
    if x.abs() < 8_388_608.0 { (x as i32 as f32).copysign(x) } else { x }
}

#[inline(always)]
fn round_ties_even(x: f32) -> f32 {
    let magic = 8_388_608.0_f32.copysign(x);
    if x.abs() < 8_388_608.0 { ((x + magic) - magic).copysign(x) } else { x }
}

#[inline(always)]
fn floor(x: f32) -> f32 {
    let t = trunc(x);
    if t > x { t - 1.0 } else { t }
}

#[inline(always)]
fn ceil(x: f32) -> f32 {
    let t = trunc(x);
    // The sign of a zero result is that of x: ceil(-0.5) is -0.
    if t < x { (t + 1.0).copysign(x) } else { t }
}

macro_rules! lanewise {
    ($vec:ident: $($op:ident $method:ident $f:expr;)*) => {$(
        impl $op for $vec {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(array::from_fn(|i| $f(self.0[i], other.0[i])))
            }
        }
    )*};
}

lanewise! { F32x8:
    Add add |a: f32, b: f32| a + b;
    Sub sub |a: f32, b: f32| a - b;
    Mul mul |a: f32, b: f32| a * b;
    Div div |a: f32, b: f32| a / b;
}
lanewise! { I32x8:
    Add add |a: i32, b: i32| a.wrapping_add(b);
    Sub sub |a: i32, b: i32| a.wrapping_sub(b);
    Mul mul |a: i32, b: i32| a.wrapping_mul(b);
    BitAnd bitand |a: i32, b: i32| a & b;
    BitOr bitor |a: i32, b: i32| a | b;
    BitXor bitxor |a: i32, b: i32| a ^ b;
}
lanewise! { Mask8:
    BitAnd bitand |a: u32, b: u32| a & b;
    BitOr bitor |a: u32, b: u32| a | b;
}

impl Neg for F32x8 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(self.0.map(|x| -x))
    }
}

impl Not for Mask8 {
    type Output = Self;
    #[inline(always)]
    fn not(self) -> Self {
        Self(self.0.map(|x| !x))
    }
}

impl F32x8 {
    #[inline(always)]
    fn compare(self, other: Self, f: impl Fn(f32, f32) -> bool) -> Mask8 {
        Mask8(array::from_fn(|i| truth(f(self.0[i], other.0[i]))))
    }
}

impl SimdF32<Scalar> for F32x8 {
    const LANES: usize = N;

    #[inline(always)]
    fn splat(_: Scalar, x: f32) -> Self {
        Self([x; N])
    }
    #[inline(always)]
    fn load(_: Scalar, src: &[f32]) -> Self {
        let src = &src[..N];
        Self(array::from_fn(|i| src[i]))
    }
    #[inline(always)]
    fn load_partial(_: Scalar, src: &[f32]) -> Self {
        Self(array::from_fn(|i| src.get(i).copied().unwrap_or(0.0)))
    }
    #[inline(always)]
    fn store(self, dst: &mut [f32]) {
        dst[..N].copy_from_slice(&self.0);
    }
    #[inline(always)]
    fn store_partial(self, dst: &mut [f32]) {
        for (d, x) in dst.iter_mut().zip(self.0) {
            *d = x;
        }
    }
    #[inline(always)]
    unsafe fn load_ptr(_: Scalar, src: *const f32) -> Self {
        // SAFETY: the caller vouches for N elements; the read is unaligned.
        Self(unsafe { src.cast::<[f32; N]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_ptr_partial(s: Scalar, src: *const f32, n: usize) -> Self {
        // SAFETY: the caller vouches for min(n, N) elements.
        Self::load_partial(s, unsafe { core::slice::from_raw_parts(src, n.min(N)) })
    }
    #[inline(always)]
    unsafe fn store_ptr(self, dst: *mut f32) {
        // SAFETY: the caller vouches for N elements; the write is unaligned.
        unsafe { dst.cast::<[f32; N]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_ptr_partial(self, dst: *mut f32, n: usize) {
        for (i, x) in self.0.into_iter().enumerate().take(n) {
            // SAFETY: i < min(n, N), for which the caller vouches.
            unsafe { dst.add(i).write(x) }
        }
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        self * b + c
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(array::from_fn(|i| if self.0[i] < other.0[i] { self.0[i] } else { other.0[i] }))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(array::from_fn(|i| if self.0[i] > other.0[i] { self.0[i] } else { other.0[i] }))
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.map(f32::abs))
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        Self(array::from_fn(|i| self.0[i].copysign(sign.0[i])))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(self.0.map(libm::sqrtf))
    }
    #[inline(always)]
    fn floor(self) -> Self {
        Self(self.0.map(floor))
    }
    #[inline(always)]
    fn ceil(self) -> Self {
        Self(self.0.map(ceil))
    }
    #[inline(always)]
    fn round_ties_even(self) -> Self {
        Self(self.0.map(round_ties_even))
    }
    #[inline(always)]
    fn trunc(self) -> Self {
        Self(self.0.map(trunc))
    }
    #[inline(always)]
    fn scale_by_pow2(self, n: Self) -> Self {
        // Two normal powers of two: the first product is exact, the second rounds.
        Self(array::from_fn(|i| {
            let n = n.0[i] as i32;
            let half = n >> 1;
            let pow2 = |e: i32| f32::from_bits((e.wrapping_add(127) as u32) << 23);
            self.0[i] * pow2(half) * pow2(n - half)
        }))
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Mask8 {
        self.compare(other, |a, b| a == b)
    }
    #[inline(always)]
    fn lt(self, other: Self) -> Mask8 {
        self.compare(other, |a, b| a < b)
    }
    #[inline(always)]
    fn le(self, other: Self) -> Mask8 {
        self.compare(other, |a, b| a <= b)
    }
    #[inline(always)]
    fn select(mask: Mask8, yes: Self, no: Self) -> Self {
        Self(array::from_fn(|i| f32::from_bits((yes.0[i].to_bits() & mask.0[i]) | (no.0[i].to_bits() & !mask.0[i]))))
    }

    #[inline(always)]
    fn splat_in_quads<const LANE: usize>(self) -> Self {
        Self(array::from_fn(|i| self.0[i / 4 * 4 + LANE % 4]))
    }
    #[inline(always)]
    fn permute(self, from: I32x8) -> Self {
        Self(array::from_fn(|i| self.0[from.0[i] as usize % N]))
    }

    #[inline(always)]
    fn reduce_add(self) -> f32 {
        fold(self.0, |a, b| a + b)
    }
    #[inline(always)]
    fn reduce_max(self) -> f32 {
        fold(self.0, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn reduce_min(self) -> f32 {
        fold(self.0, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn to_i32(self) -> I32x8 {
        I32x8(self.0.map(|x| x as i32))
    }
    #[inline(always)]
    fn to_bits(self) -> I32x8 {
        I32x8(self.0.map(|x| x.to_bits() as i32))
    }
    #[inline(always)]
    fn from_bits(bits: I32x8) -> Self {
        Self(bits.0.map(|x| f32::from_bits(x as u32)))
    }
}

impl SimdI32<Scalar> for I32x8 {
    const LANES: usize = N;

    #[inline(always)]
    fn splat(_: Scalar, x: i32) -> Self {
        Self([x; N])
    }
    #[inline(always)]
    fn load(_: Scalar, src: &[i32]) -> Self {
        let src = &src[..N];
        Self(array::from_fn(|i| src[i]))
    }
    #[inline(always)]
    fn load_partial(_: Scalar, src: &[i32]) -> Self {
        Self(array::from_fn(|i| src.get(i).copied().unwrap_or(0)))
    }
    #[inline(always)]
    fn load_u8(_: Scalar, src: &[u8]) -> Self {
        let src = &src[..N];
        Self(array::from_fn(|i| i32::from(src[i])))
    }
    #[inline(always)]
    fn load_i8(_: Scalar, src: &[i8]) -> Self {
        let src = &src[..N];
        Self(array::from_fn(|i| i32::from(src[i])))
    }
    #[inline(always)]
    fn load_u16(_: Scalar, src: &[u16]) -> Self {
        let src = &src[..N];
        Self(array::from_fn(|i| i32::from(src[i])))
    }
    #[inline(always)]
    fn store(self, dst: &mut [i32]) {
        dst[..N].copy_from_slice(&self.0);
    }
    #[inline(always)]
    fn store_partial(self, dst: &mut [i32]) {
        for (d, x) in dst.iter_mut().zip(self.0) {
            *d = x;
        }
    }
    #[inline(always)]
    fn store_u16(self, dst: &mut [u16]) {
        dst[..N].copy_from_slice(&self.0.map(|x| x as u16));
    }
    #[inline(always)]
    fn store_u8(self, dst: &mut [u8]) {
        dst[..N].copy_from_slice(&self.0.map(|x| x as u8));
    }
    #[inline(always)]
    fn shl(self, n: u32) -> Self {
        Self(self.0.map(|x| x.wrapping_shl(n)))
    }
    #[inline(always)]
    fn shr(self, n: u32) -> Self {
        Self(self.0.map(|x| x.wrapping_shr(n)))
    }
    #[inline(always)]
    fn shr_logical(self, n: u32) -> Self {
        Self(self.0.map(|x| (x as u32).wrapping_shr(n) as i32))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(array::from_fn(|i| self.0[i].min(other.0[i])))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(array::from_fn(|i| self.0[i].max(other.0[i])))
    }
    #[inline(always)]
    fn eq(self, other: Self) -> Mask8 {
        Mask8(array::from_fn(|i| truth(self.0[i] == other.0[i])))
    }
    #[inline(always)]
    fn gt(self, other: Self) -> Mask8 {
        Mask8(array::from_fn(|i| truth(self.0[i] > other.0[i])))
    }
    #[inline(always)]
    fn select(mask: Mask8, yes: Self, no: Self) -> Self {
        Self(array::from_fn(|i| (yes.0[i] & mask.0[i] as i32) | (no.0[i] & !mask.0[i] as i32)))
    }
    #[inline(always)]
    fn reduce_add(self) -> i32 {
        fold(self.0, i32::wrapping_add)
    }
    #[inline(always)]
    fn to_f32(self) -> F32x8 {
        F32x8(self.0.map(|x| x as f32))
    }
}

impl SimdMask for Mask8 {
    #[inline(always)]
    fn any(self) -> bool {
        self.0.iter().any(|&x| x != 0)
    }
    #[inline(always)]
    fn all(self) -> bool {
        self.0.iter().all(|&x| x != 0)
    }
}
