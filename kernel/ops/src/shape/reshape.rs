//! `Reshape`: the same elements under other dims. A 0 copies the input's dim (unless `allowzero`), one −1 is what remains.

use crate::{movement::flat, shape::relabel};
use alloc::{boxed::Box, format, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::{DType, Order};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Reshape",
    since: &[5, 13, 14, 19, 21, 23, 24, 25],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &["allowzero"],
    subgraphs: &[],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| Ok(Box::new(Reshape { allow_zero: cx.attributes.flag_or("allowzero", false)? })),
};

/// The same elements under the dims that input 1 gives.
#[derive(Debug, Clone, Copy)]
pub struct Reshape {
    allow_zero: bool,
}

impl Reshape {
    /// The output's dims, where `wanted` may hold 0 and −1.
    fn target(&self, x: &[Dim], wanted: &[Dim]) -> Result<Vec<Dim>, InferError> {
        let mut dims = Vec::with_capacity(wanted.len());
        let mut open = None;
        for (i, d) in wanted.iter().enumerate() {
            match d.as_const() {
                Some(-1) if open.is_some() => return Err(InferError::Invalid("the shape holds -1 twice")),
                Some(-1) => {
                    open = Some(i);
                    dims.push(Dim::from(1));
                }
                Some(0) if !self.allow_zero => {
                    dims.push(x.get(i).cloned().ok_or(InferError::Invalid("a 0 in the shape has no axis of the input to copy"))?);
                }
                Some(n) if n < 0 => return Err(InferError::Invalid("the shape holds a number below -1")),
                _ => dims.push(d.clone()),
            }
        }
        let (have, mut rest) = (Dim::product(x), Dim::product(&dims));
        if let Some(i) = open {
            if let (Some(h), Some(r)) = (have.as_const(), rest.as_const())
                && (r == 0 || h % r != 0)
            {
                // A -1 beside a dim of 0 could be anything: `cancel` takes what it is for any other extent of that dim.
                if r != 0 || h != 0 {
                    return Err(InferError::Mismatch { what: "elements do not fit the shape", left: format!("{h}"), right: format!("{r}") });
                }
            }
            dims[i] = cancel(x, &dims, i).unwrap_or_else(|| have.div_floor(&rest));
            rest = Dim::product(&dims);
        }
        if let (Some(h), Some(r)) = (have.as_const(), rest.as_const())
            && h != r
        {
            return Err(InferError::Mismatch { what: "elements do not fit the shape", left: format!("{h}"), right: format!("{r}") });
        }
        Ok(dims)
    }
}

/// What remains of `x` for the open dim `open` when every other dim of the shape is struck out, factor by factor; `None` if
/// one is no factor. Keeps sums as they are where dividing one product by another could not.
fn cancel(x: &[Dim], dims: &[Dim], open: usize) -> Option<Dim> {
    let mut left: Vec<Dim> = x.to_vec();
    let (mut over, mut under) = (1i64, 1i64);
    for (_, d) in dims.iter().enumerate().filter(|(i, _)| *i != open) {
        match d.as_const() {
            Some(n) if n != 0 => under = under.checked_mul(n)?,
            _ => {
                let at = left.iter().position(|l| l == d)?;
                left.swap_remove(at);
            }
        }
    }
    let mut rest = Vec::new();
    for l in left {
        match l.as_const() {
            Some(n) => over = over.checked_mul(n)?,
            None => rest.push(l),
        }
    }
    let rest = Dim::product(&rest);
    Some(if over % under == 0 { rest.mul(&Dim::from(over / under)) } else { rest.mul(&Dim::from(over)).div_floor(&Dim::from(under)) })
}

impl Op for Reshape {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        Ok(vec![relabel::fact(x, self.target(&x.dims, &cx.int_dims(1)?)?)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let dims = match cx.output_spec(0) {
            Some(spec) => spec.shape().to_vec(),
            None => {
                let wanted: Vec<Dim> = match cx.dtype(1)? {
                    DType::I32 => cx.input::<i32>(1)?.iter().map(Dim::from).collect(),
                    _ => cx.input::<i64>(1)?.iter().map(Dim::from).collect(),
                };
                relabel::extents(&self.target(&relabel::dims_of(cx, 0)?, &wanted)?)?
            }
        };
        flat::copy(cx, 0, &dims)
    }

    fn is_alias(&self) -> bool {
        true
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        relabelled(cx, inputs)
    }
}

/// How a reshape of input 0 runs when that lies in an order of its own.
pub(crate) fn relabelled(cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
    let order = (*inputs.first()?)?;
    let out = relabel::order(cx.input_shape(0)?, &order, cx.outputs.first()?.shape())?;
    Some(Permutation { inputs: inputs.to_vec(), outputs: vec![out] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};
    use millstream_graph::Symbol;
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let keep = case.int_or("allowzero", 0) == 0;
        let wanted = case.tensor(1).as_slice::<i64>().unwrap();
        let mut dims: Vec<usize> = wanted.iter().enumerate().map(|(i, &d)| if d == 0 && keep { x.shape()[i] } else { d.max(-1) as usize }).collect();
        let copied = |i: &usize| keep && wanted.get(*i) == Some(&0);
        let left: usize = (0..x.shape().rank()).filter(|i| !copied(i)).map(|i| x.shape()[i]).product();
        let given: usize = wanted.iter().filter(|&&d| d > 0).map(|&d| d as usize).product();
        dims.iter_mut().filter(|d| **d == usize::MAX).for_each(|d| *d = left / given);
        vec![x.reshaped(&dims).unwrap()]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        open => Case::new([random(&[2, 3, 4], 1), t(&[2], &[6i64, -1])]);
        copied => Case::new([random(&[2, 3, 4], 1), t(&[3], &[0i64, 0, 4])]);
        copied_and_open => Case::new([random(&[2, 3, 4, 5], 1), t(&[3], &[0i64, 0, -1])]);
        split_channels => Case::new([random(&[2, 6, 4, 5], 1), t(&[5], &[0i64, 2, 3, 4, 5])]);
        to_scalar => Case::new([random(&[1, 1], 1), t::<i64>(&[0], &[])]);
        empty => Case::new([random(&[0, 3], 1), t(&[2], &[3i64, 0])]).int("allowzero", 1);
        empty_copied => Case::new([random(&[0, 3], 1), t(&[3], &[0i64, 1, 3])]);
        empty_copied_and_open => Case::new([random(&[0, 3, 4], 1), t(&[3], &[0i64, -1, 2])]);
        strings => Case::new([Tensor::from_strings(&[2], vec!["a".into(), "b".into()]).unwrap(), t(&[2], &[2i64, 1])]);
    }

    #[test]
    fn symbols_cancel() {
        let (n, s) = (Dim::symbol(Symbol::new("n")), Dim::symbol(Symbol::new("s")));
        let op = Reshape { allow_zero: false };
        let x = [n.clone(), s.add(&Dim::from(1)), Dim::from(384)];
        let target = |w: &[Dim]| op.target(&x, w).unwrap();
        assert_eq!(target(&[n.clone(), x[1].clone(), Dim::from(12), Dim::from(-1)])[3], Dim::from(32));
        assert_eq!(target(&[Dim::from(0), Dim::from(-1), Dim::from(12), Dim::from(32)])[1], x[1]);
        assert_eq!(target(&[Dim::from(-1), Dim::from(384)])[0], n.mul(&x[1]));
        assert!(op.target(&[Dim::from(6)], &[Dim::from(4), Dim::from(-1)]).is_err());
        assert!(op.target(&[Dim::from(6)], &[Dim::from(-1), Dim::from(-1)]).is_err());
        assert!(op.target(&[Dim::from(6)], &[Dim::from(-2)]).is_err());
        assert!(op.target(&[Dim::from(6)], &[Dim::from(6), Dim::from(0)]).is_err());
    }
}
