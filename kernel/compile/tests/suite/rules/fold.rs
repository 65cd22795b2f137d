//! What depends on constants alone is computed once.

use super::{becomes, stays};
use crate::model::{Builder, floats, integers, model, noise};
use millstream_compile::Options;

const RULE: &[&str] = &["fold-constants"];

#[test]
fn chains_of_constants_become_one() {
    let model = model(|b| {
        let (x, c, d) = (b.input(noise(&[3, 4], 1)), b.constant(noise(&[3, 4], 2)), b.constant(noise(&[4], 3)));
        let sum = b.op("Add", &[c, d]);
        let root = b.op("Exp", &[sum]);
        b.op("Mul", &[x, root])
    });
    becomes(RULE, &model, &["Mul"]);
}

#[test]
fn a_constant_output_keeps_its_name() {
    let mut b = Builder::default();
    let (x, c) = (b.input(noise(&[3], 1)), b.constant(noise(&[3], 2)));
    let (y, constant) = (b.op("Neg", &[x]), b.op("Neg", &[c]));
    let model = b.outputs(&[y, constant]);
    becomes(RULE, &model, &["Neg"]);
    let graph = model.simplified(&Options::default());
    assert_eq!(graph.value(graph.outputs()[1]).name, model.graph.value(constant).name);
}

#[test]
fn shapes_of_known_dims_are_constants() {
    let reshaped = |known: bool| {
        model(|b| {
            let (x, y) = (noise(&[3, 4], 1), b.input(noise(&[12], 2)));
            let x = if known { b.input(x) } else { b.dynamic_input(x) };
            let shape = b.op("Shape", &[x]);
            b.op("Reshape", &[y, shape])
        })
    };
    becomes(RULE, &reshaped(true), &["Reshape"]);
    stays(RULE, &reshaped(false));
}

#[test]
fn what_an_input_reaches_stays() {
    stays(
        RULE,
        &model(|b| {
            let (x, c) = (b.input(noise(&[3, 4], 1)), b.constant(noise(&[4], 2)));
            b.op("Add", &[x, c])
        }),
    );
}

/// A file of few bytes must not become a constant of many: only small results, or such as are not much larger than what they
/// were made of, are kept.
#[test]
fn large_results_of_small_constants_stay() {
    let expanded = |rows: i64| {
        model(|b| {
            let (x, c, shape) = (b.input(noise(&[64], 1)), b.constant(noise(&[64], 2)), b.constant(integers(&[2], &[rows, 64])));
            let wide = b.op("Expand", &[c, shape]);
            b.op("Add", &[x, wide])
        })
    };
    becomes(RULE, &expanded(256), &["Add"]);
    stays(RULE, &expanded(257));
}

#[test]
fn an_operator_that_fails_stays_for_the_run_to_report() {
    let model = model(|b| {
        let (x, c, indices) = (b.input(noise(&[1], 1)), b.constant(noise(&[3], 2)), b.constant(integers(&[1], &[7])));
        let picked = b.op("Gather", &[c, indices]);
        b.op("Add", &[x, picked])
    });
    assert_eq!(super::operators(&model.simplified(&super::only(RULE))), ["Gather", "Add"]);
}

#[test]
fn folded_scalars_are_recognised_by_other_rules() {
    let model = model(|b| {
        let (x, w, c) = (b.input(noise(&[3, 4], 1)), b.constant(noise(&[4, 5], 2)), b.constant(floats(&[], &[4.0])));
        let half = b.op("Sqrt", &[c]);
        let y = b.op("MatMul", &[x, w]);
        b.op("Div", &[y, half])
    });
    becomes(&["fold-constants", "scale"], &model, &["FusedMatMul"]);
}
