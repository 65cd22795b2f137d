//! A model lowered for the CPU: everything that does not depend on the inputs of a run.

use crate::{
    Program,
    bind::{Boundary, assemble, trace},
};
use alloc::{format, string::String, vec::Vec};
use millstream_engine::{CompileError, Plan, Port, RunError, Signature};
use millstream_graph::{Control, Fact, Graph, ValueId, ValueInfo};
use millstream_simd::Level;

/// A lowered model: makes plans.
#[derive(Debug)]
pub struct Template {
    program: Program,
    level: Level,
    workers: usize,
    signature: Signature,
}

/// A plan up to the point where something has to run before more can be told.
#[derive(Debug)]
pub struct Segment {
    /// The plan.
    pub plan: Plan,
    /// Where the next segment begins; `None` if this is the last.
    pub(crate) rest: Option<Boundary>,
    /// Inputs of the segment whose elements would have let it go further.
    pub(crate) wanted_inputs: Vec<usize>,
}

impl Segment {
    /// True if the plan gives the model's outputs; false if it gives values that the rest of the model needs.
    pub fn is_last(&self) -> bool {
        self.rest.is_none()
    }
}

impl Template {
    /// Lowers a simplified graph for runs on this level with at most `workers` workers.
    pub fn new(graph: Graph, level: Level, workers: usize) -> Result<Template, CompileError> {
        graph.verify()?;
        let signature = signature(&graph);
        Ok(Template { program: Program::new(graph, level)?, level, workers: workers.max(1), signature })
    }

    /// The inputs and outputs.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The level that kernels run on.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Bytes of all constants as they are kept.
    pub fn weight_bytes(&self) -> usize {
        self.program.weight_bytes()
    }

    /// The first segment for inputs of which these facts are known. Pure and deterministic.
    pub fn bind(&self, inputs: &[Fact]) -> Result<Segment, RunError> {
        let ids: &[ValueId] = self.program.bodies[0].graph.inputs();
        let inputs = ids.iter().zip(inputs).map(|(&id, fact)| ((0, id), fact.clone())).collect();
        self.segment(&Boundary { inputs, ..Boundary::default() })
    }

    /// The next segment, now that the values are there which `segment` gave.
    pub fn bind_next(&self, segment: &Segment, values: Vec<Fact>) -> Result<Segment, RunError> {
        let Some(rest) = &segment.rest else { return Err(RunError::DataDependent("the last segment".into())) };
        let mut boundary = rest.clone();
        for ((_, fact), now) in boundary.inputs.iter_mut().zip(values) {
            *fact = now;
        }
        self.segment(&boundary)
    }

    fn segment(&self, boundary: &Boundary) -> Result<Segment, RunError> {
        let trace = trace(&self.program, self.level, boundary)?;
        let plan = assemble(&self.program, &trace, self.level, self.workers)?;
        Ok(Segment { plan, rest: trace.rest, wanted_inputs: trace.wanted_inputs.into_iter().collect() })
    }
}

/// What a backend asks first that runs a graph node by node, and of control flow choices alone: the ports of a graph that is sound.
///
/// # Errors
/// The graph is broken, or has loops: all of them are named.
pub fn walkable(graph: &Graph) -> Result<Signature, CompileError> {
    graph.verify()?;
    let mut loops = Vec::new();
    find_loops(graph, &mut loops);
    if loops.is_empty() { Ok(signature(graph)) } else { Err(CompileError::Unsupported(loops)) }
}

fn find_loops(graph: &Graph, found: &mut Vec<String>) {
    for (_, node) in graph.nodes() {
        if node.op.control().is_some_and(|c| c != Control::If) {
            found.push(format!("{} ({})", node.path, node.op_name));
        }
        node.subgraphs.iter().for_each(|s| find_loops(&s.graph, found));
    }
}

/// The ports of a graph: analysed facts where there are some, else what the model file declares.
pub fn signature(graph: &Graph) -> Signature {
    let port = |id: &ValueId| port(graph.value(*id));
    Signature { inputs: graph.inputs().iter().map(port).collect(), outputs: graph.outputs().iter().map(port).collect() }
}

fn port(value: &ValueInfo) -> Port {
    let fact = value.fact.as_ref();
    let known = fact.map(|f| f.dims.iter().map(|d| d.as_extent().ok_or_else(|| format!("{d}"))).collect());
    let declared = || {
        value.declared.dims.as_ref().map(|dims| dims.iter().enumerate().map(|(i, d)| d.clone().unwrap_or_else(|| Err(format!("{}.{i}", value.name)))).collect())
    };
    Port { name: value.name.clone(), dtype: fact.map(|f| f.dtype).or(value.declared.dtype), dims: known.or_else(declared) }
}
