//! A value of a run: a Candle tensor where Candle has the element type, else a millstream value.

use candle_core::{CpuStorage, Device, Storage, Tensor as CandleTensor};
use millstream_graph::{Fact, Spec};
use millstream_tensor::{DType, Shape, Tensor, TensorError, Value, bf16, f16};

/// `$body` with `$t` as the element type of `$dtype`, `$other` for types that Candle lacks.
macro_rules! by_shared_type {
    ($dtype:expr, $t:ident => $body:expr, _ => $other:expr) => {
        match $dtype {
            DType::F32 => {
                type $t = f32;
                $body
            }
            DType::F64 => {
                type $t = f64;
                $body
            }
            DType::F16 => {
                type $t = f16;
                $body
            }
            DType::BF16 => {
                type $t = bf16;
                $body
            }
            DType::U8 => {
                type $t = u8;
                $body
            }
            DType::U32 => {
                type $t = u32;
                $body
            }
            DType::I16 => {
                type $t = i16;
                $body
            }
            DType::I32 => {
                type $t = i32;
                $body
            }
            DType::I64 => {
                type $t = i64;
                $body
            }
            _ => $other,
        }
    };
}
pub(crate) use by_shared_type;

/// Our name for the element type of a tensor, if we have it.
pub(crate) fn dtype_of(t: &CandleTensor) -> Option<DType> {
    shared_dtype(t.dtype())
}

/// Our name for the element type of a storage, if we have it.
pub(crate) fn storage_dtype(storage: &CpuStorage) -> Option<DType> {
    use candle_core::backend::BackendStorage;
    shared_dtype(storage.dtype())
}

/// Our name for an element type of Candle's, if we have it.
pub(crate) fn shared_dtype(dtype: candle_core::DType) -> Option<DType> {
    Some(match dtype {
        candle_core::DType::F32 => DType::F32,
        candle_core::DType::F64 => DType::F64,
        candle_core::DType::F16 => DType::F16,
        candle_core::DType::BF16 => DType::BF16,
        candle_core::DType::U8 => DType::U8,
        candle_core::DType::U32 => DType::U32,
        candle_core::DType::I16 => DType::I16,
        candle_core::DType::I32 => DType::I32,
        candle_core::DType::I64 => DType::I64,
        _ => return None,
    })
}

/// True if Candle has tensors of this type and shape. Empty tensors stay ours: Candle refuses some of them.
pub(crate) fn is_shared(dtype: DType, elements: usize) -> bool {
    elements > 0 && by_shared_type!(dtype, T => { let _: Option<T> = None; true }, _ => false)
}

/// A value of a run. Clones share memory.
#[derive(Debug, Clone)]
pub(crate) enum Held {
    /// On Candle's device.
    Candle(CandleTensor),
    /// Ours.
    Own(Value),
}

impl Held {
    /// A value handed to Candle, if Candle has its type: one copy.
    pub(crate) fn from_value(value: &Value, device: &Device) -> Result<Held, candle_core::Error> {
        let Value::Tensor(t) = value else { return Ok(Held::Own(value.clone())) };
        if !is_shared(t.dtype(), t.shape().elements()) {
            return Ok(Held::Own(value.clone()));
        }
        by_shared_type!(t.dtype(), T => {
            let slice = t.as_slice::<T>().map_err(candle_core::Error::wrap)?;
            Ok(Held::Candle(CandleTensor::from_slice(slice, t.shape().dims(), device)?))
        }, _ => Ok(Held::Own(value.clone())))
    }

    /// The value as one of ours: a copy, if it is Candle's.
    pub(crate) fn to_value(&self) -> Result<Value, candle_core::Error> {
        let t = match self {
            Held::Own(value) => return Ok(value.clone()),
            Held::Candle(t) => t.to_device(&Device::Cpu)?.contiguous()?,
        };
        let dtype = dtype_of(&t).ok_or_else(|| candle_core::Error::Msg("an element type that millstream lacks".into()))?;
        let (storage, layout) = t.storage_and_layout();
        let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
            return Err(candle_core::Error::Msg("a tensor on the CPU is not on the CPU".into()));
        };
        by_shared_type!(dtype, T => {
            let slice = &storage.as_slice::<T>()?[start..end];
            Ok(Value::Tensor(Tensor::from_slice(t.dims(), slice).map_err(candle_core::Error::wrap)?))
        }, _ => Err(candle_core::Error::Msg("an element type that millstream lacks".into())))
    }

    /// Candle's tensor.
    pub(crate) fn candle(&self) -> Option<&CandleTensor> {
        match self {
            Held::Candle(t) => Some(t),
            Held::Own(_) => None,
        }
    }

    /// Type and shape, for tensors.
    pub(crate) fn spec(&self) -> Result<Option<Spec>, TensorError> {
        Ok(match self {
            Held::Candle(t) => match dtype_of(t) {
                Some(dtype) => Some(Spec::row_major(dtype, Shape::new(t.dims())?)),
                None => None,
            },
            Held::Own(Value::Tensor(t)) => Some(Spec::row_major(t.dtype(), *t.shape())),
            Held::Own(_) => None,
        })
    }

    /// What is known of the value before anybody asks for its elements; `None` for values that are no tensors.
    pub(crate) fn fact(&self) -> Result<Option<Fact>, TensorError> {
        Ok(self.spec()?.map(|s| Fact::concrete(s.dtype, s.shape())))
    }
}
