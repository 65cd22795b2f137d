//! `Gemm`: `alpha · A·B + beta · C` of matrices, A and B perhaps transposed, C broadcast. A constant B is packed once.

use super::{
    batched::{PackedMatrices, Right, Stack},
    mat_mul::product_dims,
    number::Number,
};
use crate::carve::{carve, carved};
use alloc::{boxed::Box, string::String, sync::Arc, vec, vec::Vec};
use millstream_gemm::{Activation, Epilogue, Residual};
use millstream_graph::{Arity, BuildCx, Cost, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Packed, Permutation, PrepackCx, Scratch, StepCx};
use millstream_tensor::{DType, Element, Layout, Order, TensorError, TensorView, View, bf16, f16};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Gemm",
    since: &[1, 6, 7, 9, 11, 13],
    inputs: Arity::range(2, 3),
    outputs: Arity::exactly(1),
    attributes: &["alpha", "beta", "transA", "transB", "broadcast"],
    subgraphs: &[],
    dtypes: "floats, i32, i64, u32, u64",
    build: |cx: &BuildCx<'_>| {
        Ok(Box::new(Gemm {
            alpha: cx.attributes.float_or("alpha", 1.0)?,
            beta: cx.attributes.float_or("beta", 1.0)?,
            trans_a: cx.attributes.flag_or("transA", false)?,
            trans_b: cx.attributes.flag_or("transB", false)?,
            activation: Activation::None,
        }))
    },
};

/// `activation(alpha · A·B + beta · C)`.
#[derive(Debug, Clone)]
pub struct Gemm {
    alpha: f32,
    beta: f32,
    trans_a: bool,
    trans_b: bool,
    activation: Activation,
}

/// What becomes of C in the product's epilogue.
enum Term<'a> {
    /// A row for all rows (stride 0) or a row each.
    Rows(&'a [f32], usize),
    /// An element for each row, times beta already.
    Column(&'a [f32]),
}

impl Gemm {
    /// The same operator followed by an activation; `None` if it has one already.
    pub fn with_activation(&self, activation: Activation) -> Option<Gemm> {
        (self.activation == Activation::None).then(|| Gemm { activation, ..self.clone() })
    }

    /// The activation.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// The factors of the product and of C.
    pub fn factors(&self) -> (f32, f32) {
        (self.alpha, self.beta)
    }

    /// Whether A and B are transposed.
    pub fn transposed(&self) -> (bool, bool) {
        (self.trans_a, self.trans_b)
    }

    fn operand(layout: &Layout, transposed: bool) -> Result<Layout, EvalError> {
        match (layout.shape().rank(), transposed) {
            (2, true) => Ok(layout.permuted(&[1, 0])),
            (2, false) => Ok(*layout),
            _ => Err(EvalError::Invalid("the operands of Gemm are matrices")),
        }
    }

    fn stack(&self, a: &Layout, b: &Layout, y: &Layout) -> Result<Stack, EvalError> {
        Stack::new(&Gemm::operand(a, self.trans_a)?, &Gemm::operand(b, self.trans_b)?, y)
    }

    fn step(&self, cx: &StepCx<'_>) -> Result<Stack, EvalError> {
        let layout = |i: usize| cx.inputs.get(i).and_then(|s| s.as_ref()).map(|s| &s.layout).ok_or(EvalError::MissingInput(i));
        self.stack(layout(0)?, layout(1)?, &cx.outputs.first().ok_or(EvalError::Output(0))?.layout)
    }

    /// C as the epilogue wants it; a column is multiplied into `column`.
    fn term<'a>(&self, c: View<'a, f32>, m: usize, n: usize, column: &'a mut [f32]) -> Result<Term<'a>, EvalError> {
        let layout = c.layout().broadcast_to(millstream_tensor::Shape::new(&[m, n])?)?;
        let (row, col) = (layout.strides()[0], layout.strides()[1]);
        if col == 1 || n == 1 && row != 1 {
            return Ok(Term::Rows(c.data(), row));
        }
        if col != 0 && n > 1 {
            return Err(EvalError::Invalid("C is strided"));
        }
        for (i, to) in column.iter_mut().enumerate() {
            *to = self.beta * c.data()[i * row];
        }
        Ok(Term::Column(column))
    }

    fn eval_f32(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let a = cx.input::<f32>(0)?;
        let b_layout = cx.spec(1).ok_or(EvalError::MissingInput(1))?.layout;
        let right = match cx.packed::<PackedMatrices>(1) {
            Some(p) => Right::Packed(p),
            None => Right::Plain(cx.input::<f32>(1)?.data()),
        };
        let y_layout = cx.output_spec(0).ok_or(EvalError::Output(0))?.layout;
        let (m, n) = (y_layout.shape()[0], y_layout.shape()[1]);
        let stack = self.stack(a.layout(), &b_layout, &y_layout)?;
        let mut scratch = cx.scratch();
        let column = carve::<f32>(&mut scratch, m).ok_or(EvalError::Invalid("Gemm's scratch memory is too short"))?;
        let mut epilogue = Epilogue { alpha: self.alpha, activation: self.activation, ..Epilogue::default() };
        let mut rows = None;
        if let Some(c) = cx.optional::<f32>(2)?.filter(|_| self.beta != 0.0 && m > 0 && n > 0) {
            match self.term(c, m, n, column)? {
                Term::Column(column) => epilogue.bias_rows = Some(column),
                Term::Rows(row, 0) if self.beta == 1.0 => epilogue.bias_cols = Some(row),
                Term::Rows(data, row_stride) => rows = Some(Residual { data, row_stride, beta: self.beta }),
            }
        }
        epilogue.residual = rows;
        let y = cx.output::<f32>(0)?;
        stack.run(cx, scratch, a.data(), right, y.into_data(), &epilogue)
    }

    fn eval_direct<T: Number>(&self, cx: &mut EvalCx<'_>, scale: fn(f32, T::Sum) -> T::Sum) -> Result<(), EvalError> {
        if self.activation != Activation::None {
            return Err(EvalError::DType(T::DTYPE));
        }
        let (a, b) = (cx.input::<T>(0)?, cx.input::<T>(1)?);
        let a = a.with_layout(Gemm::operand(a.layout(), self.trans_a)?)?;
        let b = b.with_layout(Gemm::operand(b.layout(), self.trans_b)?)?;
        let c = cx.optional::<T>(2)?.filter(|_| self.beta != 0.0);
        let mut y = cx.output::<T>(0)?;
        let shape = *y.shape();
        let (a_strides, b_strides) = ([a.layout().strides()[0], a.layout().strides()[1]], [b.layout().strides()[0], b.layout().strides()[1]]);
        let c = match c {
            Some(c) => Some((c.data(), c.layout().broadcast_to(shape)?)),
            None => None,
        };
        let k = a.shape()[1];
        let y = y.as_slice_mut().ok_or(EvalError::Output(0))?;
        for (at, y) in y.iter_mut().enumerate() {
            let (i, j) = (at / shape[1], at % shape[1]);
            let mut sum = T::Sum::default();
            for p in 0..k {
                let (x, w) = (a.data()[i * a_strides[0] + p * a_strides[1]], b.data()[p * b_strides[0] + j * b_strides[1]]);
                sum = T::mul_add(x.wide(), w.wide(), sum);
            }
            sum = scale(self.alpha, sum);
            if let Some((c, layout)) = &c {
                sum = sum + scale(self.beta, c[i * layout.strides()[0] + j * layout.strides()[1]].wide());
            }
            *y = T::narrow(sum);
        }
        Ok(())
    }
}

impl Op for Gemm {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        for (i, f) in [a, b].into_iter().enumerate() {
            if f.rank() != 2 {
                return Err(InferError::Rank { input: i, found: f.rank(), wanted: "a matrix is expected" });
            }
        }
        let takes = |d: DType| d.is_float() || matches!(d, DType::I32 | DType::I64 | DType::U32 | DType::U64);
        for i in 0..3 {
            if let Some(f) = cx.optional(i).filter(|f| f.dtype != a.dtype || !takes(f.dtype)) {
                return Err(InferError::DType { input: i, found: f.dtype });
            }
        }
        let dims = |f: &Fact, transposed: bool| -> Vec<Dim> { if transposed { vec![f.dims[1].clone(), f.dims[0].clone()] } else { f.dims.clone() } };
        let out = product_dims(cx, &dims(a, self.trans_a), &dims(b, self.trans_b))?;
        if let Some(c) = cx.optional(2) {
            let fits = |(have, want): (&Dim, &Dim)| have.is(1) || have.as_const().zip(want.as_const()).is_none_or(|(h, w)| h == w);
            if c.rank() > 2 || !c.dims.iter().rev().zip(out.iter().rev()).all(fits) {
                return Err(InferError::Invalid("C does not broadcast to the product"));
            }
        }
        Ok(vec![Fact::new(a.dtype, out)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        use super::number::Wrap;
        match cx.dtype(0)? {
            DType::F32 => self.eval_f32(cx),
            DType::F64 => self.eval_direct::<f64>(cx, |f, x| f64::from(f) * x),
            DType::F16 => self.eval_direct::<f16>(cx, |f, x| f * x),
            DType::BF16 => self.eval_direct::<bf16>(cx, |f, x| f * x),
            // Factors of integer products are whole in practice; others round towards zero.
            DType::I32 => self.eval_direct::<i32>(cx, |f, x| if f == 1.0 { x } else { Wrap((f64::from(f) * f64::from(x.0)) as i32) }),
            DType::I64 => self.eval_direct::<i64>(cx, |f, x| if f == 1.0 { x } else { Wrap((f64::from(f) * x.0 as f64) as i64) }),
            DType::U32 => self.eval_direct::<u32>(cx, |f, x| if f == 1.0 { x } else { Wrap((f64::from(f) * f64::from(x.0)) as u32) }),
            DType::U64 => self.eval_direct::<u64>(cx, |f, x| if f == 1.0 { x } else { Wrap((f64::from(f) * x.0 as f64) as u64) }),
            other => Err(EvalError::DType(other)),
        }
    }

    fn scratch(&self, cx: &StepCx<'_>) -> Scratch {
        let Some(Some(a)) = cx.inputs.first() else { return Scratch::default() };
        let (Ok(stack), true) = (self.step(cx), a.dtype == f32::DTYPE) else { return Scratch::default() };
        let need = stack.scratch(cx.level, cx.is_packed(1));
        let rows = cx.outputs.first().map_or(0, |y| y.shape()[0]);
        Scratch { shared: need.shared + carved::<f32>(rows), ..need }
    }

    fn prepack(&self, input: usize, weight: TensorView<'_>, cx: &PrepackCx<'_>) -> Result<Option<Arc<dyn Packed>>, TensorError> {
        let (true, Ok(layout)) = (input == 1 && weight.dtype() == DType::F32, Gemm::operand(weight.layout(), self.trans_b)) else { return Ok(None) };
        let view = weight.typed::<f32>()?;
        Ok(Some(Arc::new(PackedMatrices::new(cx.level, view.data(), &layout)?)))
    }

    fn permute(&self, _cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        let mut wanted = inputs.to_vec();
        if let Some(c) = wanted.get_mut(2) {
            *c = c.map(|o| Order::row_major(o.rank()));
        }
        Some(Permutation { inputs: wanted, outputs: vec![Order::row_major(2)] })
    }

    fn cost(&self, cx: &StepCx<'_>) -> Cost {
        let base = cx.elementwise_cost();
        Cost { flops: self.step(cx).map_or(base.flops, |s| s.flops()), ..base }
    }

    fn kernel(&self, cx: &StepCx<'_>) -> String {
        match (cx.inputs.first(), self.step(cx)) {
            (Some(Some(a)), Ok(stack)) if a.dtype == DType::F32 => {
                alloc::format!("{}-{}{}", stack.name(), cx.level.vectors(), super::activation::suffix(self.activation, false))
            }
            _ => String::from("gemm-direct"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::oracle::{REL, matmul, transpose};
    use crate::testing::{Case, Tolerance, random, random_ints, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let side = |i: usize, name: &str| if case.int_or(name, 0) == 1 { transpose(case.tensor(i), &[1, 0]) } else { case.tensor(i).clone() };
        let product = matmul(&side(0, "transA"), &side(1, "transB"));
        let (alpha, beta) = (case.attributes.float_or("alpha", 1.0).unwrap(), case.attributes.float_or("beta", 1.0).unwrap());
        let term: Vec<f32> = match case.optional(2) {
            Some(c) => {
                let layout = Layout::row_major(*c.shape()).broadcast_to(*product.shape()).unwrap();
                layout.offsets().map(|o| beta * c.as_slice::<f32>().unwrap()[o]).collect()
            }
            None => vec![0.0; product.shape().elements()],
        };
        vec![t(product.shape(), &product.as_slice::<f32>().unwrap().iter().zip(term).map(|(x, c)| alpha * x + c).collect::<Vec<f32>>())]
    }

    fn case(a: &[usize], b: &[usize]) -> Case {
        Case::new([random(a, 1), random(b, 2)])
    }

    op_tests! { DEF, reference, Tolerance { rel: REL, abs: 2e-5 };
        classifier => case(&[1, 300], &[50, 300]).int("transB", 1).constant(1).input(random(&[50], 3));
        both_transposed => case(&[40, 9], &[33, 40]).int("transA", 1).int("transB", 1).float("alpha", 0.5).float("beta", 2.0).input(random(&[9, 33], 3));
        no_term => case(&[9, 40], &[40, 33]).float("alpha", 0.5);
        row_times_beta => case(&[9, 40], &[40, 33]).float("beta", 0.5).input(random(&[1, 33], 3));
        column => case(&[9, 40], &[40, 33]).float("beta", 0.5).input(random(&[9, 1], 3));
        scalar => case(&[9, 40], &[40, 33]).input(random(&[], 3));
        one => case(&[9, 40], &[40, 33]).input(random(&[1], 3));
        one_column => case(&[9, 40], &[40, 1]).input(random(&[9, 1], 3));
        one_by_one => case(&[1, 40], &[40, 1]).input(random(&[1, 1], 3));
        beta_zero => case(&[9, 40], &[40, 33]).float("beta", 0.0).input(random(&[33], 3));
        no_depth => case(&[3, 0], &[0, 4]).input(random(&[4], 3));
        no_rows => case(&[0, 4], &[4, 3]).input(random(&[3], 3));
        version_six => case(&[9, 40], &[40, 33]).input(random(&[33], 3)).int("broadcast", 1).version(6);
    }

    #[test]
    fn integers() {
        let whole = |case: &Case| {
            let of = |i: usize| t(case.tensor(i).shape(), &case.tensor(i).as_slice::<i64>().unwrap().iter().map(|&x| x as f32).collect::<Vec<_>>());
            let y = reference(&Case::new([of(0), of(1), of(2)]).float("beta", 2.0));
            vec![t(y[0].shape(), &y[0].as_slice::<f32>().unwrap().iter().map(|&x| x as i64).collect::<Vec<_>>())]
        };
        let ints = |dims: &[usize], seed| random_ints(dims, -50, 50, seed);
        crate::testing::check(&DEF, whole, Tolerance::EXACT, &Case::new([ints(&[3, 4], 1), ints(&[4, 5], 2), ints(&[5], 3)]).float("beta", 2.0));
    }
}
