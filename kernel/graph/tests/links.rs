//! Edits keep the links between values and their readers: each reader once, in the order of addition.

use millstream_graph::{Declared, EvalCx, EvalError, Fact, Graph, InferCx, InferError, Node, NodeId, Op, ValueId};
use std::{sync::Arc, time::Instant};

/// An operator that is never run.
#[derive(Debug)]
struct Idle;

impl Op for Idle {
    fn infer(&self, _: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        Ok(Vec::new())
    }

    fn eval(&self, _: &mut EvalCx<'_>) -> Result<(), EvalError> {
        Ok(())
    }
}

fn node(inputs: &[ValueId], output: ValueId) -> Node {
    let inputs = inputs.iter().copied().map(Some).collect();
    Node { path: "n".into(), op_name: "Idle".into(), op: Arc::new(Idle), inputs, outputs: vec![Some(output)], subgraphs: Vec::new() }
}

/// `count` nodes that read `of`, twice each.
fn readers(graph: &mut Graph, of: ValueId, count: usize) -> Vec<NodeId> {
    let mut add = || {
        let out = graph.add_placeholder("y", Declared::default());
        graph.add_node(node(&[of, of], out))
    };
    (0..count).map(|_| add()).collect()
}

#[test]
fn readers_are_listed_once_in_the_order_of_addition() {
    let mut graph = Graph::new("g");
    let (a, b) = (graph.add_input("a", Declared::default()), graph.add_input("b", Declared::default()));
    let first = readers(&mut graph, a, 2);
    let second = readers(&mut graph, b, 1);
    let third = readers(&mut graph, a, 1);
    assert_eq!(graph.value(a).consumers(), [first[0], first[1], third[0]]);

    graph.set_inputs(first[1], vec![Some(b), Some(a)]);
    assert_eq!(graph.value(a).consumers(), [first[0], first[1], third[0]]);
    assert_eq!(graph.value(b).consumers(), [first[1], second[0]]);

    graph.replace_uses(b, a);
    assert_eq!(graph.value(a).consumers(), [first[0], first[1], second[0], third[0]]);
    assert!(graph.is_unused(b));
    assert_eq!(graph.verify(), Ok(()));

    graph.remove_node(first[0]);
    assert_eq!(graph.value(a).consumers(), [first[1], second[0], third[0]]);
    assert_eq!(graph.verify(), Ok(()));
}

/// With a scan of the readers for each link this takes minutes.
#[test]
fn a_value_may_have_very_many_readers() {
    let start = Instant::now();
    let mut graph = Graph::new("g");
    let (a, b) = (graph.add_input("a", Declared::default()), graph.add_input("b", Declared::default()));
    readers(&mut graph, a, 300_000);
    readers(&mut graph, b, 300_000);
    graph.replace_uses(b, a);
    assert_eq!(graph.value(a).consumers().len(), 600_000);
    assert_eq!(graph.verify(), Ok(()));
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
