//! Weights in the form that their operator reads, made once.

use super::{
    OpError,
    call::{Arg, level},
};
use crate::kernel::bytes_of;
use candle_core::{Storage, Tensor};
use millstream_graph::{Fact, Op, Packed, PrepackCx, Spec};
use millstream_tensor::{Layout, Shape, TensorView};
use std::sync::Arc;

/// An operator's input 1.
#[derive(Debug, Clone)]
pub(crate) enum Weight {
    /// In the operator's form for the CPU, with the type and shape that it had.
    Packed(Arc<dyn Packed>, Spec),
    /// On a CUDA device, whose kernels read it as it is.
    OnDevice(Tensor),
}

impl Weight {
    /// Packs `weight` as `op` wants its input 1.
    pub(crate) fn new(name: &'static str, op: &dyn Op, weight: &Tensor) -> Result<Weight, OpError> {
        if weight.device().is_cuda() {
            return Ok(Weight::OnDevice(weight.contiguous()?));
        }
        let wrong = |error| OpError::Tensor { op: name, error };
        let dense = super::call::dense(name, 1, weight)?;
        let (storage, layout) = dense.storage_and_layout();
        let unknown = || OpError::DType { op: name, input: 1, found: weight.dtype().as_str(), wanted: "f32" };
        let (Storage::Cpu(storage), Some(range)) = (&*storage, layout.contiguous_offsets()) else { return Err(unknown()) };
        let (dtype, bytes) = bytes_of(storage, range).ok_or_else(unknown)?;
        let shape = Shape::new(weight.dims()).map_err(wrong)?;
        let rows = Layout::row_major(shape);
        let fact = Fact::concrete(dtype, &shape);
        let view = TensorView::new(dtype, &rows, bytes).map_err(wrong)?;
        let packed = op.prepack(1, view, &PrepackCx { level: level(), inputs: &[None, Some(&fact)] }).map_err(wrong)?;
        Ok(Weight::Packed(packed.ok_or_else(unknown)?, Spec::row_major(dtype, shape)))
    }

    pub(crate) fn arg(&self) -> Arg<'_> {
        match self {
            Weight::Packed(packed, spec) => Arg::Packed(&**packed, spec),
            Weight::OnDevice(t) => Arg::Tensor(t),
        }
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Weight::Packed(packed, _) => packed.bytes_len(),
            Weight::OnDevice(t) => t.elem_count() * t.dtype().size_in_bytes(),
        }
    }
}

/// A bias, where its weight is.
#[derive(Debug, Clone)]
pub(crate) enum Vector {
    Own(millstream_tensor::Tensor),
    OnDevice(Tensor),
}

impl Vector {
    pub(crate) fn new(name: &'static str, input: usize, t: &Tensor) -> Result<Vector, OpError> {
        if t.device().is_cuda() { Ok(Vector::OnDevice(t.contiguous()?)) } else { own(name, input, t).map(Vector::Own) }
    }

    pub(crate) fn arg(of: Option<&Vector>) -> Arg<'_> {
        match of {
            None => Arg::Absent,
            Some(Vector::Own(t)) => Arg::Own(t),
            Some(Vector::OnDevice(t)) => Arg::Tensor(t),
        }
    }
}

/// A copy of a tensor of f32 as one of ours.
pub(crate) fn own(name: &'static str, input: usize, t: &Tensor) -> Result<millstream_tensor::Tensor, OpError> {
    if t.dtype() != candle_core::DType::F32 {
        return Err(OpError::DType { op: name, input, found: t.dtype().as_str(), wanted: "f32" });
    }
    let elements = super::call::dense(name, input, t)?.flatten_all()?.to_vec1::<f32>()?;
    millstream_tensor::Tensor::from_slice(t.dims(), &elements).map_err(|error| OpError::Tensor { op: name, error })
}
