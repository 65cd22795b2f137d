//! `CumSum`: running sums along an axis, without the element itself if `exclusive`, from the end if `reverse`.

use crate::movement::{
    index,
    typed::{Arithmetic, by_number},
};
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "CumSum",
    since: &[11, 14],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &["exclusive", "reverse"],
    subgraphs: &[],
    dtypes: "numbers; integers wrap",
    build: |cx: &BuildCx<'_>| Ok(Box::new(CumSum { exclusive: cx.attributes.flag_or("exclusive", false)?, reverse: cx.attributes.flag_or("reverse", false)? })),
};

/// Running sums.
#[derive(Debug, Clone, Copy)]
pub struct CumSum {
    exclusive: bool,
    reverse: bool,
}

impl Op for CumSum {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        Ok(vec![Fact::new(x.dtype, x.dims.clone())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        if !cx.wants(0) {
            return Ok(());
        }
        let axis = index::integers(cx, 1)?.first().copied().ok_or(EvalError::Invalid("there is no axis"))?;
        let x = cx.tensor(0)?;
        let shape = *x.shape();
        let axis = InferCx::axis(axis, shape.rank())?;
        let dim = *shape.get(axis).ok_or(EvalError::Invalid("a scalar has no axis"))?;
        let inner: usize = shape[axis + 1..].iter().product();
        by_number!(x.dtype(), T => {
            let from = x.typed::<T>()?.data();
            let to = cx.output::<T>(0)?.into_data();
            if shape.elements() > 0 {
                for (from, to) in from.chunks_exact(dim * inner).zip(to.chunks_exact_mut(dim * inner)) {
                    self.sum(from, to, dim, inner);
                }
            }
        });
        Ok(())
    }
}

impl CumSum {
    fn sum<T: Arithmetic>(&self, from: &[T], to: &mut [T], dim: usize, inner: usize) {
        for i in 0..inner {
            let mut sum = T::default();
            for d in 0..dim {
                let at = if self.reverse { dim - 1 - d } else { d } * inner + i;
                let next = if d == 0 { from[at] } else { sum.plus(from[at]) };
                to[at] = if self.exclusive { sum } else { next };
                sum = next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, random_ints, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let rank = x.shape().rank() as i64;
        let axis = ((case.tensor(1).as_slice::<i64>().unwrap()[0] + rank) % rank) as usize;
        let (dim, inner) = (x.shape()[axis], x.shape()[axis + 1..].iter().product::<usize>());
        let (ex, rev) = (case.int_or("exclusive", 0) != 0, case.int_or("reverse", 0) != 0);
        macro_rules! sums {
            ($t:ty) => {{
                let data = x.as_slice::<$t>().unwrap();
                let out: Vec<$t> = (0..data.len())
                    .map(|n| {
                        let (o, d, i) = (n / inner / dim, n / inner % dim, n % inner);
                        let mut range: Vec<usize> = if rev { (d..dim).rev().collect() } else { (0..=d).collect() };
                        if ex {
                            range.pop();
                        }
                        range.iter().map(|&d| data[(o * dim + d) * inner + i]).fold(0 as $t, |a, b| a + b)
                    })
                    .collect();
                vec![t(x.shape(), &out)]
            }};
        }
        if x.dtype() == millstream_tensor::DType::I64 { sums!(i64) } else { sums!(f32) }
    }

    op_tests! { DEF, reference, Tolerance::F32;
        first => Case::new([random(&[4, 5], 1), t(&[], &[0i64])]);
        last => Case::new([random(&[4, 5], 1), t(&[], &[-1i64])]).int("exclusive", 1);
        reverse => Case::new([random_ints(&[4, 5, 2], 0, 9, 1), t(&[], &[1i64])]).int("reverse", 1);
        reverse_exclusive => Case::new([random_ints(&[4], 0, 9, 1), t(&[], &[0i64])]).int("reverse", 1).int("exclusive", 1);
        empty => Case::new([random(&[4, 0], 1), t(&[], &[0i64])]);
    }
}
