//! Our kernels over Candle's storage: inputs are borrowed where they lie, outputs are allocated as Candle's vectors and
//! handed over.

use crate::{
    error::Failure,
    held::{Held, by_shared_type, dtype_of},
    memory::Memory,
};
use candle_core::{CpuStorage, Device, Storage, Tensor as CandleTensor};
use millstream_engine::Workers;
use millstream_graph::{EvalCx, EvalError, Input, Op, Output, Parallel, Scratch, Serial, Spec, StepCx};
use millstream_simd::Level;
use millstream_tensor::{AlignedBytes, DType, Layout, Shape, TensorView, TensorViewMut, Value, WorkerScratch, bf16, f16};
use std::cell::RefCell;

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

/// Steps of less arithmetic and traffic (in operations and bytes) run on their caller's thread: waking another costs as much.
const ALONE: f64 = 128.0 * 1024.0;

/// Scratch memory that a thread keeps between operators.
const KEPT: usize = 32 << 20;

thread_local! {
    static SCRATCH: RefCell<AlignedBytes> = RefCell::new(AlignedBytes::default());
}

/// One run of an operator's kernel.
pub(crate) struct Run<'a> {
    pub(crate) op: &'a dyn Op,
    pub(crate) level: Level,
    pub(crate) workers: &'a dyn Workers,
    /// The inputs' types and layouts, and for each whether it comes packed.
    pub(crate) inputs: &'a [Option<Spec>],
    pub(crate) packed: &'a [bool],
}

impl Run<'_> {
    /// Evaluates the operator: `given` are the inputs, `memory` and `slots` have a place for each output that is wanted.
    pub(crate) fn eval(&self, given: &[Input<'_>], wanted: &[Wanted], memory: &mut [Memory], slots: &mut [Option<Value>]) -> Result<(), EvalError> {
        let outputs: Vec<Spec> = wanted.iter().filter_map(|w| if let Wanted::Planned(s) = w { Some(*s) } else { None }).collect();
        let cx = StepCx { inputs: self.inputs, outputs: &outputs, packed: self.packed, level: self.level };
        let (need, cost) = (self.op.scratch(&cx), self.op.cost(&cx));
        let mut kept = SCRATCH.take();
        let mut result = Ok(());
        let mut body = |parallel: &dyn Parallel| result = self.eval_on(parallel, need, &mut kept, given, wanted, memory, slots);
        match cost.flops + cost.bytes < ALONE {
            true => body(&Serial),
            false => self.workers.enter(&mut body),
        }
        if kept.len() <= KEPT {
            SCRATCH.set(kept);
        }
        result
    }

    /// Evaluates the operator on these workers, with scratch memory in `kept`, which grows.
    fn eval_on(
        &self,
        parallel: &dyn Parallel,
        need: Scratch,
        kept: &mut AlignedBytes,
        given: &[Input<'_>],
        wanted: &[Wanted],
        memory: &mut [Memory],
        slots: &mut [Option<Value>],
    ) -> Result<(), EvalError> {
        let (shared, part) = (need.shared.next_multiple_of(64), need.per_worker.next_multiple_of(64));
        kept.grow(shared + part * parallel.workers())?;
        let (shared, per_worker) = kept.as_mut().split_at_mut(shared);
        let scratch = WorkerScratch::new(&mut per_worker[..part * parallel.workers()], part, parallel.workers());
        let mut cx = EvalCx::new(self.level, parallel, &mut shared[..need.shared], scratch);
        given.iter().for_each(|input| cx.push_input(*input));
        for ((wanted, memory), slot) in wanted.iter().zip(memory).zip(slots) {
            cx.push_output(match wanted {
                Wanted::Unused => Output::Unused,
                Wanted::Planned(s) => Output::Tensor(TensorViewMut::new(s.dtype, &s.layout, memory.bytes())?),
                Wanted::Open => Output::Slot(slot),
            });
        }
        self.op.eval(&mut cx)
    }
}

/// The elements of Candle's storage from `start` to `end` as bytes; `None` for types that we lack.
pub(crate) fn bytes_of(storage: &CpuStorage, (start, end): (usize, usize)) -> Option<(DType, &[u8])> {
    let dtype = crate::held::storage_dtype(storage)?;
    let bytes = by_shared_type!(dtype, T => bytemuck::cast_slice(storage.as_slice::<T>().ok()?.get(start..end)?), _ => return None);
    Some((dtype, bytes))
}

/// Runs a node's kernel on values of a run.
pub(crate) fn run(
    op: &dyn Op,
    (level, workers): (Level, &dyn Workers),
    inputs: &[Option<&Held>],
    wanted: &[Wanted],
    device: &Device,
) -> Result<Vec<Option<Held>>, Failure> {
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
    let specs = inputs.iter().map(|h| h.map_or(Ok(None), Held::spec)).collect::<Result<Vec<_>, _>>()?;
    let mut given = Vec::with_capacity(inputs.len());
    for (i, held) in inputs.iter().enumerate() {
        given.push(match (held, &storages[i], &layouts[i]) {
            (None, ..) => Input::Absent,
            (Some(Held::Own(Value::Tensor(t))), ..) => Input::Tensor(t.view()),
            (Some(Held::Own(v)), ..) => Input::Value(v),
            (Some(Held::Candle(_)), Some(((storage, place), _)), Some(layout)) => {
                let (Storage::Cpu(storage), Some(range)) = (&**storage, place.contiguous_offsets()) else {
                    return Err(EvalError::Invalid("a dense tensor on the CPU was expected").into());
                };
                let (dtype, bytes) = bytes_of(storage, range).ok_or(EvalError::Invalid("an element type that millstream lacks"))?;
                Input::Tensor(TensorView::new(dtype, layout, bytes)?)
            }
            _ => return Err(EvalError::Invalid("an element type that millstream lacks").into()),
        });
    }
    let place = |w: &Wanted| if let Wanted::Planned(s) = w { Memory::of(s) } else { Ok(Memory::None) };
    let mut memory = wanted.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    let mut slots: Vec<Option<Value>> = vec![None; wanted.len()];
    Run { op, level, workers, inputs: &specs, packed: &[] }.eval(&given, wanted, &mut memory, &mut slots)?;
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
