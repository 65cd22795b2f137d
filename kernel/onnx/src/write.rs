//! Single values as protobuf bytes.

use crate::tensor::element_number;
use alloc::{string::String, vec::Vec};
use millstream_tensor::{Tensor, Value};

/// Writes a value as a `TensorProto`, `SequenceProto` or `OptionalProto` of this name.
pub fn tensor_to_pb(value: &Value, name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    match value {
        Value::Tensor(t) => tensor(&mut out, t, name),
        Value::Sequence(items) => {
            bytes(&mut out, 1, name.as_bytes());
            // A sequence's kind of items is that of its first; tensors, where it is empty.
            int(&mut out, 2, items.first().map_or(1, kind));
            for item in items {
                bytes(&mut out, field(item), &tensor_to_pb(item, ""));
            }
        }
        Value::Optional(item) => {
            bytes(&mut out, 1, name.as_bytes());
            int(&mut out, 2, item.as_deref().map_or(0, kind));
            if let Some(item) = item {
                bytes(&mut out, field(item), &tensor_to_pb(item, ""));
            }
        }
        _ => {}
    }
    out
}

/// The number of a value's kind in `elem_type`.
fn kind(value: &Value) -> u64 {
    match value {
        Value::Sequence(_) => 3,
        Value::Optional(_) => 5,
        _ => 1,
    }
}

/// The field of a value's kind, the same in sequences and optionals.
fn field(value: &Value) -> u32 {
    match value {
        Value::Sequence(_) => 5,
        Value::Optional(_) => 7,
        _ => 3,
    }
}

fn tensor(out: &mut Vec<u8>, t: &Tensor, name: &str) {
    for &d in t.shape().iter() {
        int(out, 1, d as u64);
    }
    int(out, 2, element_number(t.dtype()));
    bytes(out, 8, name.as_bytes());
    match t.as_strings() {
        Ok(strings) => strings.iter().map(String::as_bytes).for_each(|s| bytes(out, 6, s)),
        Err(_) => bytes(out, 9, t.view().bytes().unwrap_or_default()),
    }
}

fn varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn int(out: &mut Vec<u8>, field: u32, v: u64) {
    varint(out, u64::from(field) << 3);
    varint(out, v);
}

fn bytes(out: &mut Vec<u8>, field: u32, v: &[u8]) {
    varint(out, u64::from(field) << 3 | 2);
    varint(out, v.len() as u64);
    out.extend_from_slice(v);
}
