//! Bias, factor and transposes around a product of matrices.

use super::{becomes, same_results, stays};
use crate::model::{Builder, Model, ints, model, noise};
use millstream_graph::ValueId;

/// A product to 2×5×7.
fn product(b: &mut Builder) -> ValueId {
    let (x, w) = (b.input(noise(&[2, 5, 6], 1)), b.constant(noise(&[6, 7], 2)));
    b.op("MatMul", &[x, w])
}

/// `name` applied to a product and a constant of these dims.
fn followed(name: &str, dims: &[usize], swap: bool) -> Model {
    model(|b| {
        let (y, c) = (product(b), b.constant(noise(dims, 3)));
        b.op(name, &if swap { [c, y] } else { [y, c] })
    })
}

#[test]
fn a_bias_is_a_constant_over_the_columns() {
    for swap in [false, true] {
        becomes(&["bias"], &followed("Add", &[7], swap), &["FusedMatMul"]);
        for dims in [&[1][..], &[5, 1], &[5, 7], &[1, 7], &[2, 1, 1], &[3, 1, 1, 7]] {
            stays(&["bias"], &followed("Add", dims, swap));
        }
    }
    stays(
        &["bias"],
        &model(|b| {
            let (y, bias) = (product(b), b.input(noise(&[7], 3)));
            b.op("Add", &[y, bias])
        }),
    );
    stays(&["bias"], &followed("Sub", &[7], false));
}

#[test]
fn there_is_one_bias() {
    let model = model(|b| {
        let (y, one, two) = (product(b), b.constant(noise(&[7], 3)), b.constant(noise(&[7], 4)));
        let y = b.op("Add", &[y, one]);
        b.op("Add", &[two, y])
    });
    becomes(&["bias"], &model, &["FusedMatMul", "Add"]);
}

#[test]
fn a_factor_is_a_constant_of_one_element() {
    for dims in [&[][..], &[1], &[1, 1, 1]] {
        becomes(&["scale"], &followed("Mul", dims, false), &["FusedMatMul"]);
        becomes(&["scale"], &followed("Mul", dims, true), &["FusedMatMul"]);
        becomes(&["scale"], &followed("Div", dims, false), &["FusedMatMul"]);
        stays(&["scale"], &followed("Div", dims, true));
    }
    for dims in [&[7][..], &[5, 1], &[1, 1, 1, 1]] {
        stays(&["scale"], &followed("Mul", dims, false));
        stays(&["scale"], &followed("Div", dims, false));
    }
    stays(
        &["scale"],
        &model(|b| {
            let (y, c) = (product(b), b.input(noise(&[], 3)));
            b.op("Mul", &[y, c])
        }),
    );
}

#[test]
fn division_by_zero_stays() {
    stays(
        &["scale"],
        &model(|b| {
            let (y, c) = (product(b), b.scalar(0.0));
            b.op("Div", &[y, c])
        }),
    );
}

#[test]
fn factors_multiply_and_come_before_the_bias() {
    let model = model(|b| {
        let (y, two, three, bias) = (product(b), b.scalar(2.0), b.scalar(3.0), b.constant(noise(&[7], 4)));
        let y = b.op("Mul", &[y, two]);
        let y = b.op("Div", &[y, three]);
        let y = b.op("Add", &[y, bias]);
        b.op("Mul", &[y, two])
    });
    becomes(&["scale", "bias"], &model, &["FusedMatMul", "Mul"]);
}

#[test]
fn transposed_operands_are_read_where_they_lie() {
    for (a, b_perm) in [(Some([0, 2, 1]), None), (None, Some([0, 2, 1])), (Some([0, 2, 1]), Some([0, 2, 1])), (Some([1, 0, 2]), Some([2, 1, 0]))] {
        let model = model(|b| {
            let mut operand = |dims: [usize; 3], perm: Option<[i64; 3]>, seed| {
                let mut before = dims;
                if let Some(perm) = perm {
                    perm.iter().zip(dims).for_each(|(&p, d)| before[p as usize] = d);
                }
                let x = b.input(noise(&before, seed));
                perm.map_or(x, |p| b.op_with("Transpose", &[x], &[("perm", ints(&p))]))
            };
            let pair = [operand([2, 5, 6], a, 1), operand([2, 6, 7], b_perm, 2)];
            b.op("MatMul", &pair)
        });
        becomes(&["transpose"], &model, &["FusedMatMul"]);
    }
}

#[test]
fn a_transposed_operand_that_others_read_is_made_for_them() {
    let mut b = Builder::default();
    let (x, w) = (b.input(noise(&[6, 5], 1)), b.constant(noise(&[6, 7], 2)));
    let turned = b.op("Transpose", &[x]);
    let y = b.op("MatMul", &[turned, w]);
    becomes(&["transpose"], &b.outputs(&[y, turned]), &["Transpose", "FusedMatMul"]);
}

fn turned(perm: &[i64]) -> Model {
    model(|b| {
        let (x, w) = (b.input(noise(&[2, 3, 5, 6], 1)), b.input(noise(&[2, 3, 6, 7], 2)));
        let y = b.op("MatMul", &[x, w]);
        b.op_with("Transpose", &[y], &[("perm", ints(perm))])
    })
}

#[test]
fn a_transposed_result_is_written_so_while_columns_stay_together() {
    for perm in [[0, 2, 1, 3], [1, 0, 2, 3], [2, 1, 0, 3]] {
        becomes(&["transpose"], &turned(&perm), &["FusedMatMul"]);
    }
    for perm in [[0, 1, 3, 2], [3, 1, 2, 0]] {
        stays(&["transpose"], &turned(&perm));
    }
}

#[test]
fn a_result_that_others_read_stays() {
    for as_output in [true, false] {
        let mut b = Builder::default();
        let (x, w) = (b.input(noise(&[2, 3, 6], 1)), b.input(noise(&[2, 6, 7], 2)));
        let (bias, half) = (b.constant(noise(&[7], 3)), b.scalar(0.5));
        let y = b.op("MatMul", &[x, w]);
        let (sum, scaled) = (b.op("Add", &[y, bias]), b.op("Mul", &[y, half]));
        let turned = b.op_with("Transpose", &[y], &[("perm", ints(&[1, 0, 2]))]);
        let outputs = if as_output { vec![y, sum] } else { vec![sum, scaled, turned] };
        stays(&["bias", "scale", "transpose"], &b.outputs(&outputs));
    }
}

/// Everything at once, as in attention: turned operands, a factor, a bias, a turned result, a residual in its dims.
#[test]
fn all_that_surrounds_a_product_fuses() {
    let model = model(|b| {
        let (x, w, other) = (b.input(noise(&[2, 5, 3, 6], 1)), b.input(noise(&[2, 3, 7, 6], 2)), b.input(noise(&[2, 5, 3, 7], 3)));
        let (half, bias) = (b.scalar(0.5), b.constant(noise(&[7], 4)));
        let x = b.op_with("Transpose", &[x], &[("perm", ints(&[0, 2, 1, 3]))]);
        let w = b.op_with("Transpose", &[w], &[("perm", ints(&[0, 1, 3, 2]))]);
        let y = b.op("MatMul", &[x, w]);
        let y = b.op("Mul", &[y, half]);
        let y = b.op("Add", &[y, bias]);
        let y = b.op_with("Transpose", &[y], &[("perm", ints(&[0, 2, 1, 3]))]);
        let y = b.op("Add", &[other, y]);
        b.op("Relu", &[y])
    });
    becomes(&["bias", "scale", "transpose", "residual", "activation"], &model, &["FusedMatMul"]);
}

#[test]
fn operands_of_unequal_rank_and_vectors_give_the_same() {
    let rules = &["bias", "scale", "transpose"];
    for (a, b_dims) in [(&[6][..], &[6, 7][..]), (&[5, 6], &[6]), (&[5, 6], &[2, 3, 6, 7]), (&[2, 3, 5, 6], &[6, 7]), (&[6], &[2, 6, 7])] {
        let reversed = |dims: &[usize]| dims.iter().rev().copied().collect::<Vec<_>>();
        let model = model(|b| {
            let (x, w) = (b.input(noise(&reversed(a), 1)), b.input(noise(&reversed(b_dims), 2)));
            let (x, w, half) = (b.op("Transpose", &[x]), b.op("Transpose", &[w]), b.scalar(0.5));
            let y = b.op("MatMul", &[x, w]);
            let y = b.op("Mul", &[y, half]);
            let columns = if b_dims.len() > 1 { 7 } else { 5 };
            let bias = b.constant(noise(&[columns], 3));
            let y = b.op("Add", &[y, bias]);
            b.op("Transpose", &[y])
        });
        same_results(rules, &model);
    }
}
