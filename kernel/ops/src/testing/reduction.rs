//! The obvious reduction: all elements of an output element's part, in logical order.

use crate::testing::{Case, from_reals, map, reals, spread};
use alloc::{vec, vec::Vec};
use millstream_tensor::{DType, Layout, Shape, Tensor, View};

/// A case with one random input.
pub(crate) fn input(dtype: DType, dims: &[usize]) -> Case {
    Case::new([spread(dtype, dims, 1.5, 1)])
}

/// A case with one random input of positive numbers.
pub(crate) fn positive(dtype: DType, dims: &[usize]) -> Case {
    Case::new([map(&input(dtype, dims), |x| x.abs() + 0.1).remove(0)])
}

/// The axes, resolved.
pub(crate) fn reduced_axes(case: &Case) -> Vec<bool> {
    let rank = case.tensor(0).shape().rank();
    let given: Vec<i64> = match case.optional(1) {
        Some(t) => reals(t).into_iter().map(|a| a as i64).collect(),
        None => case.attributes.ints("axes").unwrap().cloned().unwrap_or_default(),
    };
    let all = given.is_empty() && case.int_or("noop_with_empty_axes", 0) == 0;
    (0..rank).map(|a| all || given.iter().any(|&g| g.rem_euclid(rank as i64) as usize == a)).collect()
}

/// `f` of the elements of each part, in input 0's type.
pub(crate) fn reduce(case: &Case, f: impl Fn(&[f64]) -> f64) -> Vec<Tensor> {
    let x = case.tensor(0);
    let reduced = reduced_axes(case);
    if case.int_or("noop_with_empty_axes", 0) != 0 && !reduced.contains(&true) {
        return vec![x.clone()];
    }
    let values = reals(x);
    let rank = reduced.len();
    let axes: Vec<usize> = (0..rank).filter(|&a| !reduced[a]).chain((0..rank).filter(|&a| reduced[a])).collect();
    let layout = Layout::row_major(*x.shape()).permuted(&axes);
    let sorted = View::new(layout, &values).unwrap().to_vec();
    let kept: usize = (0..rank).filter(|&a| !reduced[a]).map(|a| x.shape()[a]).product();
    let part = (0..rank).filter(|&a| reduced[a]).map(|a| x.shape()[a]).product::<usize>();
    let y: Vec<f64> = (0..kept).map(|i| f(&sorted[i * part..(i + 1) * part])).collect();
    let keep = case.int_or("keepdims", 1) != 0;
    let dims: Vec<usize> = (0..rank).filter(|&a| keep || !reduced[a]).map(|a| if reduced[a] { 1 } else { x.shape()[a] }).collect();
    vec![from_reals(x.dtype(), &Shape::new(&dims).unwrap(), &y)]
}
