//! Attributes: their values, and references to the attributes of a function's call.

use super::Importer;
use crate::{
    LoadError, Reason,
    error::Fault,
    messages::{AttributeProto, NodeProto, TypeProto, kind},
    tensor::{TensorProto, element_type},
    wire::{Field, Reader, Scalar, malformed},
};
use alloc::{borrow::ToOwned, format, string::String, vec::Vec};
use millstream_graph::Attribute;
use millstream_tensor::Tensor;

/// How deep a type may nest.
const TYPE_DEPTH: usize = 16;

impl<'a> Importer<'a, '_> {
    /// The node's attributes, references replaced by what the call gives; those that it does not give are absent.
    pub(super) fn attributes(&self, node: &NodeProto<'a>) -> Result<Vec<AttributeProto<'a>>, LoadError> {
        let mut out = Vec::with_capacity(node.attributes.len());
        for &attribute in &node.attributes {
            if attribute.reference.is_empty() {
                out.push(attribute);
                continue;
            }
            let Some(call) = self.call() else { return malformed(attribute.body.offset(), "a reference to an attribute outside of a function") };
            if let Some(given) = call.attributes.iter().find(|a| a.name == attribute.reference) {
                out.push(AttributeProto { name: attribute.name, reference: attribute.reference, ..*given });
            }
        }
        Ok(out)
    }

    /// The attribute's value.
    pub(super) fn attribute(&mut self, attribute: &AttributeProto<'a>) -> Result<Attribute, Fault> {
        let body = attribute.body;
        Ok(match attribute.kind {
            kind::INT => Attribute::Int(last(body, 3)?.map_or(Ok(0), |f| f.int())?),
            kind::FLOAT => Attribute::Float(last(body, 2)?.map_or(Ok(0.0), |f| f.float())?),
            kind::STRING => {
                let text = last(body, 4)?.map_or(Ok(&[][..]), |f| f.bytes())?;
                Attribute::String(self.text(attribute.name, text)?)
            }
            kind::TENSOR => {
                let Some(field) = last(body, 5)? else { return Ok(malformed(body.offset(), "a tensor attribute without a tensor")?) };
                Attribute::Tensor(self.tensor(field)?)
            }
            kind::INTS => {
                let mut out = Vec::new();
                self.list(body, 8, Scalar::Varint, |v| out.push(v as i64))?;
                Attribute::Ints(out)
            }
            kind::FLOATS => {
                let mut out = Vec::new();
                self.list(body, 7, Scalar::Fixed32, |v| out.push(f32::from_bits(v as u32)))?;
                Attribute::Floats(out)
            }
            kind::STRINGS => {
                let mut out = Vec::new();
                for field in body {
                    let field = field?;
                    if field.number == 9 {
                        self.check_list(out.len())?;
                        out.push(self.text(attribute.name, field.bytes()?)?);
                    }
                }
                Attribute::Strings(out)
            }
            kind::TENSORS => {
                let mut out = Vec::new();
                for field in body {
                    let field = field?;
                    if field.number == 10 {
                        self.check_list(out.len())?;
                        out.push(self.tensor(field)?);
                    }
                }
                Attribute::Tensors(out)
            }
            kind::TYPE => match last(body, 14)? {
                Some(field) => Attribute::String(type_name(field.message()?, TYPE_DEPTH)?),
                None => return Ok(malformed(body.offset(), "a type attribute without a type")?),
            },
            kind::GRAPH => return Err(unsupported(attribute, "a graph given to a function")),
            kind::SPARSE | 12 => return Err(Reason::Sparse.into()),
            10 => return Err(unsupported(attribute, "a list of graphs")),
            14 => return Err(unsupported(attribute, "a list of types")),
            _ => return Err(unsupported(attribute, "of an unknown kind")),
        })
    }

    fn text(&mut self, name: &str, bytes: &[u8]) -> Result<String, Fault> {
        self.weights.copy(bytes.len() + size_of::<String>())?;
        match core::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(Reason::AttributeKind { name: name.into(), kind: "text that is not UTF-8" }.into()),
        }
    }

    fn tensor(&mut self, field: Field<'a>) -> Result<Tensor, Fault> {
        let proto = TensorProto::read(field.message()?, self.limits)?;
        let weight = self.weights.weight(&proto)?;
        self.weights.copy(weight.bytes_len())?;
        Ok(weight.to_tensor().map_err(|error| LoadError::Tensor { name: proto.name.into(), error })?)
    }

    fn check_list(&self, found: usize) -> Result<(), LoadError> {
        let limit = self.limits.attribute_elements;
        if found >= limit { Err(LoadError::Limit { what: "elements of an attribute", limit: limit as u64 }) } else { Ok(()) }
    }

    fn list(&mut self, body: Reader<'a>, number: u32, kind: Scalar, mut each: impl FnMut(u64)) -> Result<(), LoadError> {
        let mut found = 0;
        for field in body {
            let field = field?;
            if field.number == number {
                field.scalars(kind, |v| {
                    self.check_list(found)?;
                    found += 1;
                    each(v);
                    Ok(())
                })?;
            }
        }
        self.weights.copy(found * size_of::<i64>())
    }
}

fn unsupported(attribute: &AttributeProto<'_>, kind: &'static str) -> Fault {
    Reason::AttributeKind { name: attribute.name.into(), kind }.into()
}

/// The last field of this number: of a scalar that is written more than once the last one counts.
fn last(body: Reader<'_>, number: u32) -> Result<Option<Field<'_>>, LoadError> {
    let mut found = None;
    for field in body {
        let field = field?;
        if field.number == number {
            found = Some(field);
        }
    }
    Ok(found)
}

/// The type as ONNX's schemas write it: `tensor(float32)`, `seq(tensor(int64))`, `optional(…)`.
fn type_name(reader: Reader<'_>, depth: usize) -> Result<String, Fault> {
    if depth == 0 {
        return Err(LoadError::Limit { what: "levels of a type", limit: TYPE_DEPTH as u64 }.into());
    }
    let inner = |of: Option<Reader<'_>>| of.map_or(Ok(String::new()), |r| type_name(r, depth - 1));
    Ok(match TypeProto::read(reader)? {
        TypeProto::Tensor { element, .. } => format!("tensor({})", element_type(element).map_err(Reason::ElementType)?),
        TypeProto::Sequence(of) => format!("seq({})", inner(of)?),
        TypeProto::Optional(of) => format!("optional({})", inner(of)?),
        TypeProto::Other(what) => return Err(Reason::ValueType(what).into()),
        TypeProto::Unknown => String::new(),
    })
}
