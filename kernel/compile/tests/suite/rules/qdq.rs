//! Operators between a dequantisation and a quantisation run on bytes.

use super::{becomes, only, operators, same_results};
use crate::model::{Builder, Model, floats, ints, model, noise};
use millstream_compile::Options;
use millstream_graph::{Attribute, ValueId};
use millstream_tensor::Tensor;

const RULE: &[&str] = &["quantised"];

/// Bytes of u8 around 128.
fn bytes(dims: &[usize], seed: u64) -> Tensor {
    let values: Vec<u8> = noise(dims, seed).as_slice::<f32>().expect("f32").iter().map(|x| (x * 100.0 + 128.0) as u8).collect();
    Tensor::from_slice(dims, &values).expect("as many values as elements")
}

/// Signed bytes around 0.
fn signed(dims: &[usize], seed: u64) -> Tensor {
    let values: Vec<i8> = noise(dims, seed).as_slice::<f32>().expect("f32").iter().map(|x| (x * 100.0) as i8).collect();
    Tensor::from_slice(dims, &values).expect("as many values as elements")
}

/// A scalar of u8.
fn zero(b: &mut Builder, z: u8) -> ValueId {
    b.constant(Tensor::from_slice(&[], &[z]).expect("one element"))
}

fn dequantised(b: &mut Builder, x: ValueId, scale: f32, z: u8) -> ValueId {
    let (scale, zero) = (b.scalar(scale), zero(b, z));
    b.op("DequantizeLinear", &[x, scale, zero])
}

fn quantised(b: &mut Builder, x: ValueId, scale: f32, z: u8) -> ValueId {
    let (scale, zero) = (b.scalar(scale), zero(b, z));
    b.op("QuantizeLinear", &[x, scale, zero])
}

/// Weights of four channels, with one scale or with one for each channel.
fn weights(b: &mut Builder, constant: bool, per_channel: bool) -> ValueId {
    let w = signed(&[4, 3, 3, 3], 2);
    let w = if constant { b.constant(w) } else { b.input(w) };
    let n = if per_channel { 4 } else { 1 };
    let dims: &[usize] = if per_channel { &[4] } else { &[] };
    let scales: Vec<f32> = (0..n).map(|i| 0.004 + 0.001 * i as f32).collect();
    let (scale, zero) = (b.constant(floats(dims, &scales)), b.constant(Tensor::from_slice(dims, &vec![0i8; n]).expect("zeros")));
    b.op_with("DequantizeLinear", &[w, scale, zero], &[("axis", Attribute::Int(0))])
}

/// A bias of i32 in the scale of the products, `off` times that.
fn bias(b: &mut Builder, per_channel: bool, off: f32) -> ValueId {
    let n = if per_channel { 4 } else { 1 };
    let scales: Vec<f32> = (0..n).map(|i| 0.02 * (0.004 + 0.001 * i as f32) * off).collect();
    let values = b.constant(Tensor::from_slice(&[4], &[100i32, -200, 3000, 40]).expect("four"));
    let scale = b.constant(floats(if per_channel { &[4] } else { &[] }, &scales));
    b.op_with("DequantizeLinear", &[values, scale], &[("axis", Attribute::Int(0))])
}

fn image(b: &mut Builder) -> ValueId {
    let x = b.input(bytes(&[2, 3, 6, 7], 1));
    dequantised(b, x, 0.02, 120)
}

/// A quantised convolution, perhaps with a Relu, and the zero point of the result.
fn convolution(relu: bool, z: u8, write: impl FnOnce(&mut Builder) -> Vec<ValueId>) -> Model {
    model(|b| {
        let x = image(b);
        let inputs = [vec![x], write(b)].concat();
        let mut y = b.op_with("Conv", &inputs, &[("pads", ints(&[1, 1, 1, 1]))]);
        if relu {
            y = b.op("Relu", &[y]);
        }
        quantised(b, y, 0.05, z)
    })
}

/// Holds that the rule leaves the model alone. Bytes may differ by one: sums of floats lie on either side of a half.
fn stays(model: &Model) {
    assert_eq!(operators(&model.simplified(&only(RULE))), operators(&model.simplified(&Options::none())));
}

/// Holds that the rule makes this operator of the model, and that no byte differs by more than one.
fn becomes_bytes(model: &Model, wanted: &str) {
    assert_eq!(operators(&model.simplified(&only(RULE))), [wanted]);
    let wanted = model.evaluate();
    for options in [only(RULE), Options::default(), Options::none()] {
        let found = model.run(&options);
        assert_eq!(found[0].shape(), wanted[0].shape());
        let pairs = found[0].as_slice::<u8>().expect("bytes").iter().zip(wanted[0].as_slice::<u8>().expect("bytes"));
        let (mut n, mut off) = (0, 0);
        for (a, b) in pairs {
            assert!(a.abs_diff(*b) <= 1, "{a}, expected {b}");
            n += 1;
            off += usize::from(a != b);
        }
        assert!(off * 20 <= n, "{off} of {n} bytes differ");
    }
}

#[test]
fn convolutions_run_on_bytes() {
    for per_channel in [false, true] {
        becomes_bytes(&convolution(false, 110, |b| vec![weights(b, true, per_channel)]), "QLinearConv");
        becomes_bytes(&convolution(false, 110, |b| vec![weights(b, true, per_channel), bias(b, per_channel, 1.0)]), "QLinearConv");
    }
}

#[test]
fn a_relu_is_the_lower_bound_of_the_type() {
    becomes_bytes(&convolution(true, 0, |b| vec![weights(b, true, true)]), "QLinearConv");
    stays(&convolution(true, 1, |b| vec![weights(b, true, true)]));
}

#[test]
fn weights_and_biases_that_do_not_fit_stay() {
    stays(&convolution(false, 110, |b| vec![weights(b, false, false)]));
    stays(&convolution(false, 110, |b| vec![weights(b, true, false), bias(b, false, 1.01)]));
    stays(&convolution(false, 110, |b| vec![weights(b, true, false), b.constant(noise(&[4], 3))]));
    stays(&convolution(false, 110, |b| vec![b.constant(noise(&[4, 3, 3, 3], 3))]));
}

#[test]
fn products_run_on_bytes() {
    let product = |columns: bool| {
        model(|b| {
            let x = b.input(bytes(&[2, 5, 6], 1));
            let x = dequantised(b, x, 0.02, 120);
            let w = b.constant(bytes(&[6, 4], 2));
            let w = if columns {
                let (scale, zero) = (b.constant(floats(&[4], &[0.01, 0.02, 0.03, 0.04])), b.constant(Tensor::from_slice(&[4], &[128u8; 4]).expect("four")));
                b.op_with("DequantizeLinear", &[w, scale, zero], &[("axis", Attribute::Int(1))])
            } else {
                dequantised(b, w, 0.01, 128)
            };
            let y = b.op("MatMul", &[x, w]);
            quantised(b, y, 0.03, 100)
        })
    };
    becomes_bytes(&product(false), "QLinearMatMul");
    stays(&product(true));
}

#[test]
fn sums_run_on_bytes() {
    let sum = |signed_too: bool, z: u8, relu: bool| {
        model(|b| {
            let (x, y) = (b.input(bytes(&[2, 3, 6, 7], 1)), if signed_too { b.input(signed(&[2, 3, 6, 7], 2)) } else { b.input(bytes(&[3, 6, 7], 2)) });
            let x = dequantised(b, x, 0.02, 120);
            let y = if signed_too {
                let (scale, zero) = (b.scalar(0.03), b.constant(Tensor::from_slice(&[], &[3i8]).expect("one element")));
                b.op("DequantizeLinear", &[y, scale, zero])
            } else {
                dequantised(b, y, 0.03, 131)
            };
            let mut sum = b.op("Add", &[x, y]);
            if relu {
                sum = b.op("Relu", &[sum]);
            }
            quantised(b, sum, 0.04, z)
        })
    };
    becomes_bytes(&sum(false, 117, false), "QLinearAdd");
    becomes_bytes(&sum(false, 0, true), "QLinearAdd");
    stays(&sum(false, 9, true));
    stays(&sum(true, 117, false));
}

/// An operator that moves bytes between quantisations of these scales and zero points.
fn moved(from: (f32, u8), to: (f32, u8), apply: impl Fn(&mut Builder, ValueId) -> ValueId) -> Model {
    model(|b| {
        let x = b.input(bytes(&[2, 3, 6, 7], 1));
        let x = dequantised(b, x, from.0, from.1);
        let y = apply(b, x);
        quantised(b, y, to.0, to.1)
    })
}

#[test]
fn moves_within_one_quantisation_run_on_bytes() {
    let pool = |b: &mut Builder, x| b.op_with("MaxPool", &[x], &[("kernel_shape", ints(&[3, 3])), ("pads", ints(&[1, 1, 1, 1]))]);
    let turn = |b: &mut Builder, x| b.op_with("Transpose", &[x], &[("perm", ints(&[0, 2, 3, 1]))]);
    let flat = |b: &mut Builder, x| b.op("Flatten", &[x]);
    let same = (0.02, 120);
    becomes(RULE, &moved(same, same, pool), &["MaxPool"]);
    becomes(RULE, &moved(same, same, turn), &["Transpose"]);
    becomes(RULE, &moved(same, same, flat), &["Flatten"]);
    for other in [(0.03, 120), (0.02, 121)] {
        stays(&moved(same, other, pool));
        stays(&moved(same, other, turn));
    }
    // Means are no bytes of the input.
    stays(&moved(same, same, |b, x| b.op("GlobalAveragePool", &[x])));
}

#[test]
fn floats_that_somebody_else_reads_stay() {
    for as_output in [true, false] {
        let mut b = Builder::default();
        let x = b.input(bytes(&[2, 3, 6, 7], 1));
        let x = dequantised(&mut b, x, 0.02, 120);
        let moved = b.op("Flatten", &[x]);
        let y = quantised(&mut b, moved, 0.02, 120);
        let also = if as_output { moved } else { b.op("Neg", &[moved]) };
        let model = b.outputs(&[y, also]);
        stays(&model);
        same_results(RULE, &model);
    }
}

#[test]
fn scales_that_a_run_gives_stay() {
    stays(&model(|b| {
        let (x, scale, zero) = (b.input(bytes(&[2, 6], 1)), b.input(floats(&[], &[0.02])), zero(b, 120));
        let float = b.op("DequantizeLinear", &[x, scale, zero]);
        let turned = b.op("Transpose", &[float]);
        b.op("QuantizeLinear", &[turned, scale, zero])
    }));
}
