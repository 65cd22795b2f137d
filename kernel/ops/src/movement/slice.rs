//! `Slice`: elements `start, start + step, …` before `end` along some axes; negative steps walk backwards. What to take is
//! an attribute up to opset 9, inputs from opset 10 on.

use crate::{
    movement::strided::{self, Walk},
    shape::relabel,
};
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::{DType, Layout, Order, Shape};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Slice",
    since: &[1, 10, 11, 13],
    inputs: Arity::range(1, 5),
    outputs: Arity::exactly(1),
    attributes: &["starts", "ends", "axes"],
    subgraphs: &[],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| {
        if cx.version >= 10 {
            Arity::range(3, 5).check("inputs", cx.inputs)?;
            return Ok(Box::new(Slice { fixed: None }));
        }
        let starts = cx.attributes.ints("starts")?.ok_or(BuildError::MissingAttribute("starts"))?.clone();
        let ends = cx.attributes.ints("ends")?.ok_or(BuildError::MissingAttribute("ends"))?.clone();
        Ok(Box::new(Slice { fixed: Some(Fixed { starts, ends, axes: cx.attributes.ints("axes")?.cloned() }) }))
    },
};

/// What an attribute says.
#[derive(Debug, Clone)]
struct Fixed {
    starts: Vec<i64>,
    ends: Vec<i64>,
    axes: Option<Vec<i64>>,
}

/// A regular selection of elements.
#[derive(Debug, Clone)]
pub struct Slice {
    fixed: Option<Fixed>,
}

impl Slice {
    /// For each axis of the data the first index and the step, from facts of the inputs; `None` where an input's elements are not
    /// known, or are none that select.
    pub fn selection(&self, inputs: &[Option<&Fact>]) -> Option<Vec<(i64, i64)>> {
        let shape = inputs.first().copied().flatten()?.shape()?.ok()?;
        let ints = |i: usize| inputs.get(i).copied().flatten().map(Fact::ints);
        let (starts, ends, axes, steps) = match &self.fixed {
            Some(f) => (f.starts.clone(), f.ends.clone(), f.axes.clone(), None),
            None => (ints(1)??, ints(2)??, ints(3).map_or(Some(None), |a| a.map(Some))?, ints(4).map_or(Some(None), |s| s.map(Some))?),
        };
        let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
        let axes = cut(axes, starts.len(), ends.len(), steps.len(), shape.rank()).ok()?;
        let mut selection = vec![(0, 1); shape.rank()];
        for (i, &axis) in axes.iter().enumerate() {
            let (start, step, _) = select(shape[axis] as i64, starts[i], ends[i], steps[i])?;
            selection[axis] = (start, step);
        }
        Some(selection)
    }
}

/// The selection along one axis of `dim` elements: first index, step, count.
fn select(dim: i64, start: i64, end: i64, step: i64) -> Option<(i64, i64, i64)> {
    let wrap = |i: i64| if i < 0 { i.saturating_add(dim) } else { i };
    if step == 0 {
        return None;
    }
    let (low, high) = if step > 0 { (0, dim) } else { (-1, dim - 1) };
    let (start, end) = (wrap(start).clamp(low.max(0).min(high), high), wrap(end).clamp(low, high));
    let count = if step > 0 { (end - start).max(0) as u64 } else { (start - end).max(0) as u64 };
    Some((start, step, count.div_ceil(step.unsigned_abs()) as i64))
}

/// How many elements are selected along an axis when some numbers are expressions: exact where indices stay within the
/// axis, which a run with numbers checks. `None` if nothing can be said.
fn count(dim: &Dim, start: &Dim, end: &Dim, step: i64) -> Option<Dim> {
    if let (Some(d), Some(s), Some(e)) = (dim.as_const(), start.as_const(), end.as_const()) {
        return Some(Dim::from(select(d, s, e, step)?.2));
    }
    // An end past any extent means the axis' own end.
    const FAR: i64 = i32::MAX as i64;
    let wrap = |i: &Dim| match i.as_const() {
        Some(n) if n < 0 => dim.add(i),
        _ => i.clone(),
    };
    if step > 0 {
        let end = match end.as_const() {
            Some(e) if e >= FAR => dim.clone(),
            Some(e) if e >= 0 && dim.as_const().is_none() => return None,
            _ => wrap(end),
        };
        let start = match start.as_const() {
            Some(s) if s <= -FAR => Dim::from(0),
            _ => wrap(start),
        };
        return Some(end.sub(&start).div_ceil(&Dim::from(step)));
    }
    let whole = start.as_const().is_some_and(|s| s == -1 || s >= FAR) && end.as_const().is_some_and(|e| e <= -FAR);
    if whole { Some(dim.div_ceil(&Dim::from(step.checked_neg()?))) } else { None }
}

/// Numbers of an input of integers.
fn numbers(cx: &EvalCx<'_>, i: usize) -> Result<Vec<i64>, EvalError> {
    Ok(match cx.dtype(i)? {
        DType::I32 => cx.input::<i32>(i)?.iter().map(i64::from).collect(),
        _ => cx.input::<i64>(i)?.to_vec(),
    })
}

/// The axes that are cut, one for each start.
fn cut(axes: Option<Vec<i64>>, starts: usize, ends: usize, steps: usize, rank: usize) -> Result<Vec<usize>, InferError> {
    let axes = axes.unwrap_or_else(|| (0..starts as i64).collect());
    if axes.len() != starts || ends != starts || steps != starts {
        return Err(InferError::Invalid("starts, ends, axes and steps differ in length"));
    }
    relabel::axes(&axes, rank)?;
    axes.iter().map(|&a| InferCx::axis(a, rank)).collect()
}

impl Op for Slice {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        let optional = |i: usize| if cx.optional(i).is_some() { cx.ints(i).map(Some) } else { Ok(None) };
        let (starts, ends, axes, steps) = match &self.fixed {
            Some(f) => (f.starts.iter().copied().map(Dim::from).collect(), f.ends.iter().copied().map(Dim::from).collect(), f.axes.clone(), None),
            None => {
                let axes = optional(3)?;
                (cx.int_dims(1)?, cx.int_dims(2)?, axes, optional(4)?)
            }
        };
        let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
        let axes = cut(axes, starts.len(), ends.len(), steps.len(), x.rank())?;
        if let ([axis], Some(values)) = (&axes[..], relabel::small_ints(x))
            && x.rank() == 1
            && *axis == 0
            && let (Some(s), Some(e)) = (starts[0].as_const(), ends[0].as_const())
        {
            let (start, step, n) = select(values.len() as i64, s, e, steps[0]).ok_or(InferError::Invalid("a step is 0"))?;
            let picked = (0..n).filter_map(|i| values.get(usize::try_from(start + i * step).ok()?).cloned()).collect();
            return Ok(vec![Fact::of_dims(x.dtype, picked, false)]);
        }
        let mut dims = x.dims.clone();
        for (i, &axis) in axes.iter().enumerate() {
            if steps[i] == 0 {
                return Err(InferError::Invalid("a step is 0"));
            }
            dims[axis] = count(&x.dims[axis], &starts[i], &ends[i], steps[i]).unwrap_or_else(|| cx.fresh(&alloc::format!("axis{axis}")));
        }
        Ok(vec![Fact::new(x.dtype, dims)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let optional = |i: usize| if cx.has(i) { numbers(cx, i).map(Some) } else { Ok(None) };
        let (starts, ends, axes, steps) = match &self.fixed {
            Some(f) => (f.starts.clone(), f.ends.clone(), f.axes.clone(), None),
            None => (numbers(cx, 1)?, numbers(cx, 2)?, optional(3)?, optional(4)?),
        };
        let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
        let mut dims: Shape = *cx.spec(0).ok_or(EvalError::MissingInput(0))?.shape();
        let axes = cut(axes, starts.len(), ends.len(), steps.len(), dims.rank())?;
        let strides = strided::signed(cx.tensor(0)?.layout());
        let (mut moved, mut first) = (strides, 0isize);
        let mut empty = dims.elements() == 0;
        for (i, &axis) in axes.iter().enumerate() {
            let (start, step, n) = select(dims[axis] as i64, starts[i], ends[i], steps[i]).ok_or(EvalError::Invalid("a step is 0"))?;
            empty |= n == 0;
            dims = dims.with(axis, n as usize);
            if n > 1 {
                moved[axis] = strides[axis] * step as isize;
            }
            if !empty {
                first += start as isize * strides[axis];
            }
        }
        strided::make(cx, 0, 0, &dims, |_: &Layout, order| Walk::over(&dims, &moved, first, order))
    }

    fn permute(&self, _cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        let order = (*inputs.first()?)?;
        let rows = inputs.iter().map(|o| o.map(|o| Order::row_major(o.rank())));
        Some(Permutation { inputs: core::iter::once(Some(order)).chain(rows.skip(1)).collect(), outputs: vec![order] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, random_ints, t};
    use millstream_graph::Symbol;
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let rank = x.shape().rank();
        let at = |i: usize, name: &str| match case.optional(i) {
            Some(v) => Some(v.as_slice::<i64>().unwrap().to_vec()),
            None => case.attributes.ints(name).unwrap().cloned(),
        };
        let (starts, ends) = (at(1, "starts").unwrap(), at(2, "ends").unwrap());
        let axes = at(3, "axes").unwrap_or((0..starts.len() as i64).collect());
        let steps = at(4, "steps").unwrap_or(vec![1; starts.len()]);
        let mut picks: Vec<Vec<usize>> = x.shape().iter().map(|&d| (0..d).collect()).collect();
        for i in 0..starts.len() {
            let axis = if axes[i] < 0 { axes[i] + rank as i64 } else { axes[i] } as usize;
            let d = x.shape()[axis] as i64;
            let wrap = |v: i64| if v < 0 { v.saturating_add(d) } else { v };
            let (mut p, end) = (wrap(starts[i]), wrap(ends[i]));
            p = if steps[i] > 0 { p.clamp(0, d) } else { p.clamp(0.min(d - 1), d - 1) };
            let end = if steps[i] > 0 { end.clamp(0, d) } else { end.clamp(-1, d - 1) };
            picks[axis].clear();
            while (steps[i] > 0 && p < end) || (steps[i] < 0 && p > end) {
                picks[axis].push(p as usize);
                p = p.saturating_add(steps[i]);
            }
        }
        let dims: Vec<usize> = picks.iter().map(Vec::len).collect();
        let view = x.view();
        let size = x.dtype().size();
        let mut bytes = vec![];
        for n in 0..dims.iter().product() {
            let mut rest = n;
            let mut index = vec![0; rank];
            for a in (0..rank).rev() {
                index[a] = picks[a][rest % dims[a]];
                rest /= dims[a];
            }
            let o = view.layout().offset(&index).unwrap();
            bytes.extend(&view.bytes().unwrap()[o * size..(o + 1) * size]);
        }
        vec![Tensor::from_bytes(x.dtype(), &dims, &bytes).unwrap()]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        inner => Case::new([random(&[20, 10, 5], 1), t(&[2], &[0i64, 0]), t(&[2], &[3i64, 10]), t(&[2], &[0i64, 1]), t(&[2], &[1i64, 1])]);
        steps => Case::new([random(&[7, 9, 3], 1), t(&[2], &[1i64, 0]), t(&[2], &[7i64, 9]), t(&[2], &[0i64, 1]), t(&[2], &[2i64, 3])]);
        backwards => Case::new([random(&[7, 9], 1), t(&[1], &[-1i64]), t(&[1], &[i64::MIN]), t(&[1], &[0i64]), t(&[1], &[-1i64])]);
        backwards_by_two => Case::new([random(&[4, 19], 1), t(&[1], &[20i64]), t(&[1], &[2i64]), t(&[1], &[-1i64]), t(&[1], &[-2i64])]);
        negative => Case::new([random(&[20, 10], 1), t(&[1], &[-5i64]), t(&[1], &[-1i64])]);
        past_the_end => Case::new([random(&[20, 10], 1), t(&[1], &[1i64]), t(&[1], &[1000i64])]);
        far => Case::new([random_ints(&[20], 0, 9, 1), t(&[1], &[3i64]), t(&[1], &[i64::MAX]), t(&[1], &[0i64])]);
        beyond => Case::new([random(&[20], 1), t(&[1], &[1000i64]), t(&[1], &[1001i64])]);
        channels => Case::new([random(&[2, 8, 5, 6], 1), t(&[1], &[2i64]), t(&[1], &[5i64]), t(&[1], &[1i64])]);
        large => Case::new([random(&[3, 300, 70], 1), t(&[2], &[10i64, 3]), t(&[2], &[290i64, 60]), t(&[2], &[1i64, 2])]);
        old => Case::new([random(&[20, 10, 5], 1)]).ints("starts", &[0, 3]).ints("ends", &[2, -1]).ints("axes", &[0, 1]).version(1);
        empty => Case::new([random(&[0, 3], 1), t(&[1], &[0i64]), t(&[1], &[3i64])]);
        empty_backwards => Case::new([random(&[0], 1), t(&[1], &[-1i64]), t(&[1], &[-9i64]), t(&[1], &[0i64]), t(&[1], &[-1i64])]);
    }

    #[test]
    fn symbolic_extents() {
        let n = Dim::symbol(Symbol::new("n"));
        let d = |x: i64| Dim::from(x);
        assert_eq!(count(&d(512), &d(0), &n, 1), Some(n.clone()));
        assert_eq!(count(&n, &d(1), &d(i64::MAX), 1), Some(n.sub(&d(1))));
        assert_eq!(count(&n, &d(0), &d(-1), 1), Some(n.sub(&d(1))));
        assert_eq!(count(&n, &d(-1), &d(i64::MAX), 1), Some(d(1)));
        assert_eq!(count(&n, &d(-1), &d(i64::MIN), -1), Some(n.clone()));
        assert_eq!(count(&n, &d(0), &d(64), 1), None);
    }
}
