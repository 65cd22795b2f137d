//! Arithmetic of the types that products, pools and interpolations accumulate in.

use millstream_tensor::{Element, bf16, f16};

/// An element that is widened, multiplied, added, and rounded once.
pub(crate) trait Number: Element {
    /// The type of sums.
    type Sum: Copy + Default + Send + Sync + PartialOrd + core::ops::Add<Output = Self::Sum> + 'static;
    /// Widens an element.
    fn wide(self) -> Self::Sum;
    /// Rounds a sum.
    fn narrow(sum: Self::Sum) -> Self;
    /// `a * b + sum`; integers wrap.
    fn mul_add(a: Self::Sum, b: Self::Sum, sum: Self::Sum) -> Self::Sum;
}

macro_rules! floats {
    ($($t:ty, $sum:ty, $wide:expr, $narrow:expr;)*) => { $(
        impl Number for $t {
            type Sum = $sum;
            #[inline(always)]
            fn wide(self) -> $sum {
                $wide(self)
            }
            #[inline(always)]
            fn narrow(sum: $sum) -> $t {
                $narrow(sum)
            }
            #[inline(always)]
            fn mul_add(a: $sum, b: $sum, sum: $sum) -> $sum {
                a * b + sum
            }
        }
    )* };
}
floats! {
    f32, f32, |x| x, |x| x;
    f64, f64, |x| x, |x| x;
    f16, f32, f16::to_f32, f16::from_f32;
    bf16, f32, bf16::to_f32, bf16::from_f32;
}

/// An integer sum that wraps.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd)]
pub(crate) struct Wrap<T>(pub(crate) T);

macro_rules! integers {
    ($($t:ty => $sum:ty),*) => { $(
        impl Number for $t {
            type Sum = Wrap<$sum>;
            #[inline(always)]
            fn wide(self) -> Wrap<$sum> {
                Wrap(self as $sum)
            }
            #[inline(always)]
            fn narrow(sum: Wrap<$sum>) -> $t {
                sum.0 as $t
            }
            #[inline(always)]
            fn mul_add(a: Wrap<$sum>, b: Wrap<$sum>, sum: Wrap<$sum>) -> Wrap<$sum> {
                Wrap(a.0.wrapping_mul(b.0).wrapping_add(sum.0))
            }
        }
    )* };
}
integers!(i32 => i32, i64 => i64, u32 => u32, u64 => u64, i8 => i32, u8 => i32);

macro_rules! wrapping_add {
    ($($t:ty),*) => { $(
        impl core::ops::Add for Wrap<$t> {
            type Output = Self;
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                Wrap(self.0.wrapping_add(other.0))
            }
        }
    )* };
}
wrapping_add!(i32, i64, u32, u64);
