//! Fuses what stands behind a product of bytes with constant weights into it: the cast of its sums to f32, their scale, and a bias.

use super::{Rewrite, Rule, rewrite::other_operand};
use alloc::{sync::Arc, vec::Vec};
use millstream_graph::{NodeId, Op, ValueId};
use millstream_ops::{
    elementwise::{add::Add, cast::Cast, mul::Mul},
    quantize::{fused_matmul_integer::FusedMatMulInteger, matmul_integer::MatMulInteger},
};
use millstream_tensor::DType;

/// Makes one operator of `MatMulInteger`, `Cast`, `Mul` and perhaps `Add`.
pub(crate) struct FuseDequantisation;

impl Rule for FuseDequantisation {
    fn name(&self) -> &'static str {
        "integer-product"
    }

    fn apply(&self, id: NodeId, rewrite: &mut Rewrite<'_>) -> bool {
        let Some((inputs, result)) = find(rewrite) else { return false };
        let new = rewrite.add(id, "FusedMatMulInteger", Arc::new(FusedMatMulInteger::default()), inputs);
        rewrite.replace(result, new);
        true
    }
}

/// The inputs of the fused operator, and the value that its result replaces.
fn find(rewrite: &Rewrite<'_>) -> Option<(Vec<Option<ValueId>>, ValueId)> {
    let node = rewrite.node()?;
    node.op.downcast_ref::<MatMulInteger>()?;
    rewrite.constant(node.input(1)?).filter(|b| b.shape().rank() == 2)?;
    let sums = node.output(0)?;
    let dims = &rewrite.graph().fact(sums)?.dims;
    let (_, cast) = rewrite.only_reader(sums)?;
    cast.op.downcast_ref::<Cast>().filter(|c| c.to == DType::F32)?;
    let (scale, scaled) = followed_by::<Mul>(rewrite, cast.output(0)?)?;
    // The scale is one element, or one for each column; it must not stretch the product.
    let fact = rewrite.graph().fact(scale).filter(|f| f.dtype == DType::F32)?;
    let one = fact.dims.iter().all(|d| d.as_const() == Some(1)) && fact.rank() <= dims.len();
    let each = fact.rank() == 1 && fact.dims.last() == dims.last();
    if !(one || each) {
        return None;
    }
    let mut inputs = node.inputs.clone();
    inputs.resize(4, None);
    inputs.push(Some(scale));
    match followed_by::<Add>(rewrite, scaled) {
        Some((bias, sum)) if is_vector(rewrite, bias, dims.last()) => {
            inputs.push(Some(bias));
            Some((inputs, sum))
        }
        _ => Some((inputs, scaled)),
    }
}

/// For a value that one `T` alone reads: the other operand, and the result.
fn followed_by<T: Op>(rewrite: &Rewrite<'_>, value: ValueId) -> Option<(ValueId, ValueId)> {
    let (_, next) = rewrite.only_reader(value).filter(|(_, n)| n.op.downcast_ref::<T>().is_some())?;
    Some((other_operand(next, value)?, next.output(0)?))
}

/// True for a constant of one f32 for each column.
fn is_vector(rewrite: &Rewrite<'_>, value: ValueId, columns: Option<&millstream_graph::Dim>) -> bool {
    rewrite.graph().fact(value).is_some_and(|f| f.as_const().is_some() && f.dtype == DType::F32 && f.rank() == 1 && f.dims.last() == columns)
}
