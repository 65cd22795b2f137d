//! What is known of a value before it exists.

use crate::Dim;
use alloc::{sync::Arc, vec::Vec};
use core::fmt;
use millstream_tensor::{DType, Shape, Tensor, TensorError, Weight};

/// Elements that are known before a run.
#[derive(Debug, Clone)]
pub enum Known {
    /// All elements.
    Const(Weight),
    /// The elements of a scalar or vector of integers, as expressions over the dims of the graph's inputs.
    Dims(Arc<[Dim]>),
}

/// The element type, the dims, and sometimes the elements of a value.
#[derive(Debug, Clone)]
pub struct Fact {
    /// The element type.
    pub dtype: DType,
    /// The dims, outermost first.
    pub dims: Vec<Dim>,
    /// The elements, where they are known.
    pub known: Option<Known>,
}

impl Fact {
    /// A value of which type and dims are known.
    pub fn new(dtype: DType, dims: Vec<Dim>) -> Fact {
        Fact { dtype, dims, known: None }
    }

    /// A value of which type and concrete dims are known.
    pub fn concrete(dtype: DType, dims: &[usize]) -> Fact {
        Fact::new(dtype, dims.iter().map(|&d| Dim::from(d)).collect())
    }

    /// A value whose elements are known.
    pub fn constant(weight: Weight) -> Fact {
        Fact { known: Some(Known::Const(weight.clone())), ..Fact::concrete(weight.dtype(), weight.shape()) }
    }

    /// A scalar (`scalar`) or vector of integers whose elements are expressions. Known numbers become a constant.
    pub fn of_dims(dtype: DType, values: Vec<Dim>, scalar: bool) -> Fact {
        let dims = if scalar { Vec::new() } else { [Dim::from(values.len())].into() };
        let mut fact = Fact::new(dtype, dims);
        let numbers: Option<Vec<i64>> = values.iter().map(Dim::as_const).collect();
        let constant = numbers.and_then(|n| {
            let dims: &[usize] = if scalar { &[] } else { &[n.len()] };
            match dtype {
                DType::I64 => Tensor::from_slice(dims, &n).ok(),
                DType::I32 => Tensor::from_slice(dims, &n.iter().map(|&x| x as i32).collect::<Vec<_>>()).ok(),
                _ => None,
            }
        });
        fact.known = match constant {
            Some(t) => Some(Known::Const(t.into())),
            None => Some(Known::Dims(values.into())),
        };
        fact
    }

    /// How many axes there are.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// The shape, if every dim is a number; an error if it is one that cannot be.
    pub fn shape(&self) -> Option<Result<Shape, TensorError>> {
        let dims: Option<Vec<usize>> = self.dims.iter().map(Dim::as_extent).collect();
        dims.map(|d| Shape::new(&d))
    }

    /// The constant, if all elements are known as numbers.
    pub fn as_const(&self) -> Option<&Weight> {
        match &self.known {
            Some(Known::Const(w)) => Some(w),
            _ => None,
        }
    }

    /// The elements of a small scalar or vector of integers as expressions, whether constant or symbolic.
    pub fn int_dims(&self) -> Option<Vec<Dim>> {
        match &self.known {
            Some(Known::Dims(d)) => Some(d.to_vec()),
            _ => self.ints().map(|v| v.into_iter().map(Dim::from).collect()),
        }
    }

    /// The elements of a constant tensor of integers, in row-major order.
    pub fn ints(&self) -> Option<Vec<i64>> {
        let t = self.as_const()?.to_tensor().ok()?;
        match t.dtype() {
            DType::I64 => t.as_slice::<i64>().ok().map(<[i64]>::to_vec),
            DType::I32 => t.as_slice::<i32>().ok().map(|s| s.iter().map(|&x| x.into()).collect()),
            _ => None,
        }
    }

    /// The elements of a constant tensor of f32, in row-major order.
    pub fn floats(&self) -> Option<Vec<f32>> {
        self.as_const()?.to_tensor().ok()?.as_slice::<f32>().ok().map(<[f32]>::to_vec)
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.dims.iter().enumerate() {
            write!(f, "{}{d}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}
