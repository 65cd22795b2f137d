//! `Dropout` as inference has it: the identity, with a mask of all true.

use alloc::{boxed::Box, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::{Bool, DType};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Dropout",
    since: &[7, 10, 12, 13, 22],
    inputs: Arity::range(1, 3),
    outputs: Arity::range(1, 2),
    attributes: &["ratio", "seed"],
    subgraphs: &[],
    dtypes: "any number",
    build: |cx: &BuildCx<'_>| Ok(Box::new(Dropout { old: cx.version < 10 })),
};

/// The identity.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// True before opset 10, when the mask had the data's type.
    old: bool,
}

impl Op for Dropout {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        let training = cx.optional(2).and_then(|f| f.as_const()?.to_tensor().ok());
        if training.is_some_and(|t| t.as_slice::<Bool>().is_ok_and(|s| s.iter().any(|&b| b.into()))) {
            return Err(InferError::Invalid("training is not supported"));
        }
        let mask = Fact::new(if self.old { x.dtype } else { DType::Bool }, x.dims.clone());
        Ok([x.clone(), mask].into_iter().take(cx.outputs.max(1)).collect())
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        if let Some(training) = cx.optional::<Bool>(2)?
            && training.iter().any(bool::from)
        {
            return Err(EvalError::Invalid("training is not supported"));
        }
        if cx.wants(1) {
            let mask = cx.output_tensor(1)?;
            let dtype = mask.dtype();
            by_dtype!(all, dtype, T => {
                mask.typed::<T>()?.into_data().fill(crate::numeric::Number::from_f64(1.0));
                Ok(())
            })?;
        }
        if cx.in_place(0).is_none() && cx.wants(0) {
            let x = cx.tensor(0)?;
            cx.output_tensor(0)?.into_bytes()?.copy_from_slice(x.bytes()?);
        }
        Ok(())
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, spread, t};
    use alloc::vec;
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let dtype = if case.version.is_some_and(|v| v < 10) { x.dtype() } else { DType::Bool };
        let mask = from_reals(dtype, x.shape(), &vec![1.0; x.shape().elements()]);
        [x.clone(), mask].into_iter().take(case.outputs).collect()
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        alone => Case::new([spread(DType::F32, &[3, 4], 1.0, 1)]);
        masked => Case::new([spread(DType::F64, &[3, 4], 1.0, 1)]).outputs(2);
        old_mask => Case::new([spread(DType::F32, &[3, 4], 1.0, 1)]).outputs(2).float("ratio", 0.1).version(7);
        not_training => Case::new([spread(DType::F32, &[3, 4], 1.0, 1), t(&[], &[0.5f32]), t(&[], &[Bool::from(false)])]);
        empty => Case::new([spread(DType::F32, &[0, 4], 1.0, 1)]).outputs(2);
    }
}
