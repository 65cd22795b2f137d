//! `Det`: determinants of square matrices, by elimination with partial pivoting in f64.

use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::{DType, Tensor, Value};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Det",
    since: &[11, 22],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "f32, f64",
    build: |_: &BuildCx<'_>| Ok(Box::new(Det)),
};

/// Determinants.
#[derive(Debug, Clone, Copy)]
pub struct Det;

fn determinant(m: &mut [f64], n: usize) -> f64 {
    let mut product = 1.0;
    for column in 0..n {
        let size = |row: usize| m[row * n + column].abs();
        let Some(pivot) = (column..n).max_by(|&a, &b| size(a).total_cmp(&size(b))) else { return product };
        if m[pivot * n + column] == 0.0 {
            return 0.0;
        }
        if pivot != column {
            product = -product;
            (0..n).for_each(|j| m.swap(pivot * n + j, column * n + j));
        }
        let top = m[column * n + column];
        product *= top;
        for row in column + 1..n {
            let factor = m[row * n + column] / top;
            (column..n).for_each(|j| m[row * n + j] -= factor * m[column * n + j]);
        }
    }
    product
}

impl Op for Det {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        if x.rank() < 2 {
            return Err(InferError::Rank { input: 0, found: x.rank(), wanted: "at least 2" });
        }
        Ok(vec![Fact::new(x.dtype, x.dims[..x.rank() - 2].to_vec())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let x = cx.tensor(0)?;
        let (&[ref outer @ .., n, m], dtype) = (x.shape().dims(), x.dtype()) else { return Err(EvalError::Invalid("the input is no matrix")) };
        if n != m {
            return Err(EvalError::Invalid("a determinant needs a square matrix"));
        }
        let mut data: Vec<f64> = match dtype {
            DType::F32 => x.typed::<f32>()?.iter().map(f64::from).collect(),
            DType::F64 => x.typed::<f64>()?.to_vec(),
            other => return Err(EvalError::DType(other)),
        };
        let count: usize = outer.iter().product();
        let found: Vec<f64> = (0..count).map(|i| determinant(&mut data[i * n * n..(i + 1) * n * n], n)).collect();
        let out = match dtype {
            DType::F64 => Tensor::from_slice(outer, &found)?,
            _ => Tensor::from_slice(outer, &found.iter().map(|&d| d as f32).collect::<Vec<_>>())?,
        };
        cx.set_value(0, Value::Tensor(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};

    /// By Leibniz' formula along the first row.
    fn expand(m: &[f64], n: usize) -> f64 {
        if n == 0 {
            return 1.0;
        }
        (0..n)
            .map(|j| {
                let minor: Vec<f64> = (1..n).flat_map(|r| (0..n).filter(move |&c| c != j).map(move |c| (r, c))).map(|(r, c)| m[r * n + c]).collect();
                m[j] * expand(&minor, n - 1) * if j % 2 == 0 { 1.0 } else { -1.0 }
            })
            .sum()
    }

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let [outer @ .., n, _] = x.shape().dims() else { panic!("a matrix") };
        let data: Vec<f64> = x.as_slice::<f32>().unwrap().iter().map(|&v| v.into()).collect();
        let count: usize = outer.iter().product();
        let out: Vec<f32> = (0..count).map(|i| expand(&data[i * n * n..(i + 1) * n * n], *n) as f32).collect();
        vec![t(outer, &out)]
    }

    op_tests! { DEF, reference, Tolerance::F32;
        pair => Case::new([t(&[2, 2], &[0.0f32, 1.0, 2.0, 3.0])]);
        batch => Case::new([random(&[3, 2, 4, 4], 1)]);
        singular => Case::new([t(&[2, 2], &[1.0f32, 2.0, 2.0, 4.0])]);
        none => Case::new([random(&[2, 0, 0], 1)]);
    }
}
