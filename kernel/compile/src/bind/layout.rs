//! Second half of binding: buffers, in-place reuse, live ranges, offsets; then the plan.

use super::{ProtoStep, Trace, ValKind};
use crate::{
    planner::{self, Buffer},
    program::Program,
};
use alloc::{vec, vec::Vec};
use millstream_engine::{Argument, Guard, Place, Plan, PlanOutput, RunError, Step, Target};
use millstream_graph::{Scratch, Spec, StepCx};
use millstream_simd::Level;

/// Memory shared by values one after the other (in place) or at once (aliases).
struct Block {
    bytes: usize,
    first: usize,
    last: usize,
    /// The output whose memory it is.
    output: Option<usize>,
}

struct Layouter<'t> {
    trace: &'t Trace,
    /// Last step that reads each root value; `usize::MAX` for outputs.
    last_use: Vec<usize>,
    /// The block of each root value.
    block_of: Vec<Option<usize>>,
    blocks: Vec<Block>,
    /// For each step, the pair (input, output) that shares a block.
    in_place: Vec<Option<(usize, usize)>>,
}

/// Places everything and makes the plan.
pub(crate) fn assemble(program: &Program, trace: &Trace, level: Level, workers: usize) -> Result<Plan, RunError> {
    let mut l = Layouter {
        trace,
        last_use: vec![0; trace.vals.len()],
        block_of: vec![None; trace.vals.len()],
        blocks: Vec::new(),
        in_place: vec![None; trace.steps.len()],
    };
    l.live_ranges();
    for (s, step) in trace.steps.iter().enumerate() {
        l.step_blocks(s, step);
    }
    for (i, &val) in trace.outputs.iter().enumerate() {
        if let Some(block) = l.block_of[trace.root(val)] {
            l.blocks[block].output = Some(i);
        }
    }
    let scratch: Vec<Scratch> = trace.steps.iter().map(|s| l.scratch(program, s, level)).collect();
    let mut buffers: Vec<Buffer> =
        l.blocks.iter().map(|b| Buffer { bytes: if b.output.is_some() { 0 } else { b.bytes }, first: b.first, last: b.last }).collect();
    let scratch_at = buffers.len();
    for (s, need) in scratch.iter().enumerate() {
        buffers.push(Buffer { bytes: need.shared, first: s, last: s });
        buffers.push(Buffer { bytes: need.per_worker * workers, first: s, last: s });
    }
    let placement = planner::place(&buffers);
    let mut plan = Plan { arena_bytes: placement.bytes, workers, ..Plan::default() };
    plan.scratch_bytes = scratch.iter().map(|n| n.shared + n.per_worker * workers).max().unwrap_or(0);
    let (slots, slot_count) = slots(trace);
    plan.slots = slot_count;
    let place = |val: usize| -> Option<Place> {
        let root = trace.root(val);
        match trace.vals[root].kind {
            ValKind::Input(i) => Some(Place::Input(i)),
            ValKind::Slot => slots[root].map(Place::Slot),
            _ => l.block_of[root].map(|b| l.blocks[b].output.map_or(Place::Arena(placement.offsets[b]), Place::Output)),
        }
    };
    for (s, step) in trace.steps.iter().enumerate() {
        let shared = (placement.offsets[scratch_at + 2 * s], scratch[s].shared);
        let per_worker = (placement.offsets[scratch_at + 2 * s + 1], scratch[s].per_worker);
        plan.steps.push(l.finish_step(program, s, step, level, &place, shared, per_worker)?);
    }
    for g in &trace.guards {
        let condition = place(g.condition).ok_or_else(|| RunError::DataDependent("a condition".into()))?;
        plan.guards.push(Guard { condition, wanted: g.wanted, parent: g.parent });
    }
    plan.inputs = inputs(trace);
    for &val in &trace.outputs {
        plan.outputs.push(match &trace.vals[val].kind {
            ValKind::Known(t) => PlanOutput::Constant(t.clone()),
            ValKind::Weight(w) => PlanOutput::Constant(w.to_tensor()?),
            ValKind::Input(i) => PlanOutput::Input(*i),
            ValKind::Slot => PlanOutput::Slot(slots[val].unwrap_or(0)),
            _ => PlanOutput::Memory(trace.spec(val).ok_or_else(|| RunError::DataDependent("an output".into()))?),
        });
    }
    Ok(plan)
}

/// The specs of the segment's inputs by position.
fn inputs(trace: &Trace) -> Vec<Option<Spec>> {
    let mut out = Vec::new();
    for (v, val) in trace.vals.iter().enumerate() {
        if let ValKind::Input(i) = val.kind {
            out.resize(out.len().max(i + 1), None);
            out[i] = trace.spec(v);
        }
    }
    out
}

fn slots(trace: &Trace) -> (Vec<Option<usize>>, usize) {
    let mut count = 0;
    let slots = trace
        .vals
        .iter()
        .map(|v| {
            matches!(v.kind, ValKind::Slot).then(|| {
                count += 1;
                count - 1
            })
        })
        .collect();
    (slots, count)
}

impl Layouter<'_> {
    fn live_ranges(&mut self) {
        for (s, step) in self.trace.steps.iter().enumerate() {
            for &v in step.inputs.iter().flatten() {
                self.last_use[self.trace.root(v)] = s;
            }
            let mut guard = step.guard;
            while let Some(g) = guard.map(|g| &self.trace.guards[g]) {
                self.last_use[self.trace.root(g.condition)] = s;
                guard = g.parent;
            }
        }
        for &v in &self.trace.outputs {
            self.last_use[self.trace.root(v)] = usize::MAX;
        }
    }

    /// Gives each planned output of the step a block: that of an input that dies here, or a new one.
    fn step_blocks(&mut self, s: usize, step: &ProtoStep) {
        self.in_place[s] = step.op.in_place().iter().copied().find(|&(i, o)| self.can_share(s, step, i, o));
        for (o, val) in step.outputs.iter().enumerate() {
            let Some(val) = *val else { continue };
            // The result of a guarded branch is written by a step of each branch: the first one made its block.
            if !self.trace.vals[val].is_planned() || self.block_of[val].is_some() {
                continue;
            }
            let last = self.last_use[val].max(s);
            if let Some((i, _)) = self.in_place[s].filter(|&(_, out)| out == o)
                && let Some(block) = step.inputs[i].and_then(|v| self.block_of[self.trace.root(v)])
            {
                self.blocks[block].last = last;
                self.block_of[val] = Some(block);
                continue;
            }
            let bytes = self.trace.spec(val).map_or(0, |s| s.bytes());
            self.block_of[val] = Some(self.blocks.len());
            self.blocks.push(Block { bytes, first: s, last, output: None });
        }
    }

    /// True if output `o` may overwrite input `i`: the same type and layout, nobody reads the input later or twice.
    fn can_share(&self, s: usize, step: &ProtoStep, i: usize, o: usize) -> bool {
        let (Some(&Some(input)), Some(&Some(output))) = (step.inputs.get(i), step.outputs.get(o)) else { return false };
        let root = self.trace.root(input);
        let twice = step.inputs.iter().flatten().filter(|&&v| self.trace.root(v) == root).count() > 1;
        let same = match (self.trace.spec(input), self.trace.spec(output)) {
            (Some(a), Some(b)) => a.dtype == b.dtype && a.layout.same_memory(&b.layout),
            _ => false,
        };
        same && !twice && self.trace.vals[root].is_planned() && self.trace.vals[output].is_planned() && self.last_use[root] == s
    }

    /// For each input, whether the step reads it in packed form.
    fn packed(&self, program: &Program, step: &ProtoStep) -> Vec<bool> {
        (0..step.inputs.len()).map(|i| step.node.is_some_and(|key| program.packed(key, i).is_some())).collect()
    }

    fn specs(&self, step: &ProtoStep) -> (Vec<Option<Spec>>, Vec<Spec>) {
        let inputs = step.inputs.iter().map(|v| v.and_then(|v| self.trace.spec(v))).collect();
        let outputs = step.outputs.iter().flatten().filter_map(|&v| self.trace.spec(v)).collect();
        (inputs, outputs)
    }

    fn scratch(&self, program: &Program, step: &ProtoStep, level: Level) -> Scratch {
        let (inputs, outputs) = self.specs(step);
        step.op.scratch(&StepCx { inputs: &inputs, outputs: &outputs, packed: &self.packed(program, step), level })
    }

    fn finish_step(
        &self,
        program: &Program,
        s: usize,
        step: &ProtoStep,
        level: Level,
        place: &dyn Fn(usize) -> Option<Place>,
        shared: (usize, usize),
        per_worker: (usize, usize),
    ) -> Result<Step, RunError> {
        let lost = || RunError::DataDependent(step.path.clone());
        let mut out = Step {
            path: step.path.clone(),
            name: step.name.clone(),
            op: step.op.clone(),
            inputs: Default::default(),
            outputs: Default::default(),
            shared,
            per_worker,
            guard: step.guard,
            kernel: Default::default(),
            cost: Default::default(),
        };
        for (i, v) in step.inputs.iter().enumerate() {
            let Some(v) = *v else {
                out.inputs.push(Argument::Absent);
                continue;
            };
            if let Some((_, o)) = self.in_place[s].filter(|&(input, _)| input == i) {
                out.inputs.push(Argument::InPlace(o));
                continue;
            }
            if let (Some(key), Some(spec)) = (step.node, self.trace.spec(v))
                && let Some(p) = program.packed(key, i)
            {
                out.inputs.push(Argument::Packed(p.clone(), spec));
                continue;
            }
            out.inputs.push(match &self.trace.vals[v].kind {
                ValKind::Weight(w) => Argument::Weight(w.clone()),
                ValKind::Known(t) => Argument::Constant(t.clone()),
                ValKind::PackedOnly => return Err(lost()),
                _ => Argument::Value(
                    place(v).ok_or_else(lost)?,
                    self.trace.spec(v).unwrap_or_else(|| Spec::row_major(self.trace.vals[v].fact.dtype, millstream_tensor::Shape::SCALAR)),
                ),
            });
        }
        for v in &step.outputs {
            out.outputs.push(match *v {
                None => Target::Unused,
                Some(v) => Target::Value(
                    place(v).ok_or_else(lost)?,
                    self.trace.spec(v).unwrap_or_else(|| Spec::row_major(self.trace.vals[v].fact.dtype, millstream_tensor::Shape::SCALAR)),
                ),
            });
        }
        let (inputs, outputs) = self.specs(step);
        let packed = self.packed(program, step);
        let cx = StepCx { inputs: &inputs, outputs: &outputs, packed: &packed, level };
        out.kernel = step.op.kernel(&cx);
        out.cost = step.op.cost(&cx);
        Ok(out)
    }
}
