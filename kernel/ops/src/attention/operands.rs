//! What `Attention` reads: which dims its operands have, how they lie, and copies of those that are not f32 or lie in two parts.

use crate::{grains, numeric::Number};
use millstream_graph::{EvalCx, EvalError};
use millstream_tensor::{DType, Element, Layout, Shape, TensorView, tile::Tiles};

/// The dims of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dims {
    pub(super) batch: usize,
    pub(super) q_heads: usize,
    pub(super) kv_heads: usize,
    pub(super) queries: usize,
    /// Keys that come with the call.
    pub(super) new: usize,
    /// Keys of earlier calls.
    pub(super) past: usize,
    pub(super) depth: usize,
    pub(super) width: usize,
}

impl Dims {
    /// Dims from shapes of queries, keys and values, with their numbers of heads where they have three axes, and from shapes of past keys
    /// and values.
    pub(super) fn new(shapes: [&Shape; 3], heads: Option<[usize; 2]>, past: Option<[&Shape; 2]>) -> Result<Dims, EvalError> {
        let wrong = EvalError::Invalid("the operands of an attention do not fit each other");
        let split = |shape: &Shape, heads: Option<usize>| -> Result<[usize; 4], EvalError> {
            match (shape[..].len(), heads) {
                (4, _) => Ok([shape[0], shape[1], shape[2], shape[3]]),
                (3, Some(heads)) if heads > 0 && shape[2].is_multiple_of(heads) => Ok([shape[0], heads, shape[1], shape[2] / heads]),
                _ => Err(wrong.clone()),
            }
        };
        let [q, k, v] = [split(shapes[0], heads.map(|h| h[0]))?, split(shapes[1], heads.map(|h| h[1]))?, split(shapes[2], heads.map(|h| h[1]))?];
        let [batch, q_heads, queries, depth] = q;
        let [_, kv_heads, new, _] = k;
        let width = v[3];
        let earlier = past.map_or(0, |[k, _]| k.get(2).copied().unwrap_or(0));
        let fits = k == [batch, kv_heads, new, depth]
            && v == [batch, kv_heads, new, width]
            && (q_heads == kv_heads || kv_heads > 0 && q_heads.is_multiple_of(kv_heads))
            && past.is_none_or(|[k, v]| k[..] == [batch, kv_heads, earlier, depth] && v[..] == [batch, kv_heads, earlier, width]);
        let dims = Dims { batch, q_heads, kv_heads, queries, new, past: earlier, depth, width };
        if fits { Ok(dims) } else { Err(wrong) }
    }

    /// Keys that there are in all.
    pub(super) fn keys(&self) -> usize {
        self.past + self.new
    }

    /// Heads that share keys and values.
    pub(super) fn group(&self) -> usize {
        self.q_heads.checked_div(self.kv_heads).unwrap_or(1).max(1)
    }

    /// How `[batch, heads, rows, cols]` lie, from one to the next, if heads lie side by side in each row, or below each other.
    pub(super) fn layout(&self, [heads, rows, cols]: [usize; 3], side_by_side: bool) -> Result<Layout, EvalError> {
        let shape = Shape::new(&[self.batch, heads, rows, cols])?;
        Ok(if side_by_side { Layout::strided(shape, &[rows * heads * cols, cols, heads * cols, 1])? } else { Layout::row_major(shape) })
    }
}

/// Rows `[batch, heads, rows, cols]` of an operand, behind those of earlier calls.
pub(super) struct Rows<'a> {
    pub(super) past: Option<TensorView<'a>>,
    pub(super) new: TensorView<'a>,
    /// How the new rows lie.
    pub(super) layout: Layout,
}

impl Rows<'_> {
    /// The element type.
    pub(super) fn dtype(&self) -> DType {
        self.new.dtype()
    }

    /// Writes all rows, dense, as they are.
    pub(super) fn copy<T: Element>(&self, cx: &EvalCx<'_>, to: &mut [T]) -> Result<(), EvalError> {
        self.join::<T, T>(cx, to, <[T]>::copy_from_slice)
    }

    /// Writes all rows, dense, as f32.
    pub(super) fn widen(&self, cx: &EvalCx<'_>, to: &mut [f32]) -> Result<(), EvalError> {
        match self.dtype() {
            DType::F32 => self.copy(cx, to),
            dtype => by_dtype!(scales, dtype, T => self.join::<T, f32>(cx, to, wide)),
        }
    }

    fn join<T: Element, U: Send>(&self, cx: &EvalCx<'_>, to: &mut [U], copy: impl Fn(&mut [U], &[T]) + Sync) -> Result<(), EvalError> {
        let past = self.past.as_ref().map(|p| p.typed::<T>()).transpose()?;
        let (past, new) = (past.as_ref().map_or(&[][..], |p| p.data()), self.new.typed::<T>()?.data());
        let (shape, strides) = (self.layout.shape(), self.layout.strides());
        let [_, heads, rows, cols] = shape[..] else { return Err(EvalError::Invalid("rows of an attention have four axes")) };
        let count = shape[0] * heads;
        let before = past.len().checked_div(count).unwrap_or(0);
        let len = before + rows * cols;
        if len == 0 {
            return Ok(());
        }
        let tiles = Tiles::chunks(to, len).ok_or(EvalError::Output(1))?;
        cx.parallel(tiles.count(), |grain, _| {
            let mut tile = tiles.claim(grain)?;
            let (first, rest) = tile.as_slice()?.split_at_mut_checked(before)?;
            copy(first, past.get(grain * before..(grain + 1) * before)?);
            let start = grain / heads * strides[0] + grain % heads * strides[1];
            for (r, to) in rest.chunks_exact_mut(cols.max(1)).enumerate() {
                copy(to, new.get(start + r * strides[2]..)?.get(..cols)?);
            }
            Some(())
        })
    }
}

/// Elements as f32.
fn wide<T: Number>(to: &mut [f32], from: &[T]) {
    to.iter_mut().zip(from).for_each(|(to, x)| *to = x.to_f64() as f32);
}

/// Writes the elements of a view, in their order in memory, as f32.
pub(super) fn widen(from: TensorView<'_>, to: &mut [f32]) -> Result<(), EvalError> {
    by_dtype!(scales, from.dtype(), T => {
        wide(to, from.typed::<T>()?.data());
        Ok(())
    })
}

/// Writes f32 elements as another type.
pub(super) fn narrow<T: Number>(cx: &EvalCx<'_>, from: &[f32], to: &mut [T]) -> Result<(), EvalError> {
    let chunk = grains::chunk(to.len(), 1);
    let tiles = Tiles::chunks(to, chunk).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        tile.as_slice()?.iter_mut().zip(from.get(grain * chunk..)?).for_each(|(to, &x)| *to = T::from_f64(f64::from(x)));
        Some(())
    })
}
