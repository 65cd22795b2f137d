//! Tensors out of fields, and back into JSON.

use millstream_tensor::{Bool, DType, Element, Tensor, TensorError, bf16, f16};
use serde::{Serialize, Serializer, ser::SerializeSeq};
use serde_json::{Number, Value as Json};

use crate::row::Datum;

/// Why a field makes no tensor.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConvertError {
    #[error("{found} makes no tensor of {dtype}")]
    Kind { found: &'static str, dtype: DType },
    #[error("{value} is no {dtype}")]
    Number { value: String, dtype: DType },
    #[error("lists of different lengths make no tensor")]
    Ragged,
    #[error("a length was given, and the field has {0} axes, not one")]
    Axes(usize),
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// How a vector is brought to a length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fit {
    pub(crate) length: usize,
    /// What stands behind the end.
    pub(crate) pad: f64,
}

/// Numbers and lists of them as they are; text and bytes as a vector of bytes. Text for a tensor of strings is a scalar.
pub(crate) fn to_tensor(datum: &Datum, dtype: DType, fit: Option<Fit>) -> Result<Tensor, ConvertError> {
    match datum {
        Datum::Tensor(tensor) if fit.is_none() && tensor.dtype() == dtype => Ok(tensor.clone()),
        Datum::Tensor(_) => Err(ConvertError::Kind { found: "a tensor", dtype }),
        Datum::Bytes(bytes) => from_bytes(bytes, dtype, fit),
        Datum::Json(Json::String(text)) if dtype != DType::String => from_bytes(text.as_bytes(), dtype, fit),
        Datum::Json(json) => {
            let (mut dims, mut leaves) = (Vec::new(), Vec::new());
            gather(json, 0, &mut dims, &mut leaves)?;
            if dtype == DType::String {
                let text = |leaf: &&Json| leaf.as_str().map(str::to_owned).ok_or(ConvertError::Kind { found: "what is no text", dtype });
                return Ok(Tensor::from_strings(&dims, leaves.iter().map(text).collect::<Result<_, _>>()?)?);
            }
            let numbers = leaves.iter().map(|leaf| number(leaf, dtype)).collect::<Result<Vec<_>, _>>()?;
            build(&dims, numbers, dtype, fit)
        }
    }
}

fn from_bytes(bytes: &[u8], dtype: DType, fit: Option<Fit>) -> Result<Tensor, ConvertError> {
    if dtype == DType::String {
        return Err(ConvertError::Kind { found: "bytes", dtype });
    }
    let bytes = &bytes[..fit.map_or(bytes.len(), |fit| fit.length.min(bytes.len()))];
    build(&[bytes.len()], bytes.iter().map(|byte| Real::Whole(i128::from(*byte))).collect(), dtype, fit)
}

/// The dims of nested lists, and what is in the innermost.
fn gather<'j>(json: &'j Json, depth: usize, dims: &mut Vec<usize>, leaves: &mut Vec<&'j Json>) -> Result<(), ConvertError> {
    let Json::Array(items) = json else {
        if depth < dims.len() {
            return Err(ConvertError::Ragged);
        }
        leaves.push(json);
        return Ok(());
    };
    match dims.get(depth) {
        Some(length) if *length != items.len() => return Err(ConvertError::Ragged),
        // A list where others have numbers.
        None if !leaves.is_empty() => return Err(ConvertError::Ragged),
        Some(_) => {}
        None => dims.push(items.len()),
    }
    items.iter().try_for_each(|item| gather(item, depth + 1, dims, leaves))
}

/// A number on its way from JSON into a tensor.
#[derive(Clone, Copy)]
enum Real {
    Whole(i128),
    Float(f64),
}

impl Real {
    fn float(self) -> f64 {
        match self {
            Real::Whole(number) => number as f64,
            Real::Float(number) => number,
        }
    }

    /// The same number as an integer, if it is one.
    fn whole<T: TryFrom<i128>>(self, dtype: DType) -> Result<T, ConvertError> {
        let whole = match self {
            Real::Whole(number) => Some(number),
            Real::Float(number) => (number.fract() == 0.0 && number.abs() < 2f64.powi(63)).then_some(number as i128),
        };
        let value = || ConvertError::Number { value: self.float().to_string(), dtype };
        whole.and_then(|number| T::try_from(number).ok()).ok_or_else(value)
    }
}

fn number(json: &Json, dtype: DType) -> Result<Real, ConvertError> {
    let whole = |number: &Number| number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    match json {
        Json::Number(number) => whole(number).map(Real::Whole).or_else(|| number.as_f64().map(Real::Float)),
        Json::Bool(flag) => Some(Real::Whole(i128::from(*flag))),
        Json::Null | Json::String(_) | Json::Array(_) | Json::Object(_) => None,
    }
    .ok_or_else(|| ConvertError::Number { value: json.to_string(), dtype })
}

fn build(dims: &[usize], mut numbers: Vec<Real>, dtype: DType, fit: Option<Fit>) -> Result<Tensor, ConvertError> {
    let mut dims = dims.to_vec();
    if let Some(fit) = fit {
        let [length] = &mut dims[..] else { return Err(ConvertError::Axes(dims.len())) };
        *length = fit.length;
        numbers.resize(fit.length, Real::Float(fit.pad));
    }
    fn of<T: Element>(dims: &[usize], numbers: &[Real], convert: impl Fn(Real) -> Result<T, ConvertError>) -> Result<Tensor, ConvertError> {
        let elements: Vec<T> = numbers.iter().map(|number| convert(*number)).collect::<Result<_, _>>()?;
        Ok(Tensor::from_slice(dims, &elements)?)
    }
    macro_rules! by_type {
        ($($whole:ident: $type:ty),*) => {
            match dtype {
                DType::F32 => of(&dims, &numbers, |number| Ok(number.float() as f32)),
                DType::F64 => of(&dims, &numbers, |number| Ok(number.float())),
                DType::F16 => of(&dims, &numbers, |number| Ok(f16::from_f64(number.float()))),
                DType::BF16 => of(&dims, &numbers, |number| Ok(bf16::from_f64(number.float()))),
                DType::Bool => of(&dims, &numbers, |number| Ok(Bool::from(number.float() != 0.0))),
                $( DType::$whole => of(&dims, &numbers, |number| number.whole::<$type>(dtype)), )*
                other => Err(ConvertError::Kind { found: "a number", dtype: other }),
            }
        };
    }
    by_type!(I8: i8, I16: i16, I32: i32, I64: i64, U8: u8, U16: u16, U32: u32, U64: u64)
}

/// The elements of a tensor of floats.
pub(crate) fn floats(tensor: &Tensor) -> Option<Vec<f32>> {
    Some(match tensor.dtype() {
        DType::F32 => tensor.as_slice::<f32>().ok()?.to_vec(),
        DType::F64 => tensor.as_slice::<f64>().ok()?.iter().map(|x| *x as f32).collect(),
        DType::F16 => tensor.as_slice::<f16>().ok()?.iter().map(|x| x.to_f32()).collect(),
        DType::BF16 => tensor.as_slice::<bf16>().ok()?.iter().map(|x| x.to_f32()).collect(),
        _ => return None,
    })
}

/// A tensor as nested lists.
pub(crate) struct Listed<'t>(pub(crate) &'t Tensor);

impl Serialize for Listed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let dims = self.0.shape().dims();
        macro_rules! by_type {
            ($($dtype:ident: $type:ty => $to:expr),*) => {
                match self.0.dtype() {
                    $( DType::$dtype => Nested(dims, self.0.as_slice::<$type>().map_err(serde::ser::Error::custom)?, &$to).serialize(serializer), )*
                    DType::String => Nested(dims, self.0.as_strings().map_err(serde::ser::Error::custom)?, &String::clone).serialize(serializer),
                    other => Err(serde::ser::Error::custom(format!("a tensor of {other} has no form in JSON"))),
                }
            };
        }
        by_type!(F32: f32 => |x: &f32| *x, F64: f64 => |x: &f64| *x, I8: i8 => |x: &i8| *x, I16: i16 => |x: &i16| *x, I32: i32 => |x: &i32| *x,
            I64: i64 => |x: &i64| *x, U8: u8 => |x: &u8| *x, U16: u16 => |x: &u16| *x, U32: u32 => |x: &u32| *x, U64: u64 => |x: &u64| *x,
            Bool: Bool => |x: &Bool| bool::from(*x), F16: f16 => |x: &f16| x.to_f32(), BF16: bf16 => |x: &bf16| x.to_f32())
    }
}

struct Nested<'t, T, F>(&'t [usize], &'t [T], &'t F);

impl<T, U: Serialize, F: Fn(&T) -> U> Serialize for Nested<'_, T, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Nested(dims, elements, to) = self;
        match (dims.split_first(), elements.first()) {
            (Some((length, inner)), _) => {
                let each = inner.iter().product::<usize>();
                let mut list = serializer.serialize_seq(Some(*length))?;
                for index in 0..*length {
                    list.serialize_element(&Nested(inner, &elements[index * each..(index + 1) * each], *to))?;
                }
                list.end()
            }
            (None, Some(element)) => to(element).serialize(serializer),
            (None, None) => serializer.serialize_unit(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(datum: Datum, dtype: DType, fit: Option<Fit>) -> Result<String, String> {
        let tensor = to_tensor(&datum, dtype, fit).map_err(|error| error.to_string())?;
        Ok(format!("{:?} {}", tensor.shape().dims(), serde_json::to_string(&Listed(&tensor)).map_err(|error| error.to_string())?))
    }

    #[test]
    fn what_is_in_a_field_becomes_a_tensor_or_an_error() {
        let json = |json: Json| Datum::Json(json);
        let fit = Some(Fit { length: 3, pad: 256.0 });
        assert_eq!(shown(Datum::text("ab"), DType::I32, fit).unwrap(), "[3] [97,98,256]");
        assert_eq!(shown(Datum::Bytes([1, 2, 3, 4].as_slice().into()), DType::F32, fit).unwrap(), "[3] [1.0,2.0,3.0]");
        assert_eq!(shown(json(json!([[1, 2.5], [3, 0.1]])), DType::F32, None).unwrap(), "[2, 2] [[1.0,2.5],[3.0,0.1]]");
        assert_eq!(shown(json(json!([i64::MAX, i64::MIN])), DType::I64, None).unwrap(), "[2] [9223372036854775807,-9223372036854775808]");
        assert_eq!(shown(json(json!(7)), DType::F64, None).unwrap(), "[] 7.0");
        assert_eq!(shown(json(json!([true, 0])), DType::Bool, None).unwrap(), "[2] [true,false]");
        assert_eq!(shown(json(json!([])), DType::F32, None).unwrap(), "[0] []");
        assert_eq!(shown(json(json!(["a", "b"])), DType::String, None).unwrap(), r#"[2] ["a","b"]"#);
        assert_eq!(shown(json(json!([[1], [2, 3]])), DType::F32, None).unwrap_err(), "lists of different lengths make no tensor");
        assert_eq!(shown(json(json!([1, [2]])), DType::F32, None).unwrap_err(), "lists of different lengths make no tensor");
        assert_eq!(shown(json(json!([[1], 2])), DType::F32, None).unwrap_err(), "lists of different lengths make no tensor");
        assert_eq!(shown(json(json!([300])), DType::U8, None).unwrap_err(), "300 is no uint8");
        assert_eq!(shown(json(json!([1.5])), DType::I32, None).unwrap_err(), "1.5 is no int32");
        assert_eq!(shown(json(json!([null])), DType::I32, None).unwrap_err(), "null is no int32");
        assert_eq!(shown(json(json!([[1]])), DType::I32, fit).unwrap_err(), "a length was given, and the field has 2 axes, not one");
    }
}
