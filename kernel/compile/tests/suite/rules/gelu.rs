//! x · ½ · (1 + erf(x / √2)), in every order.

use super::{becomes, stays};
use crate::model::{Builder, Model, floats, model, noise};
use millstream_graph::ValueId;
use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

const RULE: &[&str] = &["gelu"];

/// A binary operator whose operands are swapped by a bit of `orders`.
fn swapped(b: &mut Builder, name: &str, mut operands: [ValueId; 2], orders: usize, bit: usize) -> ValueId {
    if orders >> bit & 1 == 1 {
        operands.reverse();
    }
    b.op(name, &operands)
}

/// 1 + erf(x / √2).
fn erf_part(b: &mut Builder, x: ValueId) -> ValueId {
    let root = b.scalar(SQRT_2);
    let inner = b.op("Div", &[x, root]);
    let erf = b.op("Erf", &[inner]);
    let one = b.scalar(1.0);
    b.op("Add", &[erf, one])
}

/// The usual spelling with these constants, each of these dims.
fn spelled(dims: &[usize], root: f32, one: f32, half: f32) -> Model {
    model(|b| {
        let x = b.input(noise(&[3, 8], 1));
        let [root, one, half] = [root, one, half].map(|c| b.constant(floats(dims, &vec![c; dims.iter().product()])));
        let inner = b.op("Div", &[x, root]);
        let erf = b.op("Erf", &[inner]);
        let sum = b.op("Add", &[erf, one]);
        let product = b.op("Mul", &[x, sum]);
        b.op("Mul", &[product, half])
    })
}

#[test]
fn every_order_is_recognised() {
    for orders in 0..3 * 2 * 3 * 4 {
        let (division, sum_order, grouping, mul_orders) = (orders % 3, orders / 3 % 2, orders / 6 % 3, orders / 18);
        let model = model(|b| {
            let x = b.input(noise(&[3, 8], 1));
            let inner = if division == 0 {
                let root = b.scalar(SQRT_2);
                b.op("Div", &[x, root])
            } else {
                let root = b.scalar(FRAC_1_SQRT_2);
                swapped(b, "Mul", [x, root], division - 1, 0)
            };
            let erf = b.op("Erf", &[inner]);
            let (one, half) = (b.scalar(1.0), b.scalar(0.5));
            let sum = swapped(b, "Add", [erf, one], sum_order, 0);
            let [first, second] = [[x, sum], [x, half], [sum, half]][grouping];
            let third = [half, sum, x][grouping];
            let product = swapped(b, "Mul", [first, second], mul_orders, 0);
            swapped(b, "Mul", [product, third], mul_orders, 1)
        });
        becomes(RULE, &model, &["Gelu"]);
    }
}

#[test]
fn constants_may_have_axes_of_one_but_no_more_than_x() {
    becomes(RULE, &spelled(&[1, 1], SQRT_2, 1.0, 0.5), &["Gelu"]);
    stays(RULE, &spelled(&[1, 1, 1], SQRT_2, 1.0, 0.5));
}

#[test]
fn other_constants_stay() {
    stays(RULE, &spelled(&[], 1.5, 1.0, 0.5));
    stays(RULE, &spelled(&[], SQRT_2, 1.25, 0.5));
    stays(RULE, &spelled(&[], SQRT_2, 1.0, 0.25));
    stays(RULE, &spelled(&[8], SQRT_2, 1.0, 0.5));
}

#[test]
fn a_factor_that_is_no_constant_stays() {
    stays(
        RULE,
        &model(|b| {
            let (x, half) = (b.input(noise(&[3, 8], 1)), b.input(floats(&[], &[0.5])));
            let sum = erf_part(b, x);
            let product = b.op("Mul", &[x, sum]);
            b.op("Mul", &[product, half])
        }),
    );
}

#[test]
fn another_value_than_x_stays() {
    stays(
        RULE,
        &model(|b| {
            let (x, other, half) = (b.input(noise(&[3, 8], 1)), b.input(noise(&[3, 8], 2)), b.scalar(0.5));
            let sum = erf_part(b, x);
            let product = b.op("Mul", &[other, sum]);
            b.op("Mul", &[product, half])
        }),
    );
    stays(
        RULE,
        &model(|b| {
            let (x, root, one, half) = (b.input(noise(&[3, 8], 1)), b.scalar(SQRT_2), b.scalar(1.0), b.scalar(0.5));
            let inner = b.op("Div", &[root, x]);
            let erf = b.op("Erf", &[inner]);
            let sum = b.op("Add", &[erf, one]);
            let product = b.op("Mul", &[x, sum]);
            b.op("Mul", &[product, half])
        }),
    );
}

#[test]
fn what_somebody_else_reads_stays() {
    for taken in ["erf", "sum", "product"] {
        for as_output in [true, false] {
            let mut b = Builder::default();
            let (x, root, one, half) = (b.input(noise(&[3, 8], 1)), b.scalar(SQRT_2), b.scalar(1.0), b.scalar(0.5));
            let inner = b.op("Div", &[x, root]);
            let erf = b.op("Erf", &[inner]);
            let sum = b.op("Add", &[erf, one]);
            let product = b.op("Mul", &[x, sum]);
            let y = b.op("Mul", &[product, half]);
            let inside = [("erf", erf), ("sum", sum), ("product", product)].into_iter().find(|(n, _)| *n == taken).expect("one of them").1;
            let also = if as_output { inside } else { b.op("Neg", &[inside]) };
            stays(RULE, &b.outputs(&[y, also]));
        }
    }
}

/// The approximation by a hyperbolic tangent with these constants, its cube spelt in one of four ways.
fn tangent(root: f32, factor: f32, cube: usize) -> Model {
    model(|b| {
        let x = b.input(noise(&[3, 8], 1));
        let [root, factor, one, half, three] = [root, factor, 1.0, 0.5, 3.0].map(|c| b.scalar(c));
        let term = match cube {
            0 => {
                let inner = b.op("Mul", &[factor, x]);
                let inner = b.op("Mul", &[x, inner]);
                b.op("Mul", &[x, inner])
            }
            1 => {
                let square = b.op("Mul", &[x, x]);
                let cube = b.op("Mul", &[square, x]);
                b.op("Mul", &[cube, factor])
            }
            2 => {
                let cube = b.op("Pow", &[x, three]);
                b.op("Mul", &[cube, factor])
            }
            _ => {
                let square = b.op("Mul", &[x, x]);
                b.op("Mul", &[square, factor])
            }
        };
        let sum = b.op("Add", &[x, term]);
        let inner = b.op("Mul", &[root, sum]);
        let tanh = b.op("Tanh", &[inner]);
        let sum = b.op("Add", &[one, tanh]);
        let gate = b.op("Mul", &[half, sum]);
        b.op("Mul", &[x, gate])
    })
}

#[test]
fn the_approximation_is_recognised() {
    for cube in 0..3 {
        becomes(RULE, &tangent(0.797_884_6, 0.044_715, cube), &["Gelu"]);
    }
    stays(RULE, &tangent(0.797_884_6, 0.044_715, 3));
    stays(RULE, &tangent(0.8, 0.044_715, 0));
    stays(RULE, &tangent(0.797_884_6, 0.05, 0));
}
