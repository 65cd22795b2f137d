//! `MatMul`: NumPy's product of stacks of matrices. Leading axes broadcast; a vector is a row on the left, a column on the right.
//!
//! f32 runs as packed products (the module `batched`), operands in whatever memory order they come; other types run as loops.
//! The fused form sees its operands through permutations of their axes (so that no transpose runs before it), scales the
//! product, adds a bias and a residual, applies an activation, and permutes its output.

use super::{
    activation::suffix,
    batched::{PackedMatrices, Right, Stack},
    direct,
};
use alloc::{boxed::Box, string::String, sync::Arc, vec, vec::Vec};
use millstream_gemm::{Activation, Epilogue, Residual};
use millstream_graph::{Arity, BuildCx, Cost, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Packed, Permutation, PrepackCx, Scratch, StepCx};
use millstream_tensor::{DType, Layout, Order, TensorError, TensorView, bf16, f16};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "MatMul",
    since: &[1, 9, 13],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "floats, i32, i64, u32, u64",
    build: |_: &BuildCx<'_>| Ok(Box::new(MatMul::default())),
};

/// A product. Inputs: left, right, a bias for each column (may be absent), and the residual where there is one.
#[derive(Debug, Clone)]
pub struct MatMul {
    /// Axes of the left operand in the order that the product sees; empty for as they are.
    pub(crate) perm_a: Vec<usize>,
    /// Axes of the right operand in the order that the product sees.
    pub(crate) perm_b: Vec<usize>,
    /// Axes of the product in the order of the output.
    pub(crate) perm_y: Vec<usize>,
    pub(crate) alpha: f32,
    pub(crate) activation: Activation,
    pub(crate) residual: bool,
}

impl Default for MatMul {
    fn default() -> MatMul {
        MatMul { perm_a: vec![], perm_b: vec![], perm_y: vec![], alpha: 1.0, activation: Activation::None, residual: false }
    }
}

/// True if `perm` orders `0..perm.len()`.
pub(crate) fn is_permutation(perm: &[usize]) -> bool {
    Order::from_axes(perm).is_some()
}

/// `outer` after `inner`.
fn composed(inner: &[usize], outer: &[usize]) -> Option<Vec<usize>> {
    if inner.is_empty() {
        return is_permutation(outer).then(|| outer.to_vec());
    }
    (is_permutation(outer) && is_permutation(inner) && inner.len() == outer.len()).then(|| outer.iter().map(|&i| inner[i]).collect())
}

impl MatMul {
    /// The same product whose input 0 or 1 is what `Transpose` with `perm` reads; `None` for other inputs or no permutation.
    pub fn with_transposed_input(&self, input: usize, perm: &[usize]) -> Option<MatMul> {
        match input {
            0 => Some(MatMul { perm_a: composed(perm, &self.or_identity(&self.perm_a, perm.len()))?, ..self.clone() }),
            1 => Some(MatMul { perm_b: composed(perm, &self.or_identity(&self.perm_b, perm.len()))?, ..self.clone() }),
            _ => None,
        }
    }

    /// The same product whose output is what `Transpose` with `perm` makes of it. `None` unless the columns stay innermost, or if
    /// there is a residual.
    pub fn with_transposed_output(&self, perm: &[usize]) -> Option<MatMul> {
        let last = perm.len().checked_sub(1)?;
        let perm_y = composed(&self.perm_y, perm)?;
        (perm_y[last] == last && !self.residual).then(|| MatMul { perm_y, ..self.clone() })
    }

    /// The same product times `factor`; `None` if something follows the product already.
    pub fn with_scale(&self, factor: f32) -> Option<MatMul> {
        (self.activation == Activation::None && !self.residual).then(|| MatMul { alpha: self.alpha * factor, ..self.clone() })
    }

    /// The same product with input 3, of the output's shape, added before the activation; `None` if it has a residual or an
    /// activation already.
    pub fn with_residual(&self) -> Option<MatMul> {
        (!self.residual && self.activation == Activation::None).then(|| MatMul { residual: true, ..self.clone() })
    }

    /// The same product followed by an activation; `None` if it has one already.
    pub fn with_activation(&self, activation: Activation) -> Option<MatMul> {
        (self.activation == Activation::None).then(|| MatMul { activation, ..self.clone() })
    }

    /// The activation.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// True if the operands and the product keep their axes' order.
    pub fn is_in_order(&self) -> bool {
        [&self.perm_a, &self.perm_b, &self.perm_y].iter().all(|p| p.is_empty() || p.is_sorted())
    }

    /// The orders in which the product sees the axes of its left and right operand, and the output those of the product; empty for
    /// as they are.
    pub fn permutations(&self) -> [&[usize]; 3] {
        [&self.perm_a, &self.perm_b, &self.perm_y]
    }

    /// The factor of the product.
    pub fn scale(&self) -> f32 {
        self.alpha
    }

    /// True if input 3 is added.
    pub fn has_residual(&self) -> bool {
        self.residual
    }

    /// True if the operator is ONNX's own: nothing fused, nothing permuted.
    pub fn is_plain(&self) -> bool {
        self.alpha == 1.0 && self.activation == Activation::None && !self.residual && [&self.perm_a, &self.perm_b, &self.perm_y].iter().all(|p| p.is_empty())
    }

    fn or_identity(&self, perm: &[usize], rank: usize) -> Vec<usize> {
        if perm.is_empty() { (0..rank).collect() } else { perm.to_vec() }
    }

    fn stack(&self, a: &Layout, b: &Layout, y: &Layout) -> Result<Stack, EvalError> {
        let inverse: Vec<usize> = (0..self.perm_y.len()).filter_map(|i| self.perm_y.iter().position(|&p| p == i)).collect();
        Stack::new(&permuted(a, &self.perm_a)?, &permuted(b, &self.perm_b)?, &permuted(y, &inverse)?)
    }

    fn step(&self, cx: &StepCx<'_>) -> Result<Stack, EvalError> {
        let layout = |i: usize| cx.inputs.get(i).and_then(|s| s.as_ref()).map(|s| &s.layout).ok_or(EvalError::MissingInput(i));
        self.stack(layout(0)?, layout(1)?, &cx.outputs.first().ok_or(EvalError::Output(0))?.layout)
    }

    fn eval_f32(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let packed = cx.packed::<PackedMatrices>(1);
        let a = cx.input::<f32>(0)?;
        let b_layout = cx.spec(1).ok_or(EvalError::MissingInput(1))?.layout;
        let right = match packed {
            Some(p) => Right::Packed(p),
            None => Right::Plain(cx.input::<f32>(1)?.data()),
        };
        let y_layout = cx.output_spec(0).ok_or(EvalError::Output(0))?.layout;
        let stack = self.stack(a.layout(), &b_layout, &y_layout)?;
        let bias_cols = match cx.optional::<f32>(2)? {
            Some(b) => Some(b.as_slice().ok_or(EvalError::Invalid("the bias is strided"))?),
            None => None,
        };
        let residual = match self.residual {
            true => {
                let r = cx.input::<f32>(3)?;
                let same = r.layout().same_memory(&y_layout);
                Some(Residual {
                    data: same.then(|| r.data()).ok_or(EvalError::Invalid("the residual is not laid out as the output"))?,
                    row_stride: stack.row_stride(),
                    beta: 1.0,
                })
            }
            false => None,
        };
        let epilogue = Epilogue { alpha: self.alpha, bias_cols, residual, activation: self.activation, ..Epilogue::default() };
        let (scratch, y) = (cx.scratch(), cx.output::<f32>(0)?);
        stack.run(cx, scratch, a.data(), right, y.into_data(), &epilogue)
    }

    fn eval_direct<T: super::number::Number>(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let (a, b, mut y) = (cx.input::<T>(0)?, cx.input::<T>(1)?, cx.output::<T>(0)?);
        if !self.is_plain() {
            return Err(EvalError::DType(T::DTYPE));
        }
        direct::run(cx, a, b, y.as_slice_mut().ok_or(EvalError::Output(0))?)
    }
}

fn permuted(layout: &Layout, perm: &[usize]) -> Result<Layout, EvalError> {
    match perm {
        [] => Ok(*layout),
        _ if perm.len() == layout.shape().rank() && is_permutation(perm) => Ok(layout.permuted(perm)),
        _ => Err(EvalError::Invalid("a permutation does not fit its operand")),
    }
}

fn permuted_dims(input: usize, dims: &[Dim], perm: &[usize]) -> Result<Vec<Dim>, InferError> {
    match perm {
        [] => Ok(dims.to_vec()),
        _ if perm.len() == dims.len() && is_permutation(perm) => Ok(perm.iter().map(|&i| dims[i].clone()).collect()),
        _ => Err(InferError::Rank { input, found: dims.len(), wanted: "the rank of its permutation is expected" }),
    }
}

/// The dims of a product; an error if the operands are known not to fit.
pub(crate) fn product_dims(cx: &InferCx<'_>, a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, InferError> {
    let (Some((k, a_rest)), Some(q)) = (a.split_last(), b.get(b.len().saturating_sub(2))) else {
        return Err(InferError::Rank { input: usize::from(!a.is_empty()), found: 0, wanted: "a product of scalars is none" });
    };
    if let (Some(k), Some(q)) = (k.as_const(), q.as_const())
        && k != q
    {
        return Err(InferError::Mismatch { what: "inner dims of a product", left: alloc::format!("{k}"), right: alloc::format!("{q}") });
    }
    let mut dims = cx.broadcast(&a_rest[..a_rest.len().saturating_sub(1)], &b[..b.len().saturating_sub(2)])?;
    dims.extend(a_rest.last().cloned());
    if b.len() > 1 {
        dims.extend(b.last().cloned());
    }
    Ok(dims)
}

impl Op for MatMul {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let takes = |d: DType| d == DType::F32 || self.is_plain() && (d.is_float() || matches!(d, DType::I32 | DType::I64 | DType::U32 | DType::U64));
        if !takes(a.dtype) {
            return Err(InferError::DType { input: 0, found: a.dtype });
        }
        for i in 1..4 {
            if let Some(f) = cx.optional(i).filter(|f| f.dtype != a.dtype) {
                return Err(InferError::DType { input: i, found: f.dtype });
            }
        }
        let dims = product_dims(cx, &permuted_dims(0, &a.dims, &self.perm_a)?, &permuted_dims(1, &b.dims, &self.perm_b)?)?;
        if let Some(bias) = cx.optional(2)
            && (bias.rank() != 1 || bias.dims[0].as_const().zip(dims.last().and_then(Dim::as_const)).is_some_and(|(a, b)| a != b))
        {
            return Err(InferError::Invalid("the bias has not one element for each column"));
        }
        Ok(vec![Fact::new(a.dtype, permuted_dims(0, &dims, &self.perm_y)?)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        match cx.dtype(0)? {
            DType::F32 => self.eval_f32(cx),
            DType::F64 => self.eval_direct::<f64>(cx),
            DType::F16 => self.eval_direct::<f16>(cx),
            DType::BF16 => self.eval_direct::<bf16>(cx),
            DType::I32 => self.eval_direct::<i32>(cx),
            DType::I64 => self.eval_direct::<i64>(cx),
            DType::U32 => self.eval_direct::<u32>(cx),
            DType::U64 => self.eval_direct::<u64>(cx),
            other => Err(EvalError::DType(other)),
        }
    }

    fn scratch(&self, cx: &StepCx<'_>) -> Scratch {
        match cx.inputs.first() {
            Some(Some(a)) if a.dtype == DType::F32 => self.step(cx).map(|s| s.scratch(cx.level, cx.is_packed(1))).unwrap_or_default(),
            _ => Scratch::default(),
        }
    }

    fn prepack(&self, input: usize, weight: TensorView<'_>, cx: &PrepackCx<'_>) -> Result<Option<Arc<dyn Packed>>, TensorError> {
        if input != 1 || weight.dtype() != DType::F32 || weight.shape().rank() == 0 {
            return Ok(None);
        }
        let Ok(layout) = permuted(weight.layout(), &self.perm_b) else { return Ok(None) };
        let view = weight.typed::<f32>()?;
        Ok(Some(Arc::new(PackedMatrices::new(cx.level, view.data(), &layout)?)))
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        let y = Order::row_major(cx.outputs.first()?.shape().rank());
        let mut wanted = inputs.to_vec();
        for (i, order) in wanted.iter_mut().enumerate().skip(2) {
            *order = cx.inputs.get(i)?.as_ref().map(|s| Order::row_major(s.shape().rank()));
        }
        Some(Permutation { inputs: wanted, outputs: vec![y] })
    }

    fn cost(&self, cx: &StepCx<'_>) -> Cost {
        let base = cx.elementwise_cost();
        Cost { flops: self.step(cx).map_or(base.flops, |s| s.flops()), ..base }
    }

    fn kernel(&self, cx: &StepCx<'_>) -> String {
        match (cx.inputs.first(), self.step(cx)) {
            (Some(Some(a)), Ok(stack)) if a.dtype == DType::F32 => {
                let packed = if cx.is_packed(1) { "" } else { "-packing" };
                alloc::format!("{}{packed}-{}{}", stack.name(), cx.level.vectors(), suffix(self.activation, self.residual))
            }
            _ => String::from("matmul-direct"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::oracle::{REL, matmul};
    use crate::testing::{Case, Tolerance, random, random_ints, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        vec![matmul(case.tensor(0), case.tensor(1))]
    }

    fn case(a: &[usize], b: &[usize]) -> Case {
        Case::new([random(a, 1), random(b, 2)])
    }

    op_tests! { DEF, reference, Tolerance { rel: REL, abs: 2e-5 };
        plain => case(&[13, 40], &[40, 35]);
        weight => case(&[2, 13, 40], &[40, 35]).constant(1);
        weight_of_attention => case(&[2, 3, 5, 16], &[16, 33]).constant(1);
        stack => case(&[2, 3, 9, 20], &[2, 3, 20, 17]);
        stack_of_constants => case(&[3, 9, 20], &[3, 20, 17]).constant(1);
        large_stack => case(&[40, 7, 12], &[40, 12, 9]);
        very_large_stack => case(&[1500, 2, 3], &[1500, 3, 2]);
        few_large => case(&[2, 130, 300], &[2, 300, 150]);
        shared_right => case(&[5, 1, 8], &[8, 9]);
        shared_left => case(&[8, 9], &[4, 9, 3]);
        broadcast => case(&[3, 1, 4, 5], &[2, 5, 6]);
        broadcast_constants => case(&[3, 1, 4, 5], &[2, 5, 6]).constant(1);
        vectors => case(&[70], &[70]);
        vector_left => case(&[20], &[3, 20, 5]);
        vector_right => case(&[2, 3, 20], &[20]);
        vector_right_constant => case(&[2, 3, 20], &[20]).constant(1);
        one_row => case(&[1, 700], &[700, 50]).constant(1);
        one_column => case(&[50, 70], &[70, 1]);
        no_rows => case(&[0, 4], &[4, 3]);
        no_depth => case(&[2, 0], &[0, 3]);
        no_depth_constant => case(&[2, 0], &[0, 3]).constant(1);
        no_stack => case(&[0, 2, 4], &[0, 4, 3]);
    }

    #[test]
    fn integers_wrap_and_are_exact() {
        let ints = |dims: &[usize], seed| random_ints(dims, -1000, 1000, seed);
        let whole = |case: &Case| {
            let of = |i: usize| t(case.tensor(i).shape(), &case.tensor(i).as_slice::<i64>().unwrap().iter().map(|&x| x as f32).collect::<Vec<_>>());
            let y = matmul(&of(0), &of(1));
            vec![t(y.shape(), &y.as_slice::<f32>().unwrap().iter().map(|&x| x as i64).collect::<Vec<_>>())]
        };
        for (a, b) in [(&[2, 3, 4][..], &[4, 5][..]), (&[4], &[2, 4, 3]), (&[2, 3, 4], &[4]), (&[4], &[4]), (&[3, 1, 2, 4], &[2, 4, 2])] {
            crate::testing::check(&DEF, whole, Tolerance::EXACT, &Case::new([ints(a, 1), ints(b, 2)]));
        }
    }

    #[test]
    fn permutations_compose() {
        let m = MatMul::default().with_transposed_input(1, &[0, 2, 1]).unwrap().with_transposed_input(1, &[1, 0, 2]).unwrap();
        // Transpose by [1, 0, 2] first, then by [0, 2, 1].
        assert_eq!(m.perm_b, [1, 2, 0]);
        assert!(MatMul::default().with_transposed_output(&[0, 2, 1]).is_none(), "columns would be strided");
        assert!(MatMul::default().with_transposed_input(0, &[0, 0]).is_none());
    }
}
