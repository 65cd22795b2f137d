//! Operators that compare two inputs: `y = a ? b`, a boolean.

use super::{walk::permute_broadcast, zip};
use crate::numeric::{Number, Types};
use alloc::{vec, vec::Vec};
use millstream_graph::{Dim, EvalCx, EvalError, Fact, InferCx, InferError, Permutation, StepCx};
use millstream_tensor::{DType, Order};

/// A comparison.
pub(crate) trait Compare: Sync {
    /// True if booleans (and strings) can be compared too.
    const EQUALITY: bool = false;

    /// The comparison; false for NaN.
    fn test<T: Number>(&self, a: T, b: T) -> bool;

    /// The comparison of symbolic integers, where their difference tells.
    fn dims(&self, difference: &Dim) -> Option<bool>;
}

/// Broadcast dims; small symbolic integers are compared.
pub(crate) fn infer<C: Compare>(c: &C, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    if a.dtype != b.dtype {
        return Err(InferError::DType { input: 1, found: b.dtype });
    }
    if !C::EQUALITY {
        Types::Numbers.check(0, a.dtype)?;
    }
    let dims = cx.broadcast(&a.dims, &b.dims)?;
    let known = zip::symbolic_pairs(a, b).and_then(|p| p.iter().map(|(a, b)| c.dims(&a.sub(b))).collect::<Option<Vec<bool>>>());
    Ok(vec![known.and_then(|k| zip::known_bools(&k, dims.is_empty())).unwrap_or_else(|| Fact::new(DType::Bool, dims))])
}

/// Compares elements of any type but strings.
pub(crate) fn eval<C: Compare>(c: &C, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
    let dtype = cx.dtype(0)?;
    by_dtype!(all, dtype, T => zip::convert::<T, millstream_tensor::Bool>(cx, |a, b| c.test(a, b).into()))
}

/// Numbers compare in any order; strings are read row-major.
pub(crate) fn permute(cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
    let text = cx.inputs.iter().flatten().any(|s| s.dtype == DType::String);
    if text { None } else { permute_broadcast(cx, inputs) }
}

/// Makes a type that is a [`Compare`] an operator.
macro_rules! compare_op {
    ($t:ty) => {
        impl millstream_graph::Op for $t {
            fn infer(&self, cx: &millstream_graph::InferCx<'_>) -> Result<alloc::vec::Vec<millstream_graph::Fact>, millstream_graph::InferError> {
                crate::elementwise::compare::infer(self, cx)
            }

            fn eval(&self, cx: &mut millstream_graph::EvalCx<'_>) -> Result<(), millstream_graph::EvalError> {
                crate::elementwise::compare::eval(self, cx)
            }

            fn permute(&self, cx: &millstream_graph::StepCx<'_>, inputs: &[Option<millstream_tensor::Order>]) -> Option<millstream_graph::Permutation> {
                crate::elementwise::compare::permute(cx, inputs)
            }
        }
    };
}
pub(crate) use compare_op;
