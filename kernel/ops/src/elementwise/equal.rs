//! `Equal`: a = b, for numbers, booleans and strings; NaN equals nothing.

use super::{
    compare::{self, Compare},
    walk::{Operand, each2},
};
use alloc::{boxed::Box, vec::Vec};
use millstream_graph::{Arity, BuildCx, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::{Bool, DType, Element, Order};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Equal",
    since: &[7, 11, 13, 19],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "any",
    build: |_: &BuildCx<'_>| Ok(Box::new(Equal)),
};

/// a = b.
#[derive(Debug, Clone, Copy)]
pub struct Equal;

impl Compare for Equal {
    const EQUALITY: bool = true;

    fn real(&self, a: f64, b: f64) -> bool {
        a == b
    }

    fn int(&self, a: i128, b: i128) -> bool {
        a == b
    }

    fn dims(&self, d: &Dim) -> Option<bool> {
        match d.as_const() {
            Some(c) => Some(c == 0),
            None => (d.at_least(1) || d.at_most(-1)).then_some(false),
        }
    }
}

impl Op for Equal {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        compare::infer(self, cx)
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        match cx.dtype(0)? {
            DType::String => {}
            DType::I64 => return words::<i64>(cx),
            DType::I32 => return words::<i32>(cx),
            _ => return compare::eval(self, cx),
        }
        let (a, b) = (cx.tensor(0)?, cx.tensor(1)?);
        let mut y = cx.output::<Bool>(0)?;
        let (left, right) = (a.layout().broadcast_to(*y.shape())?, b.layout().broadcast_to(*y.shape())?);
        let (a, b) = (a.as_strings()?, b.as_strings()?);
        y.fill_from(left.offsets().zip(right.offsets()).map(|(i, j)| (a[i] == b[j]).into()));
        Ok(())
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        compare::permute(cx, inputs)
    }
}

/// The types of tokens and other indices, which models compare by the million: a loop that the compiler can vectorise.
fn words<T: Element + PartialEq>(cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
    let (a, b, mut y) = (cx.input::<T>(0)?, cx.input::<T>(1)?, cx.output::<Bool>(0)?);
    each2(cx, Some(a), Some(b), &mut y, 1, &|a, b, y| match (a, b) {
        (Operand::Run(a), Operand::Run(b)) => y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = (a == b).into()),
        (Operand::Run(x), Operand::Splat(one)) | (Operand::Splat(one), Operand::Run(x)) => y.iter_mut().zip(x).for_each(|(y, &x)| *y = (x == one).into()),
        (Operand::Splat(a), Operand::Splat(b)) => y.fill((a == b).into()),
        // Numbers are never overwritten by truth values.
        (Operand::Same, _) | (_, Operand::Same) => {}
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, spread, t, zip};
    use millstream_graph::Symbol;
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        if case.tensor(0).dtype() == DType::String {
            return [t(&[2], &[Bool::from(true), false.into()])].into();
        }
        zip(case, Some(DType::Bool), |a, b| f64::from(u8::from(a == b)))
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        same => Case::new([spread(DType::I32, &[2, 3, 5, 7], 3.0, 1), spread(DType::I32, &[2, 3, 5, 7], 3.0, 2)]);
        stretched => Case::new([spread(DType::I64, &[4, 1, 7], 3.0, 1), spread(DType::I64, &[5, 1], 3.0, 2)]);
        booleans => Case::new([spread(DType::Bool, &[9], 1.0, 1), t(&[1], &[Bool::from(true)])]);
        nan => Case::new([t(&[3], &[1.0f32, f32::NAN, 0.0]), t(&[3], &[1.0f32, f32::NAN, -0.0])]);
        text => Case::new([Tensor::from_strings(&[2], ["a".into(), "b".into()].into()).unwrap(), Tensor::from_strings(&[1], ["a".into()].into()).unwrap()]);
        empty => Case::new([spread(DType::F64, &[0, 4], 5.0, 1), spread(DType::F64, &[4], 5.0, 2)]);
    }

    #[test]
    fn an_extent_is_never_minus_one() {
        let dims = Fact::of_dims(DType::I64, [Dim::symbol(Symbol::new("n")), Dim::from(-1)].into(), false);
        let ones = Fact::constant(t(&[2], &[-1i64, -1]).into());
        let out = Equal.infer(&InferCx { path: "", inputs: &[Some(&dims), Some(&ones)], outputs: 1 }).unwrap();
        let known = out[0].as_const().expect("both are known").to_tensor().unwrap();
        assert_eq!(known.as_slice::<Bool>().unwrap(), &[Bool::from(false), true.into()]);
    }
}
