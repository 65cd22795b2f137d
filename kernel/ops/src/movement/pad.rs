//! `Pad`: elements added (or, with negative pads, removed) around the input. Modes: a constant, the edge repeated, the input
//! mirrored at the edge (`reflect`) or going round (`wrap`). Pads are an attribute up to version 2, an input from 11 on;
//! axes can be named from 18 on.
//!
//! Each axis gets a table from output index to input index, so that a row of the output is a run of constants, a run of
//! consecutive elements of the input, and single elements where it is mirrored.

use crate::{grains, movement::index, shape::relabel};
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::{DType, MAX_RANK, Order, Shape, Tensor, TensorView, TensorViewMut, Value, Word, tile::Tiles};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Pad",
    since: &[2, 11, 13, 18, 19, 21, 23, 24, 25],
    inputs: Arity::range(1, 4),
    outputs: Arity::exactly(1),
    attributes: &["mode", "pads", "value"],
    subgraphs: &[],
    dtypes: "any but string",
    build: |cx: &BuildCx<'_>| {
        let mode = match cx.attributes.string_or("mode", "constant")? {
            "constant" => Mode::Constant,
            "reflect" => Mode::Reflect,
            "edge" => Mode::Edge,
            "wrap" => Mode::Wrap,
            other => return Err(BuildError::UnsupportedAttribute { name: "mode", value: other.into() }),
        };
        let pads = cx.attributes.ints("pads")?.cloned();
        if pads.is_none() && cx.inputs < 2 {
            return Err(BuildError::MissingAttribute("pads"));
        }
        Ok(Box::new(Pad { mode, pads, value: cx.attributes.float_or("value", 0.0)? }))
    },
};

/// What lies outside of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Constant,
    Reflect,
    Edge,
    Wrap,
}

/// The input with more elements around it.
#[derive(Debug, Clone)]
pub struct Pad {
    mode: Mode,
    pads: Option<Vec<i64>>,
    value: f32,
}

/// In a table of indices: the constant.
const OUTSIDE: usize = usize::MAX;

/// Pads before and after each axis of an input of rank `rank`.
fn around<T: Clone + Default>(pads: &[T], axes: Option<&[i64]>, rank: usize) -> Result<Vec<(T, T)>, InferError> {
    let all: Vec<i64> = (0..rank as i64).collect();
    let axes = axes.unwrap_or(&all);
    relabel::axes(axes, rank)?;
    if pads.len() != 2 * axes.len() {
        return Err(InferError::Invalid("there must be two pads for each axis"));
    }
    let mut out = vec![(T::default(), T::default()); rank];
    for (i, &a) in axes.iter().enumerate() {
        out[InferCx::axis(a, rank)?] = (pads[i].clone(), pads[axes.len() + i].clone());
    }
    Ok(out)
}

/// The input index for each output index along one axis. `None` if the axis has nothing to repeat.
fn table(mode: Mode, dim: usize, before: i64, out: usize) -> Option<Vec<usize>> {
    let d = dim as i64;
    if mode != Mode::Constant && d == 0 && out > 0 {
        return None;
    }
    let at = |o: usize| {
        let i = (o as i64).saturating_sub(before);
        let i = match mode {
            _ if (0..d).contains(&i) => i,
            Mode::Constant => return OUTSIDE,
            Mode::Edge => i.clamp(0, d - 1),
            Mode::Wrap => i.rem_euclid(d),
            Mode::Reflect if d == 1 => 0,
            Mode::Reflect => {
                let m = i.rem_euclid(2 * (d - 1));
                if m < d { m } else { 2 * (d - 1) - m }
            }
        };
        i as usize
    };
    Some((0..out).map(at).collect())
}

/// A dim that `Default` makes zero.
#[derive(Debug, Clone)]
struct Extra(Dim);

impl Default for Extra {
    fn default() -> Extra {
        Extra(Dim::from(0))
    }
}

impl Op for Pad {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        let pads: Vec<Extra> = match &self.pads {
            Some(p) => p.iter().map(|&p| Extra(Dim::from(p))).collect(),
            None => cx.int_dims(1)?.into_iter().map(Extra).collect(),
        };
        let axes = if cx.optional(3).is_some() { Some(cx.ints(3)?) } else { None };
        let around = around(&pads, axes.as_deref(), x.rank())?;
        let dims: Vec<Dim> = x.dims.iter().zip(&around).map(|(d, (a, b))| d.add(&a.0).add(&b.0)).collect();
        if dims.iter().any(|d| d.as_const().is_some_and(|d| d < 0)) {
            return Err(InferError::Invalid("negative pads remove more than there is"));
        }
        Ok(vec![Fact::new(x.dtype, dims)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        if !cx.wants(0) {
            return Ok(());
        }
        let from = cx.tensor(0)?;
        let rank = from.shape().rank();
        let pads = match &self.pads {
            Some(p) => p.clone(),
            None => index::integers(cx, 1)?,
        };
        let axes = if cx.has(3) { Some(index::integers(cx, 3)?) } else { None };
        let around = around(&pads, axes.as_deref(), rank)?;
        let mut dims = [0usize; MAX_RANK];
        for (a, (before, after)) in around.iter().enumerate() {
            let d = (from.shape()[a] as i64).checked_add(*before).and_then(|d| d.checked_add(*after));
            dims[a] = d.and_then(|d| usize::try_from(d).ok()).ok_or(EvalError::Invalid("negative pads remove more than there is"))?;
        }
        let shape = Shape::new(&dims[..rank])?;
        let value = self.constant(cx, from.dtype())?;
        if let Some(spec) = cx.output_spec(0) {
            if spec.shape() != &shape {
                return Err(EvalError::Output(0));
            }
            let to = cx.output_tensor(0)?;
            return self.pad(cx, from, &around, &value, to);
        }
        let mut out = Tensor::zeros(from.dtype(), &shape)?;
        self.pad(cx, from, &around, &value, out.view_mut()?)?;
        cx.set_value(0, Value::Tensor(out))
    }

    fn permute(&self, _cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        let order = (*inputs.first()?)?;
        let rows = inputs.iter().skip(1).map(|o| o.map(|o| Order::row_major(o.rank())));
        Some(Permutation { inputs: core::iter::once(Some(order)).chain(rows).collect(), outputs: vec![order] })
    }
}

impl Pad {
    /// The constant as a tensor of one element.
    fn constant(&self, cx: &EvalCx<'_>, dtype: DType) -> Result<Tensor, EvalError> {
        if cx.has(2) {
            let value = Tensor::from_view(cx.tensor(2)?)?;
            if value.dtype() != dtype || value.shape().elements() != 1 {
                return Err(EvalError::Invalid("the padding value is no scalar of the input's type"));
            }
            return Ok(value);
        }
        Ok(match dtype {
            DType::F32 => Tensor::scalar(self.value)?,
            DType::F64 => Tensor::scalar(f64::from(self.value))?,
            DType::F16 => Tensor::scalar(half::f16::from_f32(self.value))?,
            DType::BF16 => Tensor::scalar(half::bf16::from_f32(self.value))?,
            other => Tensor::zeros(other, &[])?,
        })
    }

    fn pad(&self, cx: &EvalCx<'_>, from: TensorView<'_>, around: &[(i64, i64)], value: &Tensor, to: TensorViewMut<'_>) -> Result<(), EvalError> {
        match from.dtype().size() {
            1 => self.pad_words::<u8>(cx, from, around, value, to),
            2 => self.pad_words::<u16>(cx, from, around, value, to),
            4 => self.pad_words::<u32>(cx, from, around, value, to),
            8 => self.pad_words::<u64>(cx, from, around, value, to),
            _ => Err(EvalError::DType(from.dtype())),
        }
    }

    fn pad_words<W: Word>(&self, cx: &EvalCx<'_>, from: TensorView<'_>, around: &[(i64, i64)], value: &Tensor, to: TensorViewMut<'_>) -> Result<(), EvalError> {
        let value = *value.view().words::<W>()?.first().ok_or(EvalError::Invalid("the padding value has no element"))?;
        let shape = *to.shape();
        if shape.elements() == 0 {
            return Ok(());
        }
        // Axes in the order of the output's memory: extents, the input's strides, and the tables.
        let order: Vec<usize> = to.layout().order().ok_or(EvalError::Output(0))?.axes().collect();
        let tables: Option<Vec<Vec<usize>>> = order.iter().map(|&a| table(self.mode, from.shape()[a], around[a].0, shape[a])).collect();
        let tables = tables.ok_or(EvalError::Invalid("an empty axis has nothing to repeat"))?;
        let strides: Vec<usize> = order.iter().map(|&a| from.layout().strides()[a]).collect();
        let (from, to) = (from.words::<W>()?, to.into_words::<W>()?);
        let (Some((last, outer)), Some(&stride)) = (tables.split_last(), strides.last()) else {
            to.copy_from_slice(from);
            return Ok(());
        };
        // The run of the last axis that is the input as it stands.
        let lead = around[order[order.len() - 1]].0.max(0) as usize;
        let lead = lead.min(last.len());
        let run = last[lead..].windows(2).take_while(|w| w[0] != OUTSIDE && w[1] == w[0].wrapping_add(1)).count();
        let run = if lead < last.len() && last[lead] != OUTSIDE { run + 1 } else { 0 };
        let one = |base: usize, i: usize| if i == OUTSIDE { Some(value) } else { from.get(base + i * stride).copied() };
        let row = last.len();
        let per_grain = grains::rows(to.len() / row, row, 1);
        let tiles = Tiles::rows(to, row, per_grain).ok_or(EvalError::Output(0))?;
        cx.parallel(tiles.count(), |grain, _| {
            let mut tile = tiles.claim(grain)?;
            for (r, to) in tile.as_slice()?.chunks_exact_mut(row).enumerate() {
                let (mut rest, mut base, mut outside) = (grain * per_grain + r, 0, false);
                for (table, stride) in outer.iter().zip(&strides).rev() {
                    let i = table[rest % table.len()];
                    rest /= table.len();
                    outside |= i == OUTSIDE;
                    base += if i == OUTSIDE { 0 } else { i * stride };
                }
                if outside {
                    to.fill(value);
                    continue;
                }
                let (head, tail) = to.split_at_mut(lead);
                let (body, tail) = tail.split_at_mut(run);
                for (to, &i) in head.iter_mut().zip(last) {
                    *to = one(base, i)?;
                }
                if stride == 1 && run > 0 {
                    body.copy_from_slice(from.get(base + last[lead]..base + last[lead] + run)?);
                } else {
                    for (to, &i) in body.iter_mut().zip(&last[lead..]) {
                        *to = one(base, i)?;
                    }
                }
                for (to, &i) in tail.iter_mut().zip(&last[lead + run..]) {
                    *to = one(base, i)?;
                }
            }
            Some(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let rank = x.shape().rank();
        let pads = case.optional(1).map(|p| p.as_slice::<i64>().unwrap().to_vec()).unwrap_or_else(|| case.attributes.ints("pads").unwrap().unwrap().clone());
        let axes: Vec<usize> =
            case.optional(3).map_or((0..rank).collect(), |a| a.as_slice::<i64>().unwrap().iter().map(|&a| (a + rank as i64) as usize % rank).collect());
        let value = case.optional(2).map_or(case.attributes.float_or("value", 0.0).unwrap(), |v| v.as_slice::<f32>().unwrap()[0]);
        let mode = case.attributes.string_or("mode", "constant").unwrap();
        let mut before = vec![0i64; rank];
        let mut dims: Vec<usize> = x.shape().to_vec();
        for (i, &a) in axes.iter().enumerate() {
            before[a] = pads[i];
            dims[a] = (dims[a] as i64 + pads[i] + pads[axes.len() + i]) as usize;
        }
        let view = x.view().typed::<f32>().unwrap();
        let out: Vec<f32> = (0..dims.iter().product())
            .map(|n: usize| {
                let (mut rest, mut index, mut inside) = (n, vec![0; rank], true);
                for a in (0..rank).rev() {
                    let mut i = (rest % dims[a]) as i64 - before[a];
                    rest /= dims[a];
                    let d = x.shape()[a] as i64;
                    while mode != "constant" && !(0..d).contains(&i) {
                        i = match mode {
                            "edge" => i.clamp(0, d - 1),
                            "wrap" => {
                                if i < 0 {
                                    i + d
                                } else {
                                    i - d
                                }
                            }
                            _ if d == 1 => 0,
                            _ => {
                                if i < 0 {
                                    -i
                                } else {
                                    2 * d - 2 - i
                                }
                            }
                        };
                    }
                    inside &= (0..d).contains(&i);
                    index[a] = i.max(0) as usize;
                }
                if inside { view.at(&index).unwrap() } else { value }
            })
            .collect();
        vec![t(&dims, &out)]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        constant => Case::new([random(&[2, 3, 6, 5], 1), t(&[8], &[0i64, 0, 1, 2, 0, 0, 3, 1]), t(&[], &[1.5f32])]);
        zeros => Case::new([random(&[3, 4], 1), t(&[4], &[1i64, 0, 0, 2])]);
        old => Case::new([random(&[3, 4], 1)]).ints("pads", &[1, 0, 0, 2]).float("value", 2.0).version(2);
        reflect => Case::new([random(&[2, 60], 1), t(&[4], &[0i64, 9, 0, 7])]).string("mode", "reflect");
        reflect_far => Case::new([random(&[2, 3], 1), t(&[4], &[0i64, 9, 0, 7])]).string("mode", "reflect");
        edge => Case::new([random(&[2, 3, 4], 1), t(&[6], &[1i64, 1, 1, 2, 2, 2])]).string("mode", "edge");
        wrap => Case::new([random(&[2, 3], 1), t(&[4], &[1i64, 5, 0, 4])]).string("mode", "wrap");
        negative => Case::new([random(&[5, 6], 1), t(&[4], &[-1i64, 2, 1, -3])]);
        negative_both => Case::new([random(&[5, 6], 1), t(&[4], &[-1i64, -2, -1, -1])]).string("mode", "edge");
        axes => Case::new([random(&[2, 3, 4], 1), t(&[2], &[1i64, 2]), t(&[], &[0.0f32]), t(&[1], &[-2i64])]);
        empty => Case::new([random(&[0, 3], 1), t(&[4], &[1i64, 0, 1, 0])]);
        scalar => Case::new([random(&[], 1), t::<i64>(&[0], &[])]);
    }
}
