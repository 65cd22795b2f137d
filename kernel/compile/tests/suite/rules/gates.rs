//! Hard-sigmoid, hard-swish and SiLU.

use super::{becomes, stays};
use crate::model::{Builder, Model, floats, model, noise};
use millstream_graph::{Attribute, ValueId};

const RULE: &[&str] = &["hard-swish"];

/// Noise that reaches past both bounds of the gate.
fn wide(dims: &[usize], seed: u64) -> millstream_tensor::Tensor {
    let values: Vec<f32> = noise(dims, seed).as_slice::<f32>().expect("f32").iter().map(|x| x * 5.0).collect();
    floats(dims, &values)
}

fn ordered(b: &mut Builder, name: &str, x: ValueId, y: ValueId, swap: bool) -> ValueId {
    b.op(name, &if swap { [y, x] } else { [x, y] })
}

/// clip(x + term, lo, hi).
fn clipped(b: &mut Builder, x: ValueId, [term, lo, hi]: [f32; 3], swap: bool) -> ValueId {
    let [term, lo, hi] = [term, lo, hi].map(|c| b.scalar(c));
    let sum = ordered(b, "Add", x, term, swap);
    b.op("Clip", &[sum, lo, hi])
}

/// A sixth of a value: as a quotient, or as a product in either order.
fn sixth(b: &mut Builder, value: ValueId, spelling: usize) -> ValueId {
    let c = b.scalar(if spelling == 0 { 6.0 } else { 1.0 / 6.0 });
    match spelling {
        0 => b.op("Div", &[value, c]),
        _ => ordered(b, "Mul", value, c, spelling == 2),
    }
}

#[test]
fn hard_sigmoid_is_recognised() {
    for (swap, spelling) in (0..6).map(|i| (i % 2 == 1, i / 2)) {
        let model = model(|b| {
            let x = b.input(wide(&[3, 8], 1));
            let clip = clipped(b, x, [3.0, 0.0, 6.0], swap);
            sixth(b, clip, spelling)
        });
        becomes(RULE, &model, &["HardSigmoid"]);
    }
}

#[test]
fn hard_swish_is_recognised_in_every_order() {
    for order in 0..24 {
        let (swap_sum, swap_gate, gate_last, spelling) = (order % 2 == 1, order / 2 % 2 == 1, order / 4 % 2 == 1, order / 8);
        let model = model(|b| {
            let x = b.input(wide(&[3, 8], 1));
            let clip = clipped(b, x, [3.0, 0.0, 6.0], swap_sum);
            if gate_last {
                let gate = sixth(b, clip, spelling);
                ordered(b, "Mul", x, gate, swap_gate)
            } else {
                let product = ordered(b, "Mul", x, clip, swap_gate);
                sixth(b, product, spelling)
            }
        });
        becomes(RULE, &model, &["HardSwish"]);
    }
}

#[test]
fn a_gate_with_the_slope_of_a_sixth_is_hard_swish() {
    let gated = |alpha: f32, beta: f32| {
        model(|b| {
            let x = b.input(wide(&[3, 8], 1));
            let gate = b.op_with("HardSigmoid", &[x], &[("alpha", Attribute::Float(alpha)), ("beta", Attribute::Float(beta))]);
            b.op("Mul", &[gate, x])
        })
    };
    becomes(RULE, &gated(1.0 / 6.0, 0.5), &["HardSwish"]);
    stays(RULE, &gated(0.2, 0.5));
    stays(RULE, &gated(1.0 / 6.0, 0.4));
}

#[test]
fn other_constants_stay() {
    for constants in [[2.0, 0.0, 6.0], [3.0, 1.0, 6.0], [3.0, 0.0, 5.0]] {
        stays(
            RULE,
            &model(|b| {
                let x = b.input(wide(&[3, 8], 1));
                let clip = clipped(b, x, constants, false);
                sixth(b, clip, 0)
            }),
        );
    }
    // 6 / clip(…) is no sixth.
    stays(
        RULE,
        &model(|b| {
            let (x, six) = (b.input(noise(&[3, 8], 1)), b.scalar(6.0));
            let clip = clipped(b, x, [3.0, 0.0, 6.0], false);
            b.op("Div", &[six, clip])
        }),
    );
}

#[test]
fn bounds_that_a_run_gives_stay() {
    stays(
        RULE,
        &model(|b| {
            let (x, three, lo, hi) = (b.input(wide(&[3, 8], 1)), b.scalar(3.0), b.scalar(0.0), b.input(floats(&[], &[6.0])));
            let sum = b.op("Add", &[x, three]);
            let clip = b.op("Clip", &[sum, lo, hi]);
            sixth(b, clip, 0)
        }),
    );
}

#[test]
fn constants_that_add_an_axis_stay() {
    stays(
        RULE,
        &model(|b| {
            let (x, three, lo, hi) = (b.input(wide(&[3, 8], 1)), b.constant(floats(&[1, 1, 1], &[3.0])), b.scalar(0.0), b.scalar(6.0));
            let sum = b.op("Add", &[x, three]);
            let clip = b.op("Clip", &[sum, lo, hi]);
            sixth(b, clip, 0)
        }),
    );
}

/// x · clip(x + 3, 0, 6) / 6 with one more output: the clipped value, or the product.
fn shared(of_clip: bool, as_output: bool) -> Model {
    let mut b = Builder::default();
    let x = b.input(wide(&[3, 8], 1));
    let clip = clipped(&mut b, x, [3.0, 0.0, 6.0], false);
    let product = b.op("Mul", &[x, clip]);
    let y = sixth(&mut b, product, 0);
    let inside = if of_clip { clip } else { product };
    let also = if as_output { inside } else { b.op("Neg", &[inside]) };
    b.outputs(&[y, also])
}

#[test]
fn what_somebody_else_reads_stays() {
    for (of_clip, as_output) in [(true, true), (true, false), (false, true), (false, false)] {
        stays(RULE, &shared(of_clip, as_output));
    }
}

#[test]
fn a_gate_on_another_value_keeps_the_product() {
    let model = model(|b| {
        let (x, other) = (b.input(wide(&[3, 8], 1)), b.input(wide(&[3, 8], 2)));
        let clip = clipped(b, x, [3.0, 0.0, 6.0], false);
        let gate = sixth(b, clip, 0);
        b.op("Mul", &[other, gate])
    });
    becomes(RULE, &model, &["HardSigmoid", "Mul"]);
}

#[test]
fn silu_is_recognised_where_the_gate_is_its_own() {
    let silu = |swap: bool, on_itself: bool| {
        model(|b| {
            let (x, other) = (b.input(wide(&[3, 8], 1)), b.input(wide(&[3, 8], 2)));
            let gate = b.op("Sigmoid", &[x]);
            ordered(b, "Mul", if on_itself { x } else { other }, gate, swap)
        })
    };
    for swap in [false, true] {
        becomes(&["silu"], &silu(swap, true), &["Swish"]);
        stays(&["silu"], &silu(swap, false));
    }
}

#[test]
fn a_gate_that_somebody_else_reads_stays() {
    for as_output in [true, false] {
        let mut b = Builder::default();
        let x = b.input(wide(&[3, 8], 1));
        let gate = b.op("Sigmoid", &[x]);
        let y = b.op("Mul", &[x, gate]);
        let also = if as_output { gate } else { b.op("Neg", &[gate]) };
        stays(&["silu"], &b.outputs(&[y, also]));
    }
    // The square of a sigmoid reads it twice.
    stays(
        &["silu"],
        &model(|b| {
            let x = b.input(wide(&[3, 8], 1));
            let gate = b.op("Sigmoid", &[x]);
            b.op("Mul", &[gate, gate])
        }),
    );
}
