//! What the fuzz targets do, shared with the test that replays their corpus on stable Rust.
//!
//! `cargo +nightly fuzz run onnx_reader` looks for inputs; `cargo test --no-default-features` replays `corpus/`.

use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, Graph, InferCx, InferError, Op, OpDef, Registry};
use millstream_onnx::{Limits, LoadOptions, ValueKind, load, tensor_from_pb, tensor_to_pb};
use millstream_safetensors::Weights;
use millstream_tensor::WeightSource;
use std::{error::Error, sync::Arc};

#[derive(Debug)]
struct Stub;

impl Op for Stub {
    fn infer(&self, _: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        Err(InferError::Invalid("a stub"))
    }
    fn eval(&self, _: &mut EvalCx<'_>) -> Result<(), EvalError> {
        Err(EvalError::Invalid("a stub"))
    }
}

const fn stub(name: &'static str, subgraphs: &'static [&'static str]) -> OpDef {
    OpDef {
        domain: "",
        name,
        since: &[1],
        inputs: Arity::at_least(0),
        outputs: Arity::at_least(0),
        attributes: &["alpha", "axis", "perm", "to", "value"],
        subgraphs,
        dtypes: "any",
        build: |_: &BuildCx<'_>| Ok(Box::new(Stub)),
    }
}

static STUBS: [OpDef; 9] = [
    stub("Add", &[]),
    stub("Sub", &[]),
    stub("Mul", &[]),
    stub("Relu", &[]),
    stub("LeakyRelu", &[]),
    stub("Identity", &[]),
    stub("Cast", &[]),
    stub("If", &["then_branch", "else_branch"]),
    stub("Loop", &["body"]),
];

fn check(graph: &Graph) {
    graph.verify().expect("a loaded graph is whole");
    for (_, value) in graph.values() {
        if let Some(weight) = value.constant() {
            assert_eq!(weight.to_tensor().expect("a loaded weight can be read").shape(), weight.shape());
        }
    }
    for (_, node) in graph.nodes() {
        node.subgraphs.iter().for_each(|s| check(&s.graph));
    }
}

/// A model of these bytes is refused, or becomes a whole graph whose weights can be read.
pub fn onnx_reader(data: &[u8]) {
    let mut registry = Registry::new();
    for def in &STUBS {
        registry.add(def);
    }
    let open = |_: &str| -> Result<Arc<dyn WeightSource>, Box<dyn Error + Send + Sync>> { Ok(Arc::new(vec![0u8; 64])) };
    let limits = Limits { nodes: 1000, values: 10_000, depth: 8, tensor_bytes: 1 << 20, copied_bytes: 1 << 20, ..Limits::default() };
    match load(Arc::new(data.to_vec()), &registry, &LoadOptions { limits, external: Some(&open) }) {
        Ok(model) => check(&model.graph),
        Err(e) => drop(e.to_string()),
    }
}

/// A file of these bytes is refused, or all its weights can be read.
pub fn safetensors_reader(data: &[u8]) {
    match Weights::open(Arc::new(data.to_vec())) {
        Ok(weights) => weights.iter().for_each(|(_, w)| drop(w.to_tensor().expect("an opened weight can be read"))),
        Err(e) => drop(e.to_string()),
    }
}

/// A value of these bytes is refused, or it is the same after it was written and read again.
pub fn tensor_pb(data: &[u8]) {
    for kind in [ValueKind::Tensor, ValueKind::Sequence, ValueKind::Optional] {
        match tensor_from_pb(data, kind) {
            Ok(value) => assert_eq!(tensor_from_pb(&tensor_to_pb(&value, "x"), kind).expect("what was written can be read"), value),
            Err(e) => drop(e.to_string()),
        }
    }
}
