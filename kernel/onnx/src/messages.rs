//! The ONNX messages, as far as the importer reads them. Texts and bytes borrow the file; what may be large (subgraphs,
//! tensors' elements, attributes' lists) stays undecoded until it is needed.

use crate::{
    Limits, LoadError,
    tensor::TensorProto,
    wire::{Reader, malformed},
};
use alloc::vec::Vec;
use hashbrown::HashSet;
use millstream_graph::{Declared, DeclaredDim};

/// What kind of value a model's input or output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ValueKind {
    /// A tensor.
    #[default]
    Tensor,
    /// A sequence.
    Sequence,
    /// An optional.
    Optional,
}

/// A domain and the version of its operators.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Opset<'a> {
    pub(crate) domain: &'a str,
    pub(crate) version: i64,
}

#[derive(Debug, Default)]
pub(crate) struct ModelProto<'a> {
    pub(crate) ir_version: i64,
    pub(crate) producer_name: &'a str,
    pub(crate) producer_version: &'a str,
    pub(crate) graph: Option<Reader<'a>>,
    pub(crate) opsets: Vec<Opset<'a>>,
    pub(crate) metadata: Vec<(&'a str, &'a str)>,
    pub(crate) functions: Vec<FunctionProto<'a>>,
}

#[derive(Debug, Default)]
pub(crate) struct GraphProto<'a> {
    pub(crate) name: &'a str,
    pub(crate) nodes: Vec<NodeProto<'a>>,
    pub(crate) initializers: Vec<TensorProto<'a>>,
    pub(crate) inputs: Vec<ValueInfoProto<'a>>,
    pub(crate) outputs: Vec<ValueInfoProto<'a>>,
    pub(crate) value_info: Vec<ValueInfoProto<'a>>,
    pub(crate) has_sparse: bool,
}

#[derive(Debug, Default)]
pub(crate) struct NodeProto<'a> {
    pub(crate) name: &'a str,
    pub(crate) op: &'a str,
    pub(crate) domain: &'a str,
    pub(crate) overload: &'a str,
    pub(crate) inputs: Vec<&'a str>,
    pub(crate) outputs: Vec<&'a str>,
    pub(crate) attributes: Vec<AttributeProto<'a>>,
}

/// An attribute; its value is read out of `body` when it is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttributeProto<'a> {
    pub(crate) name: &'a str,
    /// The attribute of the calling node that gives the value, in functions; else empty.
    pub(crate) reference: &'a str,
    /// ONNX's number of the value's type, or that of the first value there is.
    pub(crate) kind: i64,
    pub(crate) body: Reader<'a>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct ValueInfoProto<'a> {
    pub(crate) name: &'a str,
    pub(crate) value_type: Option<Reader<'a>>,
}

#[derive(Debug, Default)]
pub(crate) struct FunctionProto<'a> {
    pub(crate) name: &'a str,
    pub(crate) domain: &'a str,
    pub(crate) overload: &'a str,
    pub(crate) inputs: Vec<&'a str>,
    pub(crate) outputs: Vec<&'a str>,
    pub(crate) nodes: Vec<NodeProto<'a>>,
    pub(crate) opsets: Vec<Opset<'a>>,
    /// Attributes with default values.
    pub(crate) defaults: Vec<AttributeProto<'a>>,
}

/// The most attributes of a node or function, and opsets of a model: far more than any has, few enough to search.
const SEARCHED: usize = 1024;

/// `ai.onnx` is the default domain's other name.
fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

impl<'a> ModelProto<'a> {
    pub(crate) fn read(reader: Reader<'a>, limits: &Limits) -> Result<ModelProto<'a>, LoadError> {
        let mut model = ModelProto::default();
        for field in reader {
            let field = field?;
            match field.number {
                1 => model.ir_version = field.int()?,
                2 => model.producer_name = field.text()?,
                3 => model.producer_version = field.text()?,
                7 if model.graph.is_some() => return malformed(field.offset, "a second graph"),
                7 => model.graph = Some(field.message()?),
                8 => push_searched(&mut model.opsets, Opset::read(field.message()?)?, "opsets")?,
                14 => model.metadata.push(entry(field.message()?)?),
                25 => model.functions.push(FunctionProto::read(field.message()?, limits)?),
                _ => {}
            }
        }
        Ok(model)
    }
}

impl<'a> Opset<'a> {
    fn read(reader: Reader<'a>) -> Result<Opset<'a>, LoadError> {
        let mut opset = Opset::default();
        for field in reader {
            let field = field?;
            match field.number {
                1 => opset.domain = domain(field.text()?),
                2 => opset.version = field.int()?,
                _ => {}
            }
        }
        Ok(opset)
    }
}

fn entry(reader: Reader<'_>) -> Result<(&str, &str), LoadError> {
    let (mut key, mut value) = ("", "");
    for field in reader {
        let field = field?;
        match field.number {
            1 => key = field.text()?,
            2 => value = field.text()?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn push_node<'a>(nodes: &mut Vec<NodeProto<'a>>, reader: Reader<'a>, limits: &Limits) -> Result<(), LoadError> {
    if nodes.len() >= limits.nodes {
        return Err(LoadError::Limit { what: "nodes", limit: limits.nodes as u64 });
    }
    nodes.push(NodeProto::read(reader, limits)?);
    Ok(())
}

fn push_value<T>(values: &mut Vec<T>, value: T, limits: &Limits) -> Result<(), LoadError> {
    if values.len() >= limits.values {
        return Err(LoadError::Limit { what: "values", limit: limits.values as u64 });
    }
    values.push(value);
    Ok(())
}

fn push_searched<T>(list: &mut Vec<T>, item: T, what: &'static str) -> Result<(), LoadError> {
    if list.len() >= SEARCHED {
        return Err(LoadError::Limit { what, limit: SEARCHED as u64 });
    }
    list.push(item);
    Ok(())
}

impl<'a> GraphProto<'a> {
    pub(crate) fn read(reader: Reader<'a>, limits: &Limits) -> Result<GraphProto<'a>, LoadError> {
        let mut graph = GraphProto::default();
        for field in reader {
            let field = field?;
            match field.number {
                1 => push_node(&mut graph.nodes, field.message()?, limits)?,
                2 => graph.name = field.text()?,
                5 => push_value(&mut graph.initializers, TensorProto::read(field.message()?, limits)?, limits)?,
                11 => push_value(&mut graph.inputs, ValueInfoProto::read(field.message()?)?, limits)?,
                12 => push_value(&mut graph.outputs, ValueInfoProto::read(field.message()?)?, limits)?,
                13 => push_value(&mut graph.value_info, ValueInfoProto::read(field.message()?)?, limits)?,
                15 => graph.has_sparse = true,
                _ => {}
            }
        }
        Ok(graph)
    }

    /// The initializers' names.
    pub(crate) fn constants(&self) -> HashSet<&'a str> {
        self.initializers.iter().map(|t| t.name).collect()
    }
}

impl<'a> NodeProto<'a> {
    fn read(reader: Reader<'a>, limits: &Limits) -> Result<NodeProto<'a>, LoadError> {
        let mut node = NodeProto::default();
        for field in reader {
            let field = field?;
            match field.number {
                1 => push_value(&mut node.inputs, field.text()?, limits)?,
                2 => push_value(&mut node.outputs, field.text()?, limits)?,
                3 => node.name = field.text()?,
                4 => node.op = field.text()?,
                5 => push_searched(&mut node.attributes, AttributeProto::read(field.message()?)?, "attributes of a node")?,
                7 => node.domain = domain(field.text()?),
                8 => node.overload = field.text()?,
                _ => {}
            }
        }
        Ok(node)
    }
}

impl<'a> AttributeProto<'a> {
    fn read(body: Reader<'a>) -> Result<AttributeProto<'a>, LoadError> {
        let mut attribute = AttributeProto { name: "", reference: "", kind: 0, body };
        let mut found = 0;
        for field in body {
            let field = field?;
            match field.number {
                1 => attribute.name = field.text()?,
                20 => attribute.kind = field.int()?,
                21 => attribute.reference = field.text()?,
                // The values' field numbers are their types' numbers and one.
                2..=11 => found = i64::from(field.number) - 1,
                14 => found = kind::TYPE,
                22 => found = kind::SPARSE,
                _ => {}
            }
        }
        if attribute.kind == 0 {
            attribute.kind = found;
        }
        Ok(attribute)
    }
}

/// ONNX's numbers of attribute types.
pub(crate) mod kind {
    pub(crate) const FLOAT: i64 = 1;
    pub(crate) const INT: i64 = 2;
    pub(crate) const STRING: i64 = 3;
    pub(crate) const TENSOR: i64 = 4;
    pub(crate) const GRAPH: i64 = 5;
    pub(crate) const FLOATS: i64 = 6;
    pub(crate) const INTS: i64 = 7;
    pub(crate) const STRINGS: i64 = 8;
    pub(crate) const TENSORS: i64 = 9;
    pub(crate) const SPARSE: i64 = 11;
    pub(crate) const TYPE: i64 = 13;
}

impl<'a> ValueInfoProto<'a> {
    fn read(reader: Reader<'a>) -> Result<ValueInfoProto<'a>, LoadError> {
        let mut info = ValueInfoProto { name: "", value_type: None };
        for field in reader {
            let field = field?;
            match field.number {
                1 => info.name = field.text()?,
                2 => info.value_type = Some(field.message()?),
                _ => {}
            }
        }
        Ok(info)
    }
}

impl<'a> FunctionProto<'a> {
    fn read(reader: Reader<'a>, limits: &Limits) -> Result<FunctionProto<'a>, LoadError> {
        let mut function = FunctionProto::default();
        for field in reader {
            let field = field?;
            match field.number {
                1 => function.name = field.text()?,
                4 => push_value(&mut function.inputs, field.text()?, limits)?,
                5 => push_value(&mut function.outputs, field.text()?, limits)?,
                7 => push_node(&mut function.nodes, field.message()?, limits)?,
                9 => push_searched(&mut function.opsets, Opset::read(field.message()?)?, "opsets")?,
                10 => function.domain = domain(field.text()?),
                11 => push_searched(&mut function.defaults, AttributeProto::read(field.message()?)?, "attributes of a function")?,
                13 => function.overload = field.text()?,
                _ => {}
            }
        }
        Ok(function)
    }
}

/// A value's type as the file declares it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TypeProto<'a> {
    /// ONNX's number of the element type, and the shape if there is one.
    Tensor {
        element: i64,
        shape: Option<Reader<'a>>,
    },
    Sequence(Option<Reader<'a>>),
    Optional(Option<Reader<'a>>),
    /// What no graph of ours carries, in words.
    Other(&'static str),
    Unknown,
}

impl<'a> TypeProto<'a> {
    pub(crate) fn read(reader: Reader<'a>) -> Result<TypeProto<'a>, LoadError> {
        let mut found = TypeProto::Unknown;
        for field in reader {
            let field = field?;
            let inner = |at| -> Result<Option<Reader<'a>>, LoadError> {
                let mut inner = None;
                for f in field.message()? {
                    let f = f?;
                    if f.number == at {
                        inner = Some(f.message()?);
                    }
                }
                Ok(inner)
            };
            match field.number {
                1 => {
                    let mut element = 0;
                    for f in field.message()? {
                        let f = f?;
                        if f.number == 1 {
                            element = f.int()?;
                        }
                    }
                    found = TypeProto::Tensor { element, shape: inner(2)? };
                }
                4 => found = TypeProto::Sequence(inner(1)?),
                9 => found = TypeProto::Optional(inner(1)?),
                5 => found = TypeProto::Other("map"),
                7 => found = TypeProto::Other("opaque"),
                8 => found = TypeProto::Other("sparse tensor"),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Type and dims as hints; nothing for what is no tensor.
    pub(crate) fn declared(&self, limits: &Limits) -> Result<Declared, LoadError> {
        let TypeProto::Tensor { element, shape } = *self else { return Ok(Declared::default()) };
        let dtype = crate::tensor::element_type(element).ok();
        let Some(shape) = shape else { return Ok(Declared { dtype, dims: None }) };
        let mut dims: Vec<DeclaredDim> = Vec::new();
        for field in shape {
            let field = field?;
            if field.number == 1 {
                if dims.len() >= limits.rank {
                    return Err(LoadError::Limit { what: "axes in a shape", limit: limits.rank as u64 });
                }
                dims.push(dim(field.message()?)?);
            }
        }
        Ok(Declared { dtype, dims: Some(dims) })
    }
}

fn dim(reader: Reader<'_>) -> Result<DeclaredDim, LoadError> {
    let mut dim = None;
    for field in reader {
        let field = field?;
        match field.number {
            1 => dim = usize::try_from(field.int()?).ok().map(Ok),
            2 => dim = Some(field.text()?).filter(|name| !matches!(*name, "" | "?")).map(|name| Err(name.into())),
            _ => {}
        }
    }
    Ok(dim)
}
