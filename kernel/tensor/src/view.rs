//! Borrowed tensors, strided, typed at run time ([`TensorView`]) or at compile time ([`View`]).

use crate::{DType, Element, Layout, Shape, TensorError};
use alloc::{string::String, vec::Vec};
use bytemuck::Pod;

/// Borrowed elements: bytes, or strings.
#[derive(Debug, Clone, Copy)]
pub enum Data<'a> {
    /// Elements of any type but strings.
    Bytes(&'a [u8]),
    /// Strings.
    Strings(&'a [String]),
}

/// Mutably borrowed elements.
#[derive(Debug)]
pub enum DataMut<'a> {
    /// Elements of any type but strings.
    Bytes(&'a mut [u8]),
    /// Strings.
    Strings(&'a mut [String]),
}

/// A borrowed tensor whose element type is known at run time.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    dtype: DType,
    layout: &'a Layout,
    data: Data<'a>,
}

/// A mutably borrowed tensor whose element type is known at run time.
#[derive(Debug)]
pub struct TensorViewMut<'a> {
    dtype: DType,
    layout: &'a Layout,
    data: DataMut<'a>,
}

/// A borrowed tensor of `T`.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, T> {
    layout: Layout,
    data: &'a [T],
}

/// A mutably borrowed tensor of `T`.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    layout: Layout,
    data: &'a mut [T],
}

fn cover(layout: &Layout, found: usize) -> Result<(), TensorError> {
    let needed = layout.span();
    if found < needed { Err(TensorError::Length { needed, found }) } else { Ok(()) }
}

fn cast<T: Element>(dtype: DType, bytes: &[u8]) -> Result<&[T], TensorError> {
    if dtype != T::DTYPE {
        return Err(TensorError::DType { wanted: T::DTYPE, found: dtype });
    }
    let whole = bytes.len() / T::DTYPE.size() * T::DTYPE.size();
    if whole == 0 {
        return Ok(&[]);
    }
    bytemuck::try_cast_slice(&bytes[..whole]).map_err(|_| TensorError::Unaligned(dtype))
}

mod sealed {
    pub trait Sealed {}
}

/// An unsigned integer as wide as some elements, for kernels that move elements without looking at them.
pub trait Word: sealed::Sealed + Pod + Default + Send + Sync {}

macro_rules! words {
    ($($t:ty),*) => { $( impl sealed::Sealed for $t {} impl Word for $t {} )* };
}
words!(u8, u16, u32, u64);

impl<'a> TensorView<'a> {
    /// A view of bytes; an error if they do not cover the layout.
    pub fn new(dtype: DType, layout: &'a Layout, bytes: &'a [u8]) -> Result<TensorView<'a>, TensorError> {
        if dtype == DType::String {
            return Err(TensorError::DType { wanted: DType::U8, found: dtype });
        }
        cover(layout, bytes.len() / dtype.size())?;
        Ok(TensorView { dtype, layout, data: Data::Bytes(bytes) })
    }

    /// A view of strings; an error if they do not cover the layout.
    pub fn strings(layout: &'a Layout, strings: &'a [String]) -> Result<TensorView<'a>, TensorError> {
        cover(layout, strings.len())?;
        Ok(TensorView { dtype: DType::String, layout, data: Data::Strings(strings) })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The layout.
    pub fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// The logical shape.
    pub fn shape(&self) -> &'a Shape {
        self.layout.shape()
    }

    /// The borrowed memory, which begins at the first element.
    pub fn data(&self) -> Data<'a> {
        self.data
    }

    /// The bytes from the first element to the layout's end; an error for strings.
    pub fn bytes(&self) -> Result<&'a [u8], TensorError> {
        match self.data {
            Data::Bytes(b) => Ok(&b[..self.layout.span() * self.dtype.size()]),
            Data::Strings(_) => Err(TensorError::DType { wanted: DType::U8, found: DType::String }),
        }
    }

    /// The same tensor with elements of type `T`; an error if it holds others or they are not aligned.
    pub fn typed<T: Element>(&self) -> Result<View<'a, T>, TensorError> {
        Ok(View { layout: *self.layout, data: cast(self.dtype, self.bytes()?)? })
    }

    /// The elements' bits, from the first element to the layout's end; an error if elements are not as wide as `W`.
    pub fn words<W: Word>(&self) -> Result<&'a [W], TensorError> {
        let bytes = self.bytes()?;
        if self.dtype.size() != size_of::<W>() {
            return Err(TensorError::Length { needed: size_of::<W>(), found: self.dtype.size() });
        }
        if bytes.is_empty() { Ok(&[]) } else { bytemuck::try_cast_slice(bytes).map_err(|_| TensorError::Unaligned(self.dtype)) }
    }

    /// The strings; an error if the tensor holds none.
    pub fn as_strings(&self) -> Result<&'a [String], TensorError> {
        match self.data {
            Data::Strings(s) => Ok(s),
            Data::Bytes(_) => Err(TensorError::DType { wanted: DType::String, found: self.dtype }),
        }
    }
}

impl<'a> TensorViewMut<'a> {
    /// A view of bytes; an error if they do not cover the layout.
    pub fn new(dtype: DType, layout: &'a Layout, bytes: &'a mut [u8]) -> Result<TensorViewMut<'a>, TensorError> {
        if dtype == DType::String {
            return Err(TensorError::DType { wanted: DType::U8, found: dtype });
        }
        cover(layout, bytes.len() / dtype.size())?;
        Ok(TensorViewMut { dtype, layout, data: DataMut::Bytes(bytes) })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The layout.
    pub fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// The logical shape.
    pub fn shape(&self) -> &'a Shape {
        self.layout.shape()
    }

    /// The bytes from the first element to the layout's end; an error for strings.
    pub fn into_bytes(self) -> Result<&'a mut [u8], TensorError> {
        match self.data {
            DataMut::Bytes(b) => Ok(&mut b[..self.layout.span() * self.dtype.size()]),
            DataMut::Strings(_) => Err(TensorError::DType { wanted: DType::U8, found: DType::String }),
        }
    }

    /// The bytes, for as long as the view itself is borrowed; an error for strings.
    pub fn bytes_mut(&mut self) -> Result<&mut [u8], TensorError> {
        let len = self.layout.span() * self.dtype.size();
        match &mut self.data {
            DataMut::Bytes(b) => Ok(&mut b[..len]),
            DataMut::Strings(_) => Err(TensorError::DType { wanted: DType::U8, found: DType::String }),
        }
    }

    /// The elements' bits, from the first element to the layout's end; an error if elements are not as wide as `W`.
    ///
    /// Whoever writes them writes bits that were an element of the same type before: a boolean stays 0 or 1.
    pub fn into_words<W: Word>(self) -> Result<&'a mut [W], TensorError> {
        let dtype = self.dtype;
        if dtype.size() != size_of::<W>() {
            return Err(TensorError::Length { needed: size_of::<W>(), found: dtype.size() });
        }
        let bytes = self.into_bytes()?;
        if bytes.is_empty() { Ok(&mut []) } else { bytemuck::try_cast_slice_mut(bytes).map_err(|_| TensorError::Unaligned(dtype)) }
    }

    /// The same tensor with elements of type `T`; an error if it holds others or they are not aligned.
    pub fn typed<T: Element>(self) -> Result<ViewMut<'a, T>, TensorError> {
        let (dtype, layout) = (self.dtype, *self.layout);
        if dtype != T::DTYPE {
            return Err(TensorError::DType { wanted: T::DTYPE, found: dtype });
        }
        let bytes = self.into_bytes()?;
        let data = if bytes.is_empty() { &mut [] } else { bytemuck::try_cast_slice_mut(bytes).map_err(|_| TensorError::Unaligned(dtype))? };
        Ok(ViewMut { layout, data })
    }

    /// Reads what the view holds (an operator that runs in place finds its input here).
    pub fn as_view(&self) -> TensorView<'_> {
        let data = match &self.data {
            DataMut::Bytes(b) => Data::Bytes(b),
            DataMut::Strings(s) => Data::Strings(s),
        };
        TensorView { dtype: self.dtype, layout: self.layout, data }
    }
}

impl<'a, T: Copy> View<'a, T> {
    /// A view of `data`; an error if it does not cover the layout.
    pub fn new(layout: Layout, data: &'a [T]) -> Result<View<'a, T>, TensorError> {
        cover(&layout, data.len())?;
        Ok(View { layout, data })
    }

    /// The layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The logical shape.
    pub fn shape(&self) -> &Shape {
        self.layout.shape()
    }

    /// The memory from the first element to the layout's end, whatever the strides.
    pub fn data(&self) -> &'a [T] {
        self.data
    }

    /// The elements, if they lie dense and row-major.
    pub fn as_slice(&self) -> Option<&'a [T]> {
        self.layout.is_row_major().then(|| &self.data[..self.shape().elements()])
    }

    /// The element at `index`.
    pub fn at(&self, index: &[usize]) -> Option<T> {
        self.layout.offset(index).map(|o| self.data[o])
    }

    /// The elements in logical row-major order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = T> + use<'a, T> {
        let data = self.data;
        self.layout.offsets().map(move |o| data[o])
    }

    /// The elements in logical row-major order, copied.
    pub fn to_vec(&self) -> Vec<T> {
        self.as_slice().map_or_else(|| self.iter().collect(), <[T]>::to_vec)
    }

    /// The same memory under another layout; an error if that reaches further.
    pub fn with_layout(&self, layout: Layout) -> Result<View<'a, T>, TensorError> {
        View::new(layout, self.data)
    }

    /// The part of the view at `index` of `axis`, that axis removed. `None` if there is no such index.
    pub fn index(&self, axis: usize, index: usize) -> Option<View<'a, T>> {
        if axis >= self.shape().rank() || index >= self.shape()[axis] {
            return None;
        }
        let layout = self.layout.without(axis);
        let start = if layout.shape().elements() == 0 { 0 } else { index * self.layout.strides()[axis] };
        Some(View { layout, data: &self.data[start..] })
    }
}

impl<'a, T: Copy> ViewMut<'a, T> {
    /// A view of `data`; an error if it does not cover the layout.
    pub fn new(layout: Layout, data: &'a mut [T]) -> Result<ViewMut<'a, T>, TensorError> {
        cover(&layout, data.len())?;
        Ok(ViewMut { layout, data })
    }

    /// The layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The logical shape.
    pub fn shape(&self) -> &Shape {
        self.layout.shape()
    }

    /// The memory from the first element to the layout's end, whatever the strides.
    pub fn data_mut(&mut self) -> &mut [T] {
        self.data
    }

    /// The memory, for as long as it was borrowed.
    pub fn into_data(self) -> &'a mut [T] {
        self.data
    }

    /// The elements, if they lie dense and row-major.
    pub fn as_slice_mut(&mut self) -> Option<&mut [T]> {
        let n = self.layout.shape().elements();
        self.layout.is_row_major().then(|| &mut self.data[..n])
    }

    /// Reads what the view holds.
    pub fn as_view(&self) -> View<'_, T> {
        View { layout: self.layout, data: self.data }
    }

    /// Sets the elements, in logical row-major order, to what the iterator gives; the rest stays when it ends early.
    pub fn fill_from(&mut self, values: impl IntoIterator<Item = T>) {
        for (offset, v) in self.layout.offsets().zip(values) {
            self.data[offset] = v;
        }
    }
}
