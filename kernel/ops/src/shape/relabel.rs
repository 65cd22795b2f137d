//! What reshaping does to facts and to the order of memory.

use alloc::vec::Vec;
use millstream_graph::{Dim, EvalCx, EvalError, FOLD_LIMIT, Fact, InferError};
use millstream_tensor::{Order, Shape};

/// The input's fact under other dims of the same count: known integers stay known.
pub(crate) fn fact(x: &Fact, dims: Vec<Dim>) -> Fact {
    if dims.len() < 2
        && let Some(values) = small_ints(x)
    {
        return Fact::of_dims(x.dtype, values, dims.is_empty());
    }
    Fact::new(x.dtype, dims)
}

/// The elements of a scalar or short vector of integers, as expressions: what shapes are computed from.
pub(crate) fn small_ints(x: &Fact) -> Option<Vec<Dim>> {
    let short = x.rank() < 2 && Dim::product(&x.dims).as_extent().is_some_and(|n| n <= FOLD_LIMIT);
    if short { x.int_dims() } else { None }
}

/// The dims of input `input` as expressions, while running.
pub(crate) fn dims_of(cx: &EvalCx<'_>, input: usize) -> Result<Vec<Dim>, EvalError> {
    let spec = cx.spec(input).ok_or(EvalError::MissingInput(input))?;
    Ok(spec.shape().iter().map(|&d| Dim::from(d)).collect())
}

/// Expressions that are numbers by now, as dims.
pub(crate) fn extents(dims: &[Dim]) -> Result<Vec<usize>, EvalError> {
    dims.iter().map(Dim::as_extent).collect::<Option<_>>().ok_or(EvalError::Invalid("a dim is negative"))
}

/// Axes counted from the front and sorted, for axes given in −rank..rank; an error if one is out of range or given twice.
pub(crate) fn axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, InferError> {
    let r = rank as i64;
    let mut out = Vec::with_capacity(axes.len());
    for &a in axes {
        let axis = if a < 0 { a.saturating_add(r) } else { a };
        if axis < 0 || axis >= r {
            return Err(InferError::Invalid("an axis is out of range"));
        }
        out.push(axis as usize);
    }
    out.sort_unstable();
    if out.windows(2).any(|w| w[0] == w[1]) {
        return Err(InferError::Invalid("an axis is given twice"));
    }
    Ok(out)
}

/// The order of memory under shape `to` of a value that lies in `order` under shape `from`. `None` if a reshape merges axes
/// that do not follow each other in memory.
pub(crate) fn order(from: &Shape, order: &Order, to: &Shape) -> Option<Order> {
    if from.elements() == 0 || from.elements() != to.elements() {
        return order.is_row_major().then(|| Order::row_major(to.rank()));
    }
    // Groups of axes with equal products: the input's axes of a group become the output's.
    let mut groups: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < from.rank() || j < to.rank() {
        let (mut left, mut right) = (1, 1);
        let mut group = (Vec::new(), Vec::new());
        loop {
            if i < from.rank() && (left <= right || j == to.rank()) {
                left *= from[i];
                group.0.extend((from[i] > 1).then_some(i));
                i += 1;
            } else if j < to.rank() {
                right *= to[j];
                group.1.push(j);
                j += 1;
            }
            if left == right && (left > 1 || (i == from.rank() && j == to.rank())) {
                break;
            }
        }
        groups.push(group);
    }
    let memory: Vec<usize> = order.axes().filter(|&a| from[a] > 1).collect();
    let mut axes = Vec::with_capacity(to.rank());
    let mut at = 0;
    while at < memory.len() {
        let (have, become_) = groups.iter().find(|(have, _)| have.first() == Some(&memory[at]))?;
        if memory.get(at..at + have.len()) != Some(&have[..]) {
            return None;
        }
        at += have.len();
        axes.extend(become_);
    }
    // Axes of extent 1 in a group of their own lie anywhere.
    axes.extend(groups.iter().filter(|(have, _)| have.is_empty()).flat_map(|(_, ones)| ones));
    Order::from_axes(&axes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn after(from: &[usize], axes: &[usize], to: &[usize]) -> Option<Vec<usize>> {
        order(&Shape::new(from).unwrap(), &Order::from_axes(axes).unwrap(), &Shape::new(to).unwrap()).map(|o| o.axes().collect())
    }

    #[test]
    fn channels_last_survives_reshapes_that_keep_channels() {
        let last = [0, 2, 3, 1];
        assert_eq!(after(&[2, 3, 4, 5], &last, &[2, 3, 20]), Some(vec![0, 2, 1]));
        assert_eq!(after(&[2, 6, 4, 5], &last, &[2, 2, 3, 4, 5]), Some(vec![0, 3, 4, 1, 2]));
        assert_eq!(after(&[2, 3, 4, 5], &last, &[2, 60]), None);
        assert_eq!(after(&[2, 3, 1, 1], &last, &[2, 3]), Some(vec![0, 1]));
        assert_eq!(after(&[1, 3, 1, 5], &last, &[3, 5]), Some(vec![1, 0]));
        assert_eq!(after(&[1, 1], &[1, 0], &[1]), Some(vec![0]));
    }
}
