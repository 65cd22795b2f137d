//! The executor: walks a plan's steps over a workspace's arena.

use crate::{
    Argument, Cancel, Given, Place, Plan, Profiler, RunError, Step, StepRecord, Target, Workspace,
    error::{StepError, describe},
    executable::spec_text,
    plan::PlanOutput,
};
use alloc::{boxed::Box, sync::Arc, vec::Vec};
use millstream_graph::{EvalCx, EvalError, Input, Output, Parallel, Spec};
use millstream_simd::Level;
use millstream_tensor::{
    DType, Tensor, TensorView, TensorViewMut, Value, WorkerScratch,
    arena::{Arena, Grants, Memory},
};
use smallvec::SmallVec;

/// The region of a run's memory that is the arena; output `i` is region `1 + i`.
const ARENA: usize = 0;

/// Runs a plan. `inputs` fit the plan's, `buffers` are empty or one entry for each output; outputs without a buffer come
/// back as values, the others as `None`. Where all have buffers, the list that comes back is empty.
pub fn run_plan(
    plan: &Plan,
    level: Level,
    parallel: &dyn Parallel,
    workspace: &mut Workspace,
    inputs: Given<'_>,
    buffers: &mut [Option<TensorViewMut<'_>>],
    cancel: Option<&Cancel>,
    mut profiler: Option<&mut dyn Profiler>,
) -> Result<Vec<Option<Value>>, RunError> {
    workspace.reserve(plan.arena_bytes)?;
    let mut own = own_outputs(plan, buffers)?;
    let mut slots: SmallVec<[Option<Value>; 4]> = smallvec::smallvec![None; plan.slots];
    let Workspace { arena, grants, .. } = workspace;
    {
        let mut memory = Memory::new();
        memory.push(arena.as_mut());
        let mut given = buffers.iter_mut();
        for own in &mut own {
            memory.push(match (own, given.next()) {
                (Some(tensor), _) => tensor.view_mut()?.into_bytes()?,
                (None, Some(Some(buffer))) => buffer.bytes_mut()?,
                _ => &mut [],
            });
        }
        for (index, step) in plan.steps.iter().enumerate() {
            if cancel.is_some_and(Cancel::is_cancelled) {
                return Err(RunError::Cancelled);
            }
            if !runs(plan, step, &mut memory, grants, inputs)? {
                continue;
            }
            let start = profiler.as_ref().map(|p| p.clock().now());
            run_step(step, level, parallel, memory.step(grants), inputs, &mut slots).map_err(|e| step_error(step, inputs, e))?;
            if let (Some(p), Some(start)) = (&mut profiler, start) {
                let time = p.clock().now().saturating_sub(start);
                p.step(StepRecord { index, path: &step.path, op: &step.name, kernel: &step.kernel, cost: step.cost, time });
            }
        }
    }
    collect(plan, own, slots, inputs, buffers)
}

/// True if the conditions of all guards around a step hold.
fn runs(plan: &Plan, step: &Step, memory: &mut Memory<'_>, grants: &mut Grants, inputs: Given<'_>) -> Result<bool, RunError> {
    let mut guard = step.guard;
    while let Some(g) = guard.map(|g| &plan.guards[g]) {
        let flag = match g.condition {
            Place::Arena(at) => memory.step(grants).read(ARENA, at..at + 1)?.first().copied(),
            Place::Output(o) => memory.step(grants).read(1 + o, 0..1)?.first().copied(),
            Place::Input(i) => inputs.tensor(i)?.bytes()?.first().copied(),
            Place::Slot(_) => None,
        };
        if flag.is_none_or(|f| (f != 0) != g.wanted) {
            return Ok(false);
        }
        guard = g.parent;
    }
    Ok(true)
}

/// Memory for the outputs that the caller gave no buffer for; checks the buffers that it gave.
fn own_outputs(plan: &Plan, buffers: &[Option<TensorViewMut<'_>>]) -> Result<SmallVec<[Option<Tensor>; 4]>, RunError> {
    let mut own = SmallVec::new();
    for (index, output) in plan.outputs.iter().enumerate() {
        own.push(match (output, buffers.get(index)) {
            (PlanOutput::Memory(spec), Some(Some(buffer))) => {
                let found = Spec { dtype: buffer.dtype(), layout: *buffer.layout() };
                if found.dtype != spec.dtype || found.shape() != spec.shape() || !found.layout.is_row_major() {
                    return Err(RunError::OutputBuffer { index, wanted: spec_text(spec), found: spec_text(&found) });
                }
                None
            }
            (PlanOutput::Memory(spec), _) => Some(Tensor::zeros(spec.dtype, spec.shape())?),
            _ => None,
        });
    }
    Ok(own)
}

fn run_step<'s>(
    step: &'s Step,
    level: Level,
    parallel: &'s dyn Parallel,
    mut arena: Arena<'s>,
    inputs: Given<'s>,
    slots: &mut [Option<Value>],
) -> Result<(), EvalError> {
    let workers = parallel.workers();
    let (offset, part) = step.per_worker;
    let shared = arena.write(ARENA, step.shared.0..step.shared.0 + step.shared.1)?;
    let per_worker = WorkerScratch::new(arena.write(ARENA, offset..offset + part * workers)?, part, workers);
    let mut made: SmallVec<[(usize, Option<Value>); 2]> = SmallVec::new();
    for target in &step.outputs {
        if let Target::Value(Place::Slot(slot), _) = target {
            made.push((*slot, None));
        }
    }
    {
        let mut cx = EvalCx::new(level, parallel, shared, per_worker);
        for argument in &step.inputs {
            cx.push_input(match argument {
                Argument::Absent => Input::Absent,
                Argument::Weight(w) => Input::Tensor(w.view()?),
                Argument::Constant(t) => Input::Tensor(t.view()),
                Argument::Packed(p, spec) => Input::Packed(&**p, spec),
                Argument::InPlace(output) => Input::InPlace(*output),
                Argument::Value(place, spec) => match place {
                    Place::Slot(slot) => Input::Value(slots[*slot].as_ref().ok_or(EvalError::Invalid("a value was read before it was made"))?),
                    Place::Input(i) => match inputs.tensor(*i) {
                        Ok(t) if t.dtype() != DType::String => Input::Tensor(TensorView::new(spec.dtype, &spec.layout, t.bytes()?)?),
                        _ => Input::Value(inputs.value(*i)?),
                    },
                    Place::Arena(at) => Input::Tensor(TensorView::new(spec.dtype, &spec.layout, arena.read(ARENA, *at..*at + spec.bytes())?)?),
                    Place::Output(o) => Input::Tensor(TensorView::new(spec.dtype, &spec.layout, arena.read(1 + o, 0..spec.bytes())?)?),
                },
            });
        }
        let mut next = made.iter_mut();
        for target in &step.outputs {
            cx.push_output(match target {
                Target::Unused => Output::Unused,
                Target::Value(Place::Arena(at), spec) => {
                    Output::Tensor(TensorViewMut::new(spec.dtype, &spec.layout, arena.write(ARENA, *at..*at + spec.bytes())?)?)
                }
                Target::Value(Place::Output(o), spec) => Output::Tensor(TensorViewMut::new(spec.dtype, &spec.layout, arena.write(1 + o, 0..spec.bytes())?)?),
                Target::Value(..) => next.next().map_or(Output::Unused, |(_, slot)| Output::Slot(slot)),
            });
        }
        step.op.eval(&mut cx)?;
    }
    for (slot, value) in made {
        slots[slot] = value;
    }
    Ok(())
}

/// The outputs as values, or copied into the caller's buffers where no step could write them there.
fn collect(
    plan: &Plan,
    own: SmallVec<[Option<Tensor>; 4]>,
    mut slots: SmallVec<[Option<Value>; 4]>,
    inputs: Given<'_>,
    buffers: &mut [Option<TensorViewMut<'_>>],
) -> Result<Vec<Option<Value>>, RunError> {
    let mut out = Vec::new();
    for (index, (output, own)) in plan.outputs.iter().zip(own).enumerate() {
        let value = match output {
            PlanOutput::Memory(_) => own.map(Value::Tensor),
            PlanOutput::Constant(t) => Some(Value::Tensor(t.clone())),
            PlanOutput::Input(i) => Some(inputs.to_value(*i)?),
            // The same slot may be two outputs: it is cloned (tensors share memory) unless this is the last.
            PlanOutput::Slot(slot) => match plan.outputs[index + 1..].iter().any(|o| matches!(o, PlanOutput::Slot(s) if s == slot)) {
                true => slots[*slot].clone(),
                false => slots[*slot].take(),
            },
        };
        let value = match (value, buffers.get_mut(index)) {
            (Some(value), Some(Some(buffer))) => {
                let tensor = value.as_tensor()?;
                let found = Spec { dtype: buffer.dtype(), layout: *buffer.layout() };
                if found.dtype != tensor.dtype() || found.shape() != tensor.shape() || !found.layout.is_row_major() {
                    return Err(RunError::OutputBuffer {
                        index,
                        wanted: spec_text(&Spec::row_major(tensor.dtype(), *tensor.shape())),
                        found: spec_text(&found),
                    });
                }
                buffer.bytes_mut()?.copy_from_slice(tensor.view().bytes()?);
                None
            }
            (value, _) => value,
        };
        if value.is_some() || !out.is_empty() {
            out.resize(index, None);
            out.push(value);
        }
    }
    // Nothing is allocated where nothing comes back.
    if !out.is_empty() {
        out.resize(plan.outputs.len(), None);
    }
    Ok(out)
}

fn step_error(step: &Step, inputs: Given<'_>, error: EvalError) -> RunError {
    if let EvalError::Tensor(millstream_tensor::TensorError::OutOfMemory(n)) = error {
        return RunError::OutOfMemory(n);
    }
    let spec = |a: &Argument| match a {
        Argument::Value(Place::Input(i), _) => inputs.tensor(*i).ok().map(|t| Spec::row_major(t.dtype(), *t.shape())),
        Argument::Value(_, spec) | Argument::Packed(_, spec) => Some(*spec),
        Argument::Weight(w) => Some(Spec::row_major(w.dtype(), *w.shape())),
        Argument::Constant(t) => Some(Spec::row_major(t.dtype(), *t.shape())),
        Argument::InPlace(o) => match step.outputs.get(*o) {
            Some(Target::Value(_, spec)) => Some(*spec),
            _ => None,
        },
        Argument::Absent => None,
    };
    RunError::Step(Box::new(StepError { path: Arc::clone(&step.path), op: Arc::clone(&step.name), inputs: describe(step.inputs.iter().map(spec)), error }))
}
