//! `OneHot`: a new axis of `depth` elements, `on` at the index that the input gives and `off` elsewhere.

use crate::movement::typed::by_width;
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::{DType, Tensor, TensorView, Value};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "OneHot",
    since: &[9, 11],
    inputs: Arity::exactly(3),
    outputs: Arity::exactly(1),
    attributes: &["axis"],
    subgraphs: &[],
    dtypes: "indices and depth: numbers; values: any but string",
    build: |cx: &BuildCx<'_>| Ok(Box::new(OneHot { axis: cx.attributes.int_or("axis", -1)? })),
};

/// An axis with one element set.
#[derive(Debug, Clone, Copy)]
pub struct OneHot {
    axis: i64,
}

/// The elements as integers; fractions are cut off.
fn truncated(t: TensorView<'_>) -> Result<Vec<i64>, EvalError> {
    Ok(match t.dtype() {
        DType::I64 => t.typed::<i64>()?.to_vec(),
        DType::U64 => t.typed::<u64>()?.iter().map(|x| i64::try_from(x).unwrap_or(i64::MAX)).collect(),
        DType::F32 => t.typed::<f32>()?.iter().map(|x| x as i64).collect(),
        DType::F64 => t.typed::<f64>()?.iter().map(|x| x as i64).collect(),
        DType::F16 => t.typed::<half::f16>()?.iter().map(|x| x.to_f32() as i64).collect(),
        DType::BF16 => t.typed::<half::bf16>()?.iter().map(|x| x.to_f32() as i64).collect(),
        DType::I32 => t.typed::<i32>()?.iter().map(i64::from).collect(),
        DType::U32 => t.typed::<u32>()?.iter().map(i64::from).collect(),
        DType::I16 => t.typed::<i16>()?.iter().map(i64::from).collect(),
        DType::U16 => t.typed::<u16>()?.iter().map(i64::from).collect(),
        DType::I8 => t.typed::<i8>()?.iter().map(i64::from).collect(),
        DType::U8 => t.typed::<u8>()?.iter().map(i64::from).collect(),
        other => return Err(EvalError::DType(other)),
    })
}

impl Op for OneHot {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (x, values) = (cx.input(0)?, cx.input(2)?);
        let axis = InferCx::axis(self.axis, x.rank() + 1)?;
        let depth = match cx.input(1)?.int_dims().as_deref() {
            Some([d]) => d.clone(),
            _ => {
                let depth = cx.input(1)?.as_const().ok_or(InferError::NeedsValue(1))?.to_tensor()?;
                let depth = truncated(depth.view()).ok().and_then(|d| d.first().copied());
                Dim::from(depth.filter(|&d| d >= 0).ok_or(InferError::Invalid("the depth is no positive number"))?)
            }
        };
        let mut dims = x.dims.clone();
        dims.insert(axis, depth);
        Ok(vec![Fact::new(values.dtype, dims)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        if !cx.wants(0) {
            return Ok(());
        }
        let x = *cx.spec(0).ok_or(EvalError::MissingInput(0))?.shape();
        let axis = InferCx::axis(self.axis, x.rank() + 1)?;
        let depth = truncated(cx.tensor(1)?)?.first().copied().and_then(|d| usize::try_from(d).ok());
        let depth = depth.ok_or(EvalError::Invalid("the depth is no positive number"))?;
        let (at, values) = (truncated(cx.tensor(0)?)?, cx.tensor(2)?);
        let mut dims = x.to_vec();
        dims.insert(axis, depth);
        let inner: usize = x[axis..].iter().product();
        by_width!(values.dtype(), W => {
            let &[off, on] = values.words::<W>()? else { return Err(EvalError::Invalid("there must be two values, off and on")) };
            let set = |to: &mut [W]| {
                to.fill(off);
                for (n, &i) in at.iter().enumerate() {
                    let i = if i < 0 { i.saturating_add(depth as i64) } else { i };
                    if let Some(i) = usize::try_from(i).ok().filter(|&i| i < depth)
                        && let Some(to) = to.get_mut((n / inner * depth + i) * inner + n % inner)
                    {
                        *to = on;
                    }
                }
            };
            if cx.output_spec(0).is_some() {
                set(cx.output_tensor(0)?.into_words::<W>()?);
            } else {
                let mut out = Tensor::zeros(values.dtype(), &dims)?;
                set(out.view_mut()?.into_words::<W>()?);
                cx.set_value(0, Value::Tensor(out))?;
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random_ints, t};

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let axis = case.int_or("axis", -1);
        let axis = if axis < 0 { axis + x.shape().rank() as i64 + 1 } else { axis } as usize;
        let depth = truncated(case.tensor(1).view()).unwrap()[0];
        let values = case.tensor(2).as_slice::<i32>().unwrap();
        let mut dims = x.shape().to_vec();
        dims.insert(axis, depth as usize);
        let inner: usize = dims[axis + 1..].iter().product();
        let at = truncated(x.view()).unwrap();
        let out: Vec<i32> = (0..dims.iter().product::<usize>())
            .map(|n| {
                let i = at[n / inner / depth as usize * inner + n % inner];
                values[usize::from((if i < 0 { i + depth } else { i }) == (n / inner) as i64 % depth)]
            })
            .collect();
        vec![t(&dims, &out)]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        last => Case::new([random_ints(&[2, 3], -7, 7, 1), t(&[], &[5i64]), t(&[2], &[3i32, 9])]);
        first => Case::new([random_ints(&[2, 3], 0, 5, 1), t(&[1], &[5.0f32]), t(&[2], &[0i32, 1])]).int("axis", 0);
        middle => Case::new([t(&[2, 2], &[0.0f32, 3.0, 1.0, 9.0]), t(&[], &[4i32]), t(&[2], &[0i32, 1])]).int("axis", 1);
        empty => Case::new([random_ints(&[0, 3], 0, 5, 1), t(&[1], &[5i64]), t(&[2], &[0i32, 1])]);
    }

    #[test]
    fn only_numbers_are_indices() {
        let strings = Tensor::from_strings(&[1], vec!["a".into()]).unwrap();
        assert!(truncated(strings.view()).is_err());
    }
}
