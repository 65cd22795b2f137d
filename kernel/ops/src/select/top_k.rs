//! `TopK`: the k greatest (or least) elements along an axis, and where they were. Of equal elements the first comes first; NaN
//! counts as greater than any number. `k` is an attribute up to opset 9.

use crate::movement::{
    index,
    typed::{by_number, order},
};
use alloc::{boxed::Box, vec, vec::Vec};
use core::cmp::Ordering;
use millstream_graph::{Arity, BuildCx, BuildError, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::{DType, Element, Shape, Tensor, Value};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "TopK",
    since: &[1, 10, 11, 24],
    inputs: Arity::range(1, 2),
    outputs: Arity::range(1, 2),
    attributes: &["axis", "k", "largest", "sorted"],
    subgraphs: &[],
    dtypes: "numbers",
    build: |cx: &BuildCx<'_>| {
        let k = cx.attributes.int("k")?.copied();
        if k.is_none() && cx.inputs < 2 {
            return Err(BuildError::MissingAttribute("k"));
        }
        Ok(Box::new(TopK { axis: cx.attributes.int_or("axis", -1)?, k, largest: cx.attributes.flag_or("largest", true)? }))
    },
};

/// The extreme elements along an axis.
#[derive(Debug, Clone, Copy)]
pub struct TopK {
    axis: i64,
    k: Option<i64>,
    largest: bool,
}

impl Op for TopK {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        let axis = InferCx::axis(self.axis, x.rank())?;
        let k = match self.k {
            Some(k) => Dim::from(k),
            None => cx.int_dims(1)?.into_iter().next().ok_or(InferError::Invalid("k is no number"))?,
        };
        let dim = x.dims.get(axis).ok_or(InferError::Rank { input: 0, found: 0, wanted: "at least 1" })?;
        if k.as_const().is_some_and(|k| k < 0 || dim.as_const().is_some_and(|d| k > d)) {
            return Err(InferError::Invalid("k is negative, or more than there are elements"));
        }
        let mut dims = x.dims.clone();
        dims[axis] = k;
        Ok(vec![Fact::new(x.dtype, dims.clone()), Fact::new(DType::I64, dims)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let x = cx.tensor(0)?;
        let shape = *x.shape();
        let axis = InferCx::axis(self.axis, shape.rank())?;
        let dim = *shape.get(axis).ok_or(EvalError::Invalid("a scalar has no axis"))?;
        let k = match self.k {
            Some(k) => Some(k),
            None => index::integers(cx, 1)?.first().copied(),
        };
        let k = k.and_then(|k| usize::try_from(k).ok()).filter(|&k| k <= dim).ok_or(EvalError::Invalid("k is negative, or more than there are elements"))?;
        let dims = shape.with(axis, k);
        let positions = by_number!(x.dtype(), T => {
            let data = x.typed::<T>()?;
            let data = data.as_slice().ok_or(EvalError::Invalid("the input is strided"))?;
            let positions = self.positions(data, &shape, axis, k);
            if cx.wants(0) {
                let inner: usize = shape[axis + 1..].iter().product();
                let values: Vec<T> = positions.iter().enumerate().map(|(n, &p)| data[(n / inner / k * dim + p as usize) * inner + n % inner]).collect();
                put(cx, 0, &dims, &values)?;
            }
            positions
        });
        put(cx, 1, &dims, &positions)
    }
}

/// Writes output `i`, whether its memory is planned or not.
fn put<T: Element>(cx: &mut EvalCx<'_>, i: usize, dims: &[usize], values: &[T]) -> Result<(), EvalError> {
    cx.set_value(i, Value::Tensor(Tensor::from_slice(dims, values)?))
}

impl TopK {
    /// Indices along the axis of the chosen elements, in the output's order.
    fn positions<T: Element>(&self, data: &[T], shape: &Shape, axis: usize, k: usize) -> Vec<i64> {
        let (dim, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
        let outer: usize = shape[..axis].iter().product();
        let mut out = vec![0; outer * k * inner];
        if k == 0 {
            return out;
        }
        let mut line: Vec<(T, usize)> = Vec::with_capacity(dim);
        for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
            line.clear();
            line.extend((0..dim).map(|d| (data[(o * dim + d) * inner + i], d)));
            let rank = |a: &(T, usize), b: &(T, usize)| -> Ordering {
                let by_value = order(&a.0, &b.0);
                (if self.largest { by_value.reverse() } else { by_value }).then(a.1.cmp(&b.1))
            };
            if k < dim {
                line.select_nth_unstable_by(k, rank);
            }
            line[..k].sort_unstable_by(rank);
            for (j, (_, d)) in line[..k].iter().enumerate() {
                out[(o * k + j) * inner + i] = *d as i64;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, random_ints, t};

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let rank = x.shape().rank() as i64;
        let axis = ((case.int_or("axis", -1) + rank) % rank) as usize;
        let k = case.optional(1).map_or_else(|| case.int_or("k", 0), |k| k.as_slice::<i64>().unwrap()[0]) as usize;
        let (dim, inner) = (x.shape()[axis], x.shape()[axis + 1..].iter().product::<usize>());
        let outer: usize = x.shape()[..axis].iter().product();
        let ints = x.dtype() == DType::I64;
        let value = |n: usize| if ints { x.as_slice::<i64>().unwrap()[n] as f64 } else { x.as_slice::<f32>().unwrap()[n].into() };
        let sign = if case.int_or("largest", 1) != 0 { -1.0 } else { 1.0 };
        let mut at = vec![0i64; outer * k * inner];
        let mut values = vec![0.0f64; outer * k * inner];
        for o in 0..outer {
            for i in 0..inner {
                let mut line: Vec<usize> = (0..dim).collect();
                let v = |d: usize| value((o * dim + d) * inner + i);
                line.sort_by(|&a, &b| (sign * v(a)).total_cmp(&(sign * v(b))));
                for j in 0..k {
                    at[(o * k + j) * inner + i] = line[j] as i64;
                    values[(o * k + j) * inner + i] = v(line[j]);
                }
            }
        }
        let dims = x.shape().with(axis, k);
        let values = if ints {
            t(&dims, &values.iter().map(|&v| v as i64).collect::<Vec<_>>())
        } else {
            t(&dims, &values.iter().map(|&v| v as f32).collect::<Vec<_>>())
        };
        vec![values, t(&dims, &at)]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        last => Case::new([random(&[3, 40], 1), t(&[1], &[5i64])]).outputs(2);
        least => Case::new([random(&[3, 40], 1), t(&[1], &[40i64])]).outputs(2).int("largest", 0);
        middle => Case::new([random(&[3, 7, 4], 1), t(&[1], &[3i64])]).outputs(2).int("axis", 1);
        ties => Case::new([random_ints(&[2, 30], 0, 4, 1), t(&[1], &[9i64])]).outputs(2);
        old => Case::new([random(&[3, 7], 1)]).outputs(2).int("k", 2).version(1);
        none => Case::new([random(&[3, 7], 1), t(&[1], &[0i64])]).outputs(2);
    }

    #[test]
    fn nan_is_the_greatest() {
        let op = TopK { axis: 0, k: Some(2), largest: true };
        assert_eq!(op.positions(&[1.0f32, f32::NAN, 3.0, f32::NAN], &Shape::new(&[4]).unwrap(), 0, 3), [1, 3, 2]);
    }
}
