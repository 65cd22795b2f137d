//! `Where`: the element of the first choice where the condition is true, of the second where it is false.

use super::walk::{Operand, each3, permute_broadcast, source};
use super::zip::symbolic_pairs;
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::{Bool, DType, Element, Order, Tensor};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Where",
    since: &[9, 16],
    inputs: Arity::exactly(3),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "any",
    build: |_: &BuildCx<'_>| Ok(Box::new(Where)),
};

/// A choice for each element.
#[derive(Debug, Clone, Copy)]
pub struct Where;

impl Where {
    /// The chosen elements, if condition and choices are known and small.
    fn symbolic(condition: &Fact, a: &Fact, b: &Fact) -> Option<Vec<Dim>> {
        let pairs = symbolic_pairs(a, b)?;
        let condition = condition.as_const()?.to_tensor().ok()?;
        let flags = condition.as_slice::<Bool>().ok()?;
        if condition.shape().rank() > 1 || (flags.len() != pairs.len() && flags.len() != 1 && pairs.len() != 1) {
            return None;
        }
        let n = if flags.len() == 1 { pairs.len() } else { flags.len() };
        let at = |i: usize| {
            let (a, b) = &pairs[if pairs.len() == 1 { 0 } else { i }];
            if bool::from(flags[if flags.len() == 1 { 0 } else { i }]) { a.clone() } else { b.clone() }
        };
        Some((0..n).map(at).collect())
    }

    fn text(cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let (c, a, b) = (cx.input::<Bool>(0)?, cx.tensor(1)?, cx.tensor(2)?);
        let shape = millstream_tensor::broadcast(c.shape(), &millstream_tensor::broadcast(a.shape(), b.shape())?)?;
        let (c, left, right) = (c.with_layout(c.layout().broadcast_to(shape)?)?, a.layout().broadcast_to(shape)?, b.layout().broadcast_to(shape)?);
        let (a, b) = (a.as_strings()?, b.as_strings()?);
        let chosen = c.iter().zip(left.offsets().zip(right.offsets())).map(|(c, (i, j))| if c.into() { a[i].clone() } else { b[j].clone() });
        cx.set_value(0, Tensor::from_strings(&shape, chosen.collect())?.into())
    }
}

impl Op for Where {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (c, a, b) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        if c.dtype != DType::Bool {
            return Err(InferError::DType { input: 0, found: c.dtype });
        }
        if a.dtype != b.dtype {
            return Err(InferError::DType { input: 2, found: b.dtype });
        }
        let dims = cx.broadcast(&c.dims, &cx.broadcast(&a.dims, &b.dims)?)?;
        Ok(vec![match Where::symbolic(c, a, b) {
            Some(values) => Fact::of_dims(a.dtype, values, dims.is_empty()),
            None => Fact::new(a.dtype, dims),
        }])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let dtype = cx.dtype(1)?;
        if dtype == DType::String {
            return Where::text(cx);
        }
        by_dtype!(all, dtype, T => choose::<T>(cx))
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(1, 0), (2, 0)]
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        let text = cx.outputs.iter().any(|s| s.dtype == DType::String);
        if text { None } else { permute_broadcast(cx, inputs) }
    }

    fn kernel(&self, _cx: &StepCx<'_>) -> alloc::string::String {
        "elementwise".into()
    }
}

fn choose<T: Element>(cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
    let (c, a, b) = (cx.input::<Bool>(0)?, source::<T>(cx, 1)?, source::<T>(cx, 2)?);
    let mut y = cx.output::<T>(0)?;
    each3(cx, Some(c), a, b, &mut y, 2, &|c, a, b, y| match (c, a, b) {
        (Operand::Splat(c), a, b) => match if c.into() { a } else { b } {
            Operand::Run(x) => y.copy_from_slice(x),
            Operand::Splat(x) => y.fill(x),
            Operand::Same => {}
        },
        (Operand::Run(c), Operand::Run(a), Operand::Run(b)) => {
            y.iter_mut().zip(c).zip(a.iter().zip(b)).for_each(|((y, &c), (&a, &b))| *y = if c.into() { a } else { b });
        }
        (Operand::Run(c), a, b) => {
            for (i, (y, &c)) in y.iter_mut().zip(c).enumerate() {
                match if c.into() { a } else { b } {
                    Operand::Run(x) => *y = x[i],
                    Operand::Splat(x) => *y = x,
                    Operand::Same => {}
                }
            }
        }
        (Operand::Same, ..) => {}
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, pairs, spread, t};
    use millstream_graph::Symbol;

    fn reference(case: &Case) -> Vec<Tensor> {
        // Twice a pair: (condition, a) and (condition, b), both stretched to the shape of all three.
        let (shape, _) = pairs(case.tensor(1), case.tensor(2));
        let (shape, _) = pairs(case.tensor(0), &from_reals(DType::F64, &shape, &vec![0.0; shape.iter().product()]));
        let full = from_reals(DType::F64, &shape, &vec![0.0; shape.iter().product()]);
        let stretch = |i: usize| pairs(case.tensor(i), &full).1.into_iter().map(|p| p.0).collect::<Vec<f64>>();
        let (c, a, b) = (stretch(0), stretch(1), stretch(2));
        let y: Vec<f64> = (0..c.len()).map(|i| if c[i] != 0.0 { a[i] } else { b[i] }).collect();
        vec![from_reals(case.tensor(1).dtype(), &shape, &y)]
    }

    fn flags(dims: &[usize]) -> Tensor {
        let bits: Vec<f64> = crate::testing::noise(7).take(dims.iter().product()).map(|x| (x % 2) as f64).collect();
        from_reals(DType::Bool, dims, &bits)
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        same => Case::new([flags(&[2, 3, 5, 7]), spread(DType::F32, &[2, 3, 5, 7], 1.0, 1), spread(DType::F32, &[2, 3, 5, 7], 1.0, 2)]);
        mask => Case::new([flags(&[4, 1, 6, 6]), spread(DType::F32, &[4, 3, 6, 6], 1.0, 1), t(&[], &[f32::NEG_INFINITY])]);
        one_condition => Case::new([flags(&[1]), spread(DType::I64, &[4, 5], 9.0, 1), spread(DType::I64, &[5], 9.0, 2)]);
        stretched => Case::new([flags(&[4, 1]), spread(DType::U8, &[5], 9.0, 1), spread(DType::U8, &[3, 1, 1], 9.0, 2)]);
        scalars => Case::new([flags(&[9]), t(&[], &[1i32]), t(&[], &[2i32])]);
        booleans => Case::new([flags(&[9]), flags(&[9]), t(&[1], &[Bool::from(true)])]);
        empty => Case::new([flags(&[0, 1]), spread(DType::F32, &[4], 9.0, 1), t(&[], &[2.0f32])]);
    }

    #[test]
    fn symbolic_choices_are_known() {
        let n = Dim::symbol(Symbol::new("n"));
        let condition = Fact::constant(t(&[2], &[Bool::from(true), false.into()]).into());
        let a = Fact::of_dims(DType::I64, vec![n.clone(), n.clone()], false);
        let b = Fact::constant(t(&[2], &[3i64, 4]).into());
        let out = Where.infer(&InferCx { path: "", inputs: &[Some(&condition), Some(&a), Some(&b)], outputs: 1 }).unwrap();
        assert_eq!(out[0].int_dims(), Some(vec![n, Dim::from(4)]));
    }
}
