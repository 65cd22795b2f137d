//! Files that were written, broken, and bound to graphs.
#![allow(missing_docs)]

use millstream_graph::{Declared, Graph, Source};
use millstream_safetensors::{BindError, OpenError, Weights, WriteError, bind, to_bytes};
use millstream_tensor::{Bool, DType, Layout, Shape, Tensor, TensorView};
use proptest::prelude::*;
use std::sync::Arc;

fn sample() -> Vec<u8> {
    let w = Tensor::from_slice(&[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let b = Tensor::from_slice(&[3], &[Bool::from(true), Bool::from(false), Bool::from(true)]).unwrap();
    let i = Tensor::from_slice(&[], &[7i64]).unwrap();
    to_bytes([("w", w.view()), ("b", b.view()), ("i", i.view())], [("note", "a test")]).unwrap()
}

fn with_header(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

fn open(bytes: Vec<u8>) -> Result<Weights, OpenError> {
    Weights::open(Arc::new(bytes))
}

#[test]
fn what_was_written_is_read() {
    let weights = open(sample()).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["b", "i", "w"]);
    assert_eq!(weights.metadata()["note"], "a test");
    assert_eq!(weights.find("w").unwrap().to_tensor().unwrap().as_slice::<f32>().unwrap()[5], 6.0);
    assert_eq!(weights.find("i").unwrap().shape().rank(), 0);
    assert!(weights.find("x").is_none());
    assert!(open(with_header("{}", 0)).unwrap().names().next().is_none());
}

#[test]
fn strided_tensors_are_written_row_major() {
    let data = Tensor::from_slice(&[6], &[0i32, 1, 2, 3, 4, 5]).unwrap();
    let layout = Layout::strided(Shape::new(&[3, 2]).unwrap(), &[1, 3]).unwrap();
    let view = TensorView::new(DType::I32, &layout, data.view().bytes().unwrap()).unwrap();
    let weights = open(to_bytes([("t", view)], []).unwrap()).unwrap();
    assert_eq!(weights.find("t").unwrap().to_tensor().unwrap().as_slice::<i32>().unwrap(), [0, 3, 1, 4, 2, 5]);
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let text = Tensor::from_strings(&[1], vec!["a".into()]).unwrap();
    assert_eq!(to_bytes([("t", text.view())], []), Err(WriteError::ElementType("t".into(), DType::String)));
    let t = Tensor::scalar(1u8).unwrap();
    assert_eq!(to_bytes([("t", t.view()), ("t", t.view())], []), Err(WriteError::Name("t".into())));
    assert_eq!(to_bytes([("__metadata__", t.view())], []), Err(WriteError::Name("__metadata__".into())));
}

#[test]
fn broken_files_are_errors() {
    let file = sample();
    for n in 0..file.len() {
        assert!(open(file[..n].to_vec()).is_err(), "truncated to {n}");
    }
    let mut long = file.clone();
    long.push(0);
    assert!(matches!(open(long), Err(OpenError::Malformed(_))));
    assert!(matches!(open(u64::MAX.to_le_bytes().to_vec()), Err(OpenError::Limit { .. })));
    let gap = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}"#;
    assert!(matches!(open(with_header(gap, 3)), Err(OpenError::Header(_))));
    let lie = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#;
    assert!(matches!(open(with_header(lie, 4)), Err(OpenError::Header(_))));
}

#[test]
fn sizes_that_overflow_are_errors() {
    let piece = (1u64 << 61) - 1;
    let mut entries: Vec<String> =
        (0..8).map(|i| format!(r#""t{i}":{{"dtype":"U8","shape":[{piece}],"data_offsets":[{},{}]}}"#, i * piece, (i + 1) * piece)).collect();
    entries.push(format!(r#""z":{{"dtype":"U8","shape":[7],"data_offsets":[{},{}]}}"#, 8 * piece, 8 * piece + 7));
    assert!(open(with_header(&format!("{{{}}}", entries.join(",")), 0)).is_err());
}

#[test]
fn everything_unsupported_is_reported_at_once() {
    let header = r#"{"a":{"dtype":"F8_E5M2","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[1,2]}}"#;
    let error = open(with_header(header, 2)).unwrap_err();
    let OpenError::Unsupported(problems) = &error else { panic!("{error}") };
    assert_eq!(problems.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(error.to_string().contains("a: element type F8_E5M2"), "{error}");
}

#[test]
fn weights_replace_constants_and_inputs() {
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", Declared::default());
    let w = graph.add_input("w", Declared { dtype: Some(DType::F32), dims: Some(vec![Some(Err("n".into())), Some(Ok(3))]) });
    let y = graph.add_input("y", Declared::default());
    let i = graph.add_constant("i", Tensor::scalar(1i64).unwrap());
    let bound = bind(&mut graph, &open(sample()).unwrap()).unwrap();
    assert_eq!((bound.constants, bound.inputs, bound.unused), (vec!["i".into()], vec!["w".into()], vec!["b".into()]));
    assert_eq!(graph.inputs(), [x, y]);
    assert!(matches!(graph.value(y).source, Source::Input(1)));
    assert_eq!(graph.value(i).constant().unwrap().to_tensor().unwrap(), Tensor::scalar(7i64).unwrap());
    assert_eq!(graph.value(w).constant().unwrap().shape().dims(), [2, 3]);
    graph.verify().unwrap();
}

#[test]
fn misfits_are_all_reported_and_change_nothing() {
    let mut graph = Graph::new("g");
    let w = graph.add_input("w", Declared { dtype: Some(DType::F32), dims: Some(vec![Some(Ok(2)), Some(Ok(4))]) });
    graph.add_constant("i", Tensor::scalar(1i32).unwrap());
    let error = bind(&mut graph, &open(sample()).unwrap()).unwrap_err();
    let BindError::Mismatch(misfits) = &error else { panic!("{error}") };
    assert_eq!(misfits.len(), 2);
    assert!(error.to_string().contains("w: the graph has float32[2, 4], the file float32[2, 3]"), "{error}");
    assert_eq!(graph.inputs(), [w]);
}

proptest! {
    #[test]
    fn flipped_bits_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4)) {
        let mut file = sample();
        for (at, bit) in flips {
            let at = at.index(file.len());
            file[at] ^= 1 << bit;
        }
        if let Ok(weights) = open(file) {
            for (_, w) in weights.iter() {
                prop_assert!(w.to_tensor().is_ok());
            }
        }
    }
}
