//! Elements that move without changing.

use super::{Site, width};
use crate::call::{Argument, Calls, repeated, row_major, walk};
use millstream_graph::{InferCx, Op};
use millstream_ops::movement::{
    concat::Concat, expand::Expand, gather::Gather, gather_elements::GatherElements, slice::Slice, split::Split, transpose::Transpose,
};
use millstream_tensor::DType;

const EACH: usize = 1024;

pub(super) fn knows(op: &dyn Op) -> bool {
    op.downcast_ref::<Transpose>().is_some()
        || op.downcast_ref::<Concat>().is_some()
        || op.downcast_ref::<Split>().is_some()
        || op.downcast_ref::<Slice>().is_some()
        || op.downcast_ref::<Expand>().is_some()
        || op.downcast_ref::<Gather>().is_some()
        || op.downcast_ref::<GatherElements>().is_some()
}

pub(super) fn select(site: &Site<'_>) -> Option<Calls> {
    let op = site.op;
    if let Some(concat) = op.downcast_ref::<Concat>() {
        return joined(site, concat.axis());
    }
    if let Some(split) = op.downcast_ref::<Split>() {
        return parted(site, split.axis());
    }
    let (x, y) = (site.dims(0)?, site.output()?);
    if let Some(transpose) = op.downcast_ref::<Transpose>() {
        return transposed(site, &transpose.perm(x.len())?);
    }
    if let Some(slice) = op.downcast_ref::<Slice>() {
        let own = row_major(x);
        let selection = slice.selection(site.facts)?;
        let strides: Vec<i64> = own.iter().zip(&selection).map(|(stride, (_, step))| stride * step).collect();
        let first: i64 = own.iter().zip(&selection).map(|(stride, (start, _))| stride * start).sum();
        let shape = y.shape().dims();
        return copy(
            Calls::new(),
            y.dtype,
            shape,
            (Argument::Input(0, usize::try_from(first).ok()? * y.dtype.size()), &strides),
            (Argument::Output(0, 0), &row_major(shape)),
        );
    }
    if op.downcast_ref::<Expand>().is_some() {
        let shape = y.shape().dims();
        return copy(Calls::new(), y.dtype, shape, (Argument::Input(0, 0), &repeated(x, shape)?), (Argument::Output(0, 0), &row_major(shape)));
    }
    picked(site)
}

/// Elements of `shape` from one place to another, with strides for both.
pub(crate) fn copy(behind: Calls, dtype: DType, shape: &[usize], (x, from): (Argument, &[i64]), (y, to): (Argument, &[i64])) -> Option<Calls> {
    let n = shape.iter().product();
    let walk = walk(shape, [from, to])?;
    Some(behind.call(format!("copy_strided_{}", width(dtype)?), n, EACH, vec![x, y, Argument::count(n), Argument::walk(&walk)]))
}

fn transposed(site: &Site<'_>, perm: &[usize]) -> Option<Calls> {
    let (x, y) = (site.dims(0)?, site.output()?);
    let own = row_major(x);
    let strides: Vec<i64> = perm.iter().map(|&axis| own[axis]).collect();
    let shape = y.shape().dims();
    // Lines are read and written whole where only two axes change places, the last of which was a line.
    let joined = walk(shape, [&strides])?;
    let axes: Vec<(i64, i64)> = (0..joined.rank as usize).map(|i| (joined.size[i], joined.stride[0][i])).collect();
    let turn = match axes.as_slice() {
        [(columns, 1), (rows, stride)] if stride == columns => Some((1, *rows, *columns)),
        [(batch, outer), (columns, 1), (rows, stride)] if stride == columns && *outer == rows * columns => Some((*batch, *rows, *columns)),
        _ => None,
    };
    let Some((batch, rows, columns)) = turn else {
        return copy(Calls::new(), y.dtype, shape, (Argument::Input(0, 0), &strides), (Argument::Output(0, 0), &row_major(shape)));
    };
    let tiles = batch as usize * (rows as usize).div_ceil(32) * (columns as usize).div_ceil(32);
    let arguments = vec![Argument::Input(0, 0), Argument::Output(0, 0), Argument::I64(batch), Argument::I64(rows), Argument::I64(columns)];
    Some(Calls::new().call(format!("transpose_{}", width(y.dtype)?), tiles, 1, arguments))
}

fn joined(site: &Site<'_>, axis: i64) -> Option<Calls> {
    let y = site.output()?;
    let shape = y.shape().dims();
    let axis = InferCx::axis(axis, shape.len()).ok()?;
    let to = row_major(shape);
    let (mut calls, mut at) = (Calls::new(), 0);
    for i in 0..site.inputs.len() {
        let x = site.dims(i)?;
        calls = copy(calls, y.dtype, x, (Argument::Input(i, 0), &row_major(x)), (Argument::Output(0, at * to[axis] as usize * y.dtype.size()), &to))?;
        at += x[axis];
    }
    Some(calls)
}

fn parted(site: &Site<'_>, axis: i64) -> Option<Calls> {
    let x = site.input(0)?;
    let dims = x.shape().dims();
    let axis = InferCx::axis(axis, dims.len()).ok()?;
    let from = row_major(dims);
    let (mut calls, mut at) = (Calls::new(), 0);
    for (i, y) in site.outputs.iter().enumerate() {
        let part = y.shape().dims();
        if site.wants(i) {
            let start = Argument::Input(0, at * from[axis] as usize * x.dtype.size());
            calls = copy(calls, x.dtype, part, (start, &from), (Argument::Output(i, 0), &row_major(part)))?;
        }
        at += part[axis];
    }
    Some(calls)
}

fn picked(site: &Site<'_>) -> Option<Calls> {
    let (name, axis) = match site.op.downcast_ref::<Gather>() {
        Some(gather) => ("gather", gather.axis()),
        None => ("gather_elements", site.op.downcast_ref::<GatherElements>()?.axis()),
    };
    let (x, indices, y) = (site.dims(0)?, site.input(1)?, site.output()?);
    let axis = InferCx::axis(axis, x.len()).ok()?;
    let number = match indices.dtype {
        DType::I64 => "i64",
        DType::I32 => "i32",
        _ => return None,
    };
    let (outer, inner): (usize, usize) = (x[..axis].iter().product(), x[axis + 1..].iter().product());
    let count = match name {
        "gather" => indices.shape().elements(),
        // Axes beside the one are those of the data, or they are cut.
        _ if (0..x.len()).all(|a| a == axis || indices.shape()[a] == x[a]) => indices.shape()[axis],
        _ => return None,
    };
    let numbers = [outer, x[axis], count, inner].map(Argument::count);
    let mut arguments = vec![Argument::Input(0, 0), Argument::Input(1, 0), Argument::Output(0, 0)];
    arguments.extend(numbers);
    arguments.push(Argument::Fault);
    Some(Calls::new().call(format!("{name}_{number}_{}", width(y.dtype)?), outer * count * inner, EACH, arguments))
}
