//! Every operator on inputs and attributes that know nothing of it: most do not fit, and none may panic.

use crate::{Case, sights};
use millstream_graph::{Attribute, OpDef};
use millstream_ops::ALL;
use millstream_tensor::{Bool, DType, Tensor};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

/// Text that some operator knows.
const WORDS: &str = "linear nearest cubic constant reflect edge wrap SAME_UPPER SAME_LOWER VALID NOTSET forward reverse bidirectional tanh none \
    DCR CRD add mul max zeros border half_pixel align_corners asymmetric floor LEFT RIGHT Sigmoid";

fn word() -> impl Strategy<Value = String> {
    proptest::sample::select(WORDS.split_whitespace().map(String::from).collect::<Vec<_>>())
}

/// A few small elements of any type.
fn tensor() -> impl Strategy<Value = Tensor> {
    let dtype = proptest::sample::select(vec![
        DType::F32,
        DType::F32,
        DType::F32,
        DType::I64,
        DType::I64,
        DType::I32,
        DType::U8,
        DType::I8,
        DType::Bool,
        DType::F16,
        DType::F64,
    ]);
    (dtype, proptest::collection::vec(0usize..4, 0..5), proptest::collection::vec(-2i64..4, 256)).prop_map(|(dtype, dims, numbers)| {
        let numbers = &numbers[..dims.iter().product()];
        let tensor = match dtype {
            DType::F32 => Tensor::from_slice(&dims, &numbers.iter().map(|&x| x as f32 * 0.5).collect::<Vec<_>>()),
            DType::F64 => Tensor::from_slice(&dims, &numbers.iter().map(|&x| x as f64 * 0.5).collect::<Vec<_>>()),
            DType::I64 => Tensor::from_slice(&dims, numbers),
            DType::I32 => Tensor::from_slice(&dims, &numbers.iter().map(|&x| x as i32).collect::<Vec<_>>()),
            DType::U8 => Tensor::from_slice(&dims, &numbers.iter().map(|&x| x as u8).collect::<Vec<_>>()),
            DType::I8 => Tensor::from_slice(&dims, &numbers.iter().map(|&x| x as i8).collect::<Vec<_>>()),
            DType::Bool => Tensor::from_slice(&dims, &numbers.iter().map(|&x| Bool::from(x > 0)).collect::<Vec<_>>()),
            _ => Tensor::zeros(dtype, &dims),
        };
        tensor.expect("as many values as elements")
    })
}

fn attribute() -> impl Strategy<Value = Attribute> {
    prop_oneof![
        3 => (-3i64..5).prop_map(Attribute::Int),
        3 => proptest::collection::vec(-3i64..5, 0..5).prop_map(Attribute::Ints),
        1 => (-2i64..5).prop_map(|x| Attribute::Float(x as f32 * 0.5)),
        2 => word().prop_map(Attribute::String),
        1 => proptest::collection::vec(word(), 1..4).prop_map(Attribute::Strings),
        1 => tensor().prop_map(Attribute::Tensor),
    ]
}

fn case(def: &'static OpDef) -> impl Strategy<Value = Case> {
    let range = |a: millstream_graph::Arity| a.min..=a.max.min(a.min.max(6));
    // Inputs are often of one type: few operators take mixed ones.
    let inputs = range(def.inputs).prop_flat_map(|n| {
        (proptest::collection::vec(proptest::option::weighted(0.95, tensor()), n), any::<bool>()).prop_map(|(mut inputs, alike)| {
            if let (true, Some(Some(first))) = (alike, inputs.first().cloned()) {
                inputs.iter_mut().skip(1).step_by(2).for_each(|t| *t = Some(first.clone()));
            }
            inputs
        })
    });
    let attributes = proptest::sample::subsequence(def.attributes.to_vec(), 0..=def.attributes.len().min(3))
        .prop_flat_map(|names| names.into_iter().map(|n| (Just(n.to_string()), attribute())).collect::<Vec<_>>());
    let opset = proptest::sample::select(def.since.to_vec());
    (opset, attributes, inputs, range(def.outputs)).prop_map(move |(opset, attributes, inputs, outputs)| Case { def, opset, attributes, inputs, outputs })
}

#[test]
fn no_operator_panics_or_contradicts_itself() {
    let run = |def: &'static OpDef| {
        let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(400) });
        let checked = runner.run(&(case(def), sights()), |(case, sights)| {
            case.check(&sights);
            Ok(())
        });
        checked.err().map(|e| e.to_string())
    };
    let failures: Vec<String> = ALL.iter().filter(|d| d.subgraphs.is_empty()).filter_map(|d| run(d)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
