//! Element types by what arithmetic they have, for code that is written once for many of them.
//!
//! Slow paths compute floats in f64 and integers in i128, which hold every element exactly; the result is rounded or
//! wrapped once. For the sums, products, quotients and square roots of f32 that equals arithmetic in f32.

use millstream_graph::{EvalError, InferError};
use millstream_tensor::{Bool, DType, Element, bf16, f16};

/// Any element type but strings.
pub(crate) trait Number: Element {
    /// The element as f64 (64-bit integers past 2⁵³ round).
    fn to_f64(self) -> f64;
    /// The nearest element; integers truncate and saturate, NaN becomes 0; booleans are true unless 0.
    fn from_f64(x: f64) -> Self;
    /// The element as an integer; floats truncate and saturate.
    fn to_i128(self) -> i128;
    /// The element that this integer wraps to; floats round.
    fn from_i128(x: i128) -> Self;
}

macro_rules! numbers {
    ($($t:ty),*) => { $(
        impl Number for $t {
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn to_i128(self) -> i128 {
                self as i128
            }
            #[inline(always)]
            fn from_i128(x: i128) -> Self {
                x as $t
            }
        }
    )* };
}
numbers!(f32, f64, i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! halves {
    ($($t:ty),*) => { $(
        impl Number for $t {
            #[inline(always)]
            fn to_f64(self) -> f64 {
                <$t>::to_f64(self)
            }
            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                <$t>::from_f64(x)
            }
            #[inline(always)]
            fn to_i128(self) -> i128 {
                <$t>::to_f64(self) as i128
            }
            #[inline(always)]
            fn from_i128(x: i128) -> Self {
                <$t>::from_f64(x as f64)
            }
        }
    )* };
}
halves!(f16, bf16);

impl Number for Bool {
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(u8::from(bool::from(self)))
    }
    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        (x != 0.0).into()
    }
    #[inline(always)]
    fn to_i128(self) -> i128 {
        i128::from(bool::from(self))
    }
    #[inline(always)]
    fn from_i128(x: i128) -> Self {
        (x != 0).into()
    }
}

/// A set of element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Types {
    /// f16, bf16, f32, f64.
    Floats,
    /// All integers.
    Ints,
    /// Floats and integers.
    Numbers,
    /// Booleans.
    Bools,
}

impl Types {
    /// True if `dtype` is one of these types.
    pub(crate) fn has(self, dtype: DType) -> bool {
        match self {
            Types::Floats => dtype.is_float(),
            Types::Ints => dtype.is_int(),
            Types::Numbers => dtype.is_float() || dtype.is_int(),
            Types::Bools => dtype == DType::Bool,
        }
    }

    /// An error unless `dtype`, of input `input`, is one of these types.
    pub(crate) fn check(self, input: usize, dtype: DType) -> Result<(), InferError> {
        if self.has(dtype) { Ok(()) } else { Err(InferError::DType { input, found: dtype }) }
    }

    /// An error unless there is a kernel for `dtype`.
    pub(crate) fn check_kernel(self, dtype: DType) -> Result<(), EvalError> {
        if self.has(dtype) { Ok(()) } else { Err(EvalError::DType(dtype)) }
    }
}

/// Runs `$body` with `$t` bound to the Rust type of `$dtype`, for the types in the list; a typed error for others.
macro_rules! by_dtype {
    (@match $dtype:expr, $t:ident => $body:expr; $($d:ident $r:ty),*) => {
        match $dtype {
            $( millstream_tensor::DType::$d => { type $t = $r; $body } )*
            other => Err(millstream_graph::EvalError::DType(other)),
        }
    };
    (bytes, $dtype:expr, $t:ident => $body:expr) => {
        by_dtype!(@match $dtype, $t => $body; I8 i8, U8 u8)
    };
    (floats, $dtype:expr, $t:ident => $body:expr) => {
        by_dtype!(@match $dtype, $t => $body; F32 f32, F64 f64, F16 millstream_tensor::f16, BF16 millstream_tensor::bf16)
    };
    // What quantised integers are made from and turned into.
    (scales, $dtype:expr, $t:ident => $body:expr) => {
        by_dtype!(@match $dtype, $t => $body; F32 f32, F16 millstream_tensor::f16, BF16 millstream_tensor::bf16)
    };
    (quantised, $dtype:expr, $t:ident => $body:expr) => {
        by_dtype!(@match $dtype, $t => $body; I8 i8, I16 i16, U8 u8, U16 u16)
    };
    (ints, $dtype:expr, $t:ident => $body:expr) => {
        by_dtype!(@match $dtype, $t => $body; I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64)
    };
    (numbers, $dtype:expr, $t:ident => $body:expr) => {
        by_dtype!(@match $dtype, $t => $body; F32 f32, F64 f64, F16 millstream_tensor::f16, BF16 millstream_tensor::bf16,
            I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64)
    };
    (all, $dtype:expr, $t:ident => $body:expr) => {
        by_dtype!(@match $dtype, $t => $body; F32 f32, F64 f64, F16 millstream_tensor::f16, BF16 millstream_tensor::bf16,
            I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64, Bool millstream_tensor::Bool)
    };
}
