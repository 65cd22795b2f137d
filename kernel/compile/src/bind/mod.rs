//! Binding: a template and concrete inputs become a plan.
//!
//! 1. `trace`: facts flow from the inputs through the graph; nodes whose elements are known vanish, control flow whose
//!    condition is known is laid flat, memory orders are chosen. What cannot be told before something has run ends the segment.
//! 2. `layout`: buffers, in-place reuse, live ranges, offsets.
//!
//! Both see values as indices into one flat table, whatever subgraph they come from.

mod control;
mod layout;
mod trace;

pub(crate) use layout::assemble;
pub(crate) use trace::{Boundary, Trace, trace};

use crate::program::NodeKey;
use alloc::{sync::Arc, vec::Vec};
use millstream_graph::{Fact, Op};
use millstream_tensor::{DType, Layout, Tensor, Weight};

/// A value of the flat table.
#[derive(Debug, Clone)]
pub(crate) struct Val {
    pub(crate) fact: Fact,
    pub(crate) kind: ValKind,
    /// Where elements lie, for values in planned memory.
    pub(crate) layout: Option<Layout>,
}

/// Where a value comes from.
#[derive(Debug, Clone)]
pub(crate) enum ValKind {
    /// The segment's input at this position.
    Input(usize),
    /// A constant of the model.
    Weight(Weight),
    /// A constant of the model that only exists in its operators' packed forms.
    PackedOnly,
    /// Elements that became known while binding.
    Known(Tensor),
    /// Output of a step, in planned memory.
    Planned,
    /// Output of a step that shows another value's memory.
    Alias(usize),
    /// Output of a step that makes its own memory: strings, sequences, sizes that only a run tells.
    Slot,
}

impl Val {
    /// True if the value needs planned memory of its own.
    pub(crate) fn is_planned(&self) -> bool {
        matches!(self.kind, ValKind::Planned)
    }

    /// True for numeric tensors of known size.
    pub(crate) fn is_sized(fact: &Fact) -> bool {
        fact.dtype != DType::String && matches!(fact.shape(), Some(Ok(_)))
    }
}

/// A step before memory is placed: an operator over values of the flat table.
#[derive(Debug, Clone)]
pub(crate) struct ProtoStep {
    /// The node, for packed constants; `None` for copies that binding adds.
    pub(crate) node: Option<NodeKey>,
    pub(crate) path: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) op: Arc<dyn Op>,
    pub(crate) inputs: Vec<Option<usize>>,
    pub(crate) outputs: Vec<Option<usize>>,
    /// The number of the guard under which the step runs.
    pub(crate) guard: Option<usize>,
}

/// A condition under which steps run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProtoGuard {
    /// A scalar of booleans.
    pub(crate) condition: usize,
    /// What it has to be.
    pub(crate) wanted: bool,
    /// The guard around this one.
    pub(crate) parent: Option<usize>,
}
