//! `Identity`: its input, whatever kind of value that is.

use crate::movement::flat;
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::Order;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Identity",
    since: &[1, 13, 14, 16, 19, 21, 23, 24, 25],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "any",
    build: |_: &BuildCx<'_>| Ok(Box::new(Identity)),
};

/// Its input.
#[derive(Debug, Clone, Copy)]
pub struct Identity;

impl Op for Identity {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        Ok(vec![cx.input(0)?.clone()])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        match cx.spec(0) {
            Some(spec) => flat::copy(cx, 0, spec.shape()),
            None => {
                let value = cx.value(0)?;
                cx.set_value(0, value)
            }
        }
    }

    fn is_alias(&self) -> bool {
        true
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn permute(&self, _cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        Some(Permutation { inputs: inputs.to_vec(), outputs: vec![(*inputs.first()?)?] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, random_ints};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        vec![case.tensor(0).clone()]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        floats => Case::new([random(&[2, 3, 4, 5], 1)]);
        integers => Case::new([random_ints(&[30_000], -9, 9, 2)]);
        empty => Case::new([random(&[0, 3], 1)]);
        strings => Case::new([Tensor::from_strings(&[2], vec!["a".into(), "b".into()]).unwrap()]);
    }
}
