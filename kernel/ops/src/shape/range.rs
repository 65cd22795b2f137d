//! `Range`: `start, start + delta, …` while below `limit` (above it for a negative delta).

use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::{DType, Element, Tensor, TensorView, Value};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Range",
    since: &[11],
    inputs: Arity::exactly(3),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "f32, f64, i16, i32, i64",
    build: |_: &BuildCx<'_>| Ok(Box::new(Range)),
};

/// Equally spaced numbers.
#[derive(Debug, Clone, Copy)]
pub struct Range;

/// Elements of a range are kept as expressions up to this many.
const KNOWN: i64 = 64;

/// A number that a range is made of.
trait Number: Element {
    fn count(start: Self, limit: Self, delta: Self) -> Option<usize>;
    fn nth(start: Self, delta: Self, i: usize) -> Self;
}

macro_rules! number {
    (float $($t:ty),*) => { $( impl Number for $t {
        fn count(start: $t, limit: $t, delta: $t) -> Option<usize> {
            let n = libm::ceil((f64::from(limit) - f64::from(start)) / f64::from(delta));
            (n < 9e15 && delta != 0.0).then_some(n.max(0.0) as usize)
        }
        fn nth(start: $t, delta: $t, i: usize) -> $t {
            start + delta * i as $t
        }
    } )* };
    (int $($t:ty),*) => { $( impl Number for $t {
        fn count(start: $t, limit: $t, delta: $t) -> Option<usize> {
            let (span, step) = (i128::from(limit) - i128::from(start), i128::from(delta));
            if step == 0 {
                return None;
            }
            let (span, step) = if step < 0 { (-span, -step) } else { (span, step) };
            usize::try_from((span.max(0) + step - 1) / step).ok()
        }
        fn nth(start: $t, delta: $t, i: usize) -> $t {
            start.wrapping_add(delta.wrapping_mul(i as $t))
        }
    } )* };
}
number!(float f32, f64);
number!(int i16, i32, i64);

macro_rules! by_type {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $t = f32;
                $body
            }
            DType::F64 => {
                type $t = f64;
                $body
            }
            DType::I16 => {
                type $t = i16;
                $body
            }
            DType::I32 => {
                type $t = i32;
                $body
            }
            DType::I64 => {
                type $t = i64;
                $body
            }
            other => return Err(EvalError::DType(other)),
        }
    };
}

fn one<T: Element>(t: TensorView<'_>) -> Result<T, EvalError> {
    t.typed::<T>()?.iter().next().ok_or(EvalError::Invalid("a range needs scalars"))
}

fn count(views: [TensorView<'_>; 3]) -> Result<usize, EvalError> {
    let n = by_type!(views[0].dtype(), T => T::count(one::<T>(views[0])?, one::<T>(views[1])?, one::<T>(views[2])?));
    n.ok_or(EvalError::Invalid("the range does not end"))
}

impl Op for Range {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let dtype = cx.input(0)?.dtype;
        if matches!(dtype, DType::I32 | DType::I64) {
            let scalar = |i: usize| cx.int_dims(i)?.into_iter().next().ok_or(InferError::Invalid("a range needs scalars"));
            let (start, limit, delta) = (scalar(0)?, scalar(1)?, scalar(2)?);
            let step = delta.as_const().ok_or(InferError::NeedsValue(2))?;
            let n = match step {
                0 => return Err(InferError::Invalid("the range does not end")),
                1.. => limit.sub(&start).div_ceil(&delta),
                _ => start.sub(&limit).div_ceil(&Dim::from(0).sub(&delta)),
            };
            return Ok(vec![match n.as_const() {
                Some(n @ ..=KNOWN) => Fact::of_dims(dtype, (0..n).map(|i| start.add(&delta.mul(&Dim::from(i)))).collect(), false),
                _ => Fact::new(dtype, vec![n]),
            }]);
        }
        let weight = |i: usize| cx.input(i)?.as_const().ok_or(InferError::NeedsValue(i))?.to_tensor().map_err(InferError::from);
        let (start, limit, delta) = (weight(0)?, weight(1)?, weight(2)?);
        let n = count([start.view(), limit.view(), delta.view()]).map_err(|_| InferError::Invalid("the range does not end, or is of a type without ranges"))?;
        Ok(vec![Fact::new(dtype, vec![Dim::from(n)])])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        if !cx.wants(0) {
            return Ok(());
        }
        let (start, limit, delta) = (cx.tensor(0)?, cx.tensor(1)?, cx.tensor(2)?);
        let n = count([start, limit, delta])?;
        by_type!(start.dtype(), T => {
            let (start, delta) = (one::<T>(start)?, one::<T>(delta)?);
            let values = (0..n).map(|i| T::nth(start, delta, i));
            if let Some(spec) = cx.output_spec(0) {
                if spec.shape().dims() != [n] {
                    return Err(EvalError::Output(0));
                }
                cx.output::<T>(0)?.fill_from(values);
            } else {
                let mut out = Tensor::zeros(T::DTYPE, &[n])?;
                out.view_mut()?.typed::<T>()?.fill_from(values);
                cx.set_value(0, Value::Tensor(out))?;
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, t};
    use millstream_graph::Symbol;

    fn reference(case: &Case) -> Vec<Tensor> {
        macro_rules! steps {
            ($t:ty) => {{
                let v = |i: usize| case.tensor(i).as_slice::<$t>().unwrap()[0];
                let zero = <$t>::default();
                let mut out: Vec<$t> = vec![];
                let mut x = v(0);
                while (v(2) > zero && x < v(1)) || (v(2) < zero && x > v(1)) {
                    out.push(x);
                    x += v(2);
                }
                vec![t(&[out.len()], &out)]
            }};
        }
        match case.tensor(0).dtype() {
            DType::F32 => steps!(f32),
            DType::F64 => steps!(f64),
            DType::I16 => steps!(i16),
            DType::I32 => steps!(i32),
            _ => steps!(i64),
        }
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        floats => Case::new([t(&[], &[1.0f32]), t(&[], &[5.25f32]), t(&[], &[0.5f32])]);
        doubles => Case::new([t(&[], &[1.0f64]), t(&[], &[5.25f64]), t(&[], &[0.5f64])]);
        down => Case::new([t(&[], &[10i64]), t(&[], &[3i64]), t(&[], &[-2i64])]);
        small => Case::new([t(&[], &[10i16]), t(&[], &[30i16]), t(&[], &[3i16])]);
        long => Case::new([t(&[], &[0i32]), t(&[], &[1000i32]), t(&[], &[3i32])]);
        empty => Case::new([t(&[], &[0i64]), t(&[], &[-3i64]), t(&[], &[1i64])]);
    }

    #[test]
    fn a_symbolic_limit_gives_a_symbolic_length() {
        let n = Dim::symbol(Symbol::new("n"));
        let scalar = |d: Dim| Fact::of_dims(DType::I64, vec![d], true);
        let facts = [scalar(Dim::from(0)), scalar(n.clone()), scalar(Dim::from(1))];
        let refs: Vec<Option<&Fact>> = facts.iter().map(Some).collect();
        let out = Range.infer(&InferCx { path: "x", inputs: &refs, outputs: 1 }).unwrap();
        assert_eq!(out[0].dims, [n]);
    }
}
