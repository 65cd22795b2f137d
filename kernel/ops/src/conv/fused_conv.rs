//! `millstream.FusedConv`: a convolution, plus a residual of the output's shape where `residual` is 1, then an activation.
//!
//! Inputs: image, weights, bias (may be absent), residual. Passes make it by [`Conv::with_residual`] and
//! [`Conv::with_activation`].

use super::conv::Conv;
use crate::matmul::activation;
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "millstream",
    name: "FusedConv",
    since: &[1],
    inputs: Arity::range(2, 4),
    outputs: Arity::exactly(1),
    attributes: &["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "activation", "alpha", "beta", "residual"],
    subgraphs: &[],
    dtypes: "f32",
    build: |cx: &BuildCx<'_>| {
        let residual = cx.attributes.flag_or("residual", false)?;
        Ok(Box::new(Conv { activation: activation::read(cx)?, residual, ..Conv::read(cx)? }))
    },
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};
    use alloc::{vec, vec::Vec};
    use millstream_graph::Attribute;
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let y = crate::conv::oracle::reference(case);
        let name = match case.attributes.find("activation") {
            Some(Attribute::String(s)) => s.as_str(),
            _ => "",
        };
        let f = |x: &f32| match name {
            "relu" => x.max(0.0),
            "clip" => x.clamp(-0.5, 1.5),
            "silu" => x / (1.0 + libm::expf(-x)),
            "hard_swish" => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            _ => *x,
        };
        vec![t(y[0].shape(), &y[0].as_slice::<f32>().unwrap().iter().map(f).collect::<Vec<f32>>())]
    }

    fn case(x: &[usize], w: &[usize]) -> Case {
        Case::new([random(x, 1), random(w, 2)]).constant(1)
    }

    op_tests! { DEF, reference, Tolerance { rel: 1e-5, abs: 2e-5 };
        relu => case(&[1, 8, 6, 5], &[40, 8, 3, 3]).input(random(&[40], 3)).string("activation", "relu");
        clip => case(&[1, 8, 6, 5], &[9, 8, 1, 1]).string("activation", "clip").float("alpha", -0.5).float("beta", 1.5);
        residual => case(&[2, 8, 6, 5], &[20, 8, 1, 1]).input(random(&[20], 3)).input(random(&[2, 20, 6, 5], 4)).int("residual", 1).string("activation", "relu");
        residual_no_bias => case(&[1, 8, 6, 5], &[20, 8, 3, 3]).input(None).input(random(&[1, 20, 4, 3], 4)).int("residual", 1).string("activation", "silu");
        residual_groups => case(&[1, 8, 6, 5], &[20, 4, 3, 3]).input(None).input(random(&[1, 20, 4, 3], 4)).int("residual", 1).int("group", 2);
        depthwise => case(&[1, 21, 6, 5], &[21, 1, 3, 3]).input(random(&[21], 3)).int("group", 21).string("activation", "hard_swish");
        depthwise_residual => case(&[1, 21, 6, 5], &[21, 1, 3, 3]).input(None).input(random(&[1, 21, 4, 3], 4)).int("group", 21).int("residual", 1);
    }
}
