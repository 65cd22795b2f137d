//! Attention without stored scores: fused from a graph's nodes, or ONNX's own with caches, shared heads and windows.
//!
//! Which kernel depends on the problem alone: few queries split their keys over blocks, halves with many queries take tensor
//! cores, everything else the plain kernel.

use super::{Site, movement::copy};
use crate::{
    call::{Argument, Calls, repeated, row_major},
    shape,
};
use millstream_graph::Op;
use millstream_ops::attention::{fused_attention::FusedAttention, scaled_dot_product::Attention};
use millstream_tensor::DType;

/// Queries that a block takes, of the plain kernel and on tensor cores.
const QUERIES: usize = 16;
const TENSOR_QUERIES: usize = 64;

/// Queries up to which their keys are split over blocks, the keys of a split at the least, and the blocks that fill a device.
const FEW: usize = 4;
const SPLIT: usize = 64;
const BLOCKS: usize = 512;

/// Inputs of ONNX's attention.
const MASK: usize = 3;
const PAST: [usize; 2] = [4, 5];
const VALID: usize = 6;

pub(super) fn knows(op: &dyn Op) -> bool {
    op.downcast_ref::<FusedAttention>().is_some() || op.downcast_ref::<Attention>().is_some()
}

/// True if the input may have no elements: a cache before the first step.
pub(super) fn may_be_empty(op: &dyn Op, input: usize) -> bool {
    PAST.contains(&input) && op.downcast_ref::<Attention>().is_some()
}

pub(super) fn select(site: &Site<'_>) -> Option<Calls> {
    match site.op.downcast_ref::<FusedAttention>() {
        Some(op) => fused(site, op),
        None => cached(site, site.op.downcast_ref::<Attention>()?),
    }
}

/// What a launch reads beside its shape.
struct Operands {
    q: Argument,
    k: Argument,
    v: Argument,
    mask: Argument,
    lengths: Argument,
}

/// Dims of an operand as attention sees them, and its strides: batch, head, row, column.
fn seen(dims: &[usize], perm: &[usize]) -> Option<([usize; 4], [i64; 4])> {
    let own = row_major(dims);
    let perm: Vec<usize> = if perm.is_empty() { (0..dims.len()).collect() } else { perm.to_vec() };
    let (mut extents, mut strides) = ([1; 4], [0; 4]);
    let missing = 4usize.checked_sub(perm.len())?;
    for (axis, &from) in perm.iter().enumerate() {
        extents[missing + axis] = dims[from];
        strides[missing + axis] = own[from];
    }
    Some((extents, strides))
}

/// What the optimiser makes: any order of axes, an added mask, operands that broadcast.
fn fused(site: &Site<'_>, op: &FusedAttention) -> Option<Calls> {
    let ([perm_q, perm_k, perm_v], perm_y) = op.permutations();
    let y = site.output()?.shape().dims();
    let inverse: Vec<usize> = (0..perm_y.len()).filter_map(|axis| perm_y.iter().position(|&p| p == axis)).collect();
    let (q, k, v, y) = (seen(site.dims(0)?, perm_q)?, seen(site.dims(1)?, perm_k)?, seen(site.dims(2)?, perm_v)?, seen(y, &inverse)?);
    let ([batch, heads, queries, value_size], [.., keys, _]) = (y.0, k.0);
    // A single key stands for as many as the mask has, which kernels do not know.
    if keys < 2 || v.0[2] != keys || [q, k, v, y].iter().any(|o| o.0[3] > 1 && o.1[3] != 1) {
        return None;
    }
    // What has one element along the batch or the heads is repeated.
    let strides = |(dims, strides): ([usize; 4], [i64; 4])| {
        let along = |axis: usize, extent: usize| match dims[axis] {
            1 => Some(0),
            d => (d == extent).then_some(strides[axis]),
        };
        Some([along(0, batch)?, along(1, heads)?, strides[2]])
    };
    let (mut mask_strides, mut mask) = ([0; 3], Argument::Null);
    if let Some(dims) = site.dims(3) {
        let repeated = repeated(dims, &[batch, heads, queries, keys])?;
        if repeated[3] != 1 {
            return None;
        }
        mask_strides.copy_from_slice(&repeated[..3]);
        mask = Argument::Input(3, 0);
    }
    let shape = shape::Attention {
        batch: batch as i64,
        heads: heads as i64,
        kv_heads: heads as i64,
        queries: queries as i64,
        keys: keys as i64,
        size: q.0[3] as i64,
        value_size: value_size as i64,
        q: strides(q)?,
        k: strides(k)?,
        v: strides(v)?,
        y: strides(y)?,
        mask_strides,
        mask: i32::from(mask != Argument::Null),
        // It stands for a softmax.
        blind: 1,
        scale: op.scale(),
        ..shape::Attention::default()
    };
    let operands = Operands { q: Argument::Input(0, 0), k: Argument::Input(1, 0), v: Argument::Input(2, 0), mask, lengths: Argument::Null };
    launched(Calls::new(), site.float()?, &shape, operands)
}

/// Dims of an operand, `[batch, heads, rows, elements]`, and its strides without the elements', which are neighbours.
struct Rows {
    dims: [usize; 4],
    strides: [i64; 3],
}

impl Rows {
    /// Of four axes, or of three with heads side by side.
    fn new(dims: &[usize], heads: Option<usize>) -> Option<Rows> {
        match (dims, heads) {
            (&[b, h, l, d], _) => Some(Rows::dense([b, h, l, d])),
            (&[b, l, all], Some(h)) if h > 0 && all % h == 0 => {
                Some(Rows { dims: [b, h, l, all / h], strides: [(l * all) as i64, (all / h) as i64, all as i64] })
            }
            _ => None,
        }
    }

    fn dense(dims: [usize; 4]) -> Rows {
        let [_, h, l, d] = dims;
        Rows { dims, strides: [(h * l * d) as i64, (l * d) as i64, d as i64] }
    }

    fn all_strides(&self) -> [i64; 4] {
        let [b, h, l] = self.strides;
        [b, h, l, 1]
    }
}

/// ONNX's operator. Keys and values of earlier calls and new ones are joined where both are there, or where somebody reads them.
fn cached(site: &Site<'_>, op: &Attention) -> Option<Calls> {
    if site.wants(3) || op.cap() < 0.0 {
        return None;
    }
    let y = site.output()?;
    let heads = |i: usize| op.heads().map(|h| h[i]);
    let (q, k, v) = (Rows::new(site.dims(0)?, heads(0))?, Rows::new(site.dims(1)?, heads(1))?, Rows::new(site.dims(2)?, heads(1))?);
    let to = Rows::new(y.shape().dims(), heads(0))?;
    let ([batch, q_heads, queries, size], [_, kv_heads, new, _], value_size) = (q.dims, k.dims, v.dims[3]);
    let past = site.dims(PAST[0]).map_or(0, |dims| dims.get(2).copied().unwrap_or(0));
    let fits = |rows: &Rows, i: usize, size: usize| {
        rows.dims == [batch, kv_heads, new, size] && site.dims(PAST[i]).is_none_or(|dims| *dims == [batch, kv_heads, past, size])
    };
    if !fits(&k, 0, size)
        || !fits(&v, 1, value_size)
        || kv_heads == 0
        || q_heads % kv_heads != 0
        || site.dims(PAST[0]).is_some() != site.dims(PAST[1]).is_some()
    {
        return None;
    }
    let keys = past + new;
    let (calls, k, k_rows) = joined(site, Calls::new(), 0, k, past)?;
    let (calls, v, v_rows) = joined(site, calls, 1, v, past)?;
    let (mut shown, mut mask, mut kind, mut mask_strides) = (keys, Argument::Null, 0, [0; 3]);
    if let Some(spec) = site.input(MASK) {
        let dims = spec.shape().dims();
        // Keys past the mask's end are hidden.
        shown = *dims.last().filter(|&&columns| columns <= keys)?;
        mask_strides.copy_from_slice(&repeated(dims, &[batch, q_heads, queries, shown])?[..3]);
        kind = if spec.dtype == DType::Bool { 2 } else { 1 };
        mask = Argument::Input(MASK, 0);
    }
    let (calls, lengths) = lengths(site, calls, batch)?;
    if lengths != Argument::Null && (past > 0 || shown < keys) {
        return None;
    }
    let [left, right] = op.window();
    let dtype = super::float(y.dtype)?;
    let is_float = |i: usize| site.input(i).is_none_or(|s| s.dtype == y.dtype);
    if right.is_some_and(|r| r > 0) || ![0, 1, 2, PAST[0], PAST[1]].into_iter().all(is_float) || kind == 1 && !is_float(MASK) {
        return None;
    }
    let shape = shape::Attention {
        batch: batch as i64,
        heads: q_heads as i64,
        kv_heads: kv_heads as i64,
        queries: queries as i64,
        keys: shown as i64,
        size: size as i64,
        value_size: value_size as i64,
        q: q.strides,
        k: k_rows.strides,
        v: v_rows.strides,
        y: to.strides,
        mask_strides,
        past: past as i64,
        window: left.map_or(0, |l| l as i64 + 1),
        mask: kind,
        causal: i32::from(right.is_some()),
        scale: op.factor().unwrap_or(1.0 / (size as f32).sqrt()),
        softcap: op.cap(),
        ..shape::Attention::default()
    };
    launched(calls, dtype, &shape, Operands { q: Argument::Input(0, 0), k, v, mask, lengths })
}

/// Keys (`which` 0) or values (1) of all calls: where they lie, or a copy of both parts.
fn joined(site: &Site<'_>, mut calls: Calls, which: usize, new: Rows, past: usize) -> Option<(Calls, Argument, Rows)> {
    let (input, output, dtype) = (1 + which, 1 + which, site.input(1 + which)?.dtype);
    if past == 0 && !site.wants(output) {
        return Some((calls, Argument::Input(input, 0), new));
    }
    let [batch, heads, rows, size] = new.dims;
    let all = Rows::dense([batch, heads, past + rows, size]);
    let scratch = calls.scratch.len();
    if !site.wants(output) {
        calls = calls.scratch(all.dims.iter().product::<usize>() * dtype.size());
    }
    let at = |row: usize| {
        let offset = row * size * dtype.size();
        if site.wants(output) { Argument::Output(output, offset) } else { Argument::Scratch(scratch, offset) }
    };
    let whole = all.all_strides();
    if past > 0 {
        let dims = [batch, heads, past, size];
        calls = copy(calls, dtype, &dims, (Argument::Input(PAST[which], 0), &row_major(&dims)), (at(0), &whole))?;
    }
    calls = copy(calls, dtype, &new.dims, (Argument::Input(input, 0), &new.all_strides()), (at(past), &whole))?;
    Some((calls, at(0), all))
}

/// How many keys each of the batch has, as kernels want it.
fn lengths(site: &Site<'_>, calls: Calls, batch: usize) -> Option<(Calls, Argument)> {
    let Some(spec) = site.input(VALID) else { return Some((calls, Argument::Null)) };
    if spec.shape().elements() != batch {
        return None;
    }
    match spec.dtype {
        DType::I32 => Some((calls, Argument::Input(VALID, 0))),
        DType::I64 => {
            let narrow = Argument::Scratch(calls.scratch.len(), 0);
            let arguments = vec![Argument::Input(VALID, 0), narrow.clone(), Argument::count(batch)];
            Some((calls.scratch(batch * 4).call("cast_i64_i32", batch, 1024, arguments), narrow))
        }
        _ => None,
    }
}

/// The launches that compute output 0.
fn launched(calls: Calls, dtype: &str, shape: &shape::Attention, operands: Operands) -> Option<Calls> {
    let [batch, heads, queries, keys, size, value_size] =
        [shape.batch, shape.heads, shape.queries, shape.keys, shape.size, shape.value_size].map(|extent| extent as usize);
    let most = size.max(value_size);
    if most > 256 {
        return None;
    }
    let (rows, output) = (batch * heads * queries, || Argument::Output(0, 0));
    let Operands { q, k, v, mask, lengths } = operands;
    let mut arguments = vec![q, k, v, mask, lengths];
    if queries <= FEW {
        let splits = (BLOCKS / rows).clamp(1, (keys / SPLIT).max(1));
        let parts = Argument::Scratch(calls.scratch.len(), 0);
        let structure = Argument::structure(shape);
        arguments.extend([parts.clone(), Argument::count(splits), structure.clone()]);
        let calls = calls.scratch(rows * splits * (value_size + 2) * 4).call(format!("attention_decode_{dtype}"), rows * splits, 1, arguments);
        return Some(calls.call(format!("attention_join_{dtype}"), rows, 1, vec![parts, Argument::count(splits), output(), structure]));
    }
    arguments.extend([output(), Argument::structure(shape)]);
    if dtype != "f32" && most <= 128 && queries > QUERIES {
        let width = if most <= 64 { 64 } else { 128 };
        let calls = calls.call(format!("attention_tensor_d{width}_{dtype}"), batch * heads * queries.div_ceil(TENSOR_QUERIES), 1, arguments);
        return Some(calls.shared(128 * (width + 8) * 2));
    }
    let width = if most <= 64 {
        64
    } else if most <= 128 {
        128
    } else {
        256
    };
    let shared = 4 * (QUERIES * (size + 1) + 32 * (most + 1) + QUERIES * 33);
    Some(calls.call(format!("attention_d{width}_{dtype}"), batch * heads * queries.div_ceil(QUERIES), 1, arguments).shared(shared))
}
