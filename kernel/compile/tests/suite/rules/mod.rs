//! Each rule alone: what it recognises becomes what it should, near misses stay as they are, and results stay the same.

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
mod winograd;

use super::model::{Model, close};
use millstream_compile::{Options, rules};
use millstream_graph::Graph;

/// Options under which these rules alone run.
fn only(names: &[&str]) -> Options {
    let known: Vec<&str> = rules().collect();
    assert!(names.iter().all(|n| known.contains(n)), "{names:?} are not all rules");
    let others: Vec<&'static str> = rules().filter(|r| !names.contains(r)).collect();
    Options::without(&others)
}

/// The operators' names in the order of execution.
fn operators(graph: &Graph) -> Vec<String> {
    let order = graph.topological_order().expect("the graph has no cycle");
    order.iter().filter_map(|&id| graph.node(id)).map(|n| n.op_name.to_string()).collect()
}

/// Holds that these rules, alone, make exactly these operators of the model, and that neither they nor all rules together
/// change its outputs.
#[track_caller]
fn becomes(names: &[&str], model: &Model, wanted: &[&str]) {
    assert_eq!(operators(&model.simplified(&only(names))), wanted);
    same_results(names, model);
}

/// Holds that these rules, alone, leave the model as it is, and that all rules together do not change its outputs.
#[track_caller]
fn stays(names: &[&str], model: &Model) {
    let before = operators(&model.simplified(&Options::none()));
    assert_eq!(operators(&model.simplified(&only(names))), before);
    same_results(names, model);
}

#[track_caller]
fn same_results(names: &[&str], model: &Model) {
    let wanted = model.evaluate();
    for options in [Options::none(), only(names), Options::default()] {
        close(&model.run(&options), &wanted, 1e-5);
    }
}
