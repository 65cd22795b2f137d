//! What a kernel sees while it runs: its inputs and outputs, scratch memory, the ISA level, and the grains.

use crate::{EvalError, Op, Packed, Parallel, Serial, Spec, StepCx};
use alloc::{vec, vec::Vec};
use core::sync::atomic::{AtomicUsize, Ordering};
use millstream_simd::Level;
use millstream_tensor::{AlignedBytes, DType, Element, Tensor, TensorView, TensorViewMut, Value, View, ViewMut, WorkerScratch};
use smallvec::SmallVec;

/// One input of a step.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// An optional input that the node does not have.
    Absent,
    /// A tensor.
    Tensor(TensorView<'a>),
    /// A constant in the form that [`Op::prepack`] made, with the type and layout of the original.
    Packed(&'a dyn Packed, &'a Spec),
    /// A tensor whose elements lie in this output already, which the step overwrites.
    InPlace(usize),
    /// A value outside of the arena: a sequence, an optional.
    Value(&'a Value),
}

/// One output of a step.
#[derive(Debug)]
pub enum Output<'a> {
    /// Nobody reads this output, or the kernel took it already.
    Unused,
    /// Memory of the planned type and layout.
    Tensor(TensorViewMut<'a>),
    /// A value whose size only the run tells (or that is no numeric tensor): the kernel makes it.
    Slot(&'a mut Option<Value>),
}

/// A kernel's view of one step. Inputs and outputs live for `'a`, so that borrows of several can be held at once.
pub struct EvalCx<'a> {
    inputs: SmallVec<[Input<'a>; 10]>,
    outputs: SmallVec<[Output<'a>; 4]>,
    level: Level,
    parallel: &'a dyn Parallel,
    scratch: Option<&'a mut [u8]>,
    worker_scratch: WorkerScratch<'a>,
}

impl<'a> EvalCx<'a> {
    /// A context without inputs and outputs; an executor adds them. `shared` and `per_worker` are the step's scratch.
    pub fn new(level: Level, parallel: &'a dyn Parallel, shared: &'a mut [u8], per_worker: WorkerScratch<'a>) -> EvalCx<'a> {
        EvalCx { inputs: SmallVec::new(), outputs: SmallVec::new(), level, parallel, scratch: Some(shared), worker_scratch: per_worker }
    }

    /// Adds the next input.
    pub fn push_input(&mut self, input: Input<'a>) {
        self.inputs.push(input);
    }

    /// Adds the next output.
    pub fn push_output(&mut self, output: Output<'a>) {
        self.outputs.push(output);
    }

    /// The ISA level to run on.
    pub fn level(&self) -> Level {
        self.level
    }

    /// How many inputs the node has, absent ones included.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// How many outputs the node has, unused ones included.
    pub fn outputs(&self) -> usize {
        self.outputs.len()
    }

    /// True if input `i` is there (wherever its elements lie).
    pub fn has(&self, i: usize) -> bool {
        !matches!(self.inputs.get(i), None | Some(Input::Absent))
    }

    /// The output whose memory holds input `i`, if the step runs in place.
    pub fn in_place(&self, i: usize) -> Option<usize> {
        match self.inputs.get(i) {
            Some(Input::InPlace(output)) => Some(*output),
            _ => None,
        }
    }

    /// Input `i` as a tensor; an error if it is absent, packed, in place, or no tensor.
    pub fn tensor(&self, i: usize) -> Result<TensorView<'a>, EvalError> {
        match self.inputs.get(i) {
            Some(Input::Tensor(t)) => Ok(*t),
            Some(Input::Value(v)) => Ok(v.as_tensor()?.view()),
            _ => Err(EvalError::MissingInput(i)),
        }
    }

    /// Input `i` as a tensor of `T`.
    pub fn input<T: Element>(&self, i: usize) -> Result<View<'a, T>, EvalError> {
        Ok(self.tensor(i)?.typed()?)
    }

    /// Input `i` as a tensor of `T`, `None` if it is absent.
    pub fn optional<T: Element>(&self, i: usize) -> Result<Option<View<'a, T>>, EvalError> {
        if self.has(i) { self.input(i).map(Some) } else { Ok(None) }
    }

    /// Input `i` as any value; an error if it is absent, packed or in place.
    pub fn value(&self, i: usize) -> Result<Value, EvalError> {
        match self.inputs.get(i) {
            Some(Input::Value(v)) => Ok((*v).clone()),
            Some(Input::Tensor(t)) => Ok(Value::Tensor(Tensor::from_view(*t)?)),
            _ => Err(EvalError::MissingInput(i)),
        }
    }

    /// The packed form of input `i`, if that is what the plan holds.
    pub fn packed<P: Packed>(&self, i: usize) -> Option<&'a P> {
        match self.inputs.get(i) {
            Some(Input::Packed(p, _)) => p.downcast_ref(),
            _ => None,
        }
    }

    /// Type and layout of input `i`, wherever its elements lie. `None` if it is absent or no tensor.
    pub fn spec(&self, i: usize) -> Option<Spec> {
        match self.inputs.get(i)? {
            Input::Tensor(t) => Some(Spec { dtype: t.dtype(), layout: *t.layout() }),
            Input::Packed(_, spec) => Some(**spec),
            Input::InPlace(o) => self.output_spec(*o),
            Input::Value(v) => v.as_tensor().ok().map(|t| Spec::row_major(t.dtype(), *t.shape())),
            Input::Absent => None,
        }
    }

    /// Type and layout of output `i`, as long as the kernel has not taken it. `None` if it is unused or a slot.
    pub fn output_spec(&self, i: usize) -> Option<Spec> {
        match self.outputs.get(i)? {
            Output::Tensor(t) => Some(Spec { dtype: t.dtype(), layout: *t.layout() }),
            _ => None,
        }
    }

    /// The element type of input `i`.
    pub fn dtype(&self, i: usize) -> Result<DType, EvalError> {
        self.spec(i).map(|s| s.dtype).ok_or(EvalError::MissingInput(i))
    }

    /// True if somebody reads output `i`.
    pub fn wants(&self, i: usize) -> bool {
        !matches!(self.outputs.get(i), None | Some(Output::Unused))
    }

    /// Takes output `i` to write it. For an input in place, the memory holds that input's elements.
    pub fn output_tensor(&mut self, i: usize) -> Result<TensorViewMut<'a>, EvalError> {
        let output = self.outputs.get_mut(i).ok_or(EvalError::Output(i))?;
        match core::mem::replace(output, Output::Unused) {
            Output::Tensor(t) => Ok(t),
            other => {
                *output = other;
                Err(EvalError::Output(i))
            }
        }
    }

    /// Takes output `i` to write elements of `T`.
    pub fn output<T: Element>(&mut self, i: usize) -> Result<ViewMut<'a, T>, EvalError> {
        Ok(self.output_tensor(i)?.typed()?)
    }

    /// Sets output `i` to a value of the run's own size; nothing happens if nobody reads it. If the plan has memory for the
    /// output, a tensor of the planned shape is copied there.
    pub fn set_value(&mut self, i: usize, value: Value) -> Result<(), EvalError> {
        match self.outputs.get_mut(i) {
            None | Some(Output::Unused) => Ok(()),
            Some(Output::Slot(slot)) => {
                **slot = Some(value);
                Ok(())
            }
            Some(Output::Tensor(_)) => {
                let (from, to) = (value.into_tensor()?, self.output_tensor(i)?);
                if from.dtype() != to.dtype() || from.shape() != to.shape() || !to.layout().is_row_major() {
                    return Err(EvalError::Output(i));
                }
                to.into_bytes()?.copy_from_slice(from.view().bytes()?);
                Ok(())
            }
        }
    }

    /// Takes the step's shared scratch memory.
    pub fn scratch(&mut self) -> &'a mut [u8] {
        self.scratch.take().unwrap_or_default()
    }

    /// Runs `body(grain, scratch)` for every grain in `0..grains`, in any order and on any number of threads, and returns
    /// when all are done. `scratch` is the worker's own memory. A grain that returns `None` fails the step.
    ///
    /// Grains must be independent: results may not depend on their order, nor their number on the machine.
    pub fn parallel(&self, grains: usize, body: impl Fn(usize, &mut [u8]) -> Option<()> + Sync) -> Result<(), EvalError> {
        self.run_grains(grains, &body)
    }

    /// [`EvalCx::parallel`], compiled once: operators have hundreds of bodies.
    fn run_grains(&self, grains: usize, body: &(dyn Fn(usize, &mut [u8]) -> Option<()> + Sync)) -> Result<(), EvalError> {
        let failed = AtomicUsize::new(usize::MAX);
        let run = |grain: usize, worker: usize| {
            let done = self.worker_scratch.claim(worker).and_then(|mut scratch| body(grain, &mut scratch));
            if done.is_none() {
                failed.fetch_min(grain, Ordering::Relaxed);
            }
        };
        if grains == 1 {
            run(0, 0);
        } else {
            self.parallel.run(grains, &run);
        }
        match failed.into_inner() {
            usize::MAX => Ok(()),
            grain => Err(EvalError::Grain(grain)),
        }
    }
}

/// Runs an operator on owned inputs, alone on the calling thread: for constant folding, tests, and values outside of plans.
/// `specs` gives each output's type and layout, `None` for outputs of the run's own size.
pub fn eval_to_values(op: &dyn Op, level: Level, inputs: &[Option<Value>], specs: &[Option<Spec>]) -> Result<Vec<Value>, EvalError> {
    let input_specs: Vec<Option<Spec>> =
        inputs.iter().map(|v| v.as_ref().and_then(|v| v.as_tensor().ok()).map(|t| Spec::row_major(t.dtype(), *t.shape()))).collect();
    let output_specs: Vec<Spec> = specs.iter().flatten().copied().collect();
    let need = op.scratch(&StepCx { inputs: &input_specs, outputs: &output_specs, packed: &[], level });
    let mut shared = AlignedBytes::zeroed(need.shared)?;
    let mut per_worker = AlignedBytes::zeroed(need.per_worker)?;
    let mut memory: Vec<AlignedBytes> = Vec::with_capacity(specs.len());
    for spec in specs {
        memory.push(AlignedBytes::zeroed(spec.as_ref().map_or(0, Spec::bytes))?);
    }
    let mut slots: Vec<Option<Value>> = vec![None; specs.len()];
    {
        let scratch = WorkerScratch::new(per_worker.as_mut(), need.per_worker, 1);
        let mut cx = EvalCx::new(level, &Serial, shared.as_mut(), scratch);
        for value in inputs {
            cx.push_input(match value {
                None => Input::Absent,
                Some(Value::Tensor(t)) => Input::Tensor(t.view()),
                Some(v) => Input::Value(v),
            });
        }
        for ((spec, bytes), slot) in specs.iter().zip(&mut memory).zip(&mut slots) {
            cx.push_output(match spec {
                Some(s) if s.dtype != DType::String => Output::Tensor(TensorViewMut::new(s.dtype, &s.layout, bytes.as_mut())?),
                _ => Output::Slot(slot),
            });
        }
        op.eval(&mut cx)?;
    }
    let mut out = Vec::with_capacity(specs.len());
    for (i, ((spec, bytes), slot)) in specs.iter().zip(&memory).zip(slots).enumerate() {
        out.push(match (spec, slot) {
            (_, Some(value)) => value,
            (Some(s), None) if s.dtype != DType::String => Value::Tensor(Tensor::from_view(TensorView::new(s.dtype, &s.layout, bytes.as_ref())?)?),
            _ => return Err(EvalError::Output(i)),
        });
    }
    Ok(out)
}
