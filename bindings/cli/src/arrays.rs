//! NumPy's `.npy` files as tensors.

use crate::failure::Failure;
use millstream::{DType, Tensor, kernel::tensor::Element};
use npyz::{DType as NpyType, NpyFile, TypeChar, WriterBuilder};
use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

/// Reads a tensor of any numeric type that NumPy has (bf16, which it lacks, is not among them).
pub(crate) fn read(path: &Path) -> Result<Tensor, Failure> {
    let bytes = fs::read(path).map_err(Failure::io(path))?;
    let broken = |what: String| Failure::File(path.into(), what);
    let npy = NpyFile::new(&bytes[..]).map_err(Failure::io(path))?;
    if npy.order() != npyz::Order::C && npy.shape().len() > 1 {
        return Err(broken("Fortran order is not supported".into()));
    }
    let dims: Vec<usize> = npy.shape().iter().map(|&d| usize::try_from(d)).collect::<Result<_, _>>().map_err(|e| broken(e.to_string()))?;
    let dtype = dtype(&npy.dtype()).ok_or_else(|| broken(format!("arrays of {} are not supported", npy.dtype().descr())))?;
    let elements = dims.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d));
    let data = elements.and_then(|n| bytes.len().checked_sub(n)).map(|start| &bytes[start..]);
    Ok(Tensor::from_bytes(dtype, &dims, data.ok_or_else(|| broken("the file is too short".into()))?)?)
}

/// The element type of a plain little-endian array.
fn dtype(npy: &NpyType) -> Option<DType> {
    let NpyType::Plain(t) = npy else { return None };
    if t.endianness() == npyz::Endianness::Big {
        return None;
    }
    Some(match (t.type_char(), t.size_field()) {
        (TypeChar::Float, 2) => DType::F16,
        (TypeChar::Float, 4) => DType::F32,
        (TypeChar::Float, 8) => DType::F64,
        (TypeChar::Int, 1) => DType::I8,
        (TypeChar::Int, 2) => DType::I16,
        (TypeChar::Int, 4) => DType::I32,
        (TypeChar::Int, 8) => DType::I64,
        (TypeChar::Uint, 1) => DType::U8,
        (TypeChar::Uint, 2) => DType::U16,
        (TypeChar::Uint, 4) => DType::U32,
        (TypeChar::Uint, 8) => DType::U64,
        (TypeChar::Bool, _) => DType::Bool,
        _ => return None,
    })
}

/// Writes a tensor.
pub(crate) fn write(path: &Path, tensor: &Tensor) -> Result<(), Failure> {
    let mut file = BufWriter::new(File::create(path).map_err(Failure::io(path))?);
    let shape: Vec<u64> = tensor.shape().iter().map(|&d| d as u64).collect();
    macro_rules! write_as {
        ($($d:ident: $t:ty => $to:expr),*) => {
            match tensor.dtype() {
                $( DType::$d => numbers::<$t, _>(&mut file, &shape, tensor, $to).map_err(Failure::io(path))?, )*
                other => return Err(Failure::File(path.into(), format!("NumPy has no {other}"))),
            }
        };
    }
    write_as!(F32: f32 => |x| x, F64: f64 => |x| x, I8: i8 => |x| x, I16: i16 => |x| x, I32: i32 => |x| x, I64: i64 => |x| x, U8: u8 => |x| x,
        U16: u16 => |x| x, U32: u32 => |x| x, U64: u64 => |x| x, Bool: millstream::kernel::tensor::Bool => bool::from,
        F16: millstream::kernel::tensor::f16 => f32::from, BF16: millstream::kernel::tensor::bf16 => f32::from);
    file.flush().map_err(Failure::io(path))
}

fn numbers<T: Element, W: npyz::AutoSerialize>(file: &mut impl Write, shape: &[u64], tensor: &Tensor, to: impl Fn(T) -> W) -> std::io::Result<()> {
    let elements = tensor.as_slice::<T>().map_err(std::io::Error::other)?;
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(file).begin_nd()?;
    writer.extend(elements.iter().map(|&x| to(x)))?;
    writer.finish()
}
