//! `ReduceMean`: the mean of elements, along some axes.

use super::{
    axes::{ATTRIBUTES, Axes},
    kernel::{Kind, reduce_op},
};
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "ReduceMean",
    since: &[1, 11, 13, 18],
    inputs: Arity::range(1, 2),
    outputs: Arity::exactly(1),
    attributes: ATTRIBUTES,
    subgraphs: &[],
    dtypes: "floats and integers",
    build: |cx: &BuildCx<'_>| Ok(Box::new(ReduceMean { axes: Axes::build(cx)? })),
};

/// The mean of elements.
#[derive(Debug, Clone)]
pub struct ReduceMean {
    /// The axes, and whether they stay.
    pub axes: Axes,
}

reduce_op!(ReduceMean, Kind::Mean);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::reduction::{input, reduce};
    use crate::testing::{Case, Tolerance, t};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        reduce(case, |v| v.iter().sum::<f64>() / v.len() as f64)
    }

    op_tests! { DEF, reference, Tolerance::SUM;
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
    }
}
