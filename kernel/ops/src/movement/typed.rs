//! Dispatch on an element's width or type, and the little arithmetic that moving operators do.

use core::cmp::Ordering;
use millstream_tensor::{Element, bf16, f16};

/// Runs the body with `$w` an unsigned integer as wide as elements of the type; leaves the function for strings.
macro_rules! by_width {
    ($dtype:expr, $w:ident => $body:expr) => {
        match $dtype.size() {
            1 => {
                type $w = u8;
                $body
            }
            2 => {
                type $w = u16;
                $body
            }
            4 => {
                type $w = u32;
                $body
            }
            8 => {
                type $w = u64;
                $body
            }
            _ => return Err(millstream_graph::EvalError::DType($dtype)),
        }
    };
}

/// Runs the body with `$t` the type of elements; leaves the function for booleans and strings.
macro_rules! by_number {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            millstream_tensor::DType::F32 => {
                type $t = f32;
                $body
            }
            millstream_tensor::DType::F64 => {
                type $t = f64;
                $body
            }
            millstream_tensor::DType::F16 => {
                type $t = millstream_tensor::f16;
                $body
            }
            millstream_tensor::DType::BF16 => {
                type $t = millstream_tensor::bf16;
                $body
            }
            millstream_tensor::DType::I8 => {
                type $t = i8;
                $body
            }
            millstream_tensor::DType::I16 => {
                type $t = i16;
                $body
            }
            millstream_tensor::DType::I32 => {
                type $t = i32;
                $body
            }
            millstream_tensor::DType::I64 => {
                type $t = i64;
                $body
            }
            millstream_tensor::DType::U8 => {
                type $t = u8;
                $body
            }
            millstream_tensor::DType::U16 => {
                type $t = u16;
                $body
            }
            millstream_tensor::DType::U32 => {
                type $t = u32;
                $body
            }
            millstream_tensor::DType::U64 => {
                type $t = u64;
                $body
            }
            other => return Err(millstream_graph::EvalError::DType(other)),
        }
    };
}

pub(crate) use {by_number, by_width};

/// A number that can be added and multiplied; integers wrap.
pub(crate) trait Arithmetic: Element {
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
}

macro_rules! arithmetic {
    (float $($t:ty),*) => { $( impl Arithmetic for $t {
        fn plus(self, other: Self) -> Self { self + other }
        fn times(self, other: Self) -> Self { self * other }
    } )* };
    (int $($t:ty),*) => { $( impl Arithmetic for $t {
        fn plus(self, other: Self) -> Self { self.wrapping_add(other) }
        fn times(self, other: Self) -> Self { self.wrapping_mul(other) }
    } )* };
}
arithmetic!(float f32, f64, f16, bf16);
arithmetic!(int i8, i16, i32, i64, u8, u16, u32, u64);

/// The order of elements, with NaN past every number.
#[allow(clippy::eq_op)]
pub(crate) fn order<T: Element>(a: &T, b: &T) -> Ordering {
    a.partial_cmp(b).unwrap_or_else(|| (a != a).cmp(&(b != b)))
}
