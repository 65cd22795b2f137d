//! A product of bytes takes the scale of its sums, a bias and what follows into itself.

use super::{becomes, stays};
use crate::model::{Builder, Model, model, noise};
use millstream_graph::{Attribute, ValueId};
use millstream_tensor::Tensor;

const RULE: &[&str] = &["integer-product"];

/// Bytes of u8 around 128.
fn bytes(dims: &[usize], seed: u64) -> Tensor {
    let values: Vec<u8> = noise(dims, seed).as_slice::<f32>().expect("f32").iter().map(|x| (x * 100.0 + 128.0) as u8).collect();
    Tensor::from_slice(dims, &values).expect("as many values as elements")
}

/// A product of 2×5×6 by 6×4 as f32, without its scale.
fn product(b: &mut Builder, constant: bool, to: i64) -> ValueId {
    let (x, w) = (b.input(bytes(&[2, 5, 6], 1)), bytes(&[6, 4], 2));
    let w = if constant { b.constant(w) } else { b.input(w) };
    let zeros = [120u8, 128].map(|z| b.constant(Tensor::from_slice(&[], &[z]).expect("one element")));
    let sums = b.op("MatMulInteger", &[x, w, zeros[0], zeros[1]]);
    b.op_with("Cast", &[sums], &[("to", Attribute::Int(to))])
}

fn scaled(constant: bool, scale: &[usize]) -> Model {
    model(|b| {
        let (x, scale) = (product(b, constant, 1), b.input(noise(scale, 3)));
        b.op("Mul", &[scale, x])
    })
}

#[test]
fn the_scale_is_one_or_one_for_each_column() {
    for dims in [&[][..], &[1], &[4]] {
        becomes(RULE, &scaled(true, dims), &["FusedMatMulInteger"]);
    }
}

#[test]
fn other_scales_and_open_weights_stay() {
    for dims in [&[5, 1][..], &[2, 5, 4], &[1, 1, 1, 1]] {
        stays(RULE, &scaled(true, dims));
    }
    stays(RULE, &scaled(false, &[1]));
    stays(RULE, &model(|b| product(b, true, 1)));
}

#[test]
fn a_bias_a_residual_and_an_activation_follow() {
    let layer = |bias: &[usize]| {
        model(|b| {
            let (x, scale, bias) = (product(b, true, 1), b.input(noise(&[1], 3)), b.constant(noise(bias, 4)));
            let y = b.op("Mul", &[x, scale]);
            let y = b.op("Add", &[y, bias]);
            let other = b.input(noise(&[2, 5, 4], 5));
            let y = b.op("Add", &[other, y]);
            b.op("Sigmoid", &[y])
        })
    };
    becomes(RULE, &layer(&[4]), &["FusedMatMulInteger", "Add", "Sigmoid"]);
    becomes(&["integer-product", "residual", "activation"], &layer(&[4]), &["FusedMatMulInteger"]);
    becomes(RULE, &layer(&[5, 4]), &["FusedMatMulInteger", "Add", "Add", "Sigmoid"]);
}
