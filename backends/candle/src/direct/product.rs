//! Products of matrices.

use super::{Direct, Site, at, elementwise::sigmoid};
use candle_core::{Result, Tensor};
use millstream_gemm::Activation;
use millstream_graph::Op;
use millstream_ops::matmul::{gemm::Gemm, mat_mul::MatMul};

pub(super) fn knows(op: &dyn Op) -> bool {
    op.downcast_ref::<MatMul>().is_some() || op.downcast_ref::<Gemm>().is_some()
}

/// True if [`activate`] has the activation.
pub(super) fn has(activation: Activation) -> bool {
    matches!(
        activation,
        Activation::None | Activation::Relu | Activation::Clip { .. } | Activation::Sigmoid | Activation::Silu | Activation::Gelu | Activation::GeluTanh
    )
}

/// A fused activation, on Candle.
pub(super) fn activate(x: Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::None => Ok(x),
        Activation::Relu => x.relu(),
        Activation::Clip { lo, hi } => x.clamp(lo, hi),
        Activation::Sigmoid => sigmoid(&x),
        Activation::Silu => &x * &sigmoid(&x)?,
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        other => candle_core::bail!("{other:?} is not mapped"),
    }
}

pub(super) fn select(site: &Site<'_>) -> Option<Direct> {
    if !site.is_float() {
        return None;
    }
    let (a, b, y) = (site.dims(0)?, site.dims(1)?, site.output.shape().dims().to_vec());
    if let Some(gemm) = site.op.downcast_ref::<Gemm>() {
        let ((alpha, beta), (trans_a, trans_b), activation) = (gemm.factors(), gemm.transposed(), gemm.activation());
        if a.len() != 2 || b.len() != 2 || !has(activation) {
            return None;
        }
        let scratch = site.input(0)?.bytes() + site.input(1)?.bytes() + 4 * site.output.bytes();
        return Direct::new(scratch, move |x| {
            let turned = |t: &Tensor, yes: bool| if yes { t.t() } else { Ok(t.clone()) };
            let mut y = turned(at(x, 0)?, trans_a)?.matmul(&turned(at(x, 1)?, trans_b)?)?;
            if alpha != 1.0 {
                y = y.affine(alpha.into(), 0.0)?;
            }
            if let Some(c) = x.get(2).copied().flatten() {
                y = if beta == 1.0 { y.broadcast_add(c)? } else { y.broadcast_add(&c.affine(beta.into(), 0.0)?)? };
            }
            activate(y, activation)
        });
    }
    let mul = site.op.downcast_ref::<MatMul>()?;
    if !mul.is_in_order() || !has(mul.activation()) || a.len() < 2 || b.len() < 2 {
        return None;
    }
    let (scale, residual, activation) = (f64::from(mul.scale()), mul.has_residual(), mul.activation());
    // Operands are copied to broadcast over stacks.
    let stacks: usize = y[..y.len() - 2].iter().product();
    let matrix = |d: &[usize]| d[d.len() - 2..].iter().product::<usize>() * stacks * site.output.dtype.size();
    Direct::new(matrix(&a) + matrix(&b) + 4 * site.output.bytes(), move |x| {
        let mut y = at(x, 0)?.broadcast_matmul(at(x, 1)?)?;
        if scale != 1.0 {
            y = y.affine(scale, 0.0)?;
        }
        if let Some(bias) = x.get(2).copied().flatten() {
            y = y.broadcast_add(bias)?;
        }
        if residual {
            y = y.add(at(x, 3)?)?;
        }
        activate(y, activation)
    })
}
