//! `RNN`: the plain recurrent layer H = f(Xₜ·Wᵀ + H·Rᵀ + b), in f32.

use super::{
    activation::Activation,
    layer::{self, Cell, Row, activate},
};
use alloc::vec::Vec;
use millstream_graph::{Arity, BuildCx, OpDef};
use millstream_simd::Simd;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "RNN",
    since: &[7, 14, 22],
    inputs: Arity::range(3, 6),
    outputs: Arity::range(0, 2),
    attributes: &["activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "layout"],
    subgraphs: &[],
    dtypes: "f32",
    build: |cx: &BuildCx<'_>| layer::build(cx, &[Activation::Tanh], |activations, clip| Rnn { activations, clip }),
};

#[derive(Debug)]
struct Rnn {
    /// For each direction, one.
    activations: Vec<Vec<Activation>>,
    clip: f32,
}

impl Cell for Rnn {
    const GATES: usize = 1;
    const GROUPS: &'static [usize] = &[1];
    const MEMORY: bool = false;

    #[inline(always)]
    fn step<S: Simd>(&self, s: S, direction: usize, _group: usize, row: Row<'_>) {
        row.h.iter_mut().zip(&*row.gates).zip(row.pre).for_each(|((h, r), x)| *h = r + x);
        activate(s, self.activations[direction][0], self.clip, row.h);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, recurrent::Oracle, t};
    use alloc::vec;
    use millstream_graph::Attribute;
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let oracle = Oracle::new(case, 1, &[Activation::Tanh]);
        let n = oracle.hidden;
        oracle.run(false, |cell, x, h, _| (0..n).map(|j| cell.act(0, cell.x(0, j, x) + cell.r(0, j, h) + cell.bias(0, j) + cell.bias(1, j))).collect())
    }

    fn case(steps: usize, batch: usize, input: usize, hidden: usize, directions: usize) -> Case {
        Case::new([
            random(&[steps, batch, input], 1),
            random(&[directions, hidden, input], 2),
            random(&[directions, hidden, hidden], 3),
            random(&[directions, 2 * hidden], 4),
        ])
        .outputs(2)
        .int("hidden_size", hidden as i64)
    }

    op_tests! { DEF, reference, Tolerance { rel: 1e-4, abs: 2e-5 };
        forward => case(5, 2, 3, 7, 1);
        both => case(4, 3, 6, 5, 2).string("direction", "bidirectional").input(t(&[3], &[4i32, 1, 3])).input(random(&[2, 3, 5], 5)).constant(1);
        batch_first => case(2, 4, 3, 5, 1).int("layout", 1).attr("activations", Attribute::Strings(vec!["Relu".into()]));
    }
}
