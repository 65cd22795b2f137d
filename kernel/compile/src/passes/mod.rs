//! Rules that rewrite a graph: what every backend gets.
//!
//! [`simplify`] analyses the graph, then offers every node to every rule, and again each node near a rewrite, until no rule
//! applies. A rule looks at a node and its neighbours and, if it recognises them, puts new nodes in their place through a
//! [`Rewrite`]. Each rule has a name by which [`Options`] switches it off.

mod attention;
mod conv_scale;
mod epilogue;
mod fold;
mod gates;
mod gelu;
mod identity;
mod integer_product;
mod layer_norm;
mod product;
mod qdq;
mod rewrite;
mod winograd;

use alloc::{collections::VecDeque, vec, vec::Vec};
use millstream_engine::{CompileError, NodeError};
use millstream_graph::{Fact, Graph, NodeId, Source, ValueId, analyse};

pub(crate) use rewrite::Rewrite;

/// Recognises something at a node and rewrites it.
pub(crate) trait Rule: Sync {
    /// The name by which the rule is switched off.
    fn name(&self) -> &'static str;

    /// Rewrites what begins or ends at `node`, if the rule knows it. True if the graph changed.
    fn apply(&self, node: NodeId, rewrite: &mut Rewrite<'_>) -> bool;
}

/// Rules that recognise operators on dequantised values: they run to rest before constants are folded.
const QUANTISED: &[&dyn Rule] = &[&qdq::Quantised];

/// Every other rule, in the order in which they are tried.
const RULES: &[&dyn Rule] = &[
    &fold::FoldConstants,
    &identity::DropIdentity,
    &conv_scale::FoldIntoConv,
    &gelu::RecogniseGelu,
    &layer_norm::RecogniseLayerNorm,
    &gates::RecogniseHardSwish,
    &gates::RecogniseSilu,
    &integer_product::FuseDequantisation,
    &product::FuseTranspose,
    &product::FuseScale,
    &product::FuseBias,
    &epilogue::FuseResidual,
    &epilogue::FuseActivation,
    &winograd::ChooseWinograd,
];

/// Rules on what the others left behind.
const LAST: &[&dyn Rule] = &[&attention::FuseAttention];

/// The names of all rules.
pub fn rules() -> impl Iterator<Item = &'static str> {
    QUANTISED.iter().chain(RULES).chain(LAST).map(|r| r.name())
}

/// Which rules run.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Options {
    /// Names of rules that do not run; see [`rules`].
    pub without: Vec<&'static str>,
}

impl Options {
    /// All rules but these.
    pub fn without(names: &[&'static str]) -> Options {
        Options { without: names.to_vec() }
    }

    /// No rule at all.
    pub fn none() -> Options {
        Options { without: rules().collect() }
    }
}

/// Simplifies a graph and its subgraphs. Nodes that contradict their operators are all reported.
pub fn simplify(graph: &mut Graph, options: &Options) -> Result<(), CompileError> {
    graph.verify()?;
    declare_inputs(graph);
    let mut errors = Vec::new();
    simplify_body(graph, options, &mut errors);
    if errors.is_empty() { Ok(()) } else { Err(CompileError::Nodes(errors)) }
}

/// Gives the graph's inputs a fact from what the model declares. Declared input dims bind: a run with others is refused. What
/// a model declares of other values is never used.
fn declare_inputs(graph: &mut Graph) {
    for id in graph.inputs().to_vec() {
        let value = graph.value(id);
        if let (None, Some(dtype), Some(dims)) = (&value.fact, value.declared.dtype, &value.declared.dims) {
            let dims = dims
                .iter()
                .enumerate()
                .map(|(axis, d)| match d {
                    Some(Ok(n)) => (*n).into(),
                    Some(Err(name)) => millstream_graph::Dim::symbol(millstream_graph::Symbol::new(name)),
                    None => millstream_graph::Dim::symbol(millstream_graph::Symbol::new(&alloc::format!("{}.{axis}", value.name))),
                })
                .collect();
            graph.set_fact(id, Some(Fact::new(dtype, dims)));
        }
    }
}

fn simplify_body(graph: &mut Graph, options: &Options, errors: &mut Vec<NodeError>) {
    graph.prune();
    for (id, error) in analyse(graph) {
        if let Some(node) = graph.node(id) {
            errors.push(NodeError { path: node.path.clone(), op: node.op_name.clone(), error });
        }
    }
    rewrite_to_rest(graph, QUANTISED, options);
    rewrite_to_rest(graph, RULES, options);
    rewrite_to_rest(graph, LAST, options);
    for id in graph.nodes().filter(|(_, n)| !n.subgraphs.is_empty()).map(|(id, _)| id).collect::<Vec<_>>() {
        simplify_subgraphs(graph, id, options, errors);
    }
    graph.prune();
}

/// Offers nodes to rules until none applies.
fn rewrite_to_rest(graph: &mut Graph, rules: &[&'static dyn Rule], options: &Options) {
    let rules: Vec<&dyn Rule> = rules.iter().copied().filter(|r| !options.without.contains(&r.name())).collect();
    let mut queue: VecDeque<NodeId> = graph.topological_order().unwrap_or_default().into();
    let mut queued: Vec<bool> = vec![true; queue.len()];
    while let Some(id) = queue.pop_front() {
        if let Some(q) = queued.get_mut(id.0 as usize) {
            *q = false;
        }
        for rule in &rules {
            if graph.node(id).is_none() {
                break;
            }
            let mut rewrite = Rewrite::new(graph, id);
            if rule.apply(id, &mut rewrite) {
                for near in rewrite.finish() {
                    let at = near.0 as usize;
                    queued.resize(queued.len().max(at + 1), false);
                    if !core::mem::replace(&mut queued[at], true) {
                        queue.push_back(near);
                    }
                }
            }
        }
    }
}

/// Simplifies the bodies of a node. Outer constants that a body reads become its own, and outer facts reach its inputs.
fn simplify_subgraphs(graph: &mut Graph, id: NodeId, options: &Options, errors: &mut Vec<NodeError>) {
    let Some(node) = graph.node(id) else { return };
    let outer: Vec<Vec<(Source, Option<Fact>)>> =
        node.subgraphs.iter().map(|s| s.captures.iter().map(|&v| (graph.value(v).source.clone(), graph.fact(v).cloned())).collect()).collect();
    let mut number = 0;
    let mut constant: Vec<Vec<usize>> = Vec::new();
    graph.map_subgraphs(id, |body| {
        let captures = &outer[number];
        number += 1;
        let first = body.inputs().len() - captures.len();
        let mut gone = Vec::new();
        for (i, (source, fact)) in captures.iter().enumerate() {
            let inner: ValueId = body.inputs()[first + i];
            if let Source::Constant(weight) = source {
                let name = body.value(inner).name.clone();
                let own = body.add_constant(&name, weight.clone());
                body.replace_uses(inner, own);
                gone.push(i);
            } else {
                body.set_fact(inner, fact.clone());
            }
        }
        body.remove_inputs(&gone.iter().map(|i| first + i).collect::<Vec<_>>());
        constant.push(gone);
        simplify_body(body, options, errors);
    });
    graph.drop_captures(id, &constant);
}
