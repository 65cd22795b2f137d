//! Fuses what stands behind a product of bytes with constant weights into it: the cast of its sums to f32, their scale, and a bias.

use super::{Rewrite, Rule};
use alloc::{sync::Arc, vec::Vec};
use millstream_graph::{NodeId, ValueId};
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
    rewrite.weight(node.input(1)?).filter(|b| b.shape().rank() == 2)?;
    let sums = node.output(0)?;
    let dims = &rewrite.graph().fact(sums)?.dims;
    let (_, cast) = rewrite.only_reader(sums)?;
    cast.op.downcast_ref::<Cast>().filter(|c| c.to == DType::F32)?;
    let (scale, scaled) = rewrite.followed_by::<Mul>(cast.output(0)?)?;
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
    let bias = rewrite.followed_by_vector::<Add>(scaled);
    inputs.extend(bias.map(|(bias, _)| Some(bias)));
    Some((inputs, bias.map_or(scaled, |(_, sum)| sum)))
}
