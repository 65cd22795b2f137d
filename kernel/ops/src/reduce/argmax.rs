//! `ArgMax`: the index of the greatest element along an axis, the first of equals (or the last, by attribute); NaN counts as
//! greatest.

use super::arg::{Arg, arg_op};
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "ArgMax",
    since: &[1, 11, 12, 13],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["axis", "keepdims", "select_last_index"],
    subgraphs: &[],
    dtypes: "floats and integers",
    build: |cx: &BuildCx<'_>| Ok(Box::new(ArgMax { arg: Arg::build(cx)? })),
};

/// The index of the greatest element.
#[derive(Debug, Clone, Copy)]
pub struct ArgMax {
    /// The axis, and whether it stays.
    pub arg: Arg,
}

arg_op!(ArgMax, |a, b| a > b);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::reduction::input;
    use crate::testing::{Case, Tolerance, from_reals, reals, spread, t};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        let axis = case.int_or("axis", 0).rem_euclid(case.tensor(0).shape().rank() as i64);
        let last = case.int_or("select_last_index", 0) != 0;
        let one = case.clone().ints("axes", &[axis]);
        let y = crate::testing::reduction::reduce(&one, |v| {
            let mut best = 0;
            for (i, x) in v.iter().enumerate() {
                if !v[best].is_nan() && (x.is_nan() || *x > v[best] || (last && *x == v[best])) {
                    best = i;
                }
            }
            best as f64
        });
        y.into_iter().map(|y| from_reals(DType::I64, y.shape(), &reals(&y))).collect()
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        rows => input(DType::F32, &[6, 5, 77]).int("axis", -1);
        columns => input(DType::F32, &[70, 7]);
        middle => input(DType::F32, &[3, 40, 5]).int("axis", 1).int("keepdims", 0);
        ties => Case::new([t(&[5], &[1.0f32, 2.0, 0.0, 2.0, 0.0])]).int("keepdims", 0);
        last_of_ties => Case::new([t(&[5], &[1.0f32, 2.0, 0.0, 2.0, 0.0])]).int("select_last_index", 1);
        nan => Case::new([t(&[2, 3], &[1.0f32, f32::NAN, 5.0, 3.0, 2.0, 3.0])]).int("axis", 1);
        ints => Case::new([spread(DType::I32, &[4, 30], 100.0, 3)]).int("axis", 1);
        f16s => Case::new([spread(DType::F16, &[4, 30], 10.0, 3)]).int("axis", 1);
        empty => Case::new([spread(DType::F32, &[0, 3], 10.0, 3)]).int("axis", 1);
    }
}
