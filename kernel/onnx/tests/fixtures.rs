//! What the importer makes of the models that `fixtures/make.py` writes.
#![allow(missing_docs)]

mod stub;

use millstream_graph::{Graph, Node, Registry, Source, ValueId};
use millstream_onnx::{ExternalError, Limits, LoadError, LoadOptions, Model, Reason, ValueKind, load, tensor_from_pb, tensor_to_pb};
use millstream_tensor::{DType, Tensor, TensorError, Value, WeightSource};
use std::{error::Error, sync::Arc};

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("fixtures/", $name)).as_slice()
    };
}

fn open(bytes: &'static [u8], options: &LoadOptions<'_>) -> Result<Model, LoadError> {
    stub::load_learning(Arc::new(bytes), options).map(|(model, _)| model)
}

fn model(bytes: &'static [u8]) -> Model {
    open(bytes, &LoadOptions::default()).unwrap()
}

fn node<'g>(graph: &'g Graph, path: &str) -> &'g Node {
    graph
        .nodes()
        .map(|(_, n)| n)
        .find(|n| &*n.path == path)
        .unwrap_or_else(|| panic!("no {path} in {:?}", graph.nodes().map(|(_, n)| n.path.clone()).collect::<Vec<_>>()))
}

fn name(graph: &Graph, id: ValueId) -> &str {
    &graph.value(id).name
}

#[test]
fn captures_go_through_every_level() {
    let m = model(fixture!("nested_if.onnx"));
    let g = &m.graph;
    let top = node(g, "top");
    assert_eq!(top.op_name.as_ref(), "If");
    let captured = |s: usize| top.subgraphs[s].captures.iter().map(|&v| name(g, v)).collect::<Vec<_>>();
    assert_eq!(captured(0), ["x", "c2"], "what the inner If needs comes through the outer one");
    assert_eq!(captured(1), ["x"]);
    let then = &top.subgraphs[0].graph;
    assert_eq!(then.inputs().iter().map(|&v| name(then, v)).collect::<Vec<_>>(), ["x", "c2"]);
    assert!(node(then, "top/then_branch/act").input(0).is_some());
    let deep = node(then, "top/then_branch/deep");
    for body in &deep.subgraphs {
        assert_eq!(body.captures.iter().map(|&v| name(then, v)).collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(body.graph.inputs().len(), 2);
        let w = body.graph.values().find(|(_, v)| &*v.name == "w").unwrap().1;
        let outer = g.values().find(|(_, v)| &*v.name == "w").unwrap().1;
        assert!(w.constant().unwrap().same_memory(outer.constant().unwrap()), "a captured constant is the same constant");
    }
    node(&deep.subgraphs[0].graph, "top/then_branch/deep/then_branch/Add_0");
    node(&deep.subgraphs[1].graph, "top/then_branch/deep/else_branch/Sub_0");
}

#[test]
fn initializers_that_are_inputs_are_constants() {
    let m = model(fixture!("ir3.onnx"));
    assert_eq!((m.ir_version, m.graph.inputs().len(), m.inputs.len()), (3, 1, 1));
    assert_eq!((m.inputs[0].name.as_str(), m.inputs[0].kind), ("x", ValueKind::Tensor));
    let w = m.graph.values().find(|(_, v)| &*v.name == "w").unwrap().1.constant().unwrap().to_tensor().unwrap();
    assert_eq!(w, Tensor::from_slice(&[2], &[0.0f32, 1.0]).unwrap());
    assert_eq!(m.opsets, [(String::new(), 7)]);
    assert_eq!((m.producer.as_str(), m.metadata_props.as_slice()), ("fixtures", &[("note".to_owned(), "a test".to_owned())][..]));
}

#[test]
fn typed_and_raw_data_are_the_same() {
    let m = model(fixture!("dtypes.onnx"));
    let tensor = |n: &str| m.graph.values().find(|(_, v)| &*v.name == n).unwrap().1.constant().unwrap().to_tensor().unwrap();
    let kinds = ["f32", "f64", "f16", "bf16", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "bool"];
    for (kind, dtype) in kinds.iter().zip(DType::ALL) {
        assert_eq!(tensor(&format!("{kind}_typed")), tensor(&format!("{kind}_raw")));
        assert_eq!(tensor(&format!("{kind}_raw")).dtype(), *dtype);
    }
    assert_eq!(tensor("text").as_strings().unwrap(), ["one", "zwölf"]);
}

#[test]
fn functions_are_inlined() {
    let m = model(fixture!("functions.onnx"));
    let g = &m.graph;
    let paths: Vec<&str> = g.nodes().map(|(_, n)| &*n.path).collect();
    let one = ["one/twice_0/Add_0", "one/LeakyRelu_1", "one/Identity"];
    let two = ["two/twice_0/Add_0", "two/LeakyRelu_1"];
    assert_eq!(paths, [one.as_slice(), &two].concat());
    assert_eq!(g.outputs().iter().map(|&v| name(g, v)).collect::<Vec<_>>(), ["z", "p"]);
    let add = node(g, "one/twice_0/Add_0");
    assert_eq!(add.inputs, [Some(g.inputs()[0]); 2]);
    assert_eq!(node(g, "one/LeakyRelu_1").inputs, add.outputs);
    let named = |v: &str| g.values().filter(|(_, i)| &*i.name == v).count();
    assert_eq!((named("one/t"), named("two/t")), (1, 1), "values of a function are told apart");
}

#[test]
fn recursion_ends() {
    assert!(matches!(open(fixture!("recursive.onnx"), &LoadOptions::default()), Err(LoadError::Limit { limit: 32, .. })));
}

#[test]
fn everything_unsupported_is_reported_at_once() {
    let mut registry = Registry::new();
    registry.add(stub::schema("", "If", &[], &["then_branch", "else_branch"])).add(stub::schema("", "Relu", &[], &[])).add(stub::schema(
        "",
        "Cast",
        &["to"],
        &[],
    ));
    let error = load(Arc::new(fixture!("unsupported.onnx")), &registry, &LoadOptions::default()).unwrap_err();
    let LoadError::Unsupported(problems) = &error else { panic!("{error}") };
    let mut found: Vec<(&str, &str)> = problems.iter().map(|p| (p.path.as_str(), p.op.as_str())).collect();
    found.sort();
    let branches = [("if/else_branch/inside", "Strange"), ("if/then_branch/inside", "Strange")];
    assert_eq!(found, [&[("Fused_2", "Fused"), ("first", "Missing")], &branches[..], &[("relu", "Relu"), ("second", "Missing"), ("w8", "")]].concat());
    assert_eq!(problems.iter().find(|p| p.path == "w8").unwrap().reason, Reason::ElementType("float8e4m3fn"));
    let text = error.to_string();
    assert!(text.contains("first: Missing: operator ai.onnx.Missing is not supported (and 1 more)"), "{text}");
    assert_eq!(text.lines().count(), 6, "{text}");
}

#[test]
fn constant_nodes_are_constants() {
    let m = model(fixture!("constants.onnx"));
    assert_eq!(m.graph.nodes().count(), 0);
    let found: Vec<(DType, Vec<usize>)> =
        m.graph.outputs().iter().map(|&v| m.graph.value(v).constant().unwrap()).map(|w| (w.dtype(), w.shape().to_vec())).collect();
    let expected: [(DType, &[usize]); 7] =
        [(DType::I64, &[1, 2]), (DType::F32, &[]), (DType::F32, &[2]), (DType::I64, &[]), (DType::I64, &[3]), (DType::String, &[]), (DType::String, &[2])];
    assert_eq!(found, expected.map(|(d, s)| (d, s.to_vec())));
}

#[test]
fn declared_types_are_hints() {
    let m = model(fixture!("kinds.onnx"));
    assert_eq!(m.inputs.iter().map(|p| p.kind).collect::<Vec<_>>(), [ValueKind::Sequence, ValueKind::Optional, ValueKind::Tensor]);
    assert_eq!(m.outputs.iter().map(|p| p.kind).collect::<Vec<_>>(), [ValueKind::Sequence, ValueKind::Optional]);
    let x = m.graph.value(m.graph.inputs()[2]);
    assert_eq!(x.declared.dims, Some(vec![Some(Err("batch".into())), None, Some(Ok(3))]));
    assert!(x.fact.is_none() && matches!(x.source, Source::Input(2)));
}

fn files(location: &str) -> Result<Arc<dyn WeightSource>, Box<dyn Error + Send + Sync>> {
    assert_eq!(location, "data/weights.bin", "only checked locations are opened");
    Ok(Arc::new([0f32, 1.0, 2.0, 3.0].iter().flat_map(|f| f.to_le_bytes()).collect::<Vec<u8>>()))
}

#[test]
fn external_data_is_a_range_of_its_file() {
    let options = LoadOptions { external: Some(&files), ..LoadOptions::default() };
    let m = open(fixture!("external.onnx"), &options).unwrap();
    let w = m.graph.values().find(|(_, v)| &*v.name == "w").unwrap().1.constant().unwrap();
    assert_eq!(w.to_tensor().unwrap(), Tensor::from_slice(&[2], &[1.0f32, 2.0]).unwrap());
}

#[test]
fn external_data_stays_in_the_folder_and_the_file() {
    let options = LoadOptions { external: Some(&files), ..LoadOptions::default() };
    let error = |bytes, options: &LoadOptions<'_>| match open(bytes, options) {
        Err(LoadError::External { error, .. }) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(error(fixture!("external_escape.onnx"), &options), ExternalError::Location));
    assert!(matches!(error(fixture!("external_short.onnx"), &options), ExternalError::Range));
    assert!(matches!(error(fixture!("external.onnx"), &LoadOptions::default()), ExternalError::Unavailable));
}

#[test]
fn broken_graphs_are_errors() {
    let error = |bytes| open(bytes, &LoadOptions::default()).unwrap_err();
    assert!(matches!(error(fixture!("cycle.onnx")), LoadError::Graph(_)));
    assert!(matches!(error(fixture!("duplicate.onnx")), LoadError::Duplicate { name, .. } if name == "y"));
    assert!(matches!(error(fixture!("undefined.onnx")), LoadError::Undefined { path, name } if (path.as_str(), name.as_str()) == ("r", "ghost")));
    assert!(matches!(error(fixture!("huge.onnx")), LoadError::Tensor { error: TensorError::Length { .. }, .. }));
    assert!(matches!(error(fixture!("rank.onnx")), LoadError::Limit { limit: 8, .. }));
}

#[test]
fn limits_hold() {
    let limit = |limits| match open(fixture!("nested_if.onnx"), &LoadOptions { limits, external: None }) {
        Err(LoadError::Limit { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    let limits = Limits::default();
    assert_eq!(limit(Limits { bytes: 100, ..limits }), "bytes");
    assert_eq!(limit(Limits { nodes: 5, ..limits }), "nodes");
    assert_eq!(limit(Limits { values: 5, ..limits }), "values");
    assert_eq!(limit(Limits { depth: 1, ..limits }), "levels of subgraphs and functions");
    assert_eq!(limit(Limits { rank: 1, ..limits }), "axes in a shape");
    assert_eq!(limit(Limits { tensor_bytes: 7, ..limits }), "bytes of tensors");
}

#[test]
fn values_are_read_and_written() {
    let tensor = Value::Tensor(Tensor::from_slice(&[2], &[1.5f32, 2.5]).unwrap());
    let items = [Tensor::from_slice(&[2], &[1i64, 2]).unwrap(), Tensor::from_slice(&[1, 1], &[3i64]).unwrap()];
    let sequence = Value::Sequence(items.map(Value::Tensor).into());
    let some = Value::Optional(Some(Box::new(Value::Tensor(Tensor::scalar(millstream_tensor::Bool::from(true)).unwrap()))));
    let cases = [
        (fixture!("tensor.pb"), ValueKind::Tensor, tensor),
        (fixture!("sequence.pb"), ValueKind::Sequence, sequence),
        (fixture!("optional.pb"), ValueKind::Optional, some),
        (fixture!("empty.pb"), ValueKind::Optional, Value::Optional(None)),
    ];
    for (bytes, kind, expected) in cases {
        assert_eq!(tensor_from_pb(bytes, kind).unwrap(), expected);
        assert_eq!(tensor_from_pb(&tensor_to_pb(&expected, "name"), kind).unwrap(), expected);
    }
}
