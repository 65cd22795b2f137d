//! Attention without stored scores.

use super::Site;
use crate::{
    call::{Argument, Calls, repeated, row_major},
    shape,
};
use millstream_graph::Op;
use millstream_ops::attention::fused_attention::FusedAttention;

/// Queries that a block takes.
const QUERIES: usize = 16;

pub(super) fn knows(op: &dyn Op) -> bool {
    op.downcast_ref::<FusedAttention>().is_some()
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

pub(super) fn select(site: &Site<'_>) -> Option<Calls> {
    let op = site.op.downcast_ref::<FusedAttention>()?;
    let ([perm_q, perm_k, perm_v], perm_y) = op.permutations();
    let y = site.output()?.shape().dims();
    let inverse: Vec<usize> = (0..perm_y.len()).filter_map(|axis| perm_y.iter().position(|&p| p == axis)).collect();
    let (q, k, v, y) = (seen(site.dims(0)?, perm_q)?, seen(site.dims(1)?, perm_k)?, seen(site.dims(2)?, perm_v)?, seen(y, &inverse)?);
    let ([batch, heads, queries, value_size], [.., keys, _]) = (y.0, k.0);
    let size = q.0[3];
    // A single key stands for as many as the mask has, which kernels do not know.
    if keys < 2 || v.0[2] != keys || size > 256 || value_size > 256 || [q, k, v, y].iter().any(|o| o.0[3] > 1 && o.1[3] != 1) {
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
    let mut mask_strides = [0; 3];
    let mut mask = Argument::Null;
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
        size: size as i64,
        value_size: value_size as i64,
        q: strides(q)?,
        k: strides(k)?,
        v: strides(v)?,
        y: strides(y)?,
        mask_strides,
        past: 0,
        window: 0,
        mask: i32::from(mask != Argument::Null),
        causal: 0,
        scale: op.scale(),
        softcap: 0.0,
    };
    let most = size.max(value_size);
    let name = if most <= 64 {
        "d64"
    } else if most <= 128 {
        "d128"
    } else {
        "d256"
    };
    let shared = 4 * (QUERIES * (size + 1) + 32 * (most + 1) + QUERIES * 33);
    let arguments =
        vec![Argument::Input(0, 0), Argument::Input(1, 0), Argument::Input(2, 0), mask, Argument::Null, Argument::Output(0, 0), Argument::structure(&shape)];
    let calls = Calls::new().call(format!("attention_{name}_{}", site.float()?), batch * heads * queries.div_ceil(QUERIES), 1, arguments);
    Some(calls.shared(shared))
}
