//! How a shape's elements lie in memory: strides, and the memory order of axes.

use crate::{MAX_RANK, Shape, TensorError};

/// The order of a value's axes in memory, outermost first: `[0, 2, 3, 1]` stores an N×C×H×W value channels-last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Order {
    axes: [u8; MAX_RANK],
    rank: u8,
}

impl Order {
    /// Row-major memory.
    pub fn row_major(rank: usize) -> Order {
        let mut axes = [0; MAX_RANK];
        for (i, a) in axes.iter_mut().enumerate().take(rank) {
            *a = i as u8;
        }
        Order { axes, rank: rank as u8 }
    }

    /// Channels-last memory of a value whose logical axes are batch, channels, and space.
    pub fn channels_last(rank: usize) -> Order {
        let mut order = Order::row_major(rank);
        if rank > 2 {
            order.axes[1..rank].rotate_left(1);
        }
        order
    }

    /// The order given by a permutation of `0..axes.len()`; `None` if it is none.
    pub fn from_axes(axes: &[usize]) -> Option<Order> {
        let mut order = Order { axes: [0; MAX_RANK], rank: axes.len() as u8 };
        let mut seen = 0u32;
        for (i, &a) in axes.iter().enumerate() {
            if i >= MAX_RANK || a >= axes.len() || seen & (1 << a) != 0 {
                return None;
            }
            seen |= 1 << a;
            order.axes[i] = a as u8;
        }
        Some(order)
    }

    /// The axes, outermost in memory first.
    pub fn axes(&self) -> impl DoubleEndedIterator<Item = usize> + '_ {
        self.axes[..self.rank as usize].iter().map(|&a| a as usize)
    }

    /// How many axes there are.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// True if memory is row-major.
    pub fn is_row_major(&self) -> bool {
        self.axes().enumerate().all(|(i, a)| i == a)
    }
}

/// A shape with the stride, in elements, of each axis. Strides are never negative; 0 repeats an element (broadcasting).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    shape: Shape,
    strides: [usize; MAX_RANK],
}

impl Layout {
    /// Row-major memory.
    pub fn row_major(shape: Shape) -> Layout {
        Layout { shape, strides: shape.row_major() }
    }

    /// Dense memory with its axes in the given order.
    pub fn dense(shape: Shape, order: Order) -> Layout {
        let mut strides = [0; MAX_RANK];
        let mut step = 1;
        for axis in order.axes().rev() {
            strides[axis] = step;
            step *= shape[axis].max(1);
        }
        Layout { shape, strides }
    }

    /// A layout of explicit strides; an error if there are not as many strides as axes or an offset overflows.
    pub fn strided(shape: Shape, strides: &[usize]) -> Result<Layout, TensorError> {
        if strides.len() != shape.rank() {
            return Err(TensorError::Length { needed: shape.rank(), found: strides.len() });
        }
        let mut layout = Layout { shape, strides: [0; MAX_RANK] };
        layout.strides[..strides.len()].copy_from_slice(strides);
        let mut span = 1usize;
        for (&d, &s) in shape.iter().zip(strides) {
            span = d.saturating_sub(1).checked_mul(s).and_then(|x| x.checked_add(span)).ok_or_else(|| TensorError::TooManyElements(shape.dims().into()))?;
        }
        Ok(layout)
    }

    /// The logical shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The strides in elements, one an axis.
    pub fn strides(&self) -> &[usize] {
        &self.strides[..self.shape.rank()]
    }

    /// How many elements of memory the layout reaches: one past its last element's offset, 0 if it has none.
    pub fn span(&self) -> usize {
        if self.shape.elements() == 0 {
            return 0;
        }
        1 + self.shape.iter().zip(self.strides()).map(|(&d, &s)| (d - 1) * s).sum::<usize>()
    }

    /// True if memory is dense and row-major (axes of extent 1 may have any stride).
    pub fn is_row_major(&self) -> bool {
        let mut step = 1;
        for (&d, &s) in self.shape.iter().zip(self.strides()).rev() {
            if d != 1 && s != step {
                return self.shape.elements() == 0;
            }
            step *= d;
        }
        true
    }

    /// The order in which the layout is dense, if it is dense in some order. Row-major wins where several fit.
    pub fn order(&self) -> Option<Order> {
        let rank = self.shape.rank();
        if self.is_row_major() {
            return Some(Order::row_major(rank));
        }
        let mut axes: [usize; MAX_RANK] = core::array::from_fn(|i| i);
        // By descending stride; axes of extent 1 sit where their neighbours in logical order leave them.
        axes[..rank].sort_by(|&a, &b| self.strides[b].cmp(&self.strides[a]).then(a.cmp(&b)));
        let order = Order::from_axes(&axes[..rank])?;
        let dense = Layout::dense(self.shape, order);
        let same = (0..rank).all(|i| self.shape[i] == 1 || dense.strides[i] == self.strides[i]);
        same.then_some(order)
    }

    /// True if both layouts put every element of the same shape at the same offset.
    pub fn same_memory(&self, other: &Layout) -> bool {
        self.shape == other.shape && (0..self.shape.rank()).all(|i| self.shape[i] == 1 || self.strides[i] == other.strides[i])
    }

    /// The offset of the element at `index`, `None` if the index has another rank or lies outside.
    pub fn offset(&self, index: &[usize]) -> Option<usize> {
        if index.len() != self.shape.rank() || index.iter().zip(self.shape.iter()).any(|(i, d)| i >= d) {
            return None;
        }
        Some(index.iter().zip(self.strides()).map(|(i, s)| i * s).sum())
    }

    /// The same memory with its logical axes in the order `axes` (a permutation).
    pub fn permuted(&self, axes: &[usize]) -> Layout {
        let mut out = *self;
        for (i, &a) in axes.iter().enumerate() {
            out.strides[i] = self.strides[a];
            out.shape = out.shape.with(i, self.shape[a]);
        }
        out
    }

    /// The layout stretched to `shape` by NumPy's rule: repeated axes get a stride of 0.
    pub fn broadcast_to(&self, shape: Shape) -> Result<Layout, TensorError> {
        let fail = || TensorError::Broadcast(self.shape.dims().into(), shape.dims().into());
        let lead = shape.rank().checked_sub(self.shape.rank()).ok_or_else(fail)?;
        let mut out = Layout { shape, strides: [0; MAX_RANK] };
        for i in 0..self.shape.rank() {
            match (self.shape[i], shape[lead + i]) {
                (a, b) if a == b => out.strides[lead + i] = self.strides[i],
                (1, _) => {}
                _ => return Err(fail()),
            }
        }
        Ok(out)
    }

    /// The layout without `axis` (whose index the caller folds into the data's start).
    pub fn without(&self, axis: usize) -> Layout {
        let rank = self.shape.rank();
        let mut dims = [0; MAX_RANK];
        let mut strides = [0; MAX_RANK];
        for (to, from) in (0..rank).filter(|&i| i != axis).enumerate() {
            dims[to] = self.shape[from];
            strides[to] = self.strides[from];
        }
        let mut shape = Shape::SCALAR;
        if rank > 1 {
            // Fewer axes than a valid shape: rank and count stay within bounds.
            shape = Shape::new(&dims[..rank - 1]).unwrap_or(Shape::SCALAR);
        }
        Layout { shape, strides }
    }

    /// The same layout with `axis` cut down to `dim` elements.
    pub fn with_dim(&self, axis: usize, dim: usize) -> Layout {
        Layout { shape: self.shape.with(axis, dim), strides: self.strides }
    }

    /// Offsets of all elements in logical row-major order.
    pub fn offsets(&self) -> Offsets {
        Offsets { layout: *self, index: [0; MAX_RANK], next: 0, left: self.shape.elements() }
    }
}

/// Iterator over the offsets of a layout's elements; see [`Layout::offsets`].
#[derive(Debug, Clone)]
pub struct Offsets {
    layout: Layout,
    index: [usize; MAX_RANK],
    next: usize,
    left: usize,
}

impl Iterator for Offsets {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        let offset = self.next;
        self.left -= 1;
        for axis in (0..self.layout.shape.rank()).rev() {
            self.index[axis] += 1;
            self.next += self.layout.strides[axis];
            if self.index[axis] < self.layout.shape[axis] {
                break;
            }
            self.next -= self.layout.strides[axis] * self.index[axis];
            self.index[axis] = 0;
        }
        Some(offset)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Offsets {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn shape(d: &[usize]) -> Shape {
        Shape::new(d).unwrap()
    }

    #[test]
    fn channels_last_is_dense_in_its_order() {
        let l = Layout::dense(shape(&[2, 3, 4, 5]), Order::channels_last(4));
        assert_eq!(l.strides(), &[60, 1, 15, 3]);
        assert_eq!(l.order(), Some(Order::channels_last(4)));
        assert_eq!(l.span(), 120);
        assert!(!l.is_row_major());
    }

    #[test]
    fn offsets_walk_logical_order() {
        let l = Layout::row_major(shape(&[2, 3])).permuted(&[1, 0]);
        assert_eq!(l.offsets().collect::<Vec<_>>(), [0, 3, 1, 4, 2, 5]);
        assert_eq!(Layout::row_major(shape(&[2, 0])).offsets().count(), 0);
        assert_eq!(Layout::row_major(Shape::SCALAR).offsets().collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn broadcasting_gives_zero_strides() {
        let l = Layout::row_major(shape(&[3, 1])).broadcast_to(shape(&[2, 3, 4])).unwrap();
        assert_eq!(l.strides(), &[0, 1, 0]);
        assert_eq!(l.order(), None);
    }
}
