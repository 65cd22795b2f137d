//! Memory that a kernel writes an output to: vectors that Candle takes over, or bytes of ours.

use crate::held::{Held, is_shared};
use candle_core::{CpuStorage, Device, Tensor as CandleTensor};
use millstream_graph::{EvalError, Spec};
use millstream_tensor::{AlignedBytes, DType, Tensor, TensorError, TensorView, Value, bf16, f16};

/// Memory of one output.
pub(crate) enum Memory {
    F32(Vec<f32>),
    F64(Vec<f64>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    U8(Vec<u8>),
    U32(Vec<u32>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    Own(AlignedBytes),
    None,
}

/// `$body` with `$v` as the vector of any variant that Candle shares.
macro_rules! with_vector {
    ($memory:expr, $v:ident => $body:expr, $own:ident => $rest:expr, None => $none:expr) => {
        match $memory {
            Memory::F32($v) => $body,
            Memory::F64($v) => $body,
            Memory::F16($v) => $body,
            Memory::BF16($v) => $body,
            Memory::U8($v) => $body,
            Memory::U32($v) => $body,
            Memory::I16($v) => $body,
            Memory::I32($v) => $body,
            Memory::I64($v) => $body,
            Memory::Own($own) => $rest,
            Memory::None => $none,
        }
    };
}

impl Memory {
    /// Memory for an output of this type and shape: Candle's, if Candle has the type.
    pub(crate) fn of(spec: &Spec) -> Result<Memory, TensorError> {
        let n = spec.shape().elements();
        if !is_shared(spec.dtype, n) {
            return Ok(Memory::Own(AlignedBytes::zeroed(spec.bytes())?));
        }
        Memory::vector(spec.dtype, n).unwrap_or_else(|| Ok(Memory::Own(AlignedBytes::zeroed(spec.bytes())?)))
    }

    /// A vector of `n` elements, none included; `None` for types that Candle lacks.
    pub(crate) fn vector(dtype: DType, n: usize) -> Option<Result<Memory, TensorError>> {
        Some(match dtype {
            DType::F32 => zeros(n).map(Memory::F32),
            DType::F64 => zeros(n).map(Memory::F64),
            DType::F16 => zeros(n).map(Memory::F16),
            DType::BF16 => zeros(n).map(Memory::BF16),
            DType::U8 => zeros(n).map(Memory::U8),
            DType::U32 => zeros(n).map(Memory::U32),
            DType::I16 => zeros(n).map(Memory::I16),
            DType::I32 => zeros(n).map(Memory::I32),
            DType::I64 => zeros(n).map(Memory::I64),
            _ => return None,
        })
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        with_vector!(self, v => bytemuck::cast_slice_mut(v), own => own.as_mut(), None => &mut [])
    }

    /// The elements as a value of a run on `device`.
    pub(crate) fn into_held(self, spec: &Spec, device: &Device) -> Result<Held, crate::error::Failure> {
        let dims = spec.shape().dims();
        with_vector!(self,
            v => Ok(Held::Candle(CandleTensor::from_vec(v, dims, device)?)),
            own => Ok(Held::Own(Value::Tensor(Tensor::from_view(TensorView::new(spec.dtype, &spec.layout, own.as_ref())?)?))),
            None => Err(EvalError::Invalid("an output was not written").into())
        )
    }

    /// The elements as a tensor on Candle's CPU, without a copy.
    pub(crate) fn into_tensor(self, dims: &[usize]) -> candle_core::Result<CandleTensor> {
        with_vector!(self, v => CandleTensor::from_vec(v, dims, &Device::Cpu), _own => Err(no_type()), None => Err(no_type()))
    }

    /// The elements as Candle's storage, without a copy.
    pub(crate) fn into_storage(self) -> candle_core::Result<CpuStorage> {
        use candle_core::WithDType;
        with_vector!(self, v => Ok(WithDType::to_cpu_storage_owned(v)), _own => Err(no_type()), None => Err(no_type()))
    }
}

fn no_type() -> candle_core::Error {
    candle_core::Error::Msg("Candle has no tensors of this element type".into())
}

/// Memory that the system gives as zeros is not written again.
fn zeros<T: bytemuck::Zeroable>(n: usize) -> Result<Vec<T>, TensorError> {
    bytemuck::allocation::try_zeroed_vec(n).map_err(|()| TensorError::OutOfMemory(n.saturating_mul(size_of::<T>())))
}
