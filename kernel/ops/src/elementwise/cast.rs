//! `Cast`: elements as another type; see `casting` for the rules. `saturate` and `round_mode` say something about 8-bit
//! floats only, which are not supported.

use super::casting;
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::{DType, Order};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Cast",
    since: &[6, 9, 13, 19, 21, 23, 24, 25],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["to", "saturate", "round_mode"],
    subgraphs: &[],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| {
        let to = *cx.attributes.int("to")?.ok_or(BuildError::MissingAttribute("to"))?;
        Ok(Box::new(Cast { to: casting::element_type("to", to)? }))
    },
};

/// Elements as another type.
#[derive(Debug, Clone, Copy)]
pub struct Cast {
    /// The type of the output.
    pub to: DType,
}

impl Op for Cast {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        Ok(vec![casting::infer(cx.input(0)?, self.to)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        casting::eval(cx, self.to)
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        casting::permute(cx, inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, reals, spread, t};
    use alloc::string::String;
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let (x, to) = (case.tensor(0), casting::element_type("to", case.int_or("to", 1)).unwrap());
        let strings = |v: &[&str]| v.iter().map(|s| String::from(*s)).collect::<Vec<String>>();
        match (x.dtype(), to) {
            (DType::String, _) => vec![from_reals(to, x.shape(), &[1.5, -3.0, f64::INFINITY])],
            (_, DType::String) => vec![Tensor::from_strings(x.shape(), strings(&["1.5", "-3.0", "nan"])).unwrap()],
            // Integers wrap: the cases keep to values that 53 bits hold.
            _ if to.is_int() && x.dtype().is_int() => {
                let wrap = |x: f64| {
                    let modulus = 2f64.powi(8 * to.size() as i32);
                    let r = x.rem_euclid(modulus);
                    if to.is_signed_int() && r >= modulus / 2.0 { r - modulus } else { r }
                };
                vec![from_reals(to, x.shape(), &reals(x).into_iter().map(wrap).collect::<Vec<f64>>())]
            }
            _ => vec![from_reals(to, x.shape(), &reals(x))],
        }
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        to_i64 => Case::new([spread(DType::F32, &[2, 3, 5, 7], 300.0, 1)]).int("to", 7);
        to_u8 => Case::new([spread(DType::F32, &[33], 300.0, 1)]).int("to", 2);
        to_f16 => Case::new([spread(DType::F32, &[2, 3, 5, 7], 300.0, 1)]).int("to", 10);
        to_bf16 => Case::new([spread(DType::F32, &[33], 300.0, 1)]).int("to", 16);
        from_f16 => Case::new([spread(DType::F16, &[2, 3, 5, 7], 300.0, 1)]).int("to", 1);
        from_bf16 => Case::new([spread(DType::BF16, &[33], 300.0, 1)]).int("to", 1);
        bf16_to_f16 => Case::new([spread(DType::BF16, &[33], 300.0, 1)]).int("to", 10);
        f64_to_f32 => Case::new([spread(DType::F64, &[33], 300.0, 1)]).int("to", 1);
        wraps => Case::new([spread(DType::I64, &[33], 3e6, 1)]).int("to", 3);
        wraps_unsigned => Case::new([spread(DType::I32, &[33], 300.0, 1)]).int("to", 12);
        from_bool => Case::new([spread(DType::Bool, &[33], 1.0, 1)]).int("to", 1);
        to_bool => Case::new([t(&[4], &[0.0f32, -0.0, 0.1, f32::NAN])]).int("to", 9);
        same => Case::new([spread(DType::F32, &[33], 1.0, 1)]).int("to", 1);
        parsed => Case::new([Tensor::from_strings(&[3], vec!["1.5".into(), " -3".into(), "inf".into()]).unwrap()]).int("to", 1);
        printed => Case::new([t(&[3], &[1.5f32, -3.0, f32::NAN])]).int("to", 8);
        empty => Case::new([spread(DType::F32, &[0, 2], 1.0, 1)]).int("to", 7);
    }
}
