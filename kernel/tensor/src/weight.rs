//! Where constants come from: bytes that somebody else owns and can let go of, piece by piece.

use crate::{AlignedBytes, DType, Layout, Shape, Tensor, TensorError, TensorView};
use alloc::{sync::Arc, vec::Vec};
use core::{fmt, ops::Range};

/// Bytes of weights: a mapped file, an owned buffer, or memory that is part of the program.
pub trait WeightSource: Send + Sync {
    /// All bytes.
    fn bytes(&self) -> &[u8];

    /// Says that the range is not read soon again (it was packed into another form): a mapped file gives its pages
    /// back. Reading it afterwards still works.
    fn release(&self, _range: Range<usize>) {}
}

impl WeightSource for &'static [u8] {
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl WeightSource for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

#[derive(Clone)]
enum Origin {
    Owned(Tensor),
    Source { source: Arc<dyn WeightSource>, range: Range<usize> },
}

/// A constant tensor: owned, or a range of a [`WeightSource`].
#[derive(Clone)]
pub struct Weight {
    dtype: DType,
    layout: Layout,
    origin: Origin,
}

impl Weight {
    /// A range of a source, row-major; an error if the range lies outside or has another length than the dims say.
    pub fn in_source(source: Arc<dyn WeightSource>, range: Range<usize>, dtype: DType, dims: &[usize]) -> Result<Weight, TensorError> {
        let shape = Shape::new(dims)?;
        let needed = shape.elements() * dtype.size();
        let found = source.bytes().get(range.clone()).map_or(0, <[u8]>::len);
        if found != needed || dtype == DType::String {
            return Err(TensorError::Length { needed, found });
        }
        if dtype == DType::Bool
            && let Some(&b) = source.bytes()[range.clone()].iter().find(|&&b| b > 1)
        {
            return Err(TensorError::Boolean(b));
        }
        Ok(Weight { dtype, layout: Layout::row_major(shape), origin: Origin::Source { source, range } })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        self.layout.shape()
    }

    /// Bytes of element memory.
    pub fn bytes_len(&self) -> usize {
        match &self.origin {
            Origin::Owned(t) => t.bytes_len(),
            Origin::Source { range, .. } => range.len(),
        }
    }

    /// A view without a copy; an error if the source's bytes are not aligned for the element type.
    pub fn view(&self) -> Result<TensorView<'_>, TensorError> {
        match &self.origin {
            Origin::Owned(t) => Ok(t.view()),
            Origin::Source { source, range } => {
                let bytes = &source.bytes()[range.clone()];
                if bytes.as_ptr().addr() % self.dtype.size() != 0 && !bytes.is_empty() {
                    return Err(TensorError::Unaligned(self.dtype));
                }
                TensorView::new(self.dtype, &self.layout, bytes)
            }
        }
    }

    /// A view: of the source's bytes, or of a copy of them in `room`, which grows, if they are not aligned.
    pub fn view_in<'a>(&'a self, room: &'a mut AlignedBytes) -> Result<TensorView<'a>, TensorError> {
        match (self.view(), &self.origin) {
            (Err(TensorError::Unaligned(_)), Origin::Source { source, range }) => {
                let bytes = &source.bytes()[range.clone()];
                room.grow(bytes.len())?;
                let copy = &mut room.as_mut()[..bytes.len()];
                copy.copy_from_slice(bytes);
                TensorView::new(self.dtype, &self.layout, copy)
            }
            (view, _) => view,
        }
    }

    /// The constant as an owned tensor: shared if it is owned already, else copied.
    pub fn to_tensor(&self) -> Result<Tensor, TensorError> {
        match &self.origin {
            Origin::Owned(t) => Ok(t.clone()),
            Origin::Source { source, range } => Tensor::from_bytes(self.dtype, self.shape(), &source.bytes()[range.clone()]),
        }
    }

    /// Tells the source that this constant will not be read again soon.
    pub fn release(&self) {
        if let Origin::Source { source, range } = &self.origin {
            source.release(range.clone());
        }
    }

    /// True if both are the same memory, not merely equal elements.
    pub fn same_memory(&self, other: &Weight) -> bool {
        match (&self.origin, &other.origin) {
            (Origin::Source { source: a, range: r }, Origin::Source { source: b, range: q }) => Arc::ptr_eq(a, b) && r == q,
            (Origin::Owned(a), Origin::Owned(b)) => match (a.view().bytes(), b.view().bytes()) {
                (Ok(x), Ok(y)) => core::ptr::eq(x, y),
                _ => false,
            },
            _ => false,
        }
    }
}

impl From<Tensor> for Weight {
    fn from(t: Tensor) -> Weight {
        Weight { dtype: t.dtype(), layout: Layout::row_major(*t.shape()), origin: Origin::Owned(t) }
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weight({} {})", self.dtype, self.shape())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_aligned_are_seen_through_a_copy() {
        let bytes: Vec<u8> = (0..200).collect();
        let source: Arc<dyn WeightSource> = Arc::new(bytes);
        let first = source.bytes().as_ptr().addr() % 4;
        let mut room = AlignedBytes::default();
        for shift in 0..4 {
            let weight = Weight::in_source(source.clone(), shift..shift + 160, DType::F32, &[4, 10]).unwrap();
            let aligned = (first + shift).is_multiple_of(4);
            assert_eq!(weight.view().is_ok(), aligned);
            let copy = weight.to_tensor().unwrap();
            assert_eq!(weight.view_in(&mut room).unwrap().bytes().unwrap(), copy.view().bytes().unwrap());
            assert!(aligned || room.len() == 160);
        }
    }
}
