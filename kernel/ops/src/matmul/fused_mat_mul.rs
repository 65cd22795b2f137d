//! `millstream.FusedMatMul`: `activation(alpha · A·B + bias + residual)`, where A, B and the output are seen through
//! permutations of their axes. With a constant B and a bias it is a linear layer.
//!
//! Inputs: A, B, a bias for each column (may be absent), and where `residual` is 1 a tensor of the output's shape. `factor` is
//! alpha, since `alpha` and `beta` are the activation's. Passes make it by the `with_` functions of [`MatMul`].

use super::{
    activation,
    mat_mul::{MatMul, is_permutation},
};
use crate::conv::geometry::positive;
use alloc::{boxed::Box, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, Op, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "millstream",
    name: "FusedMatMul",
    since: &[1],
    inputs: Arity::range(2, 4),
    outputs: Arity::exactly(1),
    attributes: &["perm_a", "perm_b", "perm_y", "factor", "activation", "alpha", "beta", "residual"],
    subgraphs: &[],
    dtypes: "f32",
    build,
};

fn build(cx: &BuildCx<'_>) -> Result<Box<dyn Op>, BuildError> {
    let perm = |name| -> Result<Vec<usize>, BuildError> {
        let perm = positive(cx, name, 0)?;
        if !is_permutation(&perm) {
            return Err(BuildError::UnsupportedAttribute { name, value: alloc::format!("{perm:?}") });
        }
        Ok(perm)
    };
    let perm_y = perm("perm_y")?;
    if perm_y.last().is_some_and(|&p| p + 1 != perm_y.len()) {
        return Err(BuildError::UnsupportedAttribute { name: "perm_y", value: alloc::format!("{perm_y:?}") });
    }
    Ok(Box::new(MatMul {
        perm_a: perm("perm_a")?,
        perm_b: perm("perm_b")?,
        perm_y,
        alpha: cx.attributes.float_or("factor", 1.0)?,
        activation: activation::read(cx)?,
        residual: cx.attributes.flag_or("residual", false)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::oracle::{REL, matmul, transpose};
    use crate::testing::{Case, Tolerance, random, t};
    use alloc::vec;
    use millstream_graph::Attribute;
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let perm = |x: &Tensor, name: &str| match case.attributes.ints(name).unwrap() {
            Some(p) => transpose(x, &p.iter().map(|&i| i as usize).collect::<Vec<_>>()),
            None => x.clone(),
        };
        let product = matmul(&perm(case.tensor(0), "perm_a"), &perm(case.tensor(1), "perm_b"));
        let y = perm(&product, "perm_y");
        let n = *y.shape().last().unwrap();
        let factor = case.attributes.float_or("factor", 1.0).unwrap();
        let relu = case.attributes.find("activation") == Some(&Attribute::String("relu".into()));
        let element = |(i, x): (usize, &f32)| {
            let bias = case.optional(2).map_or(0.0, |b| b.as_slice::<f32>().unwrap()[i % n]);
            let residual = case.optional(3).map_or(0.0, |r| r.as_slice::<f32>().unwrap()[i]);
            let y = x * factor + bias + residual;
            if relu { y.max(0.0) } else { y }
        };
        vec![t(y.shape(), &y.as_slice::<f32>().unwrap().iter().enumerate().map(element).collect::<Vec<f32>>())]
    }

    fn case(a: &[usize], b: &[usize]) -> Case {
        Case::new([random(a, 1), random(b, 2)])
    }

    op_tests! { DEF, reference, Tolerance { rel: REL, abs: 2e-5 };
        linear => case(&[2, 9, 40], &[40, 33]).constant(1).input(random(&[33], 3)).string("activation", "relu");
        linear_residual => case(&[2, 9, 40], &[40, 33]).constant(1).input(random(&[33], 3)).input(random(&[2, 9, 33], 4)).int("residual", 1);
        linear_transposed => case(&[9, 40], &[33, 40]).constant(1).ints("perm_b", &[1, 0]).input(random(&[33], 3));
        scores => case(&[2, 5, 3, 16], &[2, 7, 3, 16]).ints("perm_a", &[0, 2, 1, 3]).ints("perm_b", &[0, 2, 3, 1]).float("factor", 0.25);
        context => case(&[2, 3, 5, 7], &[2, 7, 3, 16]).ints("perm_b", &[0, 2, 1, 3]).ints("perm_y", &[0, 2, 1, 3]);
        context_large => case(&[3, 700, 2, 3], &[3, 700, 3, 4]).ints("perm_y", &[0, 2, 1, 3]);
        batch_residual => case(&[3, 5, 7], &[3, 7, 6]).input(None).input(random(&[3, 5, 6], 4)).int("residual", 1);
        few_large => case(&[2, 130, 300], &[2, 150, 300]).ints("perm_b", &[0, 2, 1]).input(random(&[150], 3)).input(random(&[2, 130, 150], 5)).int("residual", 1);
        few_large_permuted => case(&[2, 2, 130, 300], &[2, 2, 300, 150]).ints("perm_y", &[0, 2, 1, 3]);
        left_transposed => case(&[40, 9], &[40, 33]).ints("perm_a", &[1, 0]);
    }
}
