//! `Scatter`: the old name of `ScatterElements`, without reductions.

use super::scatter_elements::ScatterElements;
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Scatter",
    since: &[9, 11],
    inputs: Arity::exactly(3),
    outputs: Arity::exactly(1),
    attributes: &["axis"],
    subgraphs: &[],
    dtypes: "any; indices i32, i64",
    build: |cx: &BuildCx<'_>| Ok(Box::new(ScatterElements::along(cx.attributes.int_or("axis", 0)?))),
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, t};
    use alloc::{vec, vec::Vec};
    use millstream_tensor::Tensor;

    fn reference(_: &Case) -> Vec<Tensor> {
        vec![t(&[1, 5], &[1.0f32, 1.1, 3.0, 2.1, 5.0])]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        along_the_axis => Case::new([t(&[1, 5], &[1.0f32, 2.0, 3.0, 4.0, 5.0]), t(&[1, 2], &[1i64, 3]), t(&[1, 2], &[1.1f32, 2.1])]).int("axis", 1);
    }
}
