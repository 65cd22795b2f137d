//! `ReduceSum`: the sum of elements, along some axes.

use super::{
    axes::{ATTRIBUTES, Axes},
    kernel::{Kind, reduce_op},
};
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "ReduceSum",
    since: &[1, 11, 13],
    inputs: Arity::range(1, 2),
    outputs: Arity::exactly(1),
    attributes: ATTRIBUTES,
    subgraphs: &[],
    dtypes: "floats and integers",
    build: |cx: &BuildCx<'_>| Ok(Box::new(ReduceSum { axes: Axes::build(cx)? })),
};

/// The sum of elements.
#[derive(Debug, Clone)]
pub struct ReduceSum {
    /// The axes, and whether they stay.
    pub axes: Axes,
}

reduce_op!(ReduceSum, Kind::Sum);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::reduction::{input, reduce};
    use crate::testing::{Case, Tolerance, t};
    use alloc::vec;
    use alloc::vec::Vec;
    use millstream_graph::{Dim, Fact, InferCx, Op, Symbol};
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        reduce(case, |v| v.iter().sum::<f64>())
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
        ints => input(DType::I64, &[3, 4]).ints("axes", &[1]).version(11);
        nothing => input(DType::F32, &[2, 0, 3]).ints("axes", &[1]).version(11);
    }

    #[test]
    fn symbolic_vectors_reduce() {
        let n = Dim::symbol(Symbol::new("n"));
        let x = Fact::of_dims(DType::I64, vec![Dim::from(2), n.clone(), Dim::from(3)], false);
        let op = ReduceSum { axes: Axes { axes: None, keepdims: false, noop: false } };
        let out = op.infer(&InferCx { path: "", inputs: &[Some(&x)], outputs: 1 }).unwrap();
        assert_eq!(out[0].int_dims(), Some(vec![Dim::from(5).add(&n)]));
    }
}
