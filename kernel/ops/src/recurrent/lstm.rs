//! `LSTM`: a recurrent layer with input, output and forget gates and a cell state, in f32.
//!
//! ```text
//! i = f(Xₜ·Wiᵀ + H·Riᵀ + Pi ∘ C + bi)      f' = f(… Pf ∘ C …)      g = g(Xₜ·Wcᵀ + H·Rcᵀ + bc)
//! C = f' ∘ C + i ∘ g      o = f(… Po ∘ C …)      H = o ∘ h(C)
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
    name: "LSTM",
    since: &[7, 14, 22],
    inputs: Arity::range(3, 8),
    outputs: Arity::range(0, 3),
    attributes: &["activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget", "layout"],
    subgraphs: &[],
    dtypes: "f32",
    build: |cx: &BuildCx<'_>| {
        let coupled = cx.attributes.flag_or("input_forget", false)?;
        layer::build(cx, &[Activation::Sigmoid, Activation::Tanh, Activation::Tanh], |activations, clip| Lstm { activations, clip, coupled })
    },
};

#[derive(Debug)]
struct Lstm {
    /// For each direction: gates, cell input, hidden state.
    activations: Vec<Vec<Activation>>,
    clip: f32,
    /// The forget gate is one minus the input gate.
    coupled: bool,
}

impl Cell for Lstm {
    const GATES: usize = 4;
    const GROUPS: &'static [usize] = &[4];
    const MEMORY: bool = true;

    #[inline(always)]
    fn step<S: Simd>(&self, s: S, direction: usize, _group: usize, row: Row<'_>) {
        let [f, g, h] = self.activations[direction][..] else { return };
        let n = row.h.len();
        let Row { gates, pre, c, .. } = row;
        gates.iter_mut().zip(pre).for_each(|(x, p)| *x += p);
        let (i, rest) = gates.split_at_mut(n);
        let (o, rest) = rest.split_at_mut(n);
        let (forget, new) = rest.split_at_mut(n);
        let peephole = |gate: &mut [f32], which: usize, c: &[f32]| {
            if let Some(p) = row.peepholes.get(which * n..(which + 1) * n) {
                gate.iter_mut().zip(p).zip(c).for_each(|((x, p), c)| *x += p * c);
            }
        };
        peephole(i, 0, c);
        activate(s, f, self.clip, i);
        if self.coupled {
            forget.iter_mut().zip(&*i).for_each(|(x, i)| *x = 1.0 - i);
        } else {
            peephole(forget, 2, c);
            activate(s, f, self.clip, forget);
        }
        activate(s, g, self.clip, new);
        for ((c, forget), (i, new)) in c.iter_mut().zip(&*forget).zip(i.iter().zip(&*new)) {
            *c = forget * *c + i * new;
        }
        peephole(o, 1, c);
        activate(s, f, self.clip, o);
        new.copy_from_slice(c);
        h.run(s, new);
        row.h.iter_mut().zip(&*o).zip(&*new).for_each(|((h, o), c)| *h = o * c);
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
        let oracle = Oracle::new(case, 4, &[Activation::Sigmoid, Activation::Tanh, Activation::Tanh]);
        let coupled = case.int_or("input_forget", 0) != 0;
        let n = oracle.hidden;
        oracle.run(true, |cell, x, h, c| {
            let gate = |k: usize, j: usize| cell.x(k, j, x) + cell.r(k, j, h) + cell.bias(k, j) + cell.bias(4 + k, j);
            let old = c.to_vec();
            let mut out = vec![0.0; n];
            for j in 0..n {
                let i = cell.act(0, gate(0, j) + cell.peephole(0, j) * old[j]);
                let f = if coupled { 1.0 - i } else { cell.act(0, gate(2, j) + cell.peephole(2, j) * old[j]) };
                c[j] = f * old[j] + i * cell.act(1, gate(3, j));
                let o = cell.act(0, gate(1, j) + cell.peephole(1, j) * c[j]);
                out[j] = o * cell.activation(2, c[j]);
            }
            out
        })
    }

    fn case(steps: usize, batch: usize, input: usize, hidden: usize, directions: usize) -> Case {
        let scaled = |dims: &[usize], seed| random(dims, seed);
        Case::new([scaled(&[steps, batch, input], 1), scaled(&[directions, 4 * hidden, input], 2), scaled(&[directions, 4 * hidden, hidden], 3)])
            .outputs(3)
            .int("hidden_size", hidden as i64)
    }

    fn with_bias(case: Case, hidden: usize, directions: usize) -> Case {
        case.input(random(&[directions, 8 * hidden], 4))
    }

    op_tests! { DEF, reference, Tolerance { rel: 1e-4, abs: 2e-5 };
        forward => case(5, 2, 3, 7, 1);
        packed => with_bias(case(3, 1, 20, 33, 1), 33, 1).constant(1).constant(2);
        reverse => with_bias(case(5, 2, 3, 4, 1), 4, 1).string("direction", "reverse");
        both => with_bias(case(4, 3, 6, 5, 2), 5, 2).string("direction", "bidirectional").constant(2);
        states => with_bias(case(3, 2, 4, 5, 1), 5, 1).input(None).input(random(&[1, 2, 5], 5)).input(random(&[1, 2, 5], 6)).input(random(&[1, 15], 7));
        lengths => with_bias(case(5, 3, 4, 5, 2), 5, 2).string("direction", "bidirectional").input(t(&[3], &[2i32, 5, 0]));
        batch_first => with_bias(Case { inputs: case(2, 4, 3, 5, 2).inputs, ..case(2, 4, 3, 5, 2) }, 5, 2).string("direction", "bidirectional").int("layout", 1)
            .input(t(&[2], &[2i32, 4])).input(random(&[2, 2, 5], 5)).input(random(&[2, 2, 5], 6));
        coupled_and_clipped => with_bias(case(4, 2, 4, 5, 1), 5, 1).int("input_forget", 1).float("clip", 0.5);
        named => with_bias(case(4, 2, 4, 5, 1), 5, 1).attr("activations", Attribute::Strings(vec!["HardSigmoid".into(), "Softsign".into(), "LeakyRelu".into()]))
            .attr("activation_alpha", Attribute::Floats(vec![0.3, 0.1])).attr("activation_beta", Attribute::Floats(vec![0.4]));
        no_steps => case(0, 2, 3, 4, 1);
        no_batch => case(3, 0, 3, 4, 1);
    }
}
