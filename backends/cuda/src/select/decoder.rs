//! What a decoder does around attention: rotary embeddings, and caches that grow.

use super::{Site, movement::copy};
use crate::{
    call::{Argument, Calls, row_major},
    shape,
};
use millstream_graph::{InferCx, Op};
use millstream_ops::{attention::rotary_embedding::RotaryEmbedding, movement::tensor_scatter::TensorScatter};
use millstream_tensor::DType;

/// Launches of an embedding whose examples have angles of their own: more are the host's.
const MOST_LAUNCHES: usize = 64;

pub(super) fn knows(op: &dyn Op) -> bool {
    op.downcast_ref::<RotaryEmbedding>().is_some() || op.downcast_ref::<TensorScatter>().is_some()
}

pub(super) fn select(site: &Site<'_>) -> Option<Calls> {
    match site.op.downcast_ref::<RotaryEmbedding>() {
        Some(op) => rotary(site, op),
        None => scattered(site, site.op.downcast_ref::<TensorScatter>()?),
    }
}

fn rotary(site: &Site<'_>, op: &RotaryEmbedding) -> Option<Calls> {
    let (x, cos) = (site.input(0)?, site.dims(1)?);
    let ([batch, heads, length, size], strides) = match *x.shape().dims() {
        [b, h, l, d] => ([b, h, l, d], [h * l * d, l * d, d]),
        [b, l, all] if op.heads() > 0 && all % op.heads() == 0 => ([b, op.heads(), l, all / op.heads()], [l * all, all / op.heads(), all]),
        _ => return None,
    };
    let strides = strides.map(|s| s as i64);
    let rotated = if op.turned() == 0 { size } else { op.turned() };
    let pairs = rotated / 2;
    if rotated > size || rotated % 2 != 0 || (1..3).any(|i| site.input(i).is_none_or(|s| s.dtype != x.dtype)) || site.dims(2) != Some(cos) {
        return None;
    }
    let mut shape = shape::Rotary {
        batch: batch as i64,
        heads: heads as i64,
        length: length as i64,
        size: size as i64,
        rotated: rotated as i64,
        x: strides,
        y: strides,
        table_row: pairs as i64,
        positions_batch: length as i64,
        interleaved: i32::from(op.pairs_are_neighbours()),
        ..shape::Rotary::default()
    };
    let name = format!("rotary_{}", super::float(x.dtype)?);
    let launch = |calls: Calls, shape: shape::Rotary, [x, angles]: [usize; 2], positions: Argument, fault: Argument| {
        let slots = (shape.batch * shape.heads * shape.length) as usize * (size - pairs);
        let inputs = [Argument::Input(0, x), Argument::Input(1, angles), Argument::Input(2, angles), positions, Argument::Output(0, x)];
        calls.call(name.clone(), slots, 256, inputs.into_iter().chain([Argument::structure(&shape), fault]).collect())
    };
    if let Some(positions) = site.input(3) {
        let &[rows, columns] = cos else { return None };
        if positions.dtype != DType::I64 || positions.shape().elements() != batch * length || columns != pairs {
            return None;
        }
        shape.table_rows = rows as i64;
        return Some(launch(Calls::new(), shape, [0, 0], Argument::Input(3, 0), Argument::Fault));
    }
    if *cos != [batch, length, pairs] {
        return None;
    }
    let mut examples = batch;
    // Rows of all examples follow each other, as their angles do.
    if strides[0] == strides[2] * length as i64 {
        (shape.length, examples) = ((batch * length) as i64, 1);
    }
    if examples > MOST_LAUNCHES {
        return None;
    }
    (shape.batch, shape.table_rows) = (1, shape.length);
    let bytes = x.dtype.size();
    let each = |calls, i: usize| launch(calls, shape, [i * strides[0] as usize * bytes, i * length * pairs * bytes], Argument::Null, Argument::Null);
    Some((0..examples).fold(Calls::new(), each))
}

fn scattered(site: &Site<'_>, op: &TensorScatter) -> Option<Calls> {
    let (x, new, spec) = (site.dims(0)?, site.dims(1)?, site.output()?);
    let axis = InferCx::axis(op.axis(), x.len()).ok().filter(|&axis| axis > 0)?;
    if new.len() != x.len() || (0..x.len()).any(|a| a != axis && new[a] != x[a]) || new[axis] > x[axis] || site.input(1)?.dtype != spec.dtype {
        return None;
    }
    let starts = match site.input(2) {
        None => Argument::Null,
        Some(starts) => (starts.dtype == DType::I64 && starts.shape().elements() == x[0]).then_some(Argument::Input(2, 0))?,
    };
    // Eight bytes are two elements of four.
    let (width, each) = match spec.dtype.size() {
        1 => ("b1", 1),
        2 => ("b2", 1),
        4 => ("b4", 1),
        8 => ("b4", 2),
        _ => return None,
    };
    let (heads, size) = (x[1..axis].iter().product::<usize>(), x[axis + 1..].iter().product::<usize>() * each);
    let strides = |rows: usize| [heads * rows * size, rows * size, size].map(|s| s as i64);
    let shape = shape::Append {
        batch: x[0] as i64,
        heads: heads as i64,
        length: new[axis] as i64,
        size: size as i64,
        x: strides(new[axis]),
        cache: strides(x[axis]),
        capacity: x[axis] as i64,
        first: 0,
        circular: i32::from(op.is_circular()),
        reserved: 0,
    };
    let whole = row_major(x);
    let calls = copy(Calls::new(), spec.dtype, x, (Argument::Input(0, 0), &whole), (Argument::Output(0, 0), &whole))?;
    let arguments = vec![Argument::Input(1, 0), starts, Argument::Output(0, 0), Argument::structure(&shape), Argument::Fault];
    Some(calls.call(format!("cache_append_{width}"), x[0] * heads * new[axis] * size, 1024, arguments))
}
