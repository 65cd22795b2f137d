//! The definition of a product, for tests.

#![cfg(test)]

use crate::testing::t;
use alloc::{vec, vec::Vec};
use millstream_tensor::Tensor;

/// Relative error that sums of a thousand products of values below one may have.
pub(crate) const REL: f64 = 1e-5;

/// NumPy's `matmul` of f32 in f64, rounded once.
pub(crate) fn matmul(a: &Tensor, b: &Tensor) -> Tensor {
    let (mut ad, mut bd) = (a.shape().to_vec(), b.shape().to_vec());
    let (vector_a, vector_b) = (ad.len() == 1, bd.len() == 1);
    if vector_a {
        ad.insert(0, 1);
    }
    if vector_b {
        bd.push(1);
    }
    let rank = ad.len().max(bd.len());
    while ad.len() < rank {
        ad.insert(0, 1);
    }
    while bd.len() < rank {
        bd.insert(0, 1);
    }
    let (m, k, n) = (ad[rank - 2], ad[rank - 1], bd[rank - 1]);
    let mut out: Vec<usize> = (0..rank - 2).map(|i| if ad[i] == 1 { bd[i] } else { ad[i] }).collect();
    let (x, y) = (a.as_slice::<f32>().unwrap(), b.as_slice::<f32>().unwrap());
    let mut values = vec![];
    for batch in 0..out.iter().product() {
        let start = |dims: &[usize]| {
            let (mut rest, mut step, mut at) = (batch, 1, 0);
            for i in (0..rank - 2).rev() {
                at += if dims[i] == 1 { 0 } else { rest % out[i] * step };
                rest /= out[i];
                step *= dims[i];
            }
            at
        };
        let (a0, b0) = (start(&ad) * m * k, start(&bd) * k * n);
        for i in 0..m {
            for j in 0..n {
                let terms = (0..k).map(|p| f64::from(x[a0 + i * k + p]) * f64::from(y[b0 + p * n + j]));
                values.push(terms.sum::<f64>() as f32);
            }
        }
    }
    if !vector_a {
        out.push(m);
    }
    if !vector_b {
        out.push(n);
    }
    t(&out, &values)
}

/// A tensor with its axes in another order.
pub(crate) fn transpose(x: &Tensor, perm: &[usize]) -> Tensor {
    let layout = millstream_tensor::Layout::row_major(*x.shape()).permuted(perm);
    let values = x.as_slice::<f32>().unwrap();
    t(layout.shape(), &layout.offsets().map(|o| values[o]).collect::<Vec<f32>>())
}
