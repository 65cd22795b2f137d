//! Which axes a reduction goes along, and how the input's memory looks from there.

use alloc::{vec, vec::Vec};
use millstream_graph::{BuildCx, BuildError, Dim, EvalCx, EvalError, Fact, InferCx, InferError};
use millstream_tensor::{DType, Layout, MAX_RANK, Order, TensorError};

/// The attributes of a reduction.
#[derive(Debug, Clone)]
pub struct Axes {
    /// The axes, where they are an attribute.
    pub axes: Option<Vec<i64>>,
    /// True if the reduced axes stay, with an extent of 1.
    pub keepdims: bool,
    /// True if no axes means none, instead of all.
    pub noop: bool,
}

/// The attributes' names.
pub(crate) const ATTRIBUTES: &[&str] = &["axes", "keepdims", "noop_with_empty_axes"];

impl Axes {
    /// Reads the attributes.
    pub(crate) fn build(cx: &BuildCx<'_>) -> Result<Axes, BuildError> {
        Ok(Axes {
            axes: cx.attributes.ints("axes")?.cloned(),
            keepdims: cx.attributes.flag_or("keepdims", true)?,
            noop: cx.attributes.flag_or("noop_with_empty_axes", false)?,
        })
    }

    /// For each axis, whether it is reduced.
    fn resolve(&self, input: Option<Vec<i64>>, rank: usize) -> Result<Vec<bool>, InferError> {
        let axes = input.or_else(|| self.axes.clone()).unwrap_or_default();
        let mut reduced = vec![axes.is_empty() && !self.noop; rank];
        for a in axes {
            let axis = InferCx::axis(a, rank)?;
            if rank > 0 {
                reduced[axis] = true;
            }
        }
        Ok(reduced)
    }

    /// For each axis, whether it is reduced, from facts.
    pub(crate) fn reduced_by_facts(&self, cx: &InferCx<'_>) -> Result<Vec<bool>, InferError> {
        let input = cx.optional(1).map(|_| cx.ints(1)).transpose()?;
        self.resolve(input, cx.input(0)?.rank())
    }

    /// For each axis, whether it is reduced, where no input says so.
    pub(crate) fn reduced_by_attributes(&self, rank: usize) -> Result<Vec<bool>, InferError> {
        self.resolve(None, rank)
    }

    /// For each axis, whether it is reduced, from the inputs of a run.
    pub(crate) fn reduced_by_inputs(&self, cx: &EvalCx<'_>, rank: usize) -> Result<Vec<bool>, EvalError> {
        let input = cx.optional::<i64>(1)?.map(|v| v.to_vec());
        Ok(self.resolve(input, rank)?)
    }

    /// The dims that are left.
    pub(crate) fn dims(&self, dims: &[Dim], reduced: &[bool]) -> Vec<Dim> {
        let left = dims.iter().zip(reduced).filter(|(_, r)| self.keepdims || !**r);
        left.map(|(d, &r)| if r { Dim::from(1) } else { d.clone() }).collect()
    }

    /// The output's order for an input's: the same while the axes stay. Where they go, row-major: every output order reads
    /// the input alike, and the axes may be known to a run only.
    pub(crate) fn order(&self, input: Order, output_rank: usize) -> Order {
        if self.keepdims && input.rank() == output_rank { input } else { Order::row_major(output_rank) }
    }

    /// The elements of a reduced vector of symbolic integers, if all of them join.
    pub(crate) fn symbolic(&self, x: &Fact, reduced: &[bool], join: impl Fn(&Dim, &Dim) -> Option<Dim>) -> Option<Fact> {
        if x.as_const().is_some() || x.rank() != 1 || !reduced[0] {
            return None;
        }
        let values = x.int_dims()?;
        let (first, rest) = values.split_first()?;
        let total = rest.iter().try_fold(first.clone(), |a, b| join(&a, b))?;
        Some(Fact::of_dims(x.dtype, vec![total], !self.keepdims))
    }

    /// True if elements of this type pass through unchanged because there are no axes.
    pub(crate) fn is_noop(&self, reduced: &[bool]) -> bool {
        self.noop && !reduced.contains(&true)
    }
}

/// True for the integer types that shapes are made of.
pub(crate) fn is_shape_type(dtype: DType) -> bool {
    matches!(dtype, DType::I64 | DType::I32)
}

/// A nest of loops over one tensor's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nest {
    rank: usize,
    dims: [usize; MAX_RANK],
    strides: [usize; MAX_RANK],
}

impl Nest {
    /// Loops over `axes` (outermost first) of a layout; loops that run on into each other are merged.
    fn new(layout: &Layout, axes: impl Iterator<Item = usize>) -> Nest {
        let mut nest = Nest { rank: 0, dims: [1; MAX_RANK], strides: [1; MAX_RANK] };
        for axis in axes.filter(|&a| layout.shape()[a] != 1) {
            let (dim, stride) = (layout.shape()[axis], layout.strides()[axis]);
            if nest.rank > 0 && nest.strides[nest.rank - 1] == stride * dim {
                nest.dims[nest.rank - 1] *= dim;
            } else {
                nest.dims[nest.rank] = dim;
                nest.rank += 1;
            }
            nest.strides[nest.rank - 1] = stride;
        }
        nest.rank = nest.rank.max(1);
        nest
    }

    /// How many iterations there are.
    pub(crate) fn count(&self) -> usize {
        self.dims[..self.rank].iter().product()
    }

    /// Iterations and stride of the innermost loop.
    pub(crate) fn inner(&self) -> (usize, usize) {
        (self.dims[self.rank - 1], self.strides[self.rank - 1])
    }

    /// The offset of iteration `i`.
    pub(crate) fn offset(&self, mut i: usize) -> usize {
        let mut offset = 0;
        for axis in (0..self.rank).rev() {
            offset += i % self.dims[axis].max(1) * self.strides[axis];
            i /= self.dims[axis].max(1);
        }
        offset
    }

    /// Calls `f` with the offset of each beginning of the innermost loop.
    #[inline(always)]
    pub(crate) fn outer(&self, mut f: impl FnMut(usize)) {
        let last = self.rank - 1;
        if self.count() == 0 {
            return;
        }
        let (mut index, mut base) = ([0; MAX_RANK], 0);
        for _ in 0..self.dims[..last].iter().product::<usize>() {
            f(base);
            for axis in (0..last).rev() {
                index[axis] += 1;
                base += self.strides[axis];
                if index[axis] < self.dims[axis] {
                    break;
                }
                base -= self.strides[axis] * index[axis];
                index[axis] = 0;
            }
        }
    }

    /// Calls `f` with the offset of each iteration.
    #[inline(always)]
    pub(crate) fn each(&self, mut f: impl FnMut(usize)) {
        let (n, stride) = self.inner();
        self.outer(|base| (0..n).for_each(|i| f(base + i * stride)));
    }
}

/// The loops over what is kept, in the order of the output's memory, and over what is reduced, in that of the input's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Split {
    pub(crate) kept: Nest,
    pub(crate) reduced: Nest,
}

impl Split {
    /// Splits an input's axes. `output` is the layout of what is left, with the reduced axes or without them.
    pub(crate) fn new(input: &Layout, output: &Layout, reduced: &[bool]) -> Result<Split, TensorError> {
        let rank = input.shape().rank();
        let stays = output.shape().rank() == rank;
        // The input's axis of each of the output's.
        let axes: Vec<usize> = (0..rank).filter(|&a| stays || !reduced[a]).collect();
        let order = output.order().ok_or(TensorError::Strided)?;
        if axes.len() != order.rank() {
            return Err(TensorError::Strided);
        }
        let kept = Nest::new(input, order.axes().map(|a| axes[a]).filter(|&a| !reduced[a]));
        let mut others: Vec<usize> = (0..rank).filter(|&a| reduced[a]).collect();
        others.sort_by(|&a, &b| input.strides()[b].cmp(&input.strides()[a]).then(a.cmp(&b)));
        Ok(Split { kept, reduced: Nest::new(input, others.into_iter()) })
    }
}
