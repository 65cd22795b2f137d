//! Nodes that give what they get.

use super::{becomes, stays};
use crate::model::{Builder, integers, ints, model, noise};
use millstream_compile::Options;

const RULE: &[&str] = &["drop-identity"];

#[test]
fn operators_that_change_nothing_go() {
    let model = model(|b| {
        let (x, shape) = (b.input(noise(&[3, 4], 1)), b.constant(integers(&[2], &[3, 4])));
        let a = b.op("Neg", &[x]);
        let a = b.op("Identity", &[a]);
        let a = b.op("Reshape", &[a, shape]);
        let a = b.op("Flatten", &[a]);
        let a = b.op("Identity", &[a]);
        b.op("Exp", &[a])
    });
    becomes(RULE, &model, &["Neg", "Exp"]);
}

#[test]
fn other_dims_stay() {
    stays(
        RULE,
        &model(|b| {
            let (x, shape) = (b.input(noise(&[3, 4], 1)), b.constant(integers(&[2], &[4, 3])));
            let a = b.op("Reshape", &[x, shape]);
            b.op("Exp", &[a])
        }),
    );
    // A transpose of a square has the same dims and moves elements.
    stays(
        RULE,
        &model(|b| {
            let x = b.input(noise(&[3, 3], 1));
            let a = b.op_with("Transpose", &[x], &[("perm", ints(&[1, 0]))]);
            b.op("Exp", &[a])
        }),
    );
}

#[test]
fn dims_that_only_a_run_tells_stay() {
    stays(
        RULE,
        &model(|b| {
            let (x, shape) = (b.dynamic_input(noise(&[3, 4], 1)), b.constant(integers(&[2], &[3, 4])));
            let a = b.op("Reshape", &[x, shape]);
            b.op("Exp", &[a])
        }),
    );
}

#[test]
fn an_output_keeps_its_name_and_place() {
    let model = model(|b| {
        let x = b.input(noise(&[3, 4], 1));
        let a = b.op("Neg", &[x]);
        b.op("Identity", &[a])
    });
    becomes(RULE, &model, &["Neg"]);
    let name = |g: &millstream_graph::Graph| g.value(g.outputs()[0]).name.clone();
    assert_eq!(name(&model.simplified(&Options::default())), name(&model.graph));
}

#[test]
fn outputs_that_need_a_producer_of_their_own_stay() {
    // An input that is an output as well.
    stays(
        RULE,
        &model(|b| {
            let x = b.input(noise(&[3, 4], 1));
            b.op("Identity", &[x])
        }),
    );
    // One value under two names.
    let mut b = Builder::default();
    let x = b.input(noise(&[3, 4], 1));
    let y = b.op("Neg", &[x]);
    let (same, again) = (b.op("Identity", &[y]), b.op("Identity", &[y]));
    stays(RULE, &b.outputs(&[y, same, again]));
}

#[test]
fn of_two_copies_that_are_outputs_one_stays() {
    let mut b = Builder::default();
    let x = b.input(noise(&[3, 4], 1));
    let y = b.op("Neg", &[x]);
    let outputs = [b.op("Identity", &[y]), b.op("Identity", &[y])];
    becomes(RULE, &b.outputs(&outputs), &["Neg", "Identity"]);
}
