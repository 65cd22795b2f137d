//! `ConvInteger`: a convolution of 8-bit integers without their zero points, in i32.

use super::{
    convolution::{ATTRIBUTES, Window},
    packed::PackedBytes,
    product::zero_points,
};
use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};
use millstream_gemm::Exact;
use millstream_graph::{Arity, BuildCx, Cost, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Packed, Permutation, PrepackCx, Scratch, StepCx};
use millstream_tensor::{DType, Order, TensorError, TensorView};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "ConvInteger",
    since: &[10],
    inputs: Arity::range(2, 4),
    outputs: Arity::exactly(1),
    attributes: ATTRIBUTES,
    subgraphs: &[],
    dtypes: "u8, i8 to i32",
    build: |cx: &BuildCx<'_>| Ok(Box::new(ConvInteger { window: Window::read(cx)? })),
};

/// A convolution of 8-bit integers.
#[derive(Debug, Clone)]
pub struct ConvInteger {
    window: Window,
}

impl Op for ConvInteger {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        self.window.infer(cx, 0, 1, DType::I32)
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let (x_zero, w_zero) = (zero_points(cx, 2)?, zero_points(cx, 3)?);
        by_dtype!(bytes, cx.dtype(0)?, A => by_dtype!(bytes, cx.dtype(1)?, B => {
            let x = cx.input::<A>(0)?;
            let (spec, weights) = (cx.output_spec(0).ok_or(EvalError::Output(0))?, cx.spec(1).ok_or(EvalError::MissingInput(1))?);
            let packed = cx.packed::<PackedBytes>(1);
            let y = cx.output::<i32>(0)?.into_data();
            match packed {
                Some(w) => self.window.run_packed(cx, (x, w, &spec), weights.shape(), (&x_zero, &w_zero), y, |_| Exact),
                None => self.window.run(cx, x, cx.input::<B>(1)?, (&x_zero, &w_zero), y, &|_, sum| sum),
            }
        }))
    }

    fn scratch(&self, cx: &StepCx<'_>) -> Scratch {
        self.window.scratch(cx, 1)
    }

    fn prepack(&self, input: usize, weight: TensorView<'_>, _: &PrepackCx<'_>) -> Result<Option<Arc<dyn Packed>>, TensorError> {
        if input != 1 {
            return Ok(None);
        }
        Ok(PackedBytes::filters(weight, self.window.group())?.map(|p| Arc::new(p) as Arc<dyn Packed>))
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        self.window.permute(cx, inputs, 1)
    }

    fn cost(&self, cx: &StepCx<'_>) -> Cost {
        self.window.cost(cx, 1)
    }

    fn kernel(&self, cx: &StepCx<'_>) -> String {
        if cx.is_packed(1) { format!("integer-window-gemm-{}", cx.level) } else { String::from("integer-conv-direct") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, reals, spread, t};
    use alloc::vec;
    use millstream_tensor::Tensor;

    /// Images without pads, strides or groups, of two spatial axes; or the hand-made result of the padded case.
    fn reference(case: &Case) -> Vec<Tensor> {
        let (x, w) = (case.tensor(0), case.tensor(1));
        if case.attributes.find("pads").is_some() {
            return vec![t(&[1, 1, 4, 4], &[1i32, 3, 5, 3, 5, 12, 16, 9, 11, 24, 28, 15, 7, 15, 17, 9])];
        }
        let zero = |i: usize, at: usize| {
            case.optional(i).map_or(0.0, |z| {
                let z = reals(z);
                z[if z.len() == 1 { 0 } else { at }]
            })
        };
        let (xs, ws) = (x.shape(), w.shape());
        let (oh, ow) = (xs[2] + 1 - ws[2], xs[3] + 1 - ws[3]);
        let (a, b) = (reals(x), reals(w));
        let mut y = vec![];
        for n in 0..xs[0] {
            for o in 0..ws[0] {
                for i in 0..oh {
                    for j in 0..ow {
                        let mut sum = 0.0;
                        for c in 0..ws[1] {
                            for u in 0..ws[2] {
                                for v in 0..ws[3] {
                                    let pixel = a[((n * xs[1] + c) * xs[2] + i + u) * xs[3] + j + v] - zero(2, 0);
                                    sum += pixel * (b[((o * ws[1] + c) * ws[2] + u) * ws[3] + v] - zero(3, o));
                                }
                            }
                        }
                        y.push(sum);
                    }
                }
            }
        }
        vec![from_reals(DType::I32, &[xs[0], ws[0], oh, ow], &y)]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        plain => Case::new([spread(DType::U8, &[2, 3, 6, 5], 250.0, 1), spread(DType::I8, &[4, 3, 3, 2], 120.0, 2)]);
        zero_points => Case::new([spread(DType::U8, &[1, 2, 4, 4], 250.0, 1), spread(DType::U8, &[3, 2, 2, 2], 250.0, 2), t(&[], &[100u8]), t(&[3], &[9u8, 8, 7])]);
        weight => Case::new([spread(DType::U8, &[2, 3, 6, 5], 250.0, 1), spread(DType::I8, &[4, 3, 3, 2], 120.0, 2), t(&[], &[100u8])]).constant(1);
        weight_of_pixels => Case::new([spread(DType::I8, &[1, 5, 3, 4], 120.0, 1), spread(DType::U8, &[35, 5, 1, 1], 250.0, 2), t(&[], &[-9i8]), t(&[], &[7u8])]).constant(1);
        padded_weight => Case::new([t(&[1, 1, 3, 3], &[2u8, 3, 4, 5, 6, 7, 8, 9, 10]), t(&[1, 1, 2, 2], &[1u8; 4]), t(&[], &[1u8])]).ints("pads", &[1, 1, 1, 1]).constant(1);
        // The ONNX project's example: 2..10 with zero point 1, ones of 2 x 2, pads of 1.
        padded => Case::new([t(&[1, 1, 3, 3], &[2u8, 3, 4, 5, 6, 7, 8, 9, 10]), t(&[1, 1, 2, 2], &[1u8; 4]), t(&[], &[1u8])]).ints("pads", &[1, 1, 1, 1]);
        empty => Case::new([spread(DType::U8, &[0, 3, 6, 5], 250.0, 1), spread(DType::I8, &[4, 3, 3, 2], 120.0, 2)]);
    }
}
