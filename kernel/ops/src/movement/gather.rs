//! `Gather`: parts of the input along one axis, picked by indices (i32 or i64, negative from the end).

use crate::{
    movement::{index::Indices, pick},
    shape::relabel,
};
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::MAX_RANK;
use smallvec::SmallVec;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Gather",
    since: &[1, 11, 13],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &["axis"],
    subgraphs: &[],
    dtypes: "any; indices i32, i64",
    build: |cx: &BuildCx<'_>| Ok(Box::new(Gather { axis: cx.attributes.int_or("axis", 0)? })),
};

/// Parts picked along an axis.
#[derive(Debug, Clone, Copy)]
pub struct Gather {
    axis: i64,
}

impl Gather {
    /// The axis as the model gives it, maybe negative.
    pub fn axis(&self) -> i64 {
        self.axis
    }
}

impl Op for Gather {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (x, i) = (cx.input(0)?, cx.input(1)?);
        if x.rank() == 0 {
            return Err(InferError::Rank { input: 0, found: 0, wanted: "at least one axis" });
        }
        let axis = InferCx::axis(self.axis, x.rank())?;
        if x.rank() == 1
            && i.rank() < 2
            && let (Some(values), Some(_)) = (relabel::small_ints(x), relabel::small_ints(i))
            && let Some(picks) = i.ints()
        {
            let n = values.len() as i64;
            let at = |p: i64| values.get(usize::try_from(if p < 0 { p + n } else { p }).ok()?).cloned();
            let picked: Option<Vec<_>> = picks.into_iter().map(at).collect();
            return Ok(vec![Fact::of_dims(x.dtype, picked.ok_or(InferError::Invalid("an index is out of range"))?, i.rank() == 0)]);
        }
        let mut dims = x.dims[..axis].to_vec();
        dims.extend(i.dims.iter().chain(&x.dims[axis + 1..]).cloned());
        Ok(vec![Fact::new(x.dtype, dims)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let x = *cx.spec(0).ok_or(EvalError::MissingInput(0))?.shape();
        let axis = InferCx::axis(self.axis, x.rank().max(1))?;
        let dim = *x.get(axis).ok_or(EvalError::Invalid("a scalar has no axis to gather from"))?;
        let at = Indices::new(cx, 1, dim)?;
        let mut dims: SmallVec<[usize; MAX_RANK]> = x[..axis].into();
        dims.extend(cx.tensor(1)?.shape().iter().chain(&x[axis + 1..]).copied());
        let outer: usize = x[..axis].iter().product();
        let row: usize = x[axis + 1..].iter().product();
        pick::make(cx, 0, &dims, outer * at.len(), row, |r| (r / at.len() * dim + at.at(r % at.len(), dim)) * row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, random_ints, t};
    use millstream_graph::{Dim, Symbol, eval_to_values};
    use millstream_simd::Level;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        let (x, i) = (case.tensor(0), case.tensor(1));
        let axis = case.int_or("axis", 0);
        let axis = if axis < 0 { axis + x.shape().rank() as i64 } else { axis } as usize;
        let at: Vec<i64> = i.as_slice::<i64>().map(<[i64]>::to_vec).unwrap_or_else(|_| i.as_slice::<i32>().unwrap().iter().map(|&x| x.into()).collect());
        let d = x.shape()[axis];
        let block: usize = x.shape()[axis + 1..].iter().product();
        let mut dims = x.shape()[..axis].to_vec();
        dims.extend(i.shape().iter().chain(&x.shape()[axis + 1..]));
        let outer: usize = x.shape()[..axis].iter().product();
        let starts = (0..outer).flat_map(|o| at.iter().map(move |&a| (o * d + if a < 0 { a + d as i64 } else { a } as usize) * block));
        if let Ok(s) = x.as_strings() {
            return vec![Tensor::from_strings(&dims, starts.flat_map(|a| s[a..a + block].to_vec()).collect()).unwrap()];
        }
        let (size, bytes) = (x.dtype().size(), x.view().bytes().unwrap());
        let out: Vec<u8> = starts.flat_map(|a| bytes[a * size..(a + block) * size].to_vec()).collect();
        vec![Tensor::from_bytes(x.dtype(), &dims, &out).unwrap()]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        embedding => Case::new([random(&[50, 384], 1), random_ints(&[3, 40], 0, 50, 2)]);
        negative => Case::new([random(&[5, 4], 1), t(&[2], &[-1i32, -5])]);
        inner => Case::new([random(&[5, 4, 3], 1), t(&[2, 1], &[2i64, 0])]).int("axis", -1);
        middle => Case::new([random_ints(&[5, 4, 3], 0, 9, 1), t(&[3], &[2i64, 0, 3])]).int("axis", 1);
        scalar_index => Case::new([random(&[5, 4], 1), t(&[], &[2i64])]).int("axis", 1);
        empty => Case::new([random(&[5, 4], 1), t::<i64>(&[0], &[])]);
        strings => Case::new([Tensor::from_strings(&[3], vec!["a".into(), "b".into(), "c".into()]).unwrap(), t(&[2], &[2i64, 0])]);
    }

    #[test]
    fn an_index_out_of_range_is_an_error() {
        let inputs = [Some(random(&[3], 1).into()), Some(t(&[1], &[3i64]).into())];
        assert!(eval_to_values(&Gather { axis: 0 }, Level::scalar(), &inputs, &[None]).is_err());
    }

    #[test]
    fn a_dim_of_a_shape_stays_symbolic() {
        let n = Dim::symbol(Symbol::new("n"));
        let facts = [Fact::of_dims(DType::I64, vec![n.clone(), Dim::from(3)], false), Fact::constant(t(&[], &[0i64]).into())];
        let refs: Vec<Option<&Fact>> = facts.iter().map(Some).collect();
        let out = Gather { axis: 0 }.infer(&InferCx { path: "x", inputs: &refs, outputs: 1 }).unwrap();
        assert_eq!(out[0].int_dims().unwrap(), [n]);
    }
}
