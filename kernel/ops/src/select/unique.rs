//! `Unique`: the distinct elements (or slices along an axis), sorted or in the order of first appearance; where each first
//! appears, which one each input element is, and how often each occurs.

use crate::movement::typed::{by_number, order};
use alloc::{boxed::Box, vec, vec::Vec};
use core::cmp::Ordering;
use millstream_graph::{Arity, BuildCx, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::{Bool, DType, Element, Tensor, Value};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Unique",
    since: &[11],
    inputs: Arity::exactly(1),
    outputs: Arity::range(1, 4),
    attributes: &["axis", "sorted"],
    subgraphs: &[],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| Ok(Box::new(Unique { axis: cx.attributes.int("axis")?.copied(), sorted: cx.attributes.flag_or("sorted", true)? })),
};

/// Distinct elements.
#[derive(Debug, Clone, Copy)]
pub struct Unique {
    axis: Option<i64>,
    sorted: bool,
}

/// How the input divides into the slices that are compared: (outer, dim, inner), or one element each.
fn division(axis: Option<usize>, shape: &[usize]) -> (usize, usize, usize) {
    match axis {
        None => (1, shape.iter().product(), 1),
        Some(a) => (shape[..a].iter().product(), shape[a], shape[a + 1..].iter().product()),
    }
}

/// What is distinct: for each one its slice of first appearance and its count; for each slice, which one it is.
#[derive(Debug, Default)]
struct Distinct {
    first: Vec<usize>,
    counts: Vec<i64>,
    inverse: Vec<i64>,
}

impl Unique {
    fn distinct(&self, dim: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Distinct {
        let mut by_value: Vec<usize> = (0..dim).collect();
        by_value.sort_by(|&a, &b| compare(a, b));
        // Groups of equal slices: a stable sort puts the first appearance at each group's front.
        let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
        for i in by_value {
            match groups.last_mut() {
                Some((first, members)) if compare(*first, i) == Ordering::Equal => members.push(i),
                _ => groups.push((i, vec![i])),
            }
        }
        if !self.sorted {
            groups.sort_by_key(|(first, _)| *first);
        }
        let mut out = Distinct { inverse: vec![0; dim], ..Distinct::default() };
        for (n, (first, members)) in groups.iter().enumerate() {
            out.first.push(*first);
            out.counts.push(members.len() as i64);
            members.iter().for_each(|&m| out.inverse[m] = n as i64);
        }
        out
    }

    fn run<T: Clone>(&self, data: &[T], division: (usize, usize, usize), order: impl Fn(&T, &T) -> Ordering) -> (Distinct, Vec<T>) {
        let (outer, dim, inner) = division;
        let places = |slice: usize| (0..outer * inner).map(move |n| (n / inner * dim + slice) * inner + n % inner);
        let compare = |a: usize, b: usize| places(a).zip(places(b)).map(|(p, q)| order(&data[p], &data[q])).find(|o| o.is_ne()).unwrap_or(Ordering::Equal);
        let found = self.distinct(dim, &compare);
        let mut values = Vec::with_capacity(outer * found.first.len() * inner);
        for o in 0..outer {
            for &slice in &found.first {
                values.extend_from_slice(&data[(o * dim + slice) * inner..][..inner]);
            }
        }
        (found, values)
    }
}

impl Op for Unique {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        let n = cx.fresh("distinct");
        let (mut dims, mut all) = (vec![n.clone()], Dim::product(&x.dims));
        if let Some(axis) = self.axis {
            let axis = InferCx::axis(axis, x.rank())?;
            dims = x.dims.clone();
            all = core::mem::replace(dims.get_mut(axis).ok_or(InferError::Rank { input: 0, found: 0, wanted: "at least 1" })?, n.clone());
        }
        let vector = |d: Dim| Fact::new(DType::I64, vec![d]);
        Ok(vec![Fact::new(x.dtype, dims), vector(n.clone()), vector(all), vector(n)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let x = cx.tensor(0)?;
        let shape = *x.shape();
        let axis = self.axis.map(|a| InferCx::axis(a, shape.rank())).transpose()?;
        if axis.is_some_and(|a| a >= shape.rank()) {
            return Err(EvalError::Invalid("a scalar has no axis"));
        }
        let division = division(axis, &shape);
        let dims = |n: usize| axis.map_or_else(|| vec![n], |a| shape.with(a, n).to_vec());
        let (found, values) = match x.dtype() {
            DType::String => {
                let (found, values) = self.run(x.as_strings()?, division, Ord::cmp);
                let values = Tensor::from_strings(&dims(found.first.len()), values)?;
                (found, values)
            }
            DType::Bool => self.typed::<Bool>(x.typed()?.data(), division, dims)?,
            other => by_number!(other, T => self.typed::<T>(x.typed()?.data(), division, dims)?),
        };
        cx.set_value(0, Value::Tensor(values))?;
        let first: Vec<i64> = found.first.iter().map(|&f| f as i64).collect();
        for (i, list) in [first, found.inverse, found.counts].iter().enumerate() {
            cx.set_value(i + 1, Value::Tensor(Tensor::from_slice(&[list.len()], list)?))?;
        }
        Ok(())
    }

    fn bound(&self, cx: &InferCx<'_>, output: usize) -> Option<usize> {
        let x = cx.input(0).ok()?;
        x.shape()?.ok()?.elements().checked_mul(if output == 0 { x.dtype.size() } else { size_of::<i64>() })
    }
}

impl Unique {
    fn typed<T: Element>(&self, data: &[T], division: (usize, usize, usize), dims: impl Fn(usize) -> Vec<usize>) -> Result<(Distinct, Tensor), EvalError> {
        let (found, values) = self.run(data, division, order);
        let values = Tensor::from_slice(&dims(found.first.len()), &values)?;
        Ok((found, values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, t};

    /// The examples of the operator's specification.
    fn reference(case: &Case) -> Vec<Tensor> {
        let l = |v: &[i64]| t(&[v.len()], v);
        match (case.int_or("axis", 9), case.int_or("sorted", 1)) {
            (9, 1) => vec![t(&[4], &[1.0f32, 2.0, 3.0, 4.0]), l(&[1, 0, 3, 4]), l(&[1, 0, 1, 2, 3, 2]), l(&[1, 2, 2, 1])],
            (9, _) => vec![t(&[4], &[2.0f32, 1.0, 3.0, 4.0]), l(&[0, 1, 3, 4]), l(&[0, 1, 0, 2, 3, 2]), l(&[2, 1, 2, 1])],
            _ => vec![t(&[2, 3], &[1.0f32, 0.0, 0.0, 2.0, 3.0, 4.0]), l(&[0, 2]), l(&[0, 0, 1]), l(&[2, 1])],
        }
    }

    fn numbers() -> Tensor {
        t(&[6], &[2.0f32, 1.0, 2.0, 3.0, 4.0, 3.0])
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        sorted => Case::new([numbers()]).outputs(4);
        unsorted => Case::new([numbers()]).outputs(4).int("sorted", 0);
        rows => Case::new([t(&[3, 3], &[1.0f32, 0.0, 0.0, 1.0, 0.0, 0.0, 2.0, 3.0, 4.0])]).outputs(4).int("axis", 0);
    }
}
