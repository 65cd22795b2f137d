//! A residual and an activation are applied where the product is computed.

use super::{becomes, stays};
use crate::model::{Builder, Model, floats, ints, model, noise};
use millstream_graph::{Attribute, ValueId};

const RESIDUAL: &[&str] = &["residual"];
const ACTIVATION: &[&str] = &["activation"];

/// A convolution that keeps 2×4×5×6.
fn conv(b: &mut Builder) -> ValueId {
    let (x, w, bias) = (b.input(noise(&[2, 4, 5, 6], 1)), b.constant(noise(&[4, 4, 3, 3], 2)), b.constant(noise(&[4], 3)));
    b.op_with("Conv", &[x, w, bias], &[("pads", ints(&[1, 1, 1, 1]))])
}

fn product(b: &mut Builder) -> ValueId {
    let (x, w) = (b.input(noise(&[2, 5, 6], 1)), b.constant(noise(&[6, 7], 2)));
    b.op("MatMul", &[x, w])
}

/// The dims of both products, a product, and its operator once something is fused into it.
type Case = (&'static [usize], fn(&mut Builder) -> ValueId, &'static str, &'static str);
const CASES: [Case; 2] = [(&[2, 4, 5, 6], conv, "Conv", "FusedConv"), (&[2, 5, 7], product, "MatMul", "FusedMatMul")];

#[test]
fn a_residual_is_added_in_either_order() {
    for (dims, make, _, fused) in CASES {
        for swap in [false, true] {
            let model = model(|b| {
                let (y, other) = (make(b), b.input(noise(dims, 9)));
                b.op("Add", &if swap { [other, y] } else { [y, other] })
            });
            becomes(RESIDUAL, &model, &[fused]);
        }
    }
}

#[test]
fn of_two_products_one_is_the_residual() {
    for (_, make, plain, fused) in CASES {
        let model = model(|b| {
            let pair = [make(b), make(b)];
            b.op("Add", &pair)
        });
        becomes(RESIDUAL, &model, &[plain, fused]);
    }
}

#[test]
fn a_term_that_is_stretched_stays() {
    for (dims, make, ..) in CASES {
        let mut narrow = dims.to_vec();
        narrow[0] = 1;
        let wide = [&[3], dims].concat();
        for other in [&narrow[..], &dims[dims.len() - 1..], &[], &wide] {
            stays(
                RESIDUAL,
                &model(|b| {
                    let (y, other) = (make(b), b.input(noise(other, 9)));
                    b.op("Add", &[y, other])
                }),
            );
        }
    }
}

#[test]
fn a_constant_term_and_the_double_stay() {
    for (dims, make, ..) in CASES {
        stays(
            RESIDUAL,
            &model(|b| {
                let (y, other) = (make(b), b.constant(noise(dims, 9)));
                b.op("Add", &[y, other])
            }),
        );
        stays(
            RESIDUAL,
            &model(|b| {
                let y = make(b);
                b.op("Add", &[y, y])
            }),
        );
    }
}

/// Every activation that a product knows.
fn activations() -> Vec<(&'static str, Vec<(&'static str, Attribute)>)> {
    vec![
        ("Relu", vec![]),
        ("Sigmoid", vec![]),
        ("Tanh", vec![]),
        ("HardSwish", vec![]),
        ("HardSigmoid", vec![("alpha", Attribute::Float(0.3)), ("beta", Attribute::Float(0.4))]),
        ("LeakyRelu", vec![("alpha", Attribute::Float(0.2))]),
        ("Gelu", vec![]),
        ("Gelu", vec![("approximate", Attribute::String("tanh".into()))]),
    ]
}

#[test]
fn activations_are_applied_by_the_product() {
    for (_, make, _, fused) in CASES {
        for (name, attributes) in activations() {
            let model = model(|b| {
                let y = make(b);
                b.op_with(name, &[y], &attributes)
            });
            becomes(ACTIVATION, &model, &[fused]);
        }
    }
}

fn clip(make: fn(&mut Builder) -> ValueId, bounds: [Option<f32>; 2], constant: bool) -> Model {
    model(|b| {
        let y = make(b);
        let mut bound = |x: Option<f32>| x.map(|x| if constant { b.scalar(x) } else { b.input(floats(&[], &[x])) });
        let inputs = vec![Some(y), bound(bounds[0]), bound(bounds[1])];
        b.node(13, "Clip", inputs, &[], vec![], 1)[0]
    })
}

#[test]
fn constant_bounds_clip_in_the_product() {
    for (_, make, _, fused) in CASES {
        for bounds in [[Some(-0.5), Some(0.5)], [Some(0.0), None], [None, Some(0.25)], [Some(0.5), Some(-0.5)]] {
            becomes(ACTIVATION, &clip(make, bounds, true), &[fused]);
            stays(ACTIVATION, &clip(make, bounds, false));
        }
    }
}

#[test]
fn a_product_that_is_a_bound_stays() {
    stays(
        ACTIVATION,
        &model(|b| {
            let (row, column, x) = (b.input(noise(&[1, 4], 1)), b.input(noise(&[4, 1], 2)), b.input(noise(&[3], 3)));
            let y = b.op("MatMul", &[row, column]);
            b.op("Clip", &[x, y])
        }),
    );
}

#[test]
fn one_product_has_one_activation() {
    for (_, make, _, fused) in CASES {
        let model = model(|b| {
            let y = make(b);
            let y = b.op("Relu", &[y]);
            b.op("Tanh", &[y])
        });
        becomes(ACTIVATION, &model, &[fused, "Tanh"]);
    }
}

#[test]
fn the_residual_comes_before_the_activation_and_not_after() {
    for (dims, make, _, fused) in CASES {
        let chain = |residual_first: bool| {
            model(|b| {
                let (y, other) = (make(b), b.input(noise(dims, 9)));
                let mut y = if residual_first { b.op("Add", &[y, other]) } else { b.op("Relu", &[y]) };
                y = if residual_first { b.op("Relu", &[y]) } else { b.op("Add", &[y, other]) };
                y
            })
        };
        becomes(&["residual", "activation"], &chain(true), &[fused]);
        becomes(&["residual", "activation"], &chain(false), &[fused, "Add"]);
    }
}

#[test]
fn what_somebody_else_reads_stays() {
    for (dims, make, ..) in CASES {
        for as_output in [true, false] {
            let mut b = Builder::default();
            let (y, other) = (make(&mut b), b.input(noise(dims, 9)));
            let (sum, active) = (b.op("Add", &[y, other]), b.op("Relu", &[y]));
            let outputs = if as_output { vec![sum, y] } else { vec![sum, active] };
            stays(&["residual", "activation"], &b.outputs(&outputs));
        }
    }
}

#[test]
fn products_of_vectors_give_the_same() {
    for (a, b_dims) in [(&[6][..], &[6, 7][..]), (&[5, 6], &[6]), (&[6], &[6]), (&[2, 6], &[3, 6, 7])] {
        let model = model(|b| {
            let (x, w) = (b.input(noise(a, 1)), b.input(noise(b_dims, 2)));
            let y = b.op("MatMul", &[x, w]);
            let dims = match (a.len(), b_dims.len()) {
                (1, 2) => vec![7],
                (2, 1) => vec![5],
                (1, 1) => vec![],
                _ => vec![3, 2, 7],
            };
            let other = b.input(noise(&dims, 3));
            let y = b.op("Add", &[y, other]);
            b.op("Relu", &[y])
        });
        super::same_results(&["residual", "activation"], &model);
    }
}
