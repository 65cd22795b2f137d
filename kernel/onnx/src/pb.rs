//! Single values in files of their own, as the ONNX project's test data stores them.

use crate::{
    Limits, LoadError, Problem, Reason, ValueKind,
    error::Fault,
    tensor::{TensorProto, Weights},
    wire::{Reader, malformed},
};
use alloc::{boxed::Box, string::String, vec, vec::Vec};
use millstream_tensor::Value;

/// How deep sequences and optionals may nest.
const DEPTH: usize = 16;

/// Reads a file that holds one `TensorProto`, `SequenceProto` or `OptionalProto`. The bytes do not tell which: `kind` has
/// to, as the model's [`Port`](crate::Port) of that input or output gives it.
///
/// ```
/// use millstream_onnx::{ValueKind, tensor_from_pb, tensor_to_pb};
/// use millstream_tensor::{Tensor, Value};
/// let value = Value::Tensor(Tensor::from_slice(&[2], &[1.0f32, 2.0])?);
/// let bytes = tensor_to_pb(&value, "x");
/// assert_eq!(tensor_from_pb(&bytes, ValueKind::Tensor)?, value);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn tensor_from_pb(bytes: &[u8], kind: ValueKind) -> Result<Value, LoadError> {
    let limits = Limits::default();
    let mut weights = Weights::new(None, &limits, None);
    let mut name = "";
    let reader = Reader::new(bytes, 0);
    read(reader, kind, &limits, &mut weights, &mut name, DEPTH).map_err(|fault| match fault {
        Fault::Load(e) => e,
        Fault::Unsupported(reason) => LoadError::Unsupported(vec![Problem { path: name.into(), op: String::new(), domain: String::new(), reason }]),
    })
}

fn read<'a>(reader: Reader<'a>, kind: ValueKind, limits: &Limits, weights: &mut Weights<'_>, name: &mut &'a str, depth: usize) -> Result<Value, Fault> {
    if depth == 0 {
        return Err(LoadError::Limit { what: "levels of nested values", limit: DEPTH as u64 }.into());
    }
    if kind == ValueKind::Tensor {
        let tensor = TensorProto::read(reader, limits)?;
        *name = tensor.name;
        let weight = weights.weight(&tensor)?;
        return Ok(Value::Tensor(weight.to_tensor().map_err(|error| LoadError::Tensor { name: tensor.name.into(), error })?));
    }
    // Sequences and optionals number the kinds of what they hold alike.
    let mut items = Vec::new();
    for field in reader {
        let field = field?;
        let kind = match field.number {
            1 => {
                *name = field.text()?;
                continue;
            }
            3 => ValueKind::Tensor,
            4 => return Err(Reason::Sparse.into()),
            5 => ValueKind::Sequence,
            6 => return Err(Reason::ValueType("map").into()),
            7 => ValueKind::Optional,
            _ => continue,
        };
        items.push(read(field.message()?, kind, limits, weights, name, depth - 1)?);
    }
    match kind {
        ValueKind::Optional if items.len() > 1 => Ok(malformed(reader.offset(), "an optional of more than one value")?),
        ValueKind::Optional => Ok(Value::Optional(items.pop().map(Box::new))),
        _ => Ok(Value::Sequence(items)),
    }
}
