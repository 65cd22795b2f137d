//! `GRU`: a recurrent layer with update and reset gates, in f32.
//!
//! ```text
//! z = f(Xₜ·Wzᵀ + H·Rzᵀ + bz)      r = f(Xₜ·Wrᵀ + H·Rrᵀ + br)
//! n = g(Xₜ·Whᵀ + (r ∘ H)·Rhᵀ + bh)              or, with linear_before_reset, g(Xₜ·Whᵀ + Wbh + r ∘ (H·Rhᵀ + Rbh))
//! H = (1 − z) ∘ n + z ∘ H
//! ```

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
    name: "GRU",
    since: &[7, 14, 22],
    inputs: Arity::range(3, 6),
    outputs: Arity::range(0, 2),
    attributes: &["activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "layout", "linear_before_reset"],
    subgraphs: &[],
    dtypes: "f32",
    build: |cx: &BuildCx<'_>| {
        let linear = cx.attributes.flag_or("linear_before_reset", false)?;
        layer::build(cx, &[Activation::Sigmoid, Activation::Tanh], |activations, clip| Gru { activations, clip, linear })
    },
};

#[derive(Debug)]
struct Gru {
    /// For each direction: gates, hidden state.
    activations: Vec<Vec<Activation>>,
    clip: f32,
    /// The reset gate scales the product with R, not the hidden state before it.
    linear: bool,
}

impl Cell for Gru {
    const GATES: usize = 3;
    const GROUPS: &'static [usize] = &[2, 1];
    const MEMORY: bool = false;

    fn joined_biases(&self) -> usize {
        if self.linear { 2 } else { 3 }
    }

    #[inline(always)]
    fn step<S: Simd>(&self, s: S, direction: usize, group: usize, row: Row<'_>) {
        let [f, g] = self.activations[direction][..] else { return };
        let n = row.h.len();
        let (gates, new) = row.gates.split_at_mut(2 * n);
        let (pre, pre_new) = row.pre.split_at(2 * n);
        if group == 0 {
            gates.iter_mut().zip(pre).for_each(|(x, p)| *x += p);
            activate(s, f, self.clip, gates);
            row.mid.copy_from_slice(row.h);
            if !self.linear {
                row.mid.iter_mut().zip(&gates[n..]).for_each(|(m, r)| *m *= r);
            }
            return;
        }
        let (z, r) = gates.split_at(n);
        if self.linear {
            new.iter_mut().zip(r).for_each(|(x, r)| *x *= r);
        }
        new.iter_mut().zip(pre_new).for_each(|(x, p)| *x += p);
        activate(s, g, self.clip, new);
        row.h.iter_mut().zip(z).zip(&*new).for_each(|((h, z), n)| *h = (1.0 - z) * n + z * *h);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, recurrent::Oracle, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let oracle = Oracle::new(case, 3, &[Activation::Sigmoid, Activation::Tanh]);
        let linear = case.int_or("linear_before_reset", 0) != 0;
        let n = oracle.hidden;
        oracle.run(false, |cell, x, h, _| {
            let gate = |k: usize, j: usize| cell.act(0, cell.x(k, j, x) + cell.r(k, j, h) + cell.bias(k, j) + cell.bias(3 + k, j));
            let reset: Vec<f32> = (0..n).map(|j| gate(1, j) * h[j]).collect();
            (0..n)
                .map(|j| {
                    let inner = if linear { gate(1, j) * (cell.r(2, j, h) + cell.bias(5, j)) } else { cell.r(2, j, &reset) + cell.bias(5, j) };
                    let new = cell.act(1, cell.x(2, j, x) + cell.bias(2, j) + inner);
                    let z = gate(0, j);
                    (1.0 - z) * new + z * h[j]
                })
                .collect()
        })
    }

    fn case(steps: usize, batch: usize, input: usize, hidden: usize, directions: usize) -> Case {
        Case::new([
            random(&[steps, batch, input], 1),
            random(&[directions, 3 * hidden, input], 2),
            random(&[directions, 3 * hidden, hidden], 3),
            random(&[directions, 6 * hidden], 4),
        ])
        .outputs(2)
        .int("hidden_size", hidden as i64)
    }

    op_tests! { DEF, reference, Tolerance { rel: 1e-4, abs: 2e-5 };
        forward => case(5, 2, 3, 7, 1);
        linear => case(5, 2, 3, 7, 1).int("linear_before_reset", 1).constant(1).constant(2);
        both => case(4, 3, 6, 5, 2).string("direction", "bidirectional").input(t(&[3], &[4i32, 1, 3])).input(random(&[2, 3, 5], 5));
        batch_first => case(2, 4, 3, 5, 1).int("layout", 1).int("linear_before_reset", 1).string("direction", "reverse").float("clip", 0.4);
    }
}
