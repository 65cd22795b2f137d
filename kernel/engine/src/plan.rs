//! A compiled plan: pure data, made for one set of input shapes.

use alloc::{string::String, sync::Arc, vec::Vec};
use core::fmt;
use millstream_graph::{Cost, Op, Packed, Spec};
use millstream_tensor::{Tensor, Weight};
use smallvec::SmallVec;

/// Where a value's elements lie while a plan runs.
#[derive(Debug, Clone)]
pub enum Place {
    /// At this byte offset of the arena.
    Arena(usize),
    /// In the run's input at this position.
    Input(usize),
    /// In the memory of the plan's output at this position.
    Output(usize),
    /// A value outside of planned memory: strings, sequences, and sizes that only the run tells.
    Slot(usize),
}

/// One input of a step.
#[derive(Debug, Clone)]
pub enum Argument {
    /// An optional input that the node does not have.
    Absent,
    /// A value of the run.
    Value(Place, Spec),
    /// A constant of the model, in its original form.
    Weight(Weight),
    /// A constant that became known when the plan was bound.
    Constant(Tensor),
    /// A constant of the model in its operator's own form.
    Packed(Arc<dyn Packed>, Spec),
    /// The elements lie in this output, which the step overwrites.
    InPlace(usize),
}

/// One output of a step.
#[derive(Debug, Clone)]
pub enum Target {
    /// Nobody reads it.
    Unused,
    /// It is written here.
    Value(Place, Spec),
}

/// One operator of a plan.
#[derive(Debug, Clone)]
pub struct Step {
    /// The node's path.
    pub path: Arc<str>,
    /// The operator's name.
    pub name: Arc<str>,
    /// The operator.
    pub op: Arc<dyn Op>,
    /// Its inputs.
    pub inputs: SmallVec<[Argument; 4]>,
    /// Its outputs.
    pub outputs: SmallVec<[Target; 2]>,
    /// Arena offset and bytes of the step's shared scratch memory.
    pub shared: (usize, usize),
    /// Arena offset and bytes of each worker's scratch memory; the workers' parts follow one another.
    pub per_worker: (usize, usize),
    /// The number of the guard under which the step runs; it always runs if there is none.
    pub guard: Option<usize>,
    /// The kernel that runs, for people.
    pub kernel: String,
    /// What the step costs at the least.
    pub cost: Cost,
}

/// A condition under which steps run: that of a branch.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Where a scalar of booleans lies.
    pub condition: Place,
    /// What it has to be.
    pub wanted: bool,
    /// The guard around this one.
    pub parent: Option<usize>,
}

/// Steps and memory for one set of input shapes.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The steps in order.
    pub steps: Vec<Step>,
    /// The guards that steps name.
    pub guards: Vec<Guard>,
    /// The inputs' types and shapes; `None` for inputs that are no tensors.
    pub inputs: Vec<Option<Spec>>,
    /// The outputs: type and shape where planned, `None` where the value lies in a slot.
    pub outputs: Vec<PlanOutput>,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// The part of the arena that scratch memory takes in the step that takes most.
    pub scratch_bytes: usize,
    /// How many slots there are.
    pub slots: usize,
    /// How many workers the scratch memory is for.
    pub workers: usize,
}

/// Where an output of a plan comes from.
#[derive(Debug, Clone)]
pub enum PlanOutput {
    /// Steps write it into memory of this type and shape.
    Memory(Spec),
    /// It is made by the run, in this slot.
    Slot(usize),
    /// It is known already.
    Constant(Tensor),
    /// It is the input at this position.
    Input(usize),
}

impl Plan {
    /// Bytes of inputs and outputs.
    pub fn io_bytes(&self) -> usize {
        let outputs = self.outputs.iter().map(|o| match o {
            PlanOutput::Memory(spec) => spec.bytes(),
            PlanOutput::Constant(t) => t.bytes_len(),
            PlanOutput::Slot(_) | PlanOutput::Input(_) => 0,
        });
        self.inputs.iter().flatten().map(Spec::bytes).chain(outputs).sum()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let output = self.outputs.iter().find_map(|t| match t {
            Target::Value(_, spec) => Some(spec),
            Target::Unused => None,
        });
        write!(f, "{} {} -> ", self.path, self.name)?;
        match output {
            Some(s) => write!(f, "{}[{}]", s.dtype, s.shape())?,
            None => f.write_str("-")?,
        }
        if let Some(order) = output.and_then(|s| s.layout.order()).filter(|o| !o.is_row_major()) {
            f.write_str(" in order ")?;
            for a in order.axes() {
                write!(f, "{a}")?;
            }
        }
        write!(f, " by {}", self.kernel)
    }
}
