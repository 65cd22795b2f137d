//! Weights into a graph, by name.

use crate::{BindError, Mismatch, Weights};
use alloc::{string::String, vec::Vec};
use hashbrown::HashMap;
use millstream_graph::{Graph, NodeId, Source, ValueId};
use millstream_tensor::Weight;

/// What [`bind`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bound {
    /// Names whose constants were replaced.
    pub constants: Vec<String>,
    /// Names of inputs that are constants now, and inputs no more.
    pub inputs: Vec<String>,
    /// Names in the file that the graph does not have as a constant or an input.
    pub unused: Vec<String>,
}

/// Gives the graph's constants and inputs the weights of the same name. A constant's type and shape must be the weight's,
/// an input's declared ones too where they are numbers; else nothing changes and all misfits are reported. Constants that
/// subgraphs share with the graph are replaced there, too. Facts of other values are as they were: analyse again.
pub fn bind(graph: &mut Graph, weights: &Weights) -> Result<Bound, BindError> {
    let mut bound = Bound::default();
    let mut misfits = Vec::new();
    let mut plan: Vec<(ValueId, Weight)> = Vec::new();
    let mut replaced: HashMap<String, (Weight, Weight)> = HashMap::new();
    let mut positions = Vec::new();
    let mut unused: HashMap<&str, ()> = weights.names().map(|n| (n, ())).collect();
    for (id, value) in graph.values() {
        let Some(weight) = weights.find(&value.name) else { continue };
        match &value.source {
            Source::Constant(old) => {
                if old.dtype() != weight.dtype() || old.shape() != weight.shape() {
                    misfits.push(misfit(&value.name, Some(old.dtype()), old.shape().iter().map(|&d| Some(d)).collect(), weight));
                }
                replaced.insert((*value.name).into(), (old.clone(), weight.clone()));
                bound.constants.push((*value.name).into());
            }
            Source::Input(position) => {
                let declared = &value.declared;
                let dims = declared.dims.as_deref();
                let wanted: Vec<Option<usize>> = dims.unwrap_or_default().iter().map(|d| d.as_ref().and_then(|d| d.as_ref().ok().copied())).collect();
                let shape = weight.shape();
                let fits = dims.is_none() || wanted.len() == shape.rank() && wanted.iter().zip(shape.iter()).all(|(w, d)| w.is_none_or(|w| w == *d));
                if !fits || declared.dtype.is_some_and(|d| d != weight.dtype()) {
                    misfits.push(misfit(&value.name, declared.dtype, wanted, weight));
                }
                positions.push(*position);
                bound.inputs.push((*value.name).into());
            }
            _ => continue,
        }
        unused.remove(&*value.name);
        plan.push((id, weight.clone()));
    }
    if !misfits.is_empty() {
        return Err(BindError::Mismatch(misfits));
    }
    positions.sort_unstable();
    graph.remove_inputs(&positions);
    for (id, weight) in plan {
        graph.set_constant(id, weight);
    }
    rebind(graph, &replaced);
    bound.unused = unused.into_keys().map(String::from).collect();
    bound.unused.sort();
    Ok(bound)
}

/// Replaces constants of subgraphs that are the very memory of replaced ones.
fn rebind(graph: &mut Graph, replaced: &HashMap<String, (Weight, Weight)>) {
    let nodes: Vec<NodeId> = graph.nodes().filter(|(_, n)| !n.subgraphs.is_empty()).map(|(id, _)| id).collect();
    for id in nodes {
        graph.map_subgraphs(id, |body| {
            let shared = |(id, value): (ValueId, &millstream_graph::ValueInfo)| {
                let (old, new) = replaced.get(&*value.name)?;
                value.constant()?.same_memory(old).then(|| (id, new.clone()))
            };
            let found: Vec<(ValueId, Weight)> = body.values().filter_map(shared).collect();
            for (id, weight) in found {
                body.set_constant(id, weight);
            }
            rebind(body, replaced);
        });
    }
}

fn misfit(name: &str, dtype: Option<millstream_tensor::DType>, dims: Vec<Option<usize>>, weight: &Weight) -> Mismatch {
    Mismatch { name: name.into(), wanted: (dtype, dims), found: (weight.dtype(), weight.shape().to_vec()) }
}
