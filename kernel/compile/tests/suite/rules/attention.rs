//! Attention: two products around a softmax, with the heads' transposes, a factor and a mask.

use super::{becomes, stays};
use crate::model::{Builder, Model, ints, model, noise};
use millstream_graph::{Attribute, ValueId};

const RULES: &[&str] = &["transpose", "scale", "attention"];

/// What is written around the scores.
struct Spelling {
    /// The operator of the factor.
    factor: &'static str,
    /// Dims of a mask, if there is one, and whether it comes first in the sum.
    mask: Option<(&'static [usize], bool)>,
    axis: i64,
}

const PLAIN: Spelling = Spelling { factor: "Mul", mask: None, axis: -1 };

/// Heads of 4 elements: queries of length 5, keys and values of length 6, as projections leave them.
fn attention(b: &mut Builder, spelling: &Spelling) -> ValueId {
    let mut heads = |length: usize, perm: &[i64], seed| {
        let x = b.input(noise(&[2, length, 3, 4], seed));
        b.op_with("Transpose", &[x], &[("perm", ints(perm))])
    };
    let (q, k, v) = (heads(5, &[0, 2, 1, 3], 1), heads(6, &[0, 2, 3, 1], 2), heads(6, &[0, 2, 1, 3], 3));
    let scores = b.op("MatMul", &[q, k]);
    let factor = b.scalar(if spelling.factor == "Div" { 2.0 } else { 0.5 });
    let mut scores = b.op(spelling.factor, &[scores, factor]);
    if let Some((dims, first)) = spelling.mask {
        let mask = b.input(noise(dims, 4));
        scores = b.op("Add", &if first { [mask, scores] } else { [scores, mask] });
    }
    let weights = b.op_with("Softmax", &[scores], &[("axis", Attribute::Int(spelling.axis))]);
    let y = b.op("MatMul", &[weights, v]);
    b.op_with("Transpose", &[y], &[("perm", ints(&[0, 2, 1, 3]))])
}

fn spelt(spelling: Spelling) -> Model {
    model(|b| attention(b, &spelling))
}

#[test]
fn scores_of_heads_are_fused() {
    for factor in ["Mul", "Div"] {
        becomes(RULES, &spelt(Spelling { factor, ..PLAIN }), &["FusedAttention"]);
    }
    becomes(RULES, &spelt(Spelling { axis: 3, ..PLAIN }), &["FusedAttention"]);
}

#[test]
fn masks_are_added() {
    let masks: [&'static [usize]; 6] = [&[2, 3, 5, 6], &[2, 1, 5, 6], &[2, 1, 1, 6], &[5, 6], &[6], &[1]];
    for dims in masks {
        for first in [false, true] {
            becomes(RULES, &spelt(Spelling { mask: Some((dims, first)), ..PLAIN }), &["FusedAttention"]);
        }
    }
    // A mask of the scores' dims may be the product's residual already.
    let names = ["transpose", "scale", "attention", "residual"];
    becomes(&names, &spelt(Spelling { mask: Some((&[2, 3, 5, 6], false)), ..PLAIN }), &["FusedAttention"]);
}

#[test]
fn other_axes_stay() {
    for axis in [1, 2, -2] {
        becomes(RULES, &spelt(Spelling { axis, ..PLAIN }), &["FusedMatMul", "Softmax", "FusedMatMul"]);
    }
}

#[test]
fn weights_that_others_read_stay() {
    let model = model(|b| {
        let (q, k, v) = (b.input(noise(&[3, 5, 4], 1)), b.input(noise(&[3, 4, 6], 2)), b.input(noise(&[3, 6, 6], 3)));
        let scores = b.op("MatMul", &[q, k]);
        let weights = b.op_with("Softmax", &[scores], &[("axis", Attribute::Int(-1))]);
        let y = b.op("MatMul", &[weights, v]);
        b.op("Add", &[y, weights])
    });
    stays(&["attention"], &model);
}

#[test]
fn constant_values_stay() {
    let model = model(|b| {
        let (q, k, v) = (b.input(noise(&[3, 5, 4], 1)), b.input(noise(&[3, 4, 6], 2)), b.constant(noise(&[6, 7], 3)));
        let scores = b.op("MatMul", &[q, k]);
        let weights = b.op_with("Softmax", &[scores], &[("axis", Attribute::Int(-1))]);
        b.op("MatMul", &[weights, v])
    });
    stays(&["attention"], &model);
}
