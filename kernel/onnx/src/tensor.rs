//! Tensors of the file as weights: raw bytes as ranges of their source, typed lists decoded.

use crate::{
    ExternalData, ExternalError, Limits, LoadError, Reason,
    error::Fault,
    external::Place,
    wire::{Reader, Scalar, malformed},
};
use alloc::{string::String, sync::Arc, vec::Vec};
use millstream_tensor::{Bool, DType, Element, MAX_RANK, Shape, Tensor, TensorError, Weight, WeightSource, bf16, f16};

/// Raw data of at most this many bytes is copied when it is not aligned for its element type, so that whoever reads
/// shapes, axes and scalars need not.
pub const SMALL: usize = 1024;

/// A tensor of the file; elements are read out of `body` when they are asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TensorProto<'a> {
    pub(crate) name: &'a str,
    element: i64,
    dims: [usize; MAX_RANK],
    rank: usize,
    raw: Option<(&'a [u8], usize)>,
    external: bool,
    segment: bool,
    body: Reader<'a>,
}

/// The element type of ONNX's number, or what it is called there.
pub(crate) fn element_type(number: i64) -> Result<DType, &'static str> {
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
        14 => return Err("complex64"),
        15 => return Err("complex128"),
        17 => return Err("float8e4m3fn"),
        18 => return Err("float8e4m3fnuz"),
        19 => return Err("float8e5m2"),
        20 => return Err("float8e5m2fnuz"),
        21 => return Err("uint4"),
        22 => return Err("int4"),
        23 => return Err("float4e2m1"),
        24 => return Err("float8e8m0"),
        25 => return Err("uint2"),
        26 => return Err("int2"),
        0 => return Err("undefined"),
        _ => return Err("unknown"),
    })
}

/// ONNX's number of an element type.
pub(crate) fn element_number(dtype: DType) -> u64 {
    (1..=16).find(|&n| element_type(n) == Ok(dtype)).unwrap_or(0) as u64
}

impl<'a> TensorProto<'a> {
    pub(crate) fn read(body: Reader<'a>, limits: &Limits) -> Result<TensorProto<'a>, LoadError> {
        let mut t = TensorProto { name: "", element: 0, dims: [0; MAX_RANK], rank: 0, raw: None, external: false, segment: false, body };
        let most = limits.rank.min(MAX_RANK);
        for field in body {
            let field = field?;
            match field.number {
                1 => field.scalars(Scalar::Varint, |v| {
                    if t.rank >= most {
                        return Err(LoadError::Limit { what: "axes in a shape", limit: most as u64 });
                    }
                    let Some(dim) = usize::try_from(v as i64).ok() else { return malformed(field.offset, "a dim out of range") };
                    t.dims[t.rank] = dim;
                    t.rank += 1;
                    Ok(())
                })?,
                2 => t.element = field.int()?,
                3 => t.segment = true,
                8 => t.name = field.text()?,
                9 => t.raw = Some((field.bytes()?, field.offset)),
                14 => t.external = field.int()? == 1,
                _ => {}
            }
        }
        Ok(t)
    }

    fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    fn error(&self, error: TensorError) -> LoadError {
        LoadError::Tensor { name: self.name.into(), error }
    }

    fn place(&self) -> Result<Place<'a>, LoadError> {
        let mut place = Place::default();
        for field in self.body {
            let field = field?;
            if field.number == 13 {
                place.entry(field.message()?)?;
            }
        }
        Ok(place)
    }

    /// Calls `each` for the elements of list field `number`, which must be as many as the shape says.
    fn elements(&self, shape: &Shape, number: u32, kind: Scalar, mut each: impl FnMut(u64)) -> Result<(), LoadError> {
        let needed = shape.elements();
        let mut found = 0;
        for field in self.body {
            let field = field?;
            if field.number == number {
                field.scalars(kind, |v| {
                    found += 1;
                    if found > needed {
                        return Err(self.error(TensorError::Length { needed, found }));
                    }
                    each(v);
                    Ok(())
                })?;
            }
        }
        if found == needed { Ok(()) } else { Err(self.error(TensorError::Length { needed, found })) }
    }

    fn list<T: Element>(&self, shape: &Shape, number: u32, kind: Scalar, convert: impl Fn(u64) -> T) -> Result<Tensor, LoadError> {
        // No element is written in less than a byte, so that the file bounds what is allocated.
        let mut out: Vec<T> = Vec::new();
        let room = shape.elements().min(self.body.len());
        out.try_reserve_exact(room).map_err(|_| self.error(TensorError::OutOfMemory(room)))?;
        self.elements(shape, number, kind, |v| out.push(convert(v)))?;
        Tensor::from_slice(shape, &out).map_err(|e| self.error(e))
    }

    fn texts(&self, shape: &Shape) -> Result<Tensor, LoadError> {
        let mut out: Vec<String> = Vec::new();
        let needed = shape.elements();
        for field in self.body {
            let field = field?;
            if field.number == 6 {
                if out.len() == needed {
                    return Err(self.error(TensorError::Length { needed, found: needed + 1 }));
                }
                out.push(field.text()?.into());
            }
        }
        Tensor::from_strings(shape, out).map_err(|e| self.error(e))
    }

    fn listed(&self, dtype: DType, shape: &Shape) -> Result<Tensor, LoadError> {
        use Scalar::{Fixed32, Fixed64, Varint};
        match dtype {
            DType::String => self.texts(shape),
            DType::F32 => self.list(shape, 4, Fixed32, |v| f32::from_bits(v as u32)),
            DType::I32 => self.list(shape, 5, Varint, |v| v as i32),
            DType::I16 => self.list(shape, 5, Varint, |v| v as i16),
            DType::I8 => self.list(shape, 5, Varint, |v| v as i8),
            DType::U16 => self.list(shape, 5, Varint, |v| v as u16),
            DType::U8 => self.list(shape, 5, Varint, |v| v as u8),
            DType::Bool => self.list(shape, 5, Varint, |v| Bool::from(v != 0)),
            DType::F16 => self.list(shape, 5, Varint, |v| f16::from_bits(v as u16)),
            DType::BF16 => self.list(shape, 5, Varint, |v| bf16::from_bits(v as u16)),
            DType::I64 => self.list(shape, 7, Varint, |v| v as i64),
            DType::F64 => self.list(shape, 10, Fixed64, f64::from_bits),
            DType::U32 => self.list(shape, 11, Varint, |v| v as u32),
            DType::U64 => self.list(shape, 11, Varint, |v| v),
            other => Err(self.error(TensorError::DType { wanted: DType::F32, found: other })),
        }
    }
}

/// Makes weights of one model's tensors, and opens the files that they lie in.
pub(crate) struct Weights<'o> {
    /// What the offsets of raw data count in; `None` copies them.
    source: Option<Arc<dyn WeightSource>>,
    limits: &'o Limits,
    external: Option<&'o dyn ExternalData>,
    opened: Vec<(String, Arc<dyn WeightSource>)>,
    bytes: u64,
    copied: u64,
}

impl<'o> Weights<'o> {
    pub(crate) fn new(source: Option<Arc<dyn WeightSource>>, limits: &'o Limits, external: Option<&'o dyn ExternalData>) -> Weights<'o> {
        Weights { source, limits, external, opened: Vec::new(), bytes: 0, copied: 0 }
    }

    pub(crate) fn weight(&mut self, t: &TensorProto<'_>) -> Result<Weight, Fault> {
        let dtype = element_type(t.element).map_err(Reason::ElementType)?;
        if t.segment {
            return Err(Reason::Segment.into());
        }
        let shape = Shape::new(t.dims()).map_err(|e| t.error(e))?;
        let needed = shape.elements() * dtype.size();
        self.bytes = self.bytes.saturating_add(needed as u64);
        if self.bytes > self.limits.tensor_bytes {
            return Err(LoadError::Limit { what: "bytes of tensors", limit: self.limits.tensor_bytes }.into());
        }
        if t.external {
            let place = t.place()?;
            let file = self.open(&place)?;
            let range = place.range(&*file, needed)?;
            return Ok(Weight::in_source(file, range, dtype, t.dims()).map_err(|e| t.error(e))?);
        }
        let Some((raw, offset)) = t.raw.filter(|_| dtype != DType::String) else {
            self.copy(t.body.len().saturating_add(needed.min(t.body.len().saturating_mul(8))))?;
            return Ok(t.listed(dtype, &shape)?.into());
        };
        match &self.source {
            Some(source) if raw.len() > SMALL || raw.as_ptr().addr() % dtype.size() == 0 => {
                Ok(Weight::in_source(source.clone(), offset..offset + raw.len(), dtype, t.dims()).map_err(|e| t.error(e))?)
            }
            _ => {
                self.copy(raw.len())?;
                Ok(Tensor::from_bytes(dtype, t.dims(), raw).map_err(|e| t.error(e))?.into())
            }
        }
    }

    /// Counts bytes that are about to be copied.
    pub(crate) fn copy(&mut self, bytes: usize) -> Result<(), LoadError> {
        self.copied = self.copied.saturating_add(bytes as u64);
        if self.copied > self.limits.copied_bytes {
            return Err(LoadError::Limit { what: "bytes of decoded tensors and attributes", limit: self.limits.copied_bytes });
        }
        Ok(())
    }

    fn open(&mut self, place: &Place<'_>) -> Result<Arc<dyn WeightSource>, LoadError> {
        place.check()?;
        if let Some((_, file)) = self.opened.iter().find(|(l, _)| l == place.location) {
            return Ok(file.clone());
        }
        let external = self.external.ok_or_else(|| place.error(ExternalError::Unavailable))?;
        let file = external.open(place.location).map_err(|e| place.error(ExternalError::Open(e)))?;
        self.opened.push((place.location.into(), file.clone()));
        Ok(file)
    }
}
