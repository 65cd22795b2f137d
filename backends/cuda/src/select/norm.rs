//! Reductions, softmax and normalisations: what looks at a whole row of elements.

use super::{Site, elementwise::function, movement::copy};
use crate::call::{Argument, Calls, repeated, row_major, walk};
use millstream_graph::{InferCx, Op};
use millstream_ops::{
    norm::{
        batch_normalization::BatchNormalization, layer_normalization::LayerNormalization, log_softmax::LogSoftmax, rms_normalization::RMSNormalization,
        softmax::Softmax,
    },
    pool::{global_average_pool::GlobalAveragePool, global_max_pool::GlobalMaxPool},
    reduce::{
        argmax::ArgMax, argmin::ArgMin, l1::ReduceL1, l2::ReduceL2, max::ReduceMax, mean::ReduceMean, min::ReduceMin, prod::ReduceProd, sum::ReduceSum,
        sum_square::ReduceSumSquare,
    },
};

/// Rows of up to so many elements are a warp's.
const WARP_ROW: usize = 1024;

/// A reduction: what it does as kernels number it, the axes where they are an attribute, and whether none means nothing.
fn reduction(op: &dyn Op) -> Option<(i32, Option<&[i64]>, bool)> {
    macro_rules! find {
        ($($t:ty => $number:expr),*) => { $( if let Some(r) = op.downcast_ref::<$t>() { return Some(($number, r.axes.axes.as_deref(), r.axes.noop)); } )* };
    }
    find! {
        ReduceSum => 0, ReduceMean => 1, ReduceSumSquare => 2, ReduceL1 => 3, ReduceL2 => 4, ReduceProd => 5, ReduceMax => 6, ReduceMin => 7
    }
    None
}

pub(super) fn knows(op: &dyn Op) -> bool {
    reduction(op).is_some()
        || op.downcast_ref::<Softmax>().is_some()
        || op.downcast_ref::<LogSoftmax>().is_some()
        || op.downcast_ref::<LayerNormalization>().is_some()
        || op.downcast_ref::<RMSNormalization>().is_some()
        || op.downcast_ref::<BatchNormalization>().is_some()
        || op.downcast_ref::<ArgMax>().is_some()
        || op.downcast_ref::<ArgMin>().is_some()
        || op.downcast_ref::<GlobalAveragePool>().is_some()
        || op.downcast_ref::<GlobalMaxPool>().is_some()
}

pub(super) fn select(site: &Site<'_>) -> Option<Calls> {
    let (op, x) = (site.op, site.dims(0)?);
    let rank = x.len();
    if let Some((number, axes, noop)) = reduction(op) {
        let axes = match (axes, site.facts.get(1).copied().flatten()) {
            (Some(axes), _) => axes.to_vec(),
            (None, Some(fact)) => fact.ints()?,
            (None, None) => vec![],
        };
        let axes = match axes.is_empty() {
            true if noop => return None,
            true => (0..rank as i64).collect(),
            false => axes,
        };
        return reduced(site, number, &axes);
    }
    if op.downcast_ref::<GlobalAveragePool>().is_some() {
        return reduced(site, 1, &(2..rank as i64).collect::<Vec<_>>());
    }
    if op.downcast_ref::<GlobalMaxPool>().is_some() {
        return reduced(site, 6, &(2..rank as i64).collect::<Vec<_>>());
    }
    let arg = op.downcast_ref::<ArgMax>().map(|a| (&a.arg, 0)).or_else(|| op.downcast_ref::<ArgMin>().map(|a| (&a.arg, 1)));
    if let Some((arg, smallest)) = arg {
        let axis = InferCx::axis(arg.axis, rank).ok()?;
        if axis + 1 != rank || arg.last {
            return None;
        }
        let (rows, length) = rows_from(x, axis);
        let arguments = vec![Argument::Input(0, 0), Argument::Output(0, 0), Argument::count(rows), Argument::count(length), Argument::I32(smallest)];
        return Some(Calls::new().call(format!("argmax_{}", super::float(site.input(0)?.dtype)?), rows, 1, arguments));
    }
    if op.downcast_ref::<BatchNormalization>().is_some() {
        return by_channel(site);
    }
    let soft = op.downcast_ref::<Softmax>().map(|s| ("softmax", s.axis)).or_else(|| op.downcast_ref::<LogSoftmax>().map(|s| ("log_softmax", s.axis)));
    if let Some((name, axis)) = soft {
        let at = InferCx::axis(axis.axis, rank).ok()?;
        // Before opset 13 this axis and all after it are one line.
        let (rows, length) = rows_from(x, at);
        if !axis.flatten && length != x[at] {
            return across(site, name, at);
        }
        let arguments = vec![Argument::Input(0, 0), Argument::Output(0, 0), Argument::count(rows), Argument::count(length)];
        return Some(by_rows(name, site.float()?, rows, length, arguments));
    }
    let optional = |i: usize| if site.input(i).is_some() { Argument::Input(i, 0) } else { Argument::Null };
    let (name, rows_of, operands) = match op.downcast_ref::<LayerNormalization>() {
        Some(norm) => ("layer_norm", &norm.rows, vec![Argument::Input(0, 0), optional(1), optional(2), Argument::Output(0, 0)]),
        None => (
            "rms_norm",
            &op.downcast_ref::<RMSNormalization>()?.rows,
            vec![Argument::Input(0, 0), Argument::Null, optional(1), Argument::Null, Argument::Output(0, 0)],
        ),
    };
    let (rows, length) = rows_from(x, InferCx::axis(rows_of.axis, rank).ok()?);
    // Scales of fewer elements are broadcast, which kernels do not.
    if (1..site.inputs.len()).any(|i| site.dims(i).is_some_and(|d| d.iter().product::<usize>() != length)) {
        return None;
    }
    let numbers = [Argument::count(rows), Argument::count(length), Argument::F32(rows_of.epsilon)];
    Some(by_rows(name, site.float()?, rows, length, operands.into_iter().chain(numbers).collect()))
}

/// A softmax along an axis that is not the last: lines become rows and lines again.
fn across(site: &Site<'_>, name: &str, axis: usize) -> Option<Calls> {
    let (x, y) = (site.dims(0)?, site.output()?);
    let (outer, length, inner) = (x[..axis].iter().product::<usize>(), x[axis], x[axis + 1..].iter().product::<usize>());
    let (rows, turned) = (outer * inner, [outer, inner, length]);
    // Where the elements of a row lie among the lines.
    let lines = [(length * inner) as i64, 1, inner as i64];
    let own = row_major(&turned);
    let room = || Argument::Scratch(0, 0);
    let calls = copy(Calls::new().scratch(y.bytes()), y.dtype, &turned, (Argument::Input(0, 0), &lines), (room(), &own))?;
    let soft = by_rows(name, site.float()?, rows, length, vec![room(), room(), Argument::count(rows), Argument::count(length)]);
    copy(calls.followed_by(soft), y.dtype, &turned, (room(), &own), (Argument::Output(0, 0), &lines))
}

/// Rows and their length if everything from `axis` on is a row.
fn rows_from(dims: &[usize], axis: usize) -> (usize, usize) {
    (dims[..axis].iter().product(), dims[axis..].iter().product())
}

/// A kernel that a block or a warp a row runs, whichever suits their length.
fn by_rows(name: &str, dtype: &str, rows: usize, length: usize, arguments: Vec<Argument>) -> Calls {
    let (team, rows_of_block) = if length <= WARP_ROW && rows > 1 { ("warp", 8) } else { ("block", 1) };
    Calls::new().call(format!("{name}_{team}_{dtype}"), rows, rows_of_block, arguments)
}

/// A reduction over neighbouring axes.
fn reduced(site: &Site<'_>, number: i32, axes: &[i64]) -> Option<Calls> {
    let (x, dtype) = (site.dims(0)?, super::float(site.input(0)?.dtype)?);
    let mut axes = axes.iter().map(|&a| InferCx::axis(a, x.len()).ok()).collect::<Option<Vec<usize>>>()?;
    axes.sort_unstable();
    axes.dedup();
    let (Some(&first), Some(&last)) = (axes.first(), axes.last()) else { return None };
    // Axes between them of one element do not count.
    if (first..=last).any(|a| !axes.contains(&a) && x[a] != 1) || site.output()?.dtype != site.input(0)?.dtype {
        return None;
    }
    let (outer, length, inner) = (x[..first].iter().product::<usize>(), x[first..=last].iter().product::<usize>(), x[last + 1..].iter().product::<usize>());
    let mut arguments = vec![Argument::I32(number), Argument::Input(0, 0), Argument::Output(0, 0), Argument::count(outer), Argument::count(length)];
    if inner == 1 {
        return Some(by_rows("reduce_rows", dtype, outer, length, arguments));
    }
    arguments.push(Argument::count(inner));
    Some(Calls::new().call(format!("reduce_columns_{dtype}"), outer * inner, 256, arguments))
}

/// scale (x - mean) / sqrt(variance + epsilon) + bias, an element a channel of each: as x factor + shift.
fn by_channel(site: &Site<'_>) -> Option<Calls> {
    let norm = site.op.downcast_ref::<BatchNormalization>()?;
    let (x, dtype) = (site.dims(0)?, site.float()?);
    let channels = *x.get(1)?;
    if (1..5).any(|i| site.dims(i) != Some(&[channels])) {
        return None;
    }
    let (n, size) = (x.iter().product::<usize>(), site.output()?.dtype.size());
    let mut own = vec![1; x.len()];
    own[1] = channels;
    let walk = walk(x, [&row_major(x), &repeated(&own, x)?])?;
    let vector = |calls: Calls, name: &str, a, b, y| {
        calls.call(format!("binary_{name}_{dtype}"), channels, 1024, vec![a, b, y, Argument::count(channels), Argument::I32(1), Argument::I32(1)])
    };
    let spread = |calls: Calls, number: i32, a, b| {
        let arguments = vec![Argument::I32(number), a, b, Argument::Output(0, 0), Argument::count(n), Argument::walk(&walk)];
        calls.call(format!("binary_strided_{dtype}"), n, 1024, arguments)
    };
    let factor = || Argument::Scratch(0, 0);
    let calls = Calls::new().scratch(channels * size);
    let calls = function("affine", dtype, channels, Argument::Input(4, 0), factor(), (1.0, norm.epsilon), calls);
    let calls = function("rsqrt", dtype, channels, factor(), factor(), (0.0, 0.0), calls);
    let calls = vector(calls, "mul", factor(), Argument::Input(1, 0), factor());
    let calls = spread(calls, 1, Argument::Input(0, 0), Argument::Input(3, 0));
    let calls = spread(calls, 2, Argument::Output(0, 0), factor());
    Some(spread(calls, 0, Argument::Output(0, 0), Argument::Input(2, 0)))
}
