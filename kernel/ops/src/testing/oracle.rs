//! References that are one expression per element, and inputs of any element type.

use super::{Case, noise};
use crate::numeric::Number;
use alloc::{vec, vec::Vec};
use millstream_graph::EvalError;
use millstream_tensor::{DType, Element, Tensor, View, broadcast};

/// The elements as `T`, in logical order.
fn elements<T: Element>(t: &Tensor) -> Vec<T> {
    t.as_slice::<T>().expect("the tensor has this type").to_vec()
}

/// The elements as f64, whatever their type.
pub(crate) fn reals(t: &Tensor) -> Vec<f64> {
    let all: Result<Vec<f64>, EvalError> = by_dtype!(all, t.dtype(), T => Ok(elements::<T>(t).into_iter().map(Number::to_f64).collect()));
    all.expect("a tensor of numbers")
}

/// A tensor of `dtype` from f64.
pub(crate) fn from_reals(dtype: DType, dims: &[usize], values: &[f64]) -> Tensor {
    let t: Result<Tensor, EvalError> = by_dtype!(all, dtype, T => {
        Tensor::from_slice::<T>(dims, &values.iter().map(|&x| Number::from_f64(x)).collect::<Vec<T>>()).map_err(EvalError::from)
    });
    t.expect("as many values as elements")
}

/// The tensor with its elements as `dtype`.
pub(crate) fn cast(t: &Tensor, dtype: DType) -> Tensor {
    from_reals(dtype, t.shape(), &reals(t))
}

/// A tensor of values in −scale..scale that depend on `seed` alone; integers are truncated.
pub(crate) fn spread(dtype: DType, dims: &[usize], scale: f64, seed: u64) -> Tensor {
    let n: usize = dims.iter().product();
    let values: Vec<f64> = noise(seed).take(n).map(|x| f64::from(((x >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale as f32)).collect();
    from_reals(dtype, dims, &values)
}

/// `f` of each element of input 0, in its type.
pub(crate) fn map(case: &Case, f: impl Fn(f64) -> f64) -> Vec<Tensor> {
    let x = case.tensor(0);
    vec![from_reals(x.dtype(), x.shape(), &reals(x).into_iter().map(f).collect::<Vec<f64>>())]
}

/// The elements of both as f64, stretched to one shape.
pub(crate) fn pairs(a: &Tensor, b: &Tensor) -> (Vec<usize>, Vec<(f64, f64)>) {
    let shape = broadcast(a.shape(), b.shape()).expect("the case broadcasts");
    let stretch = |t: &Tensor| -> Vec<f64> {
        let values = reals(t);
        let layout = millstream_tensor::Layout::row_major(*t.shape()).broadcast_to(shape).expect("the case broadcasts");
        View::new(layout, &values).expect("as many values as elements").to_vec()
    };
    (shape.to_vec(), stretch(a).into_iter().zip(stretch(b)).collect())
}

/// `f` of each pair of elements of inputs 0 and 1, then of the result and input 2, and so on, as `dtype` (or input 0's type).
pub(crate) fn zip(case: &Case, dtype: Option<DType>, f: impl Fn(f64, f64) -> f64) -> Vec<Tensor> {
    let mut y = case.tensor(0).clone();
    let dtype = dtype.unwrap_or(y.dtype());
    for i in 1..case.inputs.len() {
        let (shape, pairs) = pairs(&y, case.tensor(i));
        y = from_reals(dtype, &shape, &pairs.into_iter().map(|(a, b)| f(a, b)).collect::<Vec<f64>>());
    }
    vec![y]
}
