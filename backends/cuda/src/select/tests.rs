//! What nodes launch: kernels, grids and arguments, without a device.

use super::select;
use crate::call::{Argument, Call, Calls};
use millstream_graph::{Attribute, Attributes, BuildCx, Fact, Node, Spec, infer_node};
use millstream_tensor::{DType, Tensor};

/// The launches of an operator of ONNX's on inputs of these facts.
fn launches(op: &str, facts: &[Fact], attributes: &[(&str, Attribute)]) -> Option<Calls> {
    let attributes: Attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let registry = millstream_ops::registry();
    let cx = BuildCx { version: 0, attributes: &attributes, inputs: facts.len(), outputs: 1, subgraphs: &[] };
    let built = registry.find("", op).expect("an operator of ours").instantiate(22, cx).expect("it can be built");
    let ids = |n: usize| (0..n as u32).map(|i| Some(millstream_graph::ValueId(i))).collect::<Vec<_>>();
    let node = Node { path: op.into(), op_name: op.into(), op: built.into(), inputs: ids(facts.len()), outputs: ids(1), subgraphs: vec![] };
    let facts: Vec<Option<&Fact>> = facts.iter().map(Some).collect();
    let made = infer_node(&node, &facts).expect("shapes fit");
    let outputs: Vec<Spec> = made.iter().map(|f| Spec::row_major(f.dtype, f.shape().expect("known").expect("a shape"))).collect();
    select(&node, &facts, &outputs, &|_| false)
}

fn floats(dims: &[usize]) -> Fact {
    Fact::concrete(DType::F32, dims)
}

fn one(calls: Option<Calls>) -> Call {
    let mut calls = calls.expect("it runs on the device").calls;
    assert_eq!(calls.len(), 1, "{calls:?}");
    calls.remove(0)
}

#[test]
fn grids_are_those_that_the_contract_says() {
    let grid = |op, facts: &[Fact]| {
        let call = one(launches(op, facts, &[]));
        (call.kernel, call.grid)
    };
    let named = |name: &str, grid| (name.to_owned(), grid);
    assert_eq!(grid("Relu", &[floats(&[5, 1000])]), named("unary_relu_f32", 5));
    assert_eq!(grid("Add", &[floats(&[4, 300]), floats(&[])]), named("binary_add_f32", 2));
    assert_eq!(grid("Add", &[floats(&[4, 300]), floats(&[300])]), named("binary_strided_f32", 2));
    assert_eq!(grid("Greater", &[floats(&[7]), floats(&[7])]), named("compare_less_f32", 1));
    assert_eq!(grid("Softmax", &[floats(&[17, 30])]), named("softmax_warp_f32", 3));
    assert_eq!(grid("Softmax", &[floats(&[17, 3000])]), named("softmax_block_f32", 17));
    assert_eq!(grid("MatMul", &[floats(&[3, 65, 10]), floats(&[10, 64])]), named("gemm_f32", 4));
    assert_eq!(grid("MatMul", &[floats(&[3, 65, 10]), floats(&[3, 10, 64])]), named("gemm_f32", 6));
    assert_eq!(grid("Transpose", &[floats(&[33, 65])]), named("transpose_b4", 6));
    assert_eq!(grid("Conv", &[floats(&[2, 3, 10, 10]), floats(&[65, 3, 3, 3])]), named("conv2d_tiled_f32", 4));
    assert_eq!(grid("Conv", &[floats(&[2, 3, 10, 10]), floats(&[4, 3, 3, 3])]), named("conv2d_direct_f32", 2));
}

#[test]
fn operands_that_change_places_do() {
    let call = one(launches("Greater", &[floats(&[7]), floats(&[7])], &[]));
    assert_eq!(call.arguments[..2], [Argument::Input(1, 0), Argument::Input(0, 0)]);
}

#[test]
fn stacks_that_broadcast_are_few_launches() {
    let calls = |a: &[usize], b: &[usize]| launches("MatMul", &[floats(a), floats(b)], &[]).map(|c| c.calls.len());
    assert_eq!(calls(&[2, 3, 4, 5], &[5, 6]), Some(1), "all rows are one matrix");
    assert_eq!(calls(&[2, 3, 4, 5], &[3, 5, 6]), Some(2), "one for each of the outer axis");
    assert_eq!(calls(&[100, 3, 4, 5], &[3, 5, 6]), None, "too many for the device");
    assert_eq!(calls(&[5], &[5]), Some(1));
    assert_eq!(calls(&[2, 5], &[5]), Some(1));
    assert_eq!(calls(&[5], &[3, 5, 2]), Some(1));
}

#[test]
fn a_softmax_across_rows_turns_them_and_back() {
    let made = launches("Softmax", &[floats(&[2, 3, 4])], &[("axis", Attribute::Int(1))]).expect("it runs on the device");
    let kernels: Vec<&str> = made.calls.iter().map(|c| c.kernel.as_str()).collect();
    assert_eq!((kernels, made.scratch), (vec!["copy_strided_b4", "softmax_warp_f32", "copy_strided_b4"], vec![96]));
}

#[test]
fn slices_begin_where_they_say() {
    let ints = |values: &[i64]| Fact::constant(Tensor::from_slice(&[values.len()], values).expect("numbers").into());
    let call = one(launches("Slice", &[floats(&[10, 6]), ints(&[8]), ints(&[2]), ints(&[0]), ints(&[-2])], &[]));
    assert_eq!((call.kernel.as_str(), &call.arguments[0]), ("copy_strided_b4", &Argument::Input(0, 8 * 6 * 4)));
    let Argument::Struct(_, words) = &call.arguments[3] else { panic!("a walk comes last") };
    // Rank, sizes, strides of x: three rows from the eighth on, every second one, backwards.
    assert_eq!((words[0], words[1], words[2], words[7] as i64, words[8]), (2, 3, 6, -12, 1));
}

#[test]
fn what_has_no_kernel_is_the_hosts() {
    assert!(launches("Relu", &[Fact::concrete(DType::F64, &[3])], &[]).is_none());
    assert!(launches("Relu", &[floats(&[0, 3])], &[]).is_none(), "an empty tensor is not launched");
    assert!(launches("Softmax", &[Fact::concrete(DType::F64, &[3, 4])], &[]).is_none());
    assert!(launches("Asin", &[floats(&[3])], &[]).is_none());
}
