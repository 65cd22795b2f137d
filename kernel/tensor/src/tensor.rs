//! Owned tensors: shared, immutable memory, cheap to clone.

use crate::{AlignedBytes, DType, Element, Layout, Shape, TensorError, TensorView, TensorViewMut, View};
use alloc::{string::String, sync::Arc, vec::Vec};

#[derive(Debug, Clone)]
enum Storage {
    Bytes(Arc<AlignedBytes>),
    Strings(Arc<[String]>),
}

/// An owned tensor, dense and row-major unless made otherwise. Clones share memory; writing to a shared one copies it.
#[derive(Debug, Clone)]
pub struct Tensor {
    dtype: DType,
    layout: Layout,
    storage: Storage,
}

impl Tensor {
    /// A tensor of zeroes (or empty strings).
    pub fn zeros(dtype: DType, dims: &[usize]) -> Result<Tensor, TensorError> {
        let shape = Shape::new(dims)?;
        if dtype == DType::String {
            return Tensor::from_strings(dims, (0..shape.elements()).map(|_| String::new()).collect());
        }
        let bytes = AlignedBytes::zeroed(shape.elements() * dtype.size())?;
        Ok(Tensor { dtype, layout: Layout::row_major(shape), storage: Storage::Bytes(Arc::new(bytes)) })
    }

    /// A copy of `values` in row-major order; an error if there are not as many as the dims say.
    pub fn from_slice<T: Element>(dims: &[usize], values: &[T]) -> Result<Tensor, TensorError> {
        let shape = Shape::new(dims)?;
        if shape.elements() != values.len() {
            return Err(TensorError::Length { needed: shape.elements(), found: values.len() });
        }
        let bytes = AlignedBytes::copy_of(bytemuck::cast_slice(values))?;
        Ok(Tensor { dtype: T::DTYPE, layout: Layout::row_major(shape), storage: Storage::Bytes(Arc::new(bytes)) })
    }

    /// A scalar.
    pub fn scalar<T: Element>(value: T) -> Result<Tensor, TensorError> {
        Tensor::from_slice(&[], &[value])
    }

    /// A tensor of strings in row-major order.
    pub fn from_strings(dims: &[usize], strings: Vec<String>) -> Result<Tensor, TensorError> {
        let shape = Shape::new(dims)?;
        if shape.elements() != strings.len() {
            return Err(TensorError::Length { needed: shape.elements(), found: strings.len() });
        }
        Ok(Tensor { dtype: DType::String, layout: Layout::row_major(shape), storage: Storage::Strings(strings.into()) })
    }

    /// Row-major little-endian bytes of untrusted origin: the length and, for booleans, every byte are checked.
    pub fn from_bytes(dtype: DType, dims: &[usize], bytes: &[u8]) -> Result<Tensor, TensorError> {
        let shape = Shape::new(dims)?;
        let needed = shape.elements();
        if dtype == DType::String || bytes.len() != needed * dtype.size() {
            return Err(TensorError::Length { needed, found: bytes.len() / dtype.size().max(1) });
        }
        if dtype == DType::Bool
            && let Some(&b) = bytes.iter().find(|&&b| b > 1)
        {
            return Err(TensorError::Boolean(b));
        }
        Ok(Tensor { dtype, layout: Layout::row_major(shape), storage: Storage::Bytes(Arc::new(AlignedBytes::copy_of(bytes)?)) })
    }

    /// A dense row-major copy of what a view shows.
    pub fn from_view(view: TensorView<'_>) -> Result<Tensor, TensorError> {
        let shape = *view.shape();
        if view.dtype() == DType::String {
            let strings = view.as_strings()?;
            return Tensor::from_strings(&shape, view.layout().offsets().map(|o| strings[o].clone()).collect());
        }
        let bytes = view.bytes()?;
        let size = view.dtype().size();
        let mut out = AlignedBytes::zeroed(shape.elements() * size)?;
        if view.layout().is_row_major() {
            out.as_mut().copy_from_slice(&bytes[..shape.elements() * size]);
        } else {
            for (to, o) in out.as_mut().chunks_exact_mut(size).zip(view.layout().offsets()) {
                to.copy_from_slice(&bytes[o * size..(o + 1) * size]);
            }
        }
        Ok(Tensor { dtype: view.dtype(), layout: Layout::row_major(shape), storage: Storage::Bytes(Arc::new(out)) })
    }

    /// The same elements under other dims of the same count.
    pub fn reshaped(&self, dims: &[usize]) -> Result<Tensor, TensorError> {
        let shape = Shape::new(dims)?;
        if shape.elements() != self.shape().elements() {
            return Err(TensorError::Length { needed: shape.elements(), found: self.shape().elements() });
        }
        Ok(Tensor { layout: Layout::row_major(shape), ..self.clone() })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        self.layout.shape()
    }

    /// Bytes of element memory (for strings: of their text).
    pub fn bytes_len(&self) -> usize {
        match &self.storage {
            Storage::Bytes(b) => b.len(),
            Storage::Strings(s) => s.iter().map(String::len).sum(),
        }
    }

    /// A view of the whole tensor.
    pub fn view(&self) -> TensorView<'_> {
        let view = match &self.storage {
            Storage::Bytes(b) => TensorView::new(self.dtype, &self.layout, (**b).as_ref()),
            Storage::Strings(s) => TensorView::strings(&self.layout, s),
        };
        view.expect("every constructor makes the storage cover the layout")
    }

    /// A mutable view of the whole tensor, copied first if its memory is shared; an error for strings, or without memory for the copy.
    pub fn view_mut(&mut self) -> Result<TensorViewMut<'_>, TensorError> {
        match &mut self.storage {
            Storage::Bytes(b) => {
                if Arc::get_mut(b).is_none() {
                    *b = Arc::new(AlignedBytes::copy_of((**b).as_ref())?);
                }
                let own = Arc::get_mut(b).expect("what was copied is not shared");
                TensorViewMut::new(self.dtype, &self.layout, own.as_mut())
            }
            Storage::Strings(_) => Err(TensorError::DType { wanted: DType::U8, found: DType::String }),
        }
    }

    /// The elements in row-major order; an error if they have another type.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], TensorError> {
        let view: View<'_, T> = self.view().typed()?;
        view.as_slice().ok_or(TensorError::Strided)
    }

    /// The strings in row-major order; an error if the tensor holds none.
    pub fn as_strings(&self) -> Result<&[String], TensorError> {
        self.view().as_strings()
    }
}

impl PartialEq for Tensor {
    /// Same type, same shape, same elements (floats by their bits).
    fn eq(&self, other: &Tensor) -> bool {
        self.dtype == other.dtype
            && self.shape() == other.shape()
            && match (&self.storage, &other.storage) {
                (Storage::Bytes(a), Storage::Bytes(b)) => (**a).as_ref() == (**b).as_ref(),
                (Storage::Strings(a), Storage::Strings(b)) => a == b,
                _ => false,
            }
    }
}
