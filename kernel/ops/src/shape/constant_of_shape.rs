//! `ConstantOfShape`: one value, in the shape that the input's elements give.

use crate::grains;
use alloc::{boxed::Box, format, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::{DType, Tensor, TensorViewMut, Value, Word, tile::Tiles};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "ConstantOfShape",
    since: &[9, 20, 21, 23, 24, 25],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["value"],
    subgraphs: &[],
    dtypes: "any but string",
    build: |cx: &BuildCx<'_>| {
        let value = match cx.attributes.tensor("value")? {
            Some(t) if t.shape().elements() == 1 && t.dtype() != DType::String => t.clone(),
            Some(t) => return Err(BuildError::UnsupportedAttribute { name: "value", value: format!("{} {}", t.dtype(), t.shape()) }),
            None => Tensor::scalar(0.0f32)?,
        };
        Ok(Box::new(ConstantOfShape { value }))
    },
};

/// One value in a shape known by its elements.
#[derive(Debug, Clone)]
pub struct ConstantOfShape {
    value: Tensor,
}

impl Op for ConstantOfShape {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let dims = cx.int_dims(0)?;
        if dims.iter().any(|d| d.as_const().is_some_and(|d| d < 0)) {
            return Err(InferError::Invalid("a dim of the shape is negative"));
        }
        if let [n] = &dims[..]
            && let (Some(n @ 0..64), Some([v])) = (n.as_const(), Fact::constant(self.value.clone().into()).int_dims().as_deref())
        {
            return Ok(vec![Fact::of_dims(self.value.dtype(), vec![v.clone(); n as usize], false)]);
        }
        Ok(vec![Fact::new(self.value.dtype(), dims)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        if !cx.wants(0) {
            return Ok(());
        }
        if cx.output_spec(0).is_some() {
            let to = cx.output_tensor(0)?;
            return fill(cx, &self.value, to);
        }
        let dims: Option<Vec<usize>> = cx.input::<i64>(0)?.iter().map(|d| usize::try_from(d).ok()).collect();
        let mut out = Tensor::zeros(self.value.dtype(), &dims.ok_or(EvalError::Invalid("a dim of the shape is negative"))?)?;
        fill(cx, &self.value, out.view_mut()?)?;
        cx.set_value(0, Value::Tensor(out))
    }
}

/// Sets every element to `value`'s only one.
pub(crate) fn fill(cx: &EvalCx<'_>, value: &Tensor, to: TensorViewMut<'_>) -> Result<(), EvalError> {
    match value.dtype().size() {
        1 => fill_words::<u8>(cx, value, to),
        2 => fill_words::<u16>(cx, value, to),
        4 => fill_words::<u32>(cx, value, to),
        8 => fill_words::<u64>(cx, value, to),
        _ => Err(EvalError::DType(value.dtype())),
    }
}

fn fill_words<W: Word>(cx: &EvalCx<'_>, value: &Tensor, to: TensorViewMut<'_>) -> Result<(), EvalError> {
    let word = *value.view().words::<W>()?.first().ok_or(EvalError::Invalid("the value has no element"))?;
    let to = to.into_words::<W>()?;
    let chunk = grains::chunk(to.len(), 1);
    let tiles = Tiles::chunks(to, chunk).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        tiles.claim(grain)?.as_slice()?.fill(word);
        Some(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, t};
    use millstream_graph::Attribute;
    use millstream_tensor::Bool;

    fn reference(case: &Case) -> Vec<Tensor> {
        let dims: Vec<usize> = case.tensor(0).as_slice::<i64>().unwrap().iter().map(|&d| d as usize).collect();
        let value = case.attributes.tensor("value").unwrap().cloned().unwrap_or(t(&[], &[0.0f32]));
        let bytes = value.view().bytes().unwrap().repeat(dims.iter().product());
        vec![Tensor::from_bytes(value.dtype(), &dims, &bytes).unwrap()]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        zeros => Case::new([t(&[2], &[3i64, 4])]);
        ones => Case::new([t(&[3], &[30i64, 40, 50])]).attr("value", Attribute::Tensor(t(&[1], &[1i64])));
        known => Case::new([t(&[1], &[3i64])]).attr("value", Attribute::Tensor(t(&[1], &[5i64])));
        flags => Case::new([t(&[1], &[3i64])]).attr("value", Attribute::Tensor(t(&[1], &[Bool::from(true)])));
        halves => Case::new([t(&[1], &[3i64])]).attr("value", Attribute::Tensor(t(&[], &[7u16])));
        scalar => Case::new([t::<i64>(&[0], &[])]);
        empty => Case::new([t(&[2], &[0i64, 4])]);
    }
}
