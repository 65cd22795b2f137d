//! Passes over the elements of several tensors at once, whatever their layouts: the output's memory is cut into grains, each
//! grain into runs along which every input is contiguous, repeated (broadcast), or gathered into a small buffer.
//!
//! What happens to a run is a closure behind a reference, so that the passes are compiled once for each pair of types.

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

/// `len` elements from `at` on, `stride` apart.
#[inline(always)]
fn operand<'b, T: Element>(view: &Option<View<'b, T>>, at: usize, len: usize, stride: usize, buffer: &'b mut [T; GATHER]) -> Operand<'b, T> {
    let Some(view) = view else { return Operand::Same };
    let data = view.data();
    match stride {
        1 => Operand::Run(&data[at..at + len]),
        0 => Operand::Splat(data[at]),
        _ => {
            for (i, b) in buffer[..len].iter_mut().enumerate() {
                *b = data[at + i * stride];
            }
            Operand::Run(&buffer[..len])
        }
    }
}

/// The pieces of a run that are not longer than what is gathered at a time, or the whole run if nothing is gathered.
#[inline(always)]
fn pieces(len: usize, strides: &[usize], mut f: impl FnMut(usize, usize)) {
    if strides.iter().all(|&s| s <= 1) {
        return f(0, len);
    }
    (0..len).step_by(GATHER).for_each(|at| f(at, GATHER.min(len - at)));
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
    let walk = Walk::new(&layout, [x.as_ref().map_or(&layout, View::layout)])?;
    let chunk = grains::chunk(y.data_mut().len(), work);
    let tiles = Tiles::chunks(y.data_mut(), chunk).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let y = tile.as_slice()?;
        let mut buffer = [T::default(); GATHER];
        let [sx] = walk.inner();
        let start = grain * chunk;
        walk.runs(start..start + y.len(), |from, len, [ox]| {
            pieces(len, &[sx], |at, len| f(operand(&x, ox + at * sx, len, sx, &mut buffer), &mut y[from + at..from + at + len]));
        });
        Some(())
    })
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
    let walk = Walk::new(&layout, [a.as_ref().map_or(&layout, View::layout), b.as_ref().map_or(&layout, View::layout)])?;
    let chunk = grains::chunk(y.data_mut().len(), work);
    let tiles = Tiles::chunks(y.data_mut(), chunk).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let y = tile.as_slice()?;
        let (mut left, mut right) = ([T::default(); GATHER], [V::default(); GATHER]);
        let [sa, sb] = walk.inner();
        let start = grain * chunk;
        walk.runs(start..start + y.len(), |from, len, [oa, ob]| {
            pieces(len, &[sa, sb], |at, len| {
                let a = operand(&a, oa + at * sa, len, sa, &mut left);
                let b = operand(&b, ob + at * sb, len, sb, &mut right);
                f(a, b, &mut y[from + at..from + at + len]);
            });
        });
        Some(())
    })
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
    let layouts = (a.map_or(layout, |v| *v.layout()), b.map_or(layout, |v| *v.layout()), c.map_or(layout, |v| *v.layout()));
    let walk = Walk::new(&layout, [&layouts.0, &layouts.1, &layouts.2])?;
    let chunk = grains::chunk(y.data_mut().len(), work);
    let tiles = Tiles::chunks(y.data_mut(), chunk).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let y = tile.as_slice()?;
        let (mut first, mut second, mut third) = ([A::default(); GATHER], [B::default(); GATHER], [C::default(); GATHER]);
        let [sa, sb, sc] = walk.inner();
        let start = grain * chunk;
        walk.runs(start..start + y.len(), |from, len, [oa, ob, oc]| {
            pieces(len, &[sa, sb, sc], |at, len| {
                let a = operand(&a, oa + at * sa, len, sa, &mut first);
                let b = operand(&b, ob + at * sb, len, sb, &mut second);
                let c = operand(&c, oc + at * sc, len, sc, &mut third);
                f(a, b, c, &mut y[from + at..from + at + len]);
            });
        });
        Some(())
    })
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
