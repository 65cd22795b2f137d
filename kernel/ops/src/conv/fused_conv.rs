//! `millstream.FusedConv`: a convolution, plus a residual of the output's shape where `residual` is 1, then an activation. Where `winograd` is 1,
//! constant weights of dense 3 × 3 windows that move by one run by Winograd's algorithm.
//!
//! Inputs: image, weights, bias (may be absent), residual. Passes make it by [`Conv::with_residual`], [`Conv::with_activation`] and
//! [`Conv::with_winograd`].

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
    attributes: &["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "activation", "alpha", "beta", "residual", "winograd"],
    subgraphs: &[],
    dtypes: "f32",
    build: |cx: &BuildCx<'_>| {
        let (residual, winograd) = (cx.attributes.flag_or("residual", false)?, cx.attributes.flag_or("winograd", false)?);
        Ok(Box::new(Conv { activation: activation::read(cx)?, residual, winograd, ..Conv::read(cx)? }))
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
        winograd => case(&[1, 20, 9, 14], &[40, 20, 3, 3]).input(random(&[40], 3)).ints("pads", &[1, 1, 1, 1]).int("winograd", 1).string("activation", "relu");
        winograd_residual => case(&[2, 17, 30, 35], &[70, 17, 3, 3]).input(None).input(random(&[2, 70, 29, 36], 4)).ints("pads", &[0, 1, 1, 2]).int("winograd", 1).int("residual", 1);
        winograd_batch => case(&[3, 40, 7, 5], &[33, 40, 3, 3]).ints("pads", &[1, 1, 1, 1]).int("winograd", 1).string("activation", "hard_swish");
        winograd_no_batch => case(&[0, 16, 7, 5], &[16, 16, 3, 3]).int("winograd", 1);
        winograd_refused => case(&[1, 16, 7, 5], &[16, 16, 3, 3]).int("winograd", 1).ints("strides", &[2, 2]);
        depthwise => case(&[1, 21, 6, 5], &[21, 1, 3, 3]).input(random(&[21], 3)).int("group", 21).string("activation", "hard_swish");
        depthwise_residual => case(&[1, 21, 6, 5], &[21, 1, 3, 3]).input(None).input(random(&[1, 21, 4, 3], 4)).int("group", 21).int("residual", 1);
    }
}
