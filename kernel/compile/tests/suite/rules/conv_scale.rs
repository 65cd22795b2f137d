//! What follows a convolution channel by channel goes into its weights.

use super::{becomes, stays};
use crate::model::{Builder, Model, floats, ints, model, noise};
use millstream_graph::{Attribute, ValueId};
use millstream_tensor::Tensor;

const RULE: &[&str] = &["conv-scale"];

/// A convolution of 2×6×5×7 to four channels.
fn conv(b: &mut Builder, bias: bool) -> ValueId {
    let x = b.input(noise(&[2, 6, 5, 7], 1));
    let mut inputs = vec![x, b.constant(noise(&[4, 6, 3, 3], 2))];
    if bias {
        inputs.push(b.constant(noise(&[4], 3)));
    }
    b.op("Conv", &inputs)
}

fn positive(dims: &[usize], seed: u64) -> Tensor {
    let values: Vec<f32> = noise(dims, seed).as_slice::<f32>().expect("f32").iter().map(|x| x + 1.5).collect();
    floats(dims, &values)
}

fn batch_norm(b: &mut Builder, y: ValueId) -> ValueId {
    let parameters = [noise(&[4], 4), noise(&[4], 5), noise(&[4], 6), positive(&[4], 7)].map(|t| b.constant(t));
    b.op_with("BatchNormalization", &[&[y], &parameters[..]].concat(), &[("epsilon", Attribute::Float(1e-3))])
}

/// `name` applied to a convolution and a constant of these dims.
fn followed(name: &str, dims: &[usize], swap: bool) -> Model {
    model(|b| {
        let y = conv(b, true);
        let c = b.constant(noise(dims, 8));
        b.op(name, &if swap { [c, y] } else { [y, c] })
    })
}

#[test]
fn batch_normalisation_goes_into_the_weights() {
    for bias in [false, true] {
        becomes(
            RULE,
            &model(|b| {
                let y = conv(b, bias);
                batch_norm(b, y)
            }),
            &["Conv"],
        );
    }
}

#[test]
fn batch_normalisation_goes_into_transposed_weights() {
    for group in [1, 2] {
        becomes(
            RULE,
            &model(|b| {
                let x = b.input(noise(&[2, 6, 5, 7], 1));
                let w = b.constant(noise(&[6, 4 / group, 2, 3], 2));
                let y = b.op_with("ConvTranspose", &[x, w], &[("strides", ints(&[2, 2])), ("group", Attribute::Int(group as i64))]);
                batch_norm(b, y)
            }),
            &["ConvTranspose"],
        );
    }
}

#[test]
fn factors_and_terms_go_into_the_weights() {
    for (name, swap) in [("Mul", false), ("Mul", true), ("Add", false), ("Add", true)] {
        for dims in [&[][..], &[1], &[1, 1, 1, 1], &[4, 1, 1], &[1, 4, 1, 1]] {
            becomes(RULE, &followed(name, dims, swap), &["Conv"]);
        }
    }
}

#[test]
fn constants_that_differ_within_a_channel_stay() {
    for name in ["Mul", "Add"] {
        for dims in [&[5][..], &[3, 1], &[3, 5], &[4, 3, 5], &[2, 1, 1, 1], &[2, 4, 1, 1], &[1, 1, 4, 1, 1]] {
            stays(RULE, &followed(name, dims, false));
        }
    }
}

#[test]
fn chains_fold_one_after_the_other() {
    let model = model(|b| {
        let y = conv(b, false);
        let y = batch_norm(b, y);
        let (scale, shift) = (b.constant(noise(&[4, 1, 1], 8)), b.constant(noise(&[1, 4, 1, 1], 9)));
        let y = b.op("Mul", &[scale, y]);
        b.op("Add", &[y, shift])
    });
    becomes(RULE, &model, &["Conv"]);
}

#[test]
fn grouped_and_one_dimensional_convolutions_fold() {
    let grouped = model(|b| {
        let (x, w) = (b.input(noise(&[2, 6, 5, 7], 1)), b.constant(noise(&[4, 3, 3, 3], 2)));
        let y = b.op_with("Conv", &[x, w], &[("group", Attribute::Int(2)), ("pads", ints(&[1, 1, 1, 1]))]);
        batch_norm(b, y)
    });
    becomes(RULE, &grouped, &["Conv"]);
    let one_dimensional = model(|b| {
        let (x, w, scale) = (b.input(noise(&[2, 6, 9], 1)), b.constant(noise(&[4, 6, 3], 2)), b.constant(noise(&[4, 1], 3)));
        let y = b.op("Conv", &[x, w]);
        let y = b.op("Mul", &[y, scale]);
        batch_norm(b, y)
    });
    becomes(RULE, &one_dimensional, &["Conv"]);
}

#[test]
fn weights_and_parameters_that_a_run_gives_stay() {
    stays(
        RULE,
        &model(|b| {
            let (x, w) = (b.input(noise(&[2, 6, 5, 7], 1)), b.input(noise(&[4, 6, 3, 3], 2)));
            let y = b.op("Conv", &[x, w]);
            batch_norm(b, y)
        }),
    );
    stays(
        RULE,
        &model(|b| {
            let (x, w, bias) = (b.input(noise(&[2, 6, 5, 7], 1)), b.constant(noise(&[4, 6, 3, 3], 2)), b.input(noise(&[4], 3)));
            let y = b.op("Conv", &[x, w, bias]);
            batch_norm(b, y)
        }),
    );
    stays(
        RULE,
        &model(|b| {
            let (y, scale) = (conv(b, true), b.input(noise(&[4, 1, 1], 3)));
            b.op("Mul", &[y, scale])
        }),
    );
}

#[test]
fn what_somebody_else_reads_stays() {
    for as_output in [true, false] {
        let mut b = Builder::default();
        let y = conv(&mut b, true);
        let normalised = batch_norm(&mut b, y);
        let also = if as_output { y } else { b.op("Neg", &[y]) };
        stays(RULE, &b.outputs(&[normalised, also]));
    }
}
