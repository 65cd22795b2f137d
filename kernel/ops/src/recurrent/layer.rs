//! What LSTM, GRU and RNN share: directions, sequence lengths, layouts, and products of matrices.
//!
//! ```text
//! for each direction:
//!   pre[t, b] = X[t, b] · Wᵀ + bias                    one product for all steps
//!   for each step:
//!     gates[b] = H[b] · Rᵀ                             one product for the batch
//!     H[b], C[b] = cell(gates[b] + pre[t, b], C[b])    row by row
//! ```
//! An element's sums do not depend on the batch's other rows: each is one chain over the inner dim.

use super::activation::Activation;
use crate::{
    carve::{carve, carved},
    matmul::product,
};
use alloc::{boxed::Box, string::ToString, sync::Arc, vec, vec::Vec};
use core::fmt::Debug;
use millstream_gemm::{Epilogue, Gemm, Lhs, PackedB, PackedRef, Rhs, pack_into, packed_len};
use millstream_graph::{BuildCx, BuildError, Cost, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, Packed, PrepackCx, Scratch, StepCx};
use millstream_simd::{Level, Simd, dispatch};
use millstream_tensor::{DType, TensorError, TensorView};

/// The rule by which a layer's state follows from its gates.
pub(crate) trait Cell: Debug + Send + Sync + 'static {
    /// Blocks of `hidden` rows in W and R.
    const GATES: usize;
    /// Blocks of R that are multiplied at once; the cell is called after each product.
    const GROUPS: &'static [usize];
    /// Whether there is a cell state beside the hidden one.
    const MEMORY: bool;
    /// Blocks whose two biases are simply added. Of the others, the second one belongs to the product with R.
    fn joined_biases(&self) -> usize {
        Self::GATES
    }
    /// Updates one row after the product of `group`.
    fn step<S: Simd>(&self, s: S, direction: usize, group: usize, row: Row<'_>);
}

/// One batch row in one step.
pub(crate) struct Row<'a> {
    /// `H · Rᵀ` of the groups so far.
    pub(crate) gates: &'a mut [f32],
    /// `X · Wᵀ` with biases.
    pub(crate) pre: &'a [f32],
    /// The hidden state.
    pub(crate) h: &'a mut [f32],
    /// The cell state; empty if there is none.
    pub(crate) c: &'a mut [f32],
    /// What the next group's product reads instead of the hidden state.
    pub(crate) mid: &'a mut [f32],
    /// Peephole weights; empty if there are none.
    pub(crate) peepholes: &'a [f32],
}

/// A recurrent layer.
#[derive(Debug)]
pub(crate) struct Layer<C> {
    cell: C,
    /// For each direction, whether it runs backwards.
    backwards: &'static [bool],
    batch_first: bool,
}

/// Input `i`'s elements in row-major order, if it is there.
fn dense<'a>(cx: &EvalCx<'a>, i: usize) -> Result<Option<&'a [f32]>, EvalError> {
    cx.optional::<f32>(i)?.map(|v| v.as_slice().ok_or(EvalError::Tensor(TensorError::Strided))).transpose()
}

/// How many directions a node has, and which of them run backwards.
fn directions(cx: &BuildCx<'_>) -> Result<&'static [bool], BuildError> {
    match cx.attributes.string_or("direction", "forward")? {
        "forward" => Ok(&[false]),
        "reverse" => Ok(&[true]),
        "bidirectional" => Ok(&[false, true]),
        other => Err(BuildError::UnsupportedAttribute { name: "direction", value: other.to_string() }),
    }
}

/// Builds a layer around the cell that `cell` makes from each direction's activations and the clip threshold.
pub(crate) fn build<C: Cell>(cx: &BuildCx<'_>, defaults: &[Activation], cell: impl FnOnce(Vec<Vec<Activation>>, f32) -> C) -> Result<Box<dyn Op>, BuildError> {
    let backwards = directions(cx)?;
    let activations = super::activation::parse(cx, backwards.len(), defaults)?;
    let batch_first = match cx.attributes.int_or("layout", 0)? {
        0 => false,
        1 => true,
        other => return Err(BuildError::UnsupportedAttribute { name: "layout", value: other.to_string() }),
    };
    let clip = cx.attributes.float_or("clip", f32::INFINITY)?;
    if clip.is_nan() || clip <= 0.0 {
        return Err(BuildError::UnsupportedAttribute { name: "clip", value: clip.to_string() });
    }
    Ok(Box::new(Layer { cell: cell(activations, clip), backwards, batch_first }))
}

/// Limits every element to −clip..clip and applies the activation.
#[inline(always)]
pub(crate) fn activate<S: Simd>(s: S, activation: Activation, clip: f32, x: &mut [f32]) {
    if clip < f32::INFINITY {
        x.iter_mut().for_each(|x| *x = x.clamp(-clip, clip));
    }
    activation.run(s, x);
}

/// W or R packed: for each direction, for each group of gates.
#[derive(Debug)]
struct Weights(Vec<PackedB>);

impl Packed for Weights {
    fn bytes_len(&self) -> usize {
        self.0.iter().map(PackedB::bytes).sum()
    }
}

/// Extents of a step.
#[derive(Debug, Clone, Copy)]
struct Dims {
    steps: usize,
    batch: usize,
    input: usize,
    hidden: usize,
}

impl<C: Cell> Layer<C> {
    fn dims(&self, x: &[usize], w: &[usize], r: &[usize]) -> Option<Dims> {
        let (&[a, b, input], &[d, rows, columns], &[e, rows_r, hidden]) = (x, w, r) else { return None };
        let gates = hidden.checked_mul(C::GATES)?;
        if d != self.backwards.len() || e != d || rows != gates || rows_r != gates || columns != input {
            return None;
        }
        let (steps, batch) = if self.batch_first { (b, a) } else { (a, b) };
        Some(Dims { steps, batch, input, hidden })
    }

    fn dims_of_step(&self, cx: &StepCx<'_>) -> Option<Dims> {
        self.dims(cx.input_shape(0)?, cx.input_shape(1)?, cx.input_shape(2)?)
    }

    /// The product with W, and those with R.
    fn products(&self, level: Level, d: &Dims) -> (Gemm, Vec<Gemm>) {
        let all = Gemm::new(level, d.steps * d.batch, d.input, C::GATES * d.hidden);
        (all, C::GROUPS.iter().map(|g| Gemm::new(level, d.batch, d.hidden, g * d.hidden)).collect())
    }

    /// Elements of R of one direction when packed.
    fn packed_r(&self, level: Level, d: &Dims) -> usize {
        C::GROUPS.iter().map(|g| packed_len(level, d.hidden, g * d.hidden)).sum()
    }
}

/// A matrix of `n` rows of `k` elements, as the right side of a product with its transpose.
fn transposed(data: &[f32], k: usize) -> Rhs<'_> {
    Rhs::strided(data, 1, k)
}

impl<C: Cell> Op for Layer<C> {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (x, w, r) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        for (input, fact) in [x, w, r].into_iter().enumerate() {
            if fact.dtype != DType::F32 {
                return Err(InferError::DType { input, found: fact.dtype });
            }
            if fact.rank() != 3 {
                return Err(InferError::Rank { input, found: fact.rank(), wanted: "3" });
            }
        }
        let hidden = r.dims[2].clone();
        let directions = Dim::from(self.backwards.len());
        let (steps, batch) = if self.batch_first { (x.dims[1].clone(), x.dims[0].clone()) } else { (x.dims[0].clone(), x.dims[1].clone()) };
        let (y, last) = if self.batch_first {
            (vec![batch.clone(), steps, directions.clone(), hidden.clone()], vec![batch, directions, hidden])
        } else {
            (vec![steps, directions.clone(), batch.clone(), hidden.clone()], vec![directions, batch, hidden])
        };
        let outputs = if C::MEMORY { vec![y, last.clone(), last] } else { vec![y, last] };
        Ok(outputs.into_iter().map(|dims| Fact::new(DType::F32, dims)).collect())
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let shape = |i: usize| cx.spec(i).map(|s| *s.shape()).ok_or(EvalError::MissingInput(i));
        let d = self.dims(&shape(0)?, &shape(1)?, &shape(2)?).ok_or(EvalError::Invalid("the shapes of X, W and R do not fit together"))?;
        let (level, hidden, width) = (cx.level(), d.hidden, C::GATES * d.hidden);
        let x = dense(cx, 0)?.ok_or(EvalError::MissingInput(0))?;
        let directions = self.backwards.len();
        let of_length = |v: Option<&'_ [f32]>, n: usize| v.is_none_or(|v| v.len() == n);
        let (bias, first_h) = (dense(cx, 3)?, dense(cx, 5)?);
        let (first_c, peepholes) = if C::MEMORY { (dense(cx, 6)?, dense(cx, 7)?) } else { (None, None) };
        let states = directions * d.batch * hidden;
        if !of_length(bias, directions * 2 * width)
            || !of_length(first_h, states)
            || !of_length(first_c, states)
            || !of_length(peepholes, directions * 3 * hidden)
        {
            return Err(EvalError::Invalid("the shapes of the biases, states or peepholes do not fit the layer"));
        }
        let lengths = self.lengths(cx, &d)?;
        let mut scratch = cx.scratch();
        let mut take = |n: usize| carve::<f32>(&mut scratch, n).ok_or(EvalError::Invalid("the scratch memory is too small"));
        let (joined, late) = (take(width)?, take(width)?);
        let (h, c, mid) = (take(d.batch * hidden)?, take(if C::MEMORY { d.batch * hidden } else { 0 })?, take(d.batch * hidden)?);
        let (gates, pre) = (take(d.batch * width)?, take(d.steps * d.batch * width)?);
        let own_w = if cx.packed::<Weights>(1).is_some() {
            None
        } else {
            Some((dense(cx, 1)?.ok_or(EvalError::MissingInput(1))?, take(packed_len(level, d.input, width))?))
        };
        let own_r =
            if cx.packed::<Weights>(2).is_some() { None } else { Some((dense(cx, 2)?.ok_or(EvalError::MissingInput(2))?, take(self.packed_r(level, &d))?)) };
        let (mut own_w, mut own_r) = (own_w, own_r);
        let (packed_w, packed_r) = (cx.packed::<Weights>(1), cx.packed::<Weights>(2));
        let mut y = if cx.wants(0) { Some(cx.output::<f32>(0)?.into_data()) } else { None };
        let mut last_h = if cx.wants(1) { Some(cx.output::<f32>(1)?.into_data()) } else { None };
        let mut last_c = if C::MEMORY && cx.wants(2) { Some(cx.output::<f32>(2)?.into_data()) } else { None };
        let (all, steps) = self.products(level, &d);
        for (dir, &backwards) in self.backwards.iter().enumerate() {
            join_biases(&self.cell, bias.map(|b| &b[dir * 2 * width..(dir + 1) * 2 * width]), joined, late);
            let w = match (packed_w, &mut own_w) {
                (Some(w), _) => w.0.get(dir).map(PackedB::view).ok_or(EvalError::MissingInput(1))?,
                (None, Some((w, memory))) => {
                    pack_into(level, transposed(&w[dir * width * d.input..(dir + 1) * width * d.input], d.input), d.input, width, memory)
                        .map_err(product::refused)?
                }
                _ => return Err(EvalError::MissingInput(1)),
            };
            let r = match (packed_r, &mut own_r) {
                (Some(r), _) => r.0.iter().skip(dir * C::GROUPS.len()).take(C::GROUPS.len()).map(PackedB::view).collect(),
                (None, Some((r, memory))) => pack_groups::<C>(level, &r[dir * width * hidden..(dir + 1) * width * hidden], hidden, memory)?,
                _ => return Err(EvalError::MissingInput(2)),
            };
            product::run(cx, &all, &Lhs::row_major(x, d.input), w, pre, width, &Epilogue { bias_cols: Some(joined), ..Epilogue::default() })?;
            // A state of batch row b lies at (dir, b), or at (b, dir) where the batch comes first.
            let state = |b: usize| (if self.batch_first { b * directions + dir } else { dir * d.batch + b }) * hidden;
            for b in 0..d.batch {
                let (to, at) = (b * hidden..(b + 1) * hidden, state(b));
                let start = |first: Option<&[f32]>, to: &mut [f32]| match first {
                    Some(first) => to.copy_from_slice(&first[at..at + hidden]),
                    None => to.fill(0.0),
                };
                start(first_h, &mut h[to.clone()]);
                if C::MEMORY {
                    start(first_c, &mut c[to]);
                }
            }
            let peepholes = peepholes.map_or(&[][..], |p| &p[dir * 3 * hidden..(dir + 1) * 3 * hidden]);
            for step in 0..d.steps {
                let mut column = 0;
                for (group, (gemm, r)) in steps.iter().zip(&r).enumerate() {
                    let columns = C::GROUPS[group] * hidden;
                    let from: &[f32] = if group == 0 { h } else { mid };
                    let epilogue = Epilogue { bias_cols: Some(&late[column..column + columns]), ..Epilogue::default() };
                    let to = gates.get_mut(column..).unwrap_or_default();
                    product::run(cx, gemm, &Lhs::row_major(from, hidden), *r, to, width, &epilogue)?;
                    column += columns;
                    for b in (0..d.batch).filter(|&b| step < lengths[b]) {
                        let t = if backwards { lengths[b] - 1 - step } else { step };
                        let at = if self.batch_first { b * d.steps + t } else { t * d.batch + b };
                        let range = b * hidden..(b + 1) * hidden;
                        let row = Row {
                            gates: &mut gates[b * width..(b + 1) * width],
                            pre: &pre[at * width..(at + 1) * width],
                            h: &mut h[range.clone()],
                            c: if C::MEMORY { &mut c[range.clone()] } else { &mut [] },
                            mid: &mut mid[range],
                            peepholes,
                        };
                        dispatch!(level, s => self.cell.step(s, dir, group, row));
                    }
                }
                let Some(y) = &mut y else { continue };
                for b in 0..d.batch {
                    let t = if backwards && step < lengths[b] { lengths[b] - 1 - step } else { step };
                    let at = if self.batch_first { (b * d.steps + t) * directions + dir } else { (t * directions + dir) * d.batch + b };
                    let to = &mut y[at * hidden..(at + 1) * hidden];
                    if step < lengths[b] { to.copy_from_slice(&h[b * hidden..(b + 1) * hidden]) } else { to.fill(0.0) }
                }
            }
            for b in 0..d.batch {
                let (from, at) = (b * hidden..(b + 1) * hidden, state(b));
                if let Some(to) = &mut last_h {
                    to[at..at + hidden].copy_from_slice(&h[from.clone()]);
                }
                if let Some(to) = &mut last_c {
                    to[at..at + hidden].copy_from_slice(&c[from]);
                }
            }
        }
        Ok(())
    }

    /// Two operations for each weight, time step and example.
    fn cost(&self, cx: &StepCx<'_>) -> Cost {
        let base = cx.elementwise_cost();
        let Some(d) = self.dims_of_step(cx) else { return base };
        let weights = self.backwards.len() * C::GATES * d.hidden * (d.input + d.hidden);
        Cost { flops: 2.0 * weights as f64 * (d.steps * d.batch) as f64, ..base }
    }

    fn scratch(&self, cx: &StepCx<'_>) -> Scratch {
        let Some(d) = self.dims_of_step(cx) else { return Scratch::default() };
        let width = C::GATES * d.hidden;
        let parts = [
            width,
            width,
            d.batch * d.hidden,
            if C::MEMORY { d.batch * d.hidden } else { 0 },
            d.batch * d.hidden,
            d.batch * width,
            d.steps.saturating_mul(d.batch).saturating_mul(width),
            if cx.is_packed(1) { 0 } else { packed_len(cx.level, d.input, width) },
            if cx.is_packed(2) { 0 } else { self.packed_r(cx.level, &d) },
        ];
        let (all, steps) = self.products(cx.level, &d);
        Scratch {
            shared: parts.iter().map(|&n| carved::<f32>(n)).fold(0, usize::saturating_add),
            per_worker: steps.iter().chain([&all]).map(product::grain_scratch).max().unwrap_or(0),
        }
    }

    fn prepack(&self, input: usize, weight: TensorView<'_>, cx: &PrepackCx<'_>) -> Result<Option<Arc<dyn Packed>>, TensorError> {
        let &[_, rows, k] = weight.shape().dims() else { return Ok(None) };
        if !matches!(input, 1 | 2) || weight.dtype() != DType::F32 || rows == 0 || rows % C::GATES != 0 || (input == 2 && rows != C::GATES * k) {
            return Ok(None);
        }
        let view = weight.typed::<f32>()?;
        let data = view.as_slice().ok_or(TensorError::Strided)?;
        let groups: &[usize] = if input == 1 { &[C::GATES] } else { C::GROUPS };
        let mut packed = Vec::new();
        for matrix in data.chunks_exact((rows * k).max(1)) {
            let mut first = 0;
            for group in groups {
                let n = group * (rows / C::GATES);
                let Ok(b) = PackedB::new(cx.level, transposed(&matrix[first * k..(first + n) * k], k), k, n) else { return Ok(None) };
                packed.push(b);
                first += n;
            }
        }
        Ok((packed.len() == self.backwards.len() * groups.len()).then(|| Arc::new(Weights(packed)) as Arc<dyn Packed>))
    }
}

impl<C: Cell> Layer<C> {
    /// How many steps each batch row has.
    fn lengths(&self, cx: &EvalCx<'_>, d: &Dims) -> Result<Vec<usize>, EvalError> {
        let Some(lengths) = cx.optional::<i32>(4)? else { return Ok(vec![d.steps; d.batch]) };
        if lengths.shape().elements() != d.batch {
            return Err(EvalError::Invalid("there is not one sequence length for each batch row"));
        }
        let length =
            |n: i32| usize::try_from(n).ok().filter(|&n| n <= d.steps).ok_or(EvalError::Element { what: "a sequence length is out of range", value: n.into() });
        lengths.iter().map(length).collect()
    }
}

/// The biases of a direction: those that join X's product, and those that belong to the product with R.
fn join_biases<C: Cell>(cell: &C, bias: Option<&[f32]>, joined: &mut [f32], late: &mut [f32]) {
    late.fill(0.0);
    let Some(bias) = bias else {
        joined.fill(0.0);
        return;
    };
    let (of_w, of_r) = bias.split_at(joined.len());
    let split = joined.len() / C::GATES * cell.joined_biases();
    joined.copy_from_slice(of_w);
    joined[..split].iter_mut().zip(of_r).for_each(|(j, r)| *j += r);
    late[split..].copy_from_slice(&of_r[split..]);
}

fn pack_groups<'m, C: Cell>(level: Level, r: &[f32], hidden: usize, memory: &'m mut [f32]) -> Result<Vec<PackedRef<'m>>, EvalError> {
    let mut rest = memory;
    let mut first = 0;
    let mut out = Vec::with_capacity(C::GROUPS.len());
    for group in C::GROUPS {
        let n = group * hidden;
        let (part, more) = rest.split_at_mut(packed_len(level, hidden, n));
        rest = more;
        out.push(pack_into(level, transposed(&r[first * hidden..(first + n) * hidden], hidden), hidden, n, part).map_err(product::refused)?);
        first += n;
    }
    Ok(out)
}
