//! Operators that compare two inputs: `y = a ? b`, a boolean.

use super::{
    walk::{Operand, each2, permute_broadcast},
    zip,
};
use crate::numeric::{Number, Types};
use alloc::{vec, vec::Vec};
use millstream_graph::{Dim, EvalCx, EvalError, Fact, InferCx, InferError, Permutation, StepCx};
use millstream_tensor::{Bool, DType, Order};

/// A comparison.
pub(crate) trait Compare: Sync {
    /// True if booleans (and strings) can be compared too.
    const EQUALITY: bool = false;

    /// The comparison of floats; false for NaN.
    fn real(&self, a: f64, b: f64) -> bool;

    /// The comparison of integers.
    fn int(&self, a: i128, b: i128) -> bool;

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
    let (real, int) = (|a: f64, b: f64| c.real(a, b), |a: i128, b: i128| c.int(a, b));
    by_dtype!(all, dtype, T => run::<T>(cx, &real, &int))
}

fn run<T: Number>(cx: &mut EvalCx<'_>, real: &(dyn Fn(f64, f64) -> bool + Sync), int: &(dyn Fn(i128, i128) -> bool + Sync)) -> Result<(), EvalError> {
    let test = |a: T, b: T| if T::DTYPE.is_float() { real(Number::to_f64(a), Number::to_f64(b)) } else { int(a.to_i128(), b.to_i128()) };
    let (a, b, mut y) = (cx.input::<T>(0)?, cx.input::<T>(1)?, cx.output::<Bool>(0)?);
    each2(cx, Some(a), Some(b), &mut y, 4, &|a, b, y| match (a, b) {
        (Operand::Run(a), Operand::Run(b)) => y.iter_mut().zip(a).zip(b).for_each(|((y, &a), &b)| *y = test(a, b).into()),
        (Operand::Run(a), Operand::Splat(b)) => y.iter_mut().zip(a).for_each(|(y, &a)| *y = test(a, b).into()),
        (Operand::Splat(a), Operand::Run(b)) => y.iter_mut().zip(b).for_each(|(y, &b)| *y = test(a, b).into()),
        (Operand::Splat(a), Operand::Splat(b)) => y.fill(test(a, b).into()),
        // Numbers are never overwritten by truth values.
        (Operand::Same, _) | (_, Operand::Same) => {}
    })
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
