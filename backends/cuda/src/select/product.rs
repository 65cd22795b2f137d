//! Products of matrices: by our tiled kernel, or by a library where it is and can read the operands.

use super::{Site, activation, float as dtype_name};
use crate::{
    blas::{Epilogue, Product},
    call::{Argument, Call, Calls, row_major},
    shape::Gemm as Shape,
};
use millstream_gemm::Activation;
use millstream_graph::{Op, Spec};
use millstream_ops::matmul::{gemm::Gemm, mat_mul::MatMul};
use millstream_tensor::DType;

/// Launches of a product whose stacks broadcast in no simple way: more are the host's.
const MOST_LAUNCHES: usize = 64;

/// Rows and columns that a block computes.
const TILE: usize = 64;

pub(super) fn knows(op: &dyn Op) -> bool {
    op.downcast_ref::<MatMul>().is_some() || op.downcast_ref::<Gemm>().is_some()
}

pub(super) fn select(site: &Site<'_>) -> Option<Calls> {
    if let Some(gemm) = site.op.downcast_ref::<Gemm>() {
        return matrices(site, gemm);
    }
    stacks(site, site.op.downcast_ref::<MatMul>()?)
}

/// Dims and strides of an operand, axis by axis.
#[derive(Clone)]
struct Seen {
    dims: Vec<usize>,
    strides: Vec<i64>,
}

impl Seen {
    fn new(dims: &[usize], perm: &[usize]) -> Seen {
        let strides = row_major(dims);
        if perm.is_empty() {
            return Seen { dims: dims.to_vec(), strides };
        }
        Seen { dims: perm.iter().map(|&a| dims[a]).collect(), strides: perm.iter().map(|&a| strides[a]).collect() }
    }

    /// The axes before the matrix, as strides over `stack`.
    fn over(&self, stack: &[usize]) -> Option<Vec<i64>> {
        let own = self.dims.len() - 2;
        let missing = stack.len().checked_sub(own)?;
        let mut strides = vec![0; stack.len()];
        for axis in 0..own {
            match self.dims[axis] {
                1 => {}
                d if d == stack[missing + axis] => strides[missing + axis] = self.strides[axis],
                _ => return None,
            }
        }
        Some(strides)
    }

    fn matrix(&self) -> (usize, usize, i64, i64) {
        let last = self.dims.len() - 1;
        (self.dims[last - 1], self.dims[last], self.strides[last - 1], self.strides[last])
    }
}

fn stacks(site: &Site<'_>, product: &MatMul) -> Option<Calls> {
    let [perm_a, perm_b, perm_y] = product.permutations();
    let (mut a, mut b) = (Seen::new(site.dims(0)?, perm_a), Seen::new(site.dims(1)?, perm_b));
    let y = site.output()?.shape().dims();
    // A vector is a matrix of one row, or of one column.
    let (left, right) = (a.dims.len() == 1, b.dims.len() == 1);
    if a.dims.is_empty() || b.dims.is_empty() || (left || right) && !perm_y.is_empty() {
        return None;
    }
    if left {
        a = Seen { dims: vec![1, a.dims[0]], strides: vec![0, a.strides[0]] };
    }
    if right {
        b = Seen { dims: vec![b.dims[0], 1], strides: vec![b.strides[0], 1] };
    }
    let mut dims = y.to_vec();
    if left {
        dims.insert(dims.len() - usize::from(!right), 1);
    }
    if right {
        dims.push(1);
    }
    // Output axis i is the product's axis perm_y[i].
    let inverse: Vec<usize> = (0..perm_y.len()).filter_map(|axis| perm_y.iter().position(|&p| p == axis)).collect();
    let c = Seen::new(&dims, &inverse);
    let ((m, k, a_row, a_column), (_, n, b_row, b_column), (_, _, c_row, c_column)) = (a.matrix(), b.matrix(), c.matrix());
    if n > 1 && c_column != 1 {
        return None;
    }
    let stack = &c.dims[..c.dims.len() - 2];
    let walk = crate::call::walk(stack, [&a.over(stack)?, &b.over(stack)?, &c.strides[..stack.len()]])?;
    let mut shape =
        Shape { batch: 1, m: m as i64, n: n as i64, k: k as i64, a_row, a_column, b_row, b_column, c_row, scale: product.scale(), ..Shape::default() };
    shape.bias = i32::from(site.input(2).is_some());
    let mut axes: Vec<(i64, [i64; 3])> = (0..walk.rank as usize).map(|i| (walk.size[i], [0, 1, 2].map(|o| walk.stride[o][i]))).collect();
    match axes.pop() {
        // Rows of all matrices are one matrix, if the right one is the same for all.
        Some((batch, [step_a, 0, step_c])) if axes.is_empty() && step_a == a_row * m as i64 && step_c == c_row * m as i64 => shape.m *= batch,
        Some((batch, [step_a, step_b, step_c])) => (shape.batch, shape.a_batch, shape.b_batch, shape.c_batch) = (batch, step_a, step_b, step_c),
        None => {}
    }
    let launches: i64 = axes.iter().map(|(size, _)| size).product();
    if launches as usize > MOST_LAUNCHES {
        return None;
    }
    let dtype = site.output()?.dtype;
    let (residual, size) = (product.has_residual(), dtype.size());
    site.float()?;
    let mut calls = Calls::new();
    for launch in 0..launches {
        let (mut rest, mut at) = (launch, [0; 3]);
        for (extent, strides) in axes.iter().rev() {
            let index = rest % extent;
            rest /= extent;
            (0..3).for_each(|o| at[o] += index * strides[o]);
        }
        let at = at.map(|offset| offset as usize * size);
        let bias = if shape.bias == 1 { Argument::Input(2, 0) } else { Argument::Null };
        let residual = residual.then_some(Argument::Input(3, at[2]));
        calls = product_of(
            calls,
            dtype,
            shape,
            [Argument::Input(0, at[0]), Argument::Input(1, at[1]), bias, Argument::Output(0, at[2])],
            residual,
            product.activation(),
        )?;
    }
    finished(calls, site.output()?, residual, product.activation())
}

fn matrices(site: &Site<'_>, gemm: &Gemm) -> Option<Calls> {
    let ((alpha, beta), (trans_a, trans_b)) = (gemm.factors(), gemm.transposed());
    let turn = |yes: bool| if yes { &[1, 0][..] } else { &[] };
    let (a, b, y) = (site.dims(0)?, site.dims(1)?, site.output()?.shape().dims());
    let ([_, _], [_, _], &[m, n]) = (a, b, y) else { return None };
    let (a, b) = (Seen::new(a, turn(trans_a)), Seen::new(b, turn(trans_b)));
    let ((_, k, a_row, a_column), (_, _, b_row, b_column)) = (a.matrix(), b.matrix());
    let mut shape =
        Shape { batch: 1, m: m as i64, n: n as i64, k: k as i64, a_row, a_column, b_row, b_column, c_row: n as i64, scale: alpha, ..Shape::default() };
    let dtype = site.float()?;
    let mut calls = Calls::new();
    let (mut bias, mut residual) = (Argument::Null, None);
    if let Some(c) = site.input(2) {
        let elements = c.shape().elements();
        let mut term = Argument::Input(2, 0);
        if beta != 1.0 {
            calls = super::elementwise::function("affine", dtype, elements, term, Argument::Scratch(0, 0), (beta, 0.0), calls.scratch(c.bytes()));
            term = Argument::Scratch(0, 0);
        }
        match *c.shape().dims() {
            [d] | [1, d] if d == n => (shape.bias, bias) = (1, term),
            [d, 1] if d == m => (shape.bias, bias) = (2, term),
            [p, q] if (p, q) == (m, n) => residual = Some(term),
            _ => return None,
        }
    }
    let is_residual = residual.is_some();
    let calls = product_of(
        calls,
        site.output()?.dtype,
        shape,
        [Argument::Input(0, 0), Argument::Input(1, 0), bias, Argument::Output(0, 0)],
        residual,
        gemm.activation(),
    )?;
    finished(calls, site.output()?, is_residual, gemm.activation())
}

/// A product into the output. The residual lies as the output does; with one, the activation comes later ([`finished`]).
fn product_of(behind: Calls, dtype: DType, mut shape: Shape, [a, b, bias, c]: [Argument; 4], residual: Option<Argument>, end: Activation) -> Option<Calls> {
    if residual.is_none() {
        (shape.activation, shape.alpha, shape.beta) = activation(end)?;
    }
    (shape.residual_batch, shape.residual_row) = (shape.c_batch, shape.c_row);
    let tiles = shape.batch as usize * (shape.m as usize).div_ceil(TILE) * (shape.n as usize).div_ceil(TILE);
    let product = by_library(dtype, shape, [&a, &b, &bias, &c], residual.as_ref(), end);
    let arguments = vec![a, b, bias, residual.unwrap_or(Argument::Null), c, Argument::structure(&shape)];
    Some(behind.call(format!("gemm_{}", dtype_name(dtype)?), tiles, 1, arguments).or_by(product))
}

/// The same product by a library, with a launch behind it for activations that it does not know.
fn by_library(dtype: DType, shape: Shape, [a, b, bias, c]: [&Argument; 4], residual: Option<&Argument>, end: Activation) -> Option<Product> {
    if shape.bias == 2 {
        return None;
    }
    let (end, then) = match (residual.is_some(), end) {
        // An activation after a residual is another launch anyway.
        (true, _) | (_, Activation::None) => (Epilogue::Nothing, None),
        (_, Activation::Relu) => (Epilogue::Relu, None),
        (_, Activation::GeluTanh) => (Epilogue::GeluTanh, None),
        _ => {
            let (number, alpha, beta) = (shape.activation, shape.alpha, shape.beta);
            let is_dense = shape.c_row == shape.n && (shape.batch == 1 || shape.c_batch == shape.m * shape.n);
            let call = epilogue(dtype_name(dtype)?, c, (shape.batch * shape.m * shape.n) as usize, (number, alpha, beta));
            (Epilogue::Nothing, Some(Box::new(is_dense.then_some(call)?)))
        }
    };
    let bias = (*bias != Argument::Null).then(|| bias.clone());
    Product { dtype, shape, a: a.clone(), b: b.clone(), bias, residual: residual.cloned(), c: c.clone(), end, then }.readable()
}

/// An activation of `n` elements where they lie.
fn epilogue(dtype: &str, y: &Argument, n: usize, (number, alpha, beta): (i32, f32, f32)) -> Call {
    let mut arguments = vec![y.clone(), Argument::Null, Argument::Null, y.clone(), Argument::count(1), Argument::count(n), Argument::I32(number)];
    arguments.extend([Argument::F32(alpha), Argument::F32(beta)]);
    Call { kernel: format!("epilogue_{dtype}"), grid: n.div_ceil(1024) as u64, shared: 0, arguments, product: None }
}

/// Operators add the residual before the activation, kernels after it: hence one more launch where there are both.
pub(super) fn finished(calls: Calls, y: &Spec, residual: bool, end: Activation) -> Option<Calls> {
    if !residual || end == Activation::None {
        return Some(calls);
    }
    let n = y.shape().elements();
    Some(calls.followed_by(Calls { calls: vec![epilogue(dtype_name(y.dtype)?, &Argument::Output(0, 0), n, activation(end)?)], scratch: vec![] }))
}
