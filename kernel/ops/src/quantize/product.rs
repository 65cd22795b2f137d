//! Products of integers with zero points: `Σ (a - a_zero)(b - b_zero)` in i32 that wraps.
//!
//! Stacks of left matrices that share one right matrix run as one product. A right matrix that is no constant is packed by the step.

use super::packed::{self, PackedBytes};
use crate::carve::{carve, carved};
use alloc::{vec, vec::Vec};
use millstream_gemm::{Finish, GemmError, Lhs, QuantisedElement, QuantisedGemm, QuantisedRef, ZeroPoint, ZeroPoints, quantised_packed_len};
use millstream_graph::{Dim, EvalCx, EvalError, InferCx, InferError, Scratch, StepCx};
use millstream_simd::Level;
use millstream_tensor::{DType, Layout, MAX_RANK, Shape, broadcast};

/// Zero points of a matrix: one for all, or one for each row (or column).
pub(crate) fn zero_points(cx: &EvalCx<'_>, input: usize) -> Result<Vec<i32>, EvalError> {
    if !cx.has(input) {
        return Ok(vec![0]);
    }
    match cx.dtype(input)? {
        DType::U8 => Ok(cx.input::<u8>(input)?.iter().map(i32::from).collect()),
        DType::I8 => Ok(cx.input::<i8>(input)?.iter().map(i32::from).collect()),
        other => Err(EvalError::DType(other)),
    }
}

/// Element `i`, or the only one.
pub(crate) fn pick<T: Copy>(values: &[T], i: usize) -> T {
    values[if values.len() == 1 { 0 } else { i }]
}

/// An error unless there is one value, or `n`.
pub(crate) fn check_count<T>(values: &[T], n: usize) -> Result<(), EvalError> {
    if values.len() == 1 || values.len() == n { Ok(()) } else { Err(EvalError::Invalid("scales or zero points do not fit the matrix")) }
}

/// The dims of a product of stacks of matrices.
pub(crate) fn infer_dims(cx: &InferCx<'_>, a: usize, b: usize) -> Result<Vec<Dim>, InferError> {
    let (left, right) = (cx.input(a)?, cx.input(b)?);
    for (input, fact) in [(a, left), (b, right)] {
        if !matches!(fact.dtype, DType::U8 | DType::I8) {
            return Err(InferError::DType { input, found: fact.dtype });
        }
        if fact.rank() == 0 {
            return Err(InferError::Rank { input, found: 0, wanted: "1 or more" });
        }
    }
    let (x, y) = (&left.dims, &right.dims);
    let inner = if y.len() == 1 { &y[0] } else { &y[y.len() - 2] };
    let k = &x[x.len() - 1];
    if let (Some(p), Some(q)) = (k.as_const(), inner.as_const())
        && p != q
    {
        return Err(InferError::Mismatch { what: "inner dims", left: alloc::format!("{p}"), right: alloc::format!("{q}") });
    }
    let mut dims = cx.broadcast(&x[..x.len().saturating_sub(2)], &y[..y.len().saturating_sub(2)])?;
    if x.len() > 1 {
        dims.push(x[x.len() - 2].clone());
    }
    if y.len() > 1 {
        dims.push(y[y.len() - 1].clone());
    }
    Ok(dims)
}

/// A product of stacks of matrices of bytes: where the matrices lie.
pub(crate) struct Product {
    m: usize,
    k: usize,
    n: usize,
    /// Where each left matrix begins, and its steps from row to row and from column to column.
    a: (Vec<usize>, usize, usize),
    /// The same of the right matrices.
    b: (Vec<usize>, usize, usize),
    /// How many matrices were joined to one that has the rows of all.
    joined: usize,
}

impl Product {
    /// The product of operands that lie so.
    pub(crate) fn new(a: &Layout, b: &Layout) -> Result<Product, EvalError> {
        // A vector on the left is a row, on the right a column.
        let (ra, rb) = (a.shape().rank(), b.shape().rank());
        if ra == 0 || rb == 0 {
            return Err(EvalError::Invalid("a product of scalars is none"));
        }
        let (k, mut m) = (a.shape()[ra - 1], if ra > 1 { a.shape()[ra - 2] } else { 1 });
        let (n, deep) = if rb > 1 { (b.shape()[rb - 1], b.shape()[rb - 2]) } else { (1, b.shape()[0]) };
        if deep != k {
            return Err(EvalError::Invalid("inner dims differ"));
        }
        let stacks = broadcast(&a.shape()[..ra.saturating_sub(2)], &b.shape()[..rb.saturating_sub(2)])?;
        let (mut a_starts, mut b_starts) = (starts(a, ra, stacks)?, starts(b, rb, stacks)?);
        let row = if ra > 1 { a.strides()[ra - 2] } else { k };
        let mut joined = 1;
        if b_starts.iter().all(|&s| s == 0) && a_starts.iter().enumerate().all(|(i, &s)| s == i * m * row) && m > 0 && a_starts.len() > 1 {
            joined = a_starts.len();
            m *= joined;
            a_starts.truncate(1);
            b_starts.truncate(1);
        }
        let b_steps = if rb > 1 { (b.strides()[rb - 2], b.strides()[rb - 1]) } else { (b.strides()[0], 1) };
        Ok(Product { m, k, n, a: (a_starts, row, a.strides()[ra - 1]), b: (b_starts, b_steps.0, b_steps.1), joined })
    }

    /// True if there is one product, whose rows are all rows of the output.
    pub(crate) fn is_one(&self) -> bool {
        self.a.0.len() == 1
    }

    fn gemm(&self, level: Level) -> QuantisedGemm {
        QuantisedGemm::new(level, self.m, self.k, self.n)
    }

    fn packing(&self, packed: bool) -> usize {
        if packed { 0 } else { quantised_packed_len(self.k, self.n) }
    }

    /// The memory that the product of inputs `a` and `b` needs.
    pub(crate) fn scratch(cx: &StepCx<'_>, a: usize, b: usize) -> Scratch {
        let layout = |i: usize| cx.inputs.get(i).and_then(|s| s.as_ref()).map(|s| s.layout);
        let (Some(left), Some(right)) = (layout(a), layout(b)) else { return Scratch::default() };
        let Ok(product) = Product::new(&left, &right) else { return Scratch::default() };
        Scratch { shared: carved::<i32>(product.packing(cx.is_packed(b))), per_worker: packed::grain_scratch(&product.gemm(cx.level)) }
    }

    /// Writes all products to `c`. `b` is read unless its packed form is given; `memory` is for packing it. Matrices that were
    /// joined are one for `finish`.
    pub(crate) fn run<A: QuantisedElement + Sync, B: Packable, F: Finish>(
        &self,
        cx: &EvalCx<'_>,
        (a, b): (&[A], &[B]),
        weights: Option<&PackedBytes>,
        (a_zero, b_zero): (&[i32], &[i32]),
        mut memory: &mut [u8],
        finish: &F,
        c: &mut [F::Output],
    ) -> Result<(), EvalError> {
        let rows = self.m / self.joined;
        check_count(a_zero, rows)?;
        check_count(b_zero, self.n)?;
        if c.is_empty() {
            return Ok(());
        }
        let gemm = self.gemm(cx.level());
        let memory: &mut [i32] = carve(&mut memory, self.packing(weights.is_some())).ok_or(EvalError::Invalid("a product's scratch memory is too short"))?;
        let each_row: Vec<i32> = if a_zero.len() > 1 { a_zero.iter().copied().cycle().take(self.m).collect() } else { vec![] };
        let zeros = ZeroPoints {
            a: if a_zero.len() > 1 { ZeroPoint::Each(&each_row) } else { ZeroPoint::All(a_zero[0]) },
            b: if b_zero.len() > 1 { ZeroPoint::Each(b_zero) } else { ZeroPoint::All(b_zero[0]) },
        };
        for ((&a0, &b0), c) in self.a.0.iter().zip(&self.b.0).zip(c.chunks_exact_mut(self.m * self.n)) {
            let lhs = Lhs::Strided { data: a.get(a0..).unwrap_or_default(), row_stride: self.a.1, col_stride: self.a.2 };
            let right = match weights.and_then(|w| w.0.first()) {
                Some(w) => w.view(),
                None => B::pack(b.get(b0..).unwrap_or_default(), self.b.1, self.b.2, self.k, self.n, memory)
                    .map_err(|_| EvalError::Invalid("the dims of a product do not fit its operands"))?,
            };
            packed::run(cx, &gemm, &lhs, right, &zeros, finish, (c, self.n))?;
        }
        Ok(())
    }
}

/// A byte of a right operand.
pub(crate) trait Packable: Copy {
    /// Packs a k × n matrix into `memory`.
    fn pack<'m>(data: &[Self], row: usize, col: usize, k: usize, n: usize, memory: &'m mut [i32]) -> Result<QuantisedRef<'m>, GemmError>;
}

impl Packable for u8 {
    fn pack<'m>(data: &[u8], row: usize, col: usize, k: usize, n: usize, memory: &'m mut [i32]) -> Result<QuantisedRef<'m>, GemmError> {
        QuantisedRef::pack_u8(data, row, col, k, n, memory)
    }
}

impl Packable for i8 {
    fn pack<'m>(data: &[i8], row: usize, col: usize, k: usize, n: usize, memory: &'m mut [i32]) -> Result<QuantisedRef<'m>, GemmError> {
        QuantisedRef::pack_i8(data, row, col, k, n, memory)
    }
}

/// Where each matrix of a stack begins.
fn starts(layout: &Layout, rank: usize, stacks: Shape) -> Result<Vec<usize>, EvalError> {
    let outer = rank.saturating_sub(2);
    let mut strides = [0; MAX_RANK];
    strides[..outer].copy_from_slice(&layout.strides()[..outer]);
    let lead = Layout::strided(Shape::new(&layout.shape()[..outer])?, &strides[..outer])?;
    Ok(lead.broadcast_to(stacks)?.offsets().collect())
}
