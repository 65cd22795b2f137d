//! Shapes of up to eight axes, held inline.

use crate::TensorError;
use core::{fmt, ops::Deref};

/// The most axes a tensor can have.
pub const MAX_RANK: usize = 8;

/// The extents of a tensor, outermost axis first. Copied freely: it holds no heap memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// The shape of a scalar.
    pub const SCALAR: Shape = Shape { dims: [0; MAX_RANK], rank: 0 };

    /// A shape from its dims; an error past [`MAX_RANK`] axes or when the element count overflows.
    pub fn new(dims: &[usize]) -> Result<Shape, TensorError> {
        if dims.len() > MAX_RANK {
            return Err(TensorError::Rank(dims.len()));
        }
        // 16 bytes is more than any element takes, so that byte sizes cannot overflow either. Zero extents hide nothing:
        // the product of the others must fit as well, since strides are made of it.
        let mut count = 16usize;
        for &d in dims {
            count = count.checked_mul(d.max(1)).filter(|&c| c <= isize::MAX as usize).ok_or_else(|| TensorError::TooManyElements(dims.into()))?;
        }
        let mut shape = Shape { dims: [0; MAX_RANK], rank: dims.len() as u8 };
        shape.dims[..dims.len()].copy_from_slice(dims);
        Ok(shape)
    }

    /// The dims as a slice.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    /// How many axes there are.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// How many elements there are (1 for a scalar).
    pub fn elements(&self) -> usize {
        self.dims().iter().product()
    }

    /// The strides, in elements, of row-major memory.
    pub fn row_major(&self) -> [usize; MAX_RANK] {
        let mut strides = [0; MAX_RANK];
        let mut step = 1;
        for axis in (0..self.rank()).rev() {
            strides[axis] = step;
            step *= self.dims[axis].max(1);
        }
        strides
    }

    /// The same shape with `axis` set to `dim`. The caller keeps the element count within bounds.
    pub fn with(mut self, axis: usize, dim: usize) -> Shape {
        self.dims[..self.rank as usize][axis] = dim;
        self
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        self.dims()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.dims().fmt(f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.dims().iter().enumerate() {
            write!(f, "{}{d}", if i == 0 { "" } else { "x" })?;
        }
        if self.rank == 0 { f.write_str("scalar") } else { Ok(()) }
    }
}

impl TryFrom<&[usize]> for Shape {
    type Error = TensorError;
    fn try_from(dims: &[usize]) -> Result<Shape, TensorError> {
        Shape::new(dims)
    }
}

/// The shape that `a` and `b` broadcast to by NumPy's rule (axes aligned at the right, an extent of 1 stretches).
pub fn broadcast(a: &[usize], b: &[usize]) -> Result<Shape, TensorError> {
    let rank = a.len().max(b.len());
    if rank > MAX_RANK {
        return Err(TensorError::Rank(rank));
    }
    let mut dims = [0; MAX_RANK];
    for (i, dim) in dims[..rank].iter_mut().enumerate() {
        let at = |s: &[usize]| (i + s.len()).checked_sub(rank).map_or(1, |j| s[j]);
        *dim = match (at(a), at(b)) {
            (x, y) if x == y => x,
            (1, y) => y,
            (x, 1) => x,
            _ => return Err(TensorError::Broadcast(a.into(), b.into())),
        };
    }
    Shape::new(&dims[..rank])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_follows_numpy() {
        assert_eq!(broadcast(&[2, 1, 3], &[4, 1]).unwrap().dims(), &[2, 4, 3]);
        assert_eq!(broadcast(&[], &[0, 5]).unwrap().dims(), &[0, 5]);
        assert!(broadcast(&[2], &[3]).is_err());
    }

    #[test]
    fn too_many_axes_or_elements_are_errors() {
        assert_eq!(Shape::new(&[1; 9]), Err(TensorError::Rank(9)));
        assert!(Shape::new(&[usize::MAX, 2]).is_err());
        assert!(Shape::new(&[0, usize::MAX, 2]).is_err(), "a zero hides no overflow");
        assert_eq!(Shape::new(&[]).unwrap().elements(), 1);
    }
}
