//! When a result is right: the ONNX project's own tolerances.

use millstream::{
    DType, Tensor, Value,
    kernel::tensor::{Bool, bf16, f16},
};

/// |got − want| ≤ absolute + relative·|want|.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tolerance {
    relative: f64,
    absolute: f64,
}

impl Tolerance {
    /// The tolerance of the test of this name.
    pub(crate) fn of(test: &str) -> Tolerance {
        Tolerance { relative: if test.contains("densenet121") { 2e-3 } else { 1e-3 }, absolute: 1e-7 }
    }
}

/// Why two values differ, `None` if they do not.
pub(crate) fn difference(got: &Value, want: &Value, tolerance: Tolerance) -> Option<String> {
    match (got, want) {
        (Value::Tensor(got), Value::Tensor(want)) => tensors(got, want, tolerance),
        (Value::Sequence(got), Value::Sequence(want)) => {
            if got.len() != want.len() {
                return Some(format!("a sequence of {}, {} are expected", got.len(), want.len()));
            }
            got.iter().zip(want).find_map(|(g, w)| difference(g, w, tolerance))
        }
        (Value::Optional(None), Value::Optional(None)) => None,
        (Value::Optional(Some(got)), Value::Optional(Some(want))) => difference(got, want, tolerance),
        _ => Some(format!("{}, {} is expected", got.kind(), want.kind())),
    }
}

fn tensors(got: &Tensor, want: &Tensor, tolerance: Tolerance) -> Option<String> {
    if got.dtype() != want.dtype() || got.shape() != want.shape() {
        return Some(format!("{}[{}], {}[{}] is expected", got.dtype(), got.shape(), want.dtype(), want.shape()));
    }
    if got.dtype() == DType::String {
        return (got != want).then(|| "other strings are expected".into());
    }
    // bf16 has eight bits of mantissa.
    let relative = if got.dtype() == DType::BF16 { 1.0 / 64.0 } else { tolerance.relative };
    let (got, want) = (numbers(got), numbers(want));
    let far = |(_, (g, w)): &(usize, (&f64, &f64))| !(g == w || (g.is_nan() && w.is_nan()) || (*g - *w).abs() <= tolerance.absolute + relative * w.abs());
    let (i, (g, w)) = got.iter().zip(&want).enumerate().find(far)?;
    Some(format!("element {i} is {g}, {w} is expected"))
}

/// The elements of a tensor of numbers as f64, in row-major order; of strings, none.
pub(crate) fn numbers(t: &Tensor) -> Vec<f64> {
    macro_rules! widen {
        ($($d:ident: $t:ty => $f:expr),*) => {
            match t.dtype() {
                $( DType::$d => t.as_slice::<$t>().map(|s| s.iter().map($f).collect()).unwrap_or_default(), )*
                _ => Vec::new(),
            }
        };
    }
    widen!(F32: f32 => |&x| x.into(), F64: f64 => |&x| x, F16: f16 => |x| x.to_f64(), BF16: bf16 => |x| x.to_f64(), I8: i8 => |&x| x.into(),
        I16: i16 => |&x| x.into(), I32: i32 => |&x| x.into(), I64: i64 => |&x| x as f64, U8: u8 => |&x| x.into(), U16: u16 => |&x| x.into(),
        U32: u32 => |&x| x.into(), U64: u64 => |&x| x as f64, Bool: Bool => |&x| f64::from(u8::from(bool::from(x))))
}
