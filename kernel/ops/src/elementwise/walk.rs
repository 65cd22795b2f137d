//! Passes over the elements of several tensors at once, whatever their layouts: the output's memory is cut into grains, each
//! grain into runs along which every input is contiguous, repeated (broadcast), or gathered into a small buffer.
//!
//! Passes move bytes, and what happens to a run is a closure behind a reference, so that they are compiled once for each
//! number of inputs, not for each combination of types.

use crate::grains;
use alloc::{vec, vec::Vec};
use core::ops::Range;
use millstream_graph::{EvalCx, EvalError, Permutation, StepCx};
use millstream_tensor::{Element, Layout, MAX_RANK, Order, TensorError, View, ViewMut, tile::Tiles};

/// Elements that are gathered at a time from strided memory.
const GATHER: usize = 256;

/// One input's elements along a run of the output.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operand<'a, T> {
    /// The elements lie in the output, which is overwritten.
    Same,
    /// One element for each of the output.
    Run(&'a [T]),
    /// The same element for all.
    Splat(T),
}

/// The axes of an output in memory order, those merged along which all inputs run on, with the inputs' strides.
pub(crate) struct Walk<const N: usize> {
    rank: usize,
    dims: [usize; MAX_RANK],
    strides: [[usize; N]; MAX_RANK],
}

impl<const N: usize> Walk<N> {
    /// A walk over a dense output; the inputs are stretched to its shape.
    pub(crate) fn new(output: &Layout, inputs: [&Layout; N]) -> Result<Walk<N>, TensorError> {
        let shape = *output.shape();
        let order = output.order().ok_or(TensorError::Strided)?;
        let mut stretched = [*output; N];
        for (to, from) in stretched.iter_mut().zip(inputs) {
            *to = from.broadcast_to(shape)?;
        }
        let mut walk = Walk { rank: 0, dims: [1; MAX_RANK], strides: [[0; N]; MAX_RANK] };
        for axis in order.axes().filter(|&a| shape[a] != 1) {
            let strides: [usize; N] = core::array::from_fn(|i| stretched[i].strides()[axis]);
            let merges = walk.rank > 0 && walk.strides[walk.rank - 1].iter().zip(&strides).all(|(&outer, &inner)| outer == inner * shape[axis]);
            if merges {
                walk.dims[walk.rank - 1] *= shape[axis];
            } else {
                walk.dims[walk.rank] = shape[axis];
                walk.rank += 1;
            }
            walk.strides[walk.rank - 1] = strides;
        }
        walk.rank = walk.rank.max(1);
        Ok(walk)
    }

    /// Calls `f(start, len, offsets)` for each run in this range of the output's memory; `start` counts from the range's.
    #[inline(always)]
    pub(crate) fn runs(&self, range: Range<usize>, mut f: impl FnMut(usize, usize, [usize; N])) {
        let last = self.rank - 1;
        let n = self.dims[last];
        if range.is_empty() || n == 0 {
            return;
        }
        let (mut rest, mut col) = (range.start / n, range.start % n);
        let mut index = [0; MAX_RANK];
        let mut base = [0; N];
        for axis in (0..last).rev() {
            index[axis] = rest % self.dims[axis];
            rest /= self.dims[axis];
            (0..N).for_each(|i| base[i] += index[axis] * self.strides[axis][i]);
        }
        let mut at = range.start;
        while at < range.end {
            let len = (n - col).min(range.end - at);
            f(at - range.start, len, core::array::from_fn(|i| base[i] + col * self.strides[last][i]));
            at += len;
            col = 0;
            for axis in (0..last).rev() {
                index[axis] += 1;
                (0..N).for_each(|i| base[i] += self.strides[axis][i]);
                if index[axis] < self.dims[axis] {
                    break;
                }
                (0..N).for_each(|i| base[i] -= self.strides[axis][i] * index[axis]);
                index[axis] = 0;
            }
        }
    }

    /// The inputs' strides along a run.
    fn inner(&self) -> [usize; N] {
        self.strides[self.rank - 1]
    }
}

/// Input `i` as a view, `None` if its elements lie in the output.
pub(crate) fn source<'a, T: Element>(cx: &EvalCx<'a>, i: usize) -> Result<Option<View<'a, T>>, EvalError> {
    if cx.in_place(i).is_some() { Ok(None) } else { cx.input(i).map(Some) }
}

/// An input of a pass: where its elements lie, and their size in bytes.
struct Source<'a> {
    layout: Layout,
    bytes: &'a [u8],
    size: usize,
}

impl<'a> Source<'a> {
    fn new<T: Element>(view: View<'a, T>) -> Source<'a> {
        Source { layout: *view.layout(), bytes: bytemuck::cast_slice(view.data()), size: size_of::<T>() }
    }

    /// `len` elements from `at` on, `stride` apart.
    fn piece<'b>(&'b self, at: usize, len: usize, stride: usize, buffer: &'b mut [u64; GATHER]) -> Piece<'b> {
        let size = self.size;
        match stride {
            1 => Piece::Run(&self.bytes[at * size..(at + len) * size]),
            0 => Piece::Splat(&self.bytes[at * size..(at + 1) * size]),
            _ => {
                let buffer = &mut bytemuck::cast_slice_mut::<u64, u8>(buffer)[..len * size];
                let bytes = &self.bytes[at * size..];
                match size {
                    1 => gather::<1>(bytes, stride, buffer),
                    2 => gather::<2>(bytes, stride, buffer),
                    4 => gather::<4>(bytes, stride, buffer),
                    _ => gather::<8>(bytes, stride, buffer),
                }
                Piece::Run(buffer)
            }
        }
    }
}

/// Elements of `SIZE` bytes that are `stride` elements apart, one after the other.
fn gather<const SIZE: usize>(from: &[u8], stride: usize, to: &mut [u8]) {
    for (i, to) in to.chunks_exact_mut(SIZE).enumerate() {
        to.copy_from_slice(&from[i * stride * SIZE..][..SIZE]);
    }
}

/// An [`Operand`] whose elements are bytes yet.
#[derive(Clone, Copy)]
enum Piece<'a> {
    Same,
    Run(&'a [u8]),
    Splat(&'a [u8]),
}

impl<'a> Piece<'a> {
    #[inline(always)]
    fn typed<T: Element>(self) -> Operand<'a, T> {
        match self {
            Piece::Same => Operand::Same,
            Piece::Run(bytes) => Operand::Run(bytemuck::cast_slice(bytes)),
            Piece::Splat(bytes) => Operand::Splat(bytemuck::pod_read_unaligned(bytes)),
        }
    }
}

/// Calls `f` for the pieces of all runs of a dense output of elements of `size` bytes. A piece is a run, or what is gathered
/// at a time of one. `work` is the cost of an element, in additions.
fn each<const N: usize>(
    cx: &EvalCx<'_>,
    inputs: [Option<Source<'_>>; N],
    output: (&Layout, &mut [u8], usize),
    work: usize,
    f: &(dyn Fn([Piece<'_>; N], &mut [u8]) + Sync),
) -> Result<(), EvalError> {
    let (layout, y, size) = output;
    let walk = Walk::new(layout, inputs.each_ref().map(|x| x.as_ref().map_or(layout, |x| &x.layout)))?;
    let strides = walk.inner();
    let gathers = strides.iter().any(|&s| s > 1);
    let chunk = grains::chunk(y.len() / size, work);
    let tiles = Tiles::chunks(y, chunk * size).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let y = tile.as_slice()?;
        let mut buffers = [[0u64; GATHER]; N];
        let start = grain * chunk;
        walk.runs(start..start + y.len() / size, |from, len, offsets| {
            let step = if gathers { GATHER } else { len };
            for at in (0..len).step_by(step) {
                let len = step.min(len - at);
                let mut buffers = buffers.iter_mut();
                let pieces = core::array::from_fn(|i| match (&inputs[i], buffers.next()) {
                    (Some(x), Some(buffer)) => x.piece(offsets[i] + at * strides[i], len, strides[i], buffer),
                    _ => Piece::Same,
                });
                f(pieces, &mut y[(from + at) * size..][..len * size]);
            }
        });
        Some(())
    })
}

/// `f(x, y)` for runs of one input and the output. `work` is the cost of an element, in additions.
pub(crate) fn each1<T: Element, U: Element>(
    cx: &EvalCx<'_>,
    x: Option<View<'_, T>>,
    y: &mut ViewMut<'_, U>,
    work: usize,
    f: &(dyn Fn(Operand<'_, T>, &mut [U]) + Sync),
) -> Result<(), EvalError> {
    let layout = *y.layout();
    let output = (&layout, bytemuck::cast_slice_mut(y.data_mut()), size_of::<U>());
    each(cx, [x.map(Source::new)], output, work, &|[x], y| f(x.typed(), bytemuck::cast_slice_mut(y)))
}

/// `f(a, b, y)` for runs of two inputs and the output.
pub(crate) fn each2<T: Element, V: Element, U: Element>(
    cx: &EvalCx<'_>,
    a: Option<View<'_, T>>,
    b: Option<View<'_, V>>,
    y: &mut ViewMut<'_, U>,
    work: usize,
    f: &(dyn Fn(Operand<'_, T>, Operand<'_, V>, &mut [U]) + Sync),
) -> Result<(), EvalError> {
    let layout = *y.layout();
    let output = (&layout, bytemuck::cast_slice_mut(y.data_mut()), size_of::<U>());
    each(cx, [a.map(Source::new), b.map(Source::new)], output, work, &|[a, b], y| f(a.typed(), b.typed(), bytemuck::cast_slice_mut(y)))
}

/// What [`each3`] does with a run: three inputs and the output.
pub(crate) type Run3<'f, A, B, C, U> = &'f (dyn Fn(Operand<'_, A>, Operand<'_, B>, Operand<'_, C>, &mut [U]) + Sync);

/// `f(a, b, c, y)` for runs of three inputs and the output.
pub(crate) fn each3<A: Element, B: Element, C: Element, U: Element>(
    cx: &EvalCx<'_>,
    a: Option<View<'_, A>>,
    b: Option<View<'_, B>>,
    c: Option<View<'_, C>>,
    y: &mut ViewMut<'_, U>,
    work: usize,
    f: Run3<'_, A, B, C, U>,
) -> Result<(), EvalError> {
    let layout = *y.layout();
    let output = (&layout, bytemuck::cast_slice_mut(y.data_mut()), size_of::<U>());
    let inputs = [a.map(Source::new), b.map(Source::new), c.map(Source::new)];
    each(cx, inputs, output, work, &|[a, b, c], y| f(a.typed(), b.typed(), c.typed(), bytemuck::cast_slice_mut(y)))
}

/// An elementwise operator of one input runs in any order.
pub(crate) fn permute_one(inputs: &[Option<Order>]) -> Option<Permutation> {
    let order = (*inputs.first()?)?;
    let mut wanted = vec![None; inputs.len()];
    wanted[0] = Some(order);
    Some(Permutation { inputs: wanted, outputs: vec![order] })
}

/// An operator whose inputs broadcast runs in the order of its largest input; inputs of the output's shape must come in that
/// order too, smaller ones are read as they are.
pub(crate) fn permute_broadcast(cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
    let shape = *cx.outputs.first()?.shape();
    let candidates = inputs.iter().enumerate().filter_map(|(i, order)| {
        let (order, input) = ((*order)?, cx.input_shape(i)?);
        (input.rank() == shape.rank()).then_some((input.elements(), !order.is_row_major(), order))
    });
    let order = candidates.reduce(|best, next| if (next.0, next.1) > (best.0, best.1) { next } else { best }).map_or(Order::row_major(shape.rank()), |c| c.2);
    let wanted: Vec<Option<Order>> = inputs.iter().enumerate().map(|(i, o)| o.filter(|_| cx.input_shape(i) == Some(&shape)).map(|_| order)).collect();
    Some(Permutation { inputs: wanted, outputs: vec![order; cx.outputs.len()] })
}
