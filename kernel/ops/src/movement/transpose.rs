//! `Transpose`: the input with its axes in another order; by default, reversed.
//!
//! In the order of memory that `permute` proposes no element moves: the output then is a plain copy.

use crate::movement::strided::{self, Walk};
use alloc::{boxed::Box, format, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::{Layout, MAX_RANK, Order};
use smallvec::SmallVec;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Transpose",
    since: &[1, 13, 21, 23, 24, 25],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["perm"],
    subgraphs: &[],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| {
        let Some(perm) = cx.attributes.ints("perm")? else { return Ok(Box::new(Transpose { perm: None })) };
        let axes: Option<Vec<usize>> = perm.iter().map(|&a| usize::try_from(a).ok()).collect();
        let order = axes.filter(|a| a.len() <= MAX_RANK).and_then(|a| Order::from_axes(&a));
        match order {
            Some(order) => Ok(Box::new(Transpose { perm: Some(order.axes().collect()) })),
            None => Err(BuildError::UnsupportedAttribute { name: "perm", value: format!("{perm:?}") }),
        }
    },
};

/// Axes in another order.
#[derive(Debug, Clone)]
pub struct Transpose {
    perm: Option<Vec<usize>>,
}

impl Transpose {
    /// The permutation for a value of this rank: output axis i is input axis `perm[i]`. `None` if the attribute is for another.
    pub fn permutation(&self, rank: usize) -> Option<Vec<usize>> {
        match &self.perm {
            Some(perm) => (perm.len() == rank).then(|| perm.clone()),
            None => Some((0..rank).rev().collect()),
        }
    }

    /// The transposition of this rank that keeps every axis: a copy from one memory order to another.
    pub fn identity(rank: usize) -> Transpose {
        Transpose { perm: Some((0..rank).collect()) }
    }

    /// A transposition whose output axis i is input axis `perm[i]`; `None` unless `perm` is a permutation.
    pub fn new(perm: &[usize]) -> Option<Transpose> {
        Order::from_axes(perm).map(|_| Transpose { perm: Some(perm.to_vec()) })
    }

    /// For each output axis the input axis, for inputs of rank `rank`; `None` if the operator is for another rank.
    pub fn perm(&self, rank: usize) -> Option<Vec<usize>> {
        match &self.perm {
            Some(p) => (p.len() == rank).then(|| p.clone()),
            None => Some((0..rank).rev().collect()),
        }
    }
}

impl Op for Transpose {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        let perm = self.perm(x.rank()).ok_or(InferError::Rank { input: 0, found: x.rank(), wanted: "as many axes as `perm` has" })?;
        let dims: Vec<Dim> = perm.iter().map(|&a| x.dims[a].clone()).collect();
        let known = if x.rank() < 2 { x.known.clone() } else { None };
        Ok(vec![Fact { known, ..Fact::new(x.dtype, dims) }])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let layout = cx.spec(0).ok_or(EvalError::MissingInput(0))?.layout;
        let reversed: SmallVec<[usize; MAX_RANK]> = (0..layout.shape().rank()).rev().collect();
        let perm = self.perm.as_deref().unwrap_or(&reversed);
        if perm.len() != reversed.len() {
            return Err(EvalError::Invalid("the input's rank is not that of `perm`"));
        }
        let dims = *layout.permuted(perm).shape();
        strided::make(cx, 0, 0, &dims, |from: &Layout, order| {
            let from = from.permuted(perm);
            Walk::over(&dims, &strided::signed(&from), 0, order)
        })
    }

    fn permute(&self, _cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        let order = (*inputs.first()?)?;
        let perm = self.perm(order.rank())?;
        let axes: Option<Vec<usize>> = order.axes().map(|a| perm.iter().position(|&p| p == a)).collect();
        Some(Permutation { inputs: inputs.to_vec(), outputs: vec![Order::from_axes(&axes?)?] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, random_ints, t};
    use millstream_tensor::{Bool, DType, Tensor, Value};

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let rank = x.shape().rank();
        let reversed: Vec<i64> = (0..rank as i64).rev().collect();
        let perm: Vec<usize> = case.attributes.ints("perm").unwrap().unwrap_or(&reversed).iter().map(|&a| a as usize).collect();
        let layout = x.view().layout().permuted(&perm);
        let dims = layout.shape().dims();
        if x.dtype() == DType::String {
            let s = x.as_strings().unwrap();
            return vec![Tensor::from_strings(dims, layout.offsets().map(|o| s[o].clone()).collect()).unwrap()];
        }
        let size = x.dtype().size();
        let bytes = x.view().bytes().unwrap();
        let out: Vec<u8> = layout.offsets().flat_map(|o| bytes[o * size..(o + 1) * size].to_vec()).collect();
        vec![Tensor::from_bytes(x.dtype(), dims, &out).unwrap()]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        matrix => Case::new([random(&[37, 61], 1)]);
        large_matrix => Case::new([random(&[257, 300], 1)]);
        heads => Case::new([random(&[2, 17, 3, 8], 2)]).ints("perm", &[0, 2, 1, 3]);
        keys => Case::new([random(&[2, 33, 3, 16], 3)]).ints("perm", &[0, 2, 3, 1]);
        to_channels_last => Case::new([random(&[2, 3, 20, 31], 4)]).ints("perm", &[0, 2, 3, 1]);
        to_channels_first => Case::new([random(&[2, 20, 31, 3], 4)]).ints("perm", &[0, 3, 1, 2]);
        inner_middle => Case::new([random(&[9, 4, 5, 10], 4)]).ints("perm", &[3, 1, 0, 2]);
        same => Case::new([random(&[2, 3, 4], 5)]).ints("perm", &[0, 1, 2]);
        wide_elements => Case::new([random_ints(&[40, 50], -99, 99, 6)]);
        bytes => Case::new([t(&[3, 4], &[Bool::from(true), Bool::from(false), Bool::from(true), Bool::from(true), Bool::from(false), Bool::from(false),
            Bool::from(true), Bool::from(false), Bool::from(true), Bool::from(true), Bool::from(false), Bool::from(true)])]);
        halves => Case::new([t(&[3, 11], &(0..33).collect::<Vec<u16>>())]);
        vector => Case::new([random(&[5], 5)]);
        scalar => Case::new([random(&[], 5)]);
        empty => Case::new([random(&[3, 0, 2], 5)]);
        strings => Case { inputs: vec![Some(Value::Tensor(Tensor::from_strings(&[1, 3], vec!["a".into(), "b".into(), "c".into()]).unwrap()))], ..Case::new([]) };
    }

    #[test]
    fn broken_permutations_are_refused() {
        use millstream_graph::{Attribute, Attributes};
        for perm in [vec![0, 0], vec![1, 2], vec![-1, 0], vec![0; 99]] {
            let attributes = Attributes::from_iter([("perm".into(), Attribute::Ints(perm))]);
            assert!(DEF.instantiate(13, BuildCx { version: 13, attributes: &attributes, inputs: 1, outputs: 1, subgraphs: &[] }).is_err());
        }
    }
}
