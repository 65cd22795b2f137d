//! Our kernels over Candle's storage: inputs are borrowed where they lie, outputs are allocated as Candle's vectors and
//! handed over.

use crate::{
    error::Failure,
    held::{Held, by_shared_type, dtype_of, is_shared},
};
use candle_core::{Device, Storage, Tensor as CandleTensor};
use millstream_graph::{EvalCx, EvalError, Input, Op, Output, Serial, Spec, StepCx};
use millstream_simd::Level;
use millstream_tensor::{AlignedBytes, DType, Layout, Shape, Tensor, TensorError, TensorView, TensorViewMut, Value, WorkerScratch, bf16, f16};

/// What becomes of an output of a kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted {
    /// Nobody reads it.
    Unused,
    /// A tensor of this type and shape.
    Planned(Spec),
    /// A value of the run's own size, or none that Candle or an arena could hold.
    Open,
}

/// Memory that an output is written to.
enum Memory {
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
    fn of(wanted: &Wanted) -> Result<Memory, TensorError> {
        let Wanted::Planned(spec) = wanted else { return Ok(Memory::None) };
        let n = spec.shape().elements();
        if !is_shared(spec.dtype, n) {
            return Ok(Memory::Own(AlignedBytes::zeroed(spec.bytes())?));
        }
        Ok(match spec.dtype {
            DType::F32 => Memory::F32(zeros(n)?),
            DType::F64 => Memory::F64(zeros(n)?),
            DType::F16 => Memory::F16(zeros(n)?),
            DType::BF16 => Memory::BF16(zeros(n)?),
            DType::U8 => Memory::U8(zeros(n)?),
            DType::U32 => Memory::U32(zeros(n)?),
            DType::I16 => Memory::I16(zeros(n)?),
            DType::I32 => Memory::I32(zeros(n)?),
            DType::I64 => Memory::I64(zeros(n)?),
            _ => Memory::Own(AlignedBytes::zeroed(spec.bytes())?),
        })
    }

    fn bytes(&mut self) -> &mut [u8] {
        with_vector!(self, v => bytemuck::cast_slice_mut(v), own => own.as_mut(), None => &mut [])
    }

    fn into_held(self, spec: &Spec, device: &Device) -> Result<Held, Failure> {
        let dims = spec.shape().dims();
        with_vector!(self,
            v => Ok(Held::Candle(CandleTensor::from_vec(v, dims, device)?)),
            own => Ok(Held::Own(Value::Tensor(Tensor::from_view(TensorView::new(spec.dtype, &spec.layout, own.as_ref())?)?))),
            None => Err(EvalError::Invalid("an output was not written").into())
        )
    }
}

fn zeros<T: bytemuck::Zeroable + Clone>(n: usize) -> Result<Vec<T>, TensorError> {
    let mut v = Vec::new();
    v.try_reserve_exact(n).map_err(|_| TensorError::OutOfMemory(n.saturating_mul(size_of::<T>())))?;
    v.resize(n, T::zeroed());
    Ok(v)
}

/// Runs an operator's kernel, alone on the calling thread.
pub(crate) fn run(op: &dyn Op, level: Level, inputs: &[Option<&Held>], wanted: &[Wanted], device: &Device) -> Result<Vec<Option<Held>>, Failure> {
    // Dense on the CPU: Candle's own tensors if they are already, else copies.
    let dense = inputs
        .iter()
        .map(|held| match held {
            Some(Held::Candle(t)) => t.to_device(&Device::Cpu)?.contiguous().map(Some),
            _ => Ok(None),
        })
        .collect::<Result<Vec<Option<CandleTensor>>, _>>()?;
    let storages: Vec<_> = dense.iter().map(|t| t.as_ref().map(|t| (t.storage_and_layout(), dtype_of(t)))).collect();
    let layouts = dense.iter().map(|t| t.as_ref().map(|t| Shape::new(t.dims()).map(Layout::row_major)).transpose()).collect::<Result<Vec<_>, _>>()?;
    let input_specs = inputs.iter().map(|h| h.map_or(Ok(None), Held::spec)).collect::<Result<Vec<_>, _>>()?;
    let output_specs: Vec<Spec> = wanted
        .iter()
        .filter_map(|w| match w {
            Wanted::Planned(s) => Some(*s),
            _ => None,
        })
        .collect();
    let need = op.scratch(&StepCx { inputs: &input_specs, outputs: &output_specs, packed: &[], level });
    let mut shared = AlignedBytes::zeroed(need.shared)?;
    let mut per_worker = AlignedBytes::zeroed(need.per_worker)?;
    let mut memory = wanted.iter().map(Memory::of).collect::<Result<Vec<_>, _>>()?;
    let mut slots: Vec<Option<Value>> = vec![None; wanted.len()];
    {
        let mut cx = EvalCx::new(level, &Serial, shared.as_mut(), WorkerScratch::new(per_worker.as_mut(), need.per_worker, 1));
        for (i, held) in inputs.iter().enumerate() {
            cx.push_input(match (held, &storages[i], &layouts[i]) {
                (None, ..) => Input::Absent,
                (Some(Held::Own(Value::Tensor(t))), ..) => Input::Tensor(t.view()),
                (Some(Held::Own(v)), ..) => Input::Value(v),
                (Some(Held::Candle(_)), Some(((storage, place), Some(dtype))), Some(layout)) => {
                    let (Storage::Cpu(storage), Some((start, end))) = (&**storage, place.contiguous_offsets()) else {
                        return Err(EvalError::Invalid("a dense tensor on the CPU was expected").into());
                    };
                    let bytes: &[u8] = by_shared_type!(*dtype, T => bytemuck::cast_slice(&storage.as_slice::<T>()?[start..end]), _ => &[]);
                    Input::Tensor(TensorView::new(*dtype, layout, bytes)?)
                }
                _ => return Err(EvalError::Invalid("an element type that millstream lacks").into()),
            });
        }
        for ((wanted, memory), slot) in wanted.iter().zip(&mut memory).zip(&mut slots) {
            cx.push_output(match wanted {
                Wanted::Unused => Output::Unused,
                Wanted::Planned(s) => Output::Tensor(TensorViewMut::new(s.dtype, &s.layout, memory.bytes())?),
                Wanted::Open => Output::Slot(slot),
            });
        }
        op.eval(&mut cx)?;
    }
    let mut out = Vec::with_capacity(wanted.len());
    for (i, ((wanted, memory), slot)) in wanted.iter().zip(memory).zip(slots).enumerate() {
        out.push(match (wanted, slot) {
            (Wanted::Unused, _) => None,
            (Wanted::Planned(s), _) => Some(memory.into_held(s, device)?),
            (Wanted::Open, Some(value)) => Some(Held::from_value(&value, device)?),
            (Wanted::Open, None) => return Err(EvalError::Output(i).into()),
        });
    }
    Ok(out)
}
