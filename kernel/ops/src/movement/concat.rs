//! `Concat`: inputs joined along an axis. Runs in any order of memory that the inputs share.

use crate::{
    grains,
    movement::strided::{self, Walk},
    shape::relabel,
};
use alloc::{boxed::Box, format, string::String, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::{DType, Layout, Order, Tensor, TensorView, TensorViewMut, Word, tile::Tiles};
use smallvec::SmallVec;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Concat",
    since: &[4, 11, 13],
    inputs: Arity::at_least(1),
    outputs: Arity::exactly(1),
    attributes: &["axis"],
    subgraphs: &[],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| match cx.attributes.int("axis")? {
        Some(&axis) => Ok(Box::new(Concat { axis })),
        None => Err(BuildError::MissingAttribute("axis")),
    },
};

/// Inputs joined along an axis.
#[derive(Debug, Clone, Copy)]
pub struct Concat {
    axis: i64,
}

impl Concat {
    /// A concatenation along `axis`.
    pub fn new(axis: i64) -> Concat {
        Concat { axis }
    }

    /// The axis as the model gives it, maybe negative.
    pub fn axis(&self) -> i64 {
        self.axis
    }
}

impl Op for Concat {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let first = cx.input(0)?;
        if first.rank() == 0 {
            return Err(InferError::Rank { input: 0, found: 0, wanted: "at least 1" });
        }
        let axis = InferCx::axis(self.axis, first.rank())?;
        let mut dims = first.dims.clone();
        let mut known = if first.rank() == 1 { relabel::small_ints(first) } else { None };
        for i in 1..cx.inputs.len() {
            let next = cx.input(i)?;
            if next.dtype != first.dtype {
                return Err(InferError::DType { input: i, found: next.dtype });
            }
            if next.rank() != dims.len() {
                return Err(InferError::Rank { input: i, found: next.rank(), wanted: "the rank of the first input" });
            }
            for (a, (have, new)) in dims.iter_mut().zip(&next.dims).enumerate() {
                if a == axis {
                    *have = have.add(new);
                    continue;
                }
                match (have.as_const(), new.as_const()) {
                    (Some(x), Some(y)) if x != y => {
                        return Err(InferError::Mismatch { what: "dims beside the axis differ", left: format!("{x}"), right: format!("{y}") });
                    }
                    (None, Some(_)) => *have = new.clone(),
                    _ => {}
                }
            }
            known = known.zip(relabel::small_ints(next)).map(|(mut a, b)| {
                a.extend(b);
                a
            });
        }
        Ok(vec![match known {
            Some(values) => Fact::of_dims(first.dtype, values, false),
            None => Fact::new(first.dtype, dims),
        }])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        if !cx.wants(0) {
            return Ok(());
        }
        let inputs: SmallVec<[TensorView<'_>; 8]> = (0..cx.inputs()).map(|i| cx.tensor(i)).collect::<Result<_, _>>()?;
        let first = *inputs[0].shape();
        let axis = InferCx::axis(self.axis, first.rank())?;
        let mut shape = first;
        let mut total = 0usize;
        for t in &inputs {
            if t.shape().rank() != first.rank() || (0..first.rank()).any(|a| a != axis && t.shape()[a] != first[a]) {
                return Err(EvalError::Invalid("dims beside the axis differ"));
            }
            total = total.saturating_add(t.shape()[axis]);
        }
        shape = millstream_tensor::Shape::new(shape.with(axis, total).dims())?;
        if inputs[0].dtype() == DType::String {
            return strings(cx, &inputs, axis, &shape);
        }
        if cx.output_spec(0).is_some() {
            let to = cx.output_tensor(0)?;
            return join(cx, &inputs, axis, &shape, to);
        }
        let mut out = Tensor::zeros(inputs[0].dtype(), &shape)?;
        join(cx, &inputs, axis, &shape, out.view_mut()?)?;
        cx.set_value(0, out.into())
    }

    fn permute(&self, _cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        let order = inputs.iter().flatten().find(|o| !o.is_row_major()).or_else(|| inputs.iter().flatten().next())?;
        Some(Permutation { inputs: inputs.iter().map(|i| i.map(|_| *order)).collect(), outputs: vec![*order] })
    }
}

fn strings(cx: &mut EvalCx<'_>, inputs: &[TensorView<'_>], axis: usize, shape: &[usize]) -> Result<(), EvalError> {
    let outer: usize = shape[..axis].iter().product();
    let mut out: Vec<String> = Vec::new();
    for o in 0..outer {
        for t in inputs {
            let block: usize = t.shape()[axis..].iter().product();
            out.extend_from_slice(t.as_strings()?.get(o * block..(o + 1) * block).ok_or(EvalError::Output(0))?);
        }
    }
    cx.set_value(0, Tensor::from_strings(shape, out)?.into())
}

fn join(cx: &EvalCx<'_>, inputs: &[TensorView<'_>], axis: usize, shape: &[usize], to: TensorViewMut<'_>) -> Result<(), EvalError> {
    if to.shape().dims() != shape || to.dtype() != inputs[0].dtype() {
        return Err(EvalError::Output(0));
    }
    match to.dtype().size() {
        1 => join_words::<u8>(cx, inputs, axis, to),
        2 => join_words::<u16>(cx, inputs, axis, to),
        4 => join_words::<u32>(cx, inputs, axis, to),
        _ => join_words::<u64>(cx, inputs, axis, to),
    }
}

fn join_words<W: Word>(cx: &EvalCx<'_>, inputs: &[TensorView<'_>], axis: usize, to: TensorViewMut<'_>) -> Result<(), EvalError> {
    let shape = *to.shape();
    let order = to.layout().order().ok_or(EvalError::Output(0))?;
    // In the order of memory, each input is `outer` rows of its axis and all that lies inside of it.
    let at = order.axes().position(|a| a == axis).ok_or(EvalError::Output(0))?;
    let outer: usize = order.axes().take(at).map(|a| shape[a]).product();
    let inside: usize = order.axes().skip(at + 1).map(|a| shape[a]).product();
    let row = shape[axis] * inside;
    if shape.elements() == 0 {
        return Ok(());
    }
    let to = to.into_words::<W>()?;
    let mut small;
    let mut offset = 0;
    for t in inputs {
        let width = t.shape()[axis] * inside;
        if width == 0 {
            continue;
        }
        let dense = Layout::dense(*t.shape(), order);
        let from = t.words::<W>()?;
        let from = if t.layout().same_memory(&dense) {
            from
        } else {
            // A constant in row-major memory among values in another order.
            small = vec![W::default(); t.shape().elements()];
            strided::copy_words(cx, &Walk::over(t.shape(), &strided::signed(t.layout()), 0, &order), from, &mut small)?;
            &small[..]
        };
        let part = to.get_mut(offset..).ok_or(EvalError::Output(0))?;
        let (tile_rows, tile_cols) = if outer == 1 { (1, grains::chunk(width, 1)) } else { (grains::rows(outer, width, 1), width) };
        let tiles = Tiles::new(part, outer, width, row, tile_rows, tile_cols).ok_or(EvalError::Output(0))?;
        cx.parallel(tiles.count(), |grain, _| {
            let mut tile = tiles.claim(grain)?;
            let (first, column) = tile.origin();
            for r in 0..tile.rows() {
                let to = tile.row(r);
                let start = (first + r) * width + column;
                to.copy_from_slice(from.get(start..start + to.len())?);
            }
            Some(())
        })?;
        offset += width;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, random_ints, t};
    use millstream_graph::{Dim, Symbol};

    fn reference(case: &Case) -> Vec<Tensor> {
        let first = case.tensor(0);
        let axis = case.int_or("axis", 0);
        let axis = if axis < 0 { axis + first.shape().rank() as i64 } else { axis } as usize;
        let all: Vec<&Tensor> = (0..case.inputs.len()).map(|i| case.tensor(i)).collect();
        let mut dims = first.shape().to_vec();
        dims[axis] = all.iter().map(|t| t.shape()[axis]).sum();
        let outer: usize = dims[..axis].iter().product();
        if first.dtype() == DType::String {
            let part = |t: &&Tensor, o: usize| {
                let b: usize = t.shape()[axis..].iter().product();
                t.as_strings().unwrap()[o * b..(o + 1) * b].to_vec()
            };
            return vec![Tensor::from_strings(&dims, (0..outer).flat_map(|o| all.iter().flat_map(move |t| part(t, o)).collect::<Vec<_>>()).collect()).unwrap()];
        }
        let mut bytes: Vec<u8> = vec![];
        for o in 0..outer {
            for t in &all {
                let b: usize = t.shape()[axis..].iter().product::<usize>() * t.dtype().size();
                bytes.extend(&t.view().bytes().unwrap()[o * b..(o + 1) * b]);
            }
        }
        vec![Tensor::from_bytes(first.dtype(), &dims, &bytes).unwrap()]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        channels => Case::new([random(&[2, 3, 4, 5], 1), random(&[2, 1, 4, 5], 2), random(&[2, 2, 4, 5], 3)]).int("axis", 1);
        with_constant => Case::new([random(&[2, 3, 4, 5], 1), random(&[2, 1, 4, 5], 2)]).int("axis", 1).constant(1);
        front => Case::new([random(&[200, 300], 1), random(&[1, 300], 2)]).int("axis", 0);
        back => Case::new([random(&[3, 4], 1), random(&[3, 2], 2)]).int("axis", -1);
        wide => Case::new([random_ints(&[3, 4], 0, 9, 1), random_ints(&[3, 2], 0, 9, 2)]).int("axis", 1);
        one => Case::new([random(&[3, 4], 1)]).int("axis", 1);
        with_empty => Case::new([random(&[3, 0], 1), random(&[3, 2], 2)]).int("axis", 1);
        empty => Case::new([random(&[0, 1], 1), random(&[0, 2], 2)]).int("axis", 1);
        strings => Case::new([Tensor::from_strings(&[2, 1], vec!["a".into(), "b".into()]).unwrap(), Tensor::from_strings(&[2, 1], vec!["c".into(), "d".into()]).unwrap()]).int("axis", 1);
    }

    #[test]
    fn symbolic_shapes_join() {
        let n = Dim::symbol(Symbol::new("n"));
        let facts = [Fact::of_dims(DType::I64, vec![n.clone()], false), Fact::constant(t(&[2], &[12i64, -1]).into())];
        let refs: Vec<Option<&Fact>> = facts.iter().map(Some).collect();
        let out = Concat { axis: 0 }.infer(&InferCx { path: "x", inputs: &refs, outputs: 1 }).unwrap();
        assert_eq!(out[0].int_dims().unwrap(), [n, Dim::from(12), Dim::from(-1)]);
    }
}
