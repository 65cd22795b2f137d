//! Layer normalisation over the last axis, written out.

use super::{becomes, stays};
use crate::model::{Builder, floats, integers, ints, model, noise};
use millstream_graph::ValueId;

const RULE: &[&str] = &["layer-norm"];

/// How a normalisation is written out.
#[derive(Clone, Copy)]
struct Spelling {
    /// d · d instead of Pow(d, 2).
    square_by_product: bool,
    /// 0: a quotient; 1: a product with the reciprocal; 2: a product with 1 / √….
    division: usize,
    /// d is computed twice.
    two_differences: bool,
    /// Axes are an attribute, as up to opset 17.
    axes_as_attribute: bool,
    /// Operands of sums and products are swapped.
    swap: bool,
    /// The axis of both means.
    axes: [i64; 2],
    /// The exponent.
    exponent: f32,
}

const USUAL: Spelling =
    Spelling { square_by_product: false, division: 0, two_differences: false, axes_as_attribute: false, swap: false, axes: [-1, -1], exponent: 2.0 };

/// What stands inside of a normalisation.
struct Parts {
    mean: ValueId,
    d: ValueId,
    squares: ValueId,
    variance: ValueId,
    root: ValueId,
    y: ValueId,
}

fn swapped(b: &mut Builder, s: &Spelling, name: &str, x: ValueId, y: ValueId) -> ValueId {
    b.op(name, &if s.swap { [y, x] } else { [x, y] })
}

fn mean(b: &mut Builder, s: &Spelling, x: ValueId, axis: i64) -> ValueId {
    if s.axes_as_attribute {
        return b.node(13, "ReduceMean", vec![Some(x)], &[("axes", ints(&[axis]))], vec![], 1)[0];
    }
    let axes = b.constant(integers(&[1], &[axis]));
    b.op("ReduceMean", &[x, axes])
}

fn normalised(b: &mut Builder, s: &Spelling, x: ValueId) -> Parts {
    let m = mean(b, s, x, s.axes[0]);
    let d = b.op("Sub", &[x, m]);
    let squares = if s.square_by_product {
        b.op("Mul", &[d, d])
    } else {
        let two = b.scalar(s.exponent);
        b.op("Pow", &[d, two])
    };
    let variance = mean(b, s, squares, s.axes[1]);
    let epsilon = b.scalar(1e-3);
    let sum = swapped(b, s, "Add", variance, epsilon);
    let root = b.op("Sqrt", &[sum]);
    let over = if s.two_differences { b.op("Sub", &[x, m]) } else { d };
    let y = match s.division {
        0 => b.op("Div", &[over, root]),
        1 => {
            let reciprocal = b.op("Reciprocal", &[root]);
            swapped(b, s, "Mul", over, reciprocal)
        }
        _ => {
            let one = b.scalar(1.0);
            let reciprocal = b.op("Div", &[one, root]);
            swapped(b, s, "Mul", over, reciprocal)
        }
    };
    Parts { mean: m, d, squares, variance, root, y }
}

#[test]
fn every_spelling_is_recognised() {
    for bits in 0..2 * 3 * 2 * 2 * 2 * 2 {
        let bit = |weight: usize| bits / 3 / weight % 2 == 1;
        let s = Spelling {
            square_by_product: bit(1),
            division: bits % 3,
            two_differences: bit(2),
            axes_as_attribute: bit(4),
            swap: bit(8),
            axes: if bit(16) { [-1, 2] } else { [2, -1] },
            ..USUAL
        };
        let model = model(|b| {
            let x = b.input(noise(&[2, 3, 8], 1));
            let (scale, bias) = (b.constant(noise(&[8], 2)), b.constant(noise(&[8], 3)));
            let y = normalised(b, &s, x).y;
            let scaled = swapped(b, &s, "Mul", y, scale);
            swapped(b, &s, "Add", scaled, bias)
        });
        becomes(RULE, &model, &["LayerNormalization"]);
    }
}

#[test]
fn scale_and_bias_may_be_missing() {
    let with = |scale: Option<&[usize]>, bias: Option<&[usize]>| {
        model(|b| {
            let x = b.input(noise(&[2, 3, 8], 1));
            let mut y = normalised(b, &USUAL, x).y;
            for (name, dims) in [("Mul", scale), ("Add", bias)] {
                if let Some(dims) = dims {
                    let c = b.constant(noise(dims, 5));
                    y = b.op(name, &[y, c]);
                }
            }
            y
        })
    };
    becomes(RULE, &with(None, None), &["LayerNormalization"]);
    becomes(RULE, &with(Some(&[8]), None), &["LayerNormalization"]);
    becomes(RULE, &with(None, Some(&[8])), &["LayerNormalization"]);
    // Those that are no vector over the last axis follow as they were.
    becomes(RULE, &with(Some(&[3, 8]), Some(&[8])), &["LayerNormalization", "Mul", "Add"]);
    becomes(RULE, &with(Some(&[8]), Some(&[3, 1])), &["LayerNormalization", "Add"]);
    becomes(RULE, &with(Some(&[1, 1, 1, 8]), None), &["LayerNormalization", "Mul"]);
}

#[test]
fn only_the_last_dim_has_to_be_known() {
    let normalisation = |project: bool| {
        model(|b| {
            let mut x = b.dynamic_input(noise(&[2, 3, 8], 1));
            if project {
                let weights = b.constant(noise(&[8, 8], 4));
                x = b.op("MatMul", &[x, weights]);
            }
            let (scale, bias) = (b.constant(noise(&[8], 2)), b.constant(noise(&[8], 3)));
            let y = normalised(b, &USUAL, x).y;
            let scaled = b.op("Mul", &[y, scale]);
            b.op("Add", &[scaled, bias])
        })
    };
    becomes(RULE, &normalisation(true), &["MatMul", "LayerNormalization"]);
    // An extent of 1 would be stretched to the scale's 8.
    stays(RULE, &normalisation(false));
}

#[test]
fn other_axes_and_constants_stay() {
    let spelled = |s: Spelling| {
        model(|b| {
            let x = b.input(noise(&[2, 8, 8], 1));
            normalised(b, &s, x).y
        })
    };
    stays(RULE, &spelled(Spelling { axes: [1, 1], ..USUAL }));
    stays(RULE, &spelled(Spelling { axes: [1, 2], ..USUAL }));
    stays(RULE, &spelled(Spelling { axes: [2, 1], ..USUAL }));
    stays(RULE, &spelled(Spelling { exponent: 4.0, ..USUAL }));
}

#[test]
fn an_epsilon_that_is_no_scalar_stays() {
    stays(
        RULE,
        &model(|b| {
            let (x, epsilon) = (b.input(noise(&[2, 3, 8], 1)), b.constant(floats(&[3, 1], &[0.1, 0.2, 0.3])));
            let axes = b.constant(integers(&[1], &[-1]));
            let m = b.op("ReduceMean", &[x, axes]);
            let d = b.op("Sub", &[x, m]);
            let squares = b.op("Mul", &[d, d]);
            let variance = b.op("ReduceMean", &[squares, axes]);
            let sum = b.op("Add", &[variance, epsilon]);
            let root = b.op("Sqrt", &[sum]);
            b.op("Div", &[d, root])
        }),
    );
}

#[test]
fn the_deviation_of_another_value_stays() {
    stays(
        RULE,
        &model(|b| {
            let (x, other) = (b.input(noise(&[2, 3, 8], 1)), b.input(noise(&[2, 3, 8], 2)));
            let (here, there) = (normalised(b, &USUAL, x), normalised(b, &USUAL, other));
            let crossed = [b.op("Div", &[here.d, there.root]), b.op("Div", &[there.d, here.root])];
            b.op("Add", &crossed)
        }),
    );
}

/// The mean and the differences may be read by others: they are computed for those.
#[test]
fn what_somebody_else_reads_stays() {
    let shared = |pick: fn(&Parts) -> ValueId, as_output: bool| {
        let mut b = Builder::default();
        let x = b.input(noise(&[2, 3, 8], 1));
        let parts = normalised(&mut b, &USUAL, x);
        let inside = pick(&parts);
        let also = if as_output { inside } else { b.op("Neg", &[inside]) };
        b.outputs(&[parts.y, also])
    };
    for as_output in [true, false] {
        stays(RULE, &shared(|p| p.squares, as_output));
        stays(RULE, &shared(|p| p.variance, as_output));
        stays(RULE, &shared(|p| p.root, as_output));
    }
    becomes(RULE, &shared(|p| p.mean, true), &["ReduceMean", "LayerNormalization"]);
    becomes(RULE, &shared(|p| p.d, true), &["ReduceMean", "Sub", "LayerNormalization"]);
}
