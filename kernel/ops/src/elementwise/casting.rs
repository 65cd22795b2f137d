//! Elements of one type as elements of another: what `Cast` and `CastLike` do.
//!
//! Floats become integers by truncation (saturating; NaN is 0), integers wrap, floats round to nearest even, anything but 0
//! is true. Text is parsed and printed as Rust does, which is how NumPy does it but for the exponent's sign.

use super::walk::{Operand, each1, permute_one};
use crate::numeric::Number;
use alloc::{format, string::String, vec::Vec};
use half::slice::HalfFloatSliceExt;
use millstream_graph::{BuildError, EvalCx, EvalError, Fact, Permutation, StepCx};
use millstream_simd::{Level, convert};
use millstream_tensor::{Bool, DType, Order, Tensor, bf16, f16};

/// An element as another type.
trait CastTo<U> {
    fn cast(self) -> U;
}

macro_rules! native {
    ($($t:ty),*) => { $(
        native!(@to $t; f32 f64 i8 i16 i32 i64 u8 u16 u32 u64);
        native!(@half $t; f16 bf16);
        impl CastTo<Bool> for $t {
            #[inline(always)]
            fn cast(self) -> Bool {
                (self != 0 as $t).into()
            }
        }
        impl CastTo<$t> for Bool {
            #[inline(always)]
            fn cast(self) -> $t {
                u8::from(bool::from(self)) as $t
            }
        }
    )* };
    (@to $t:ty; $($u:ty)*) => { $(
        impl CastTo<$u> for $t {
            #[inline(always)]
            fn cast(self) -> $u {
                self as $u
            }
        }
    )* };
    (@half $t:ty; $($h:ty)*) => { $(
        impl CastTo<$h> for $t {
            #[inline(always)]
            fn cast(self) -> $h {
                <$h>::from_f64(self as f64)
            }
        }
        impl CastTo<$t> for $h {
            #[inline(always)]
            fn cast(self) -> $t {
                self.to_f32() as $t
            }
        }
    )* };
}
native!(f32, f64, i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! through_f64 {
    ($($t:ty => $u:ty),*) => { $(
        impl CastTo<$u> for $t {
            #[inline(always)]
            fn cast(self) -> $u {
                Number::from_f64(Number::to_f64(self))
            }
        }
    )* };
}
through_f64!(f16 => f16, f16 => bf16, bf16 => f16, bf16 => bf16, Bool => Bool, f16 => Bool, bf16 => Bool, Bool => f16, Bool => bf16);

/// The element type of ONNX's number, which `attribute` gives.
pub(crate) fn element_type(attribute: &'static str, number: i64) -> Result<DType, BuildError> {
    Ok(match number {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        4 => DType::U16,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        8 => DType::String,
        9 => DType::Bool,
        10 => DType::F16,
        11 => DType::F64,
        12 => DType::U32,
        13 => DType::U64,
        16 => DType::BF16,
        other => return Err(BuildError::UnsupportedAttribute { name: attribute, value: format!("{other}") }),
    })
}

/// The fact of `x` as `to`; symbolic integers keep their elements.
pub(crate) fn infer(x: &Fact, to: DType) -> Fact {
    let ints = |d: DType| matches!(d, DType::I64 | DType::I32);
    match x.int_dims().filter(|_| x.as_const().is_none() && ints(x.dtype) && ints(to)) {
        Some(values) => Fact::of_dims(to, values, x.rank() == 0),
        None => Fact::new(to, x.dims.clone()),
    }
}

/// Input 0 as `to`, in its own memory order (text row-major).
pub(crate) fn eval(cx: &mut EvalCx<'_>, to: DType) -> Result<(), EvalError> {
    let from = cx.dtype(0)?;
    let level = cx.level();
    match (from, to) {
        (DType::String, DType::String) => cx.value(0).and_then(|v| cx.set_value(0, v)),
        (DType::String, _) => by_dtype!(all, to, U => parse::<U>(cx)),
        (_, DType::String) => print(cx, from),
        (DType::F16, DType::F32) => widen::<f16>(cx, level, convert::f16_to_f32),
        (DType::BF16, DType::F32) => widen::<bf16>(cx, level, convert::bf16_to_f32),
        (DType::F32, DType::F16) => narrow::<f16>(cx, level, convert::f32_to_f16),
        (DType::F32, DType::BF16) => narrow::<bf16>(cx, level, convert::f32_to_bf16),
        _ => by_dtype!(all, from, T => by_dtype!(all, to, U => elements::<T, U>(cx))),
    }
}

fn elements<T: Number + CastTo<U>, U: Number>(cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
    let (x, mut y) = (cx.input::<T>(0)?, cx.output::<U>(0)?);
    each1(cx, Some(x), &mut y, 1, &|x, y| match x {
        Operand::Run(x) => y.iter_mut().zip(x).for_each(|(y, &x)| *y = x.cast()),
        Operand::Splat(x) => y.fill(x.cast()),
        Operand::Same => {}
    })
}

fn widen<T: Number + CastTo<f32>>(cx: &mut EvalCx<'_>, level: Level, f: fn(Level, &[u16], &mut [f32])) -> Result<(), EvalError>
where
    [T]: HalfFloatSliceExt,
{
    let (x, mut y) = (cx.input::<T>(0)?, cx.output::<f32>(0)?);
    each1(cx, Some(x), &mut y, 1, &|x, y| match x {
        Operand::Run(x) => f(level, x.reinterpret_cast(), y),
        Operand::Splat(x) => y.fill(x.cast()),
        Operand::Same => {}
    })
}

fn narrow<U: Number>(cx: &mut EvalCx<'_>, level: Level, f: fn(Level, &[f32], &mut [u16])) -> Result<(), EvalError>
where
    [U]: HalfFloatSliceExt,
    f32: CastTo<U>,
{
    let (x, mut y) = (cx.input::<f32>(0)?, cx.output::<U>(0)?);
    each1(cx, Some(x), &mut y, 1, &|x, y| match x {
        Operand::Run(x) => f(level, x, y.reinterpret_cast_mut()),
        Operand::Splat(x) => y.fill(x.cast()),
        Operand::Same => {}
    })
}

fn parse<U: Number>(cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
    let x = cx.tensor(0)?;
    let strings = x.as_strings()?;
    let broken = EvalError::Invalid("a text is no number");
    let one = |s: &String| -> Result<U, EvalError> {
        let s = s.trim();
        match s.parse::<i128>() {
            Ok(i) if U::DTYPE.is_int() => Ok(U::from_i128(i)),
            _ => s.parse::<f64>().map(U::from_f64).map_err(|_| broken.clone()),
        }
    };
    let values: Vec<U> = x.layout().offsets().map(|o| one(&strings[o])).collect::<Result<_, _>>()?;
    cx.output::<U>(0)?.fill_from(values);
    Ok(())
}

fn print(cx: &mut EvalCx<'_>, from: DType) -> Result<(), EvalError> {
    let shape = *cx.tensor(0)?.shape();
    let text: Vec<String> = by_dtype!(all, from, T => {
        let one = |x: T| match from {
            DType::Bool => String::from(if x.to_i128() != 0 { "True" } else { "False" }),
            DType::F64 => format!("{:?}", Number::to_f64(x)),
            _ if from.is_float() => format!("{:?}", Number::to_f64(x) as f32),
            _ => format!("{}", x.to_i128()),
        };
        Ok(cx.input::<T>(0)?.iter().map(one).map(|s| if s == "NaN" { "nan".into() } else { s }).collect())
    })?;
    let text = Tensor::from_strings(&shape, text)?;
    cx.set_value(0, text.into())
}

/// A cast runs in any memory order, but text is row-major.
pub(crate) fn permute(cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
    let text = cx.inputs.iter().flatten().chain(cx.outputs).any(|s| s.dtype == DType::String);
    if text { None } else { permute_one(inputs) }
}
