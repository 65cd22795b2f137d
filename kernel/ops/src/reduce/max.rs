//! `ReduceMax`: the greatest element; NaN if one is, along some axes.

use super::{
    axes::{ATTRIBUTES, Axes},
    kernel::{Kind, reduce_op},
};
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "ReduceMax",
    since: &[1, 11, 12, 13, 18, 20],
    inputs: Arity::range(1, 2),
    outputs: Arity::exactly(1),
    attributes: ATTRIBUTES,
    subgraphs: &[],
    dtypes: "floats and integers, bool",
    build: |cx: &BuildCx<'_>| Ok(Box::new(ReduceMax { axes: Axes::build(cx)? })),
};

/// The greatest element; NaN if one is.
#[derive(Debug, Clone)]
pub struct ReduceMax {
    /// The axes, and whether they stay.
    pub axes: Axes,
}

reduce_op!(ReduceMax, Kind::Max);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::reduction::{input, reduce};
    use crate::testing::{Case, Tolerance, t};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        reduce(case, |v| v.iter().fold(f64::NEG_INFINITY, |a, &b| if a.is_nan() || a > b { a } else { b }))
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        all => input(DType::F32, &[2, 3, 5, 7]);
        rows => input(DType::F32, &[6, 5, 77]).ints("axes", &[-1]).version(11);
        columns => input(DType::F32, &[77, 70]).ints("axes", &[0]).version(11);
        space => input(DType::F32, &[2, 70, 5, 3]).ints("axes", &[2, 3]).int("keepdims", 0).version(11);
        middle => input(DType::F32, &[3, 4, 5, 6]).ints("axes", &[1]).int("keepdims", 0).version(11);
        outer_and_inner => input(DType::F32, &[3, 4, 5, 6]).ints("axes", &[0, 3]).version(11);
        axes_input => input(DType::F32, &[3, 4, 5]).input(t(&[2], &[0i64, -1]));
        no_axes => input(DType::F32, &[3, 4, 5]).input(t(&[0], &[0i64; 0])).int("keepdims", 0);
        noop => input(DType::F32, &[3, 4]).int("noop_with_empty_axes", 1);
        scalar => input(DType::F32, &[]);
        f64s => input(DType::F64, &[3, 40]).ints("axes", &[1]).version(11);
        f16s => input(DType::F16, &[3, 4]).ints("axes", &[0]).version(11);
        ints => input(DType::I64, &[3, 4]).ints("axes", &[1]).version(11);
        nothing => input(DType::F32, &[2, 0, 3]).ints("axes", &[1]).version(11);
    }
}
