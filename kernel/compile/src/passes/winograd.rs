//! 3 × 3 convolutions run by Winograd's algorithm where it pays: a quarter of the multiplications for four times the memory of the weights.
//!
//! Results differ from the exact ones by some 1e-6 of the greatest one; without this rule they are plain sums of products.

use super::{Rewrite, Rule};
use alloc::{sync::Arc, vec::Vec};
use millstream_graph::NodeId;
use millstream_ops::conv::conv::Conv;
use millstream_tensor::DType;

/// Chooses the algorithm of a convolution with constant weights.
pub(crate) struct ChooseWinograd;

impl Rule for ChooseWinograd {
    fn name(&self) -> &'static str {
        "winograd"
    }

    fn apply(&self, id: NodeId, rewrite: &mut Rewrite<'_>) -> bool {
        let found = || {
            let node = rewrite.node()?;
            let conv = node.op.downcast_ref::<Conv>()?;
            let (weights, y) = (node.input(1)?, node.output(0)?);
            let constant = rewrite.graph().fact(weights)?.as_const().filter(|c| c.dtype() == DType::F32)?;
            let output: Option<Vec<usize>> = rewrite.graph().fact(y)?.dims.get(2..)?.iter().map(|d| d.as_extent()).collect();
            Some((conv.with_winograd(constant.shape(), output.as_deref())?, node.inputs.clone(), y))
        };
        let Some((conv, inputs, y)) = found() else { return false };
        let new = rewrite.add(id, "FusedConv", Arc::new(conv), inputs);
        rewrite.replace(y, new);
        true
    }
}
