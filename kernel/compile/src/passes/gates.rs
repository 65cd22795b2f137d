//! Recognises gates as exporters spell them: HardSigmoid, HardSwish and SiLU.

use super::{Rewrite, Rule, rewrite::other_operand};
use alloc::{sync::Arc, vec};
use millstream_graph::{Node, NodeId, Op, ValueId};
use millstream_ops::elementwise::{add::Add, clip::Clip, div::Div, hard_sigmoid::HardSigmoid, hard_swish::HardSwish, mul::Mul, sigmoid::Sigmoid, swish::Swish};

/// clip(x + 3, 0, 6) / 6 becomes `HardSigmoid`, and with x times it in any order, `HardSwish`.
pub(crate) struct RecogniseHardSwish;

impl Rule for RecogniseHardSwish {
    fn name(&self) -> &'static str {
        "hard-swish"
    }

    fn apply(&self, node: NodeId, rewrite: &mut Rewrite<'_>) -> bool {
        let Some((x, result, gated)) = from_clip(rewrite).or_else(|| from_hard_sigmoid(rewrite)) else { return false };
        let new = if gated {
            rewrite.add(node, "HardSwish", Arc::new(HardSwish), vec![Some(x)])
        } else {
            rewrite.add(node, "HardSigmoid", Arc::new(HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }), vec![Some(x)])
        };
        rewrite.replace(result, new);
        true
    }
}

/// Input, result, and whether the result is gated, of the expression around a `Clip`.
fn from_clip(rewrite: &Rewrite<'_>) -> Option<(ValueId, ValueId, bool)> {
    let clip = rewrite.node()?;
    let fact = |i| clip.input(i).and_then(|v| rewrite.graph().fact(v));
    if clip.op.downcast_ref::<Clip>()?.bounds(fact(1), fact(2))? != (0.0, 6.0) {
        return None;
    }
    let (_, sum, _) = rewrite.producer::<Add>(clip.input(0)?)?;
    let (x, _) = rewrite.with_scalar(sum).filter(|&(_, c)| c == 3.0)?;
    let (_, next) = rewrite.only_reader(clip.output(0)?)?;
    if is_sixth(rewrite, next, clip.output(0)?) {
        return Some((x, next.output(0)?, false));
    }
    if next.op.downcast_ref::<Mul>().is_some() && other_operand(next, clip.output(0)?)? == x {
        let (_, last) = rewrite.only_reader(next.output(0)?)?;
        return is_sixth(rewrite, last, next.output(0)?).then_some((x, last.output(0)?, true));
    }
    None
}

/// The same, around a `HardSigmoid` of the gate's slope.
fn from_hard_sigmoid(rewrite: &Rewrite<'_>) -> Option<(ValueId, ValueId, bool)> {
    let node = rewrite.node()?;
    let gate = node.op.downcast_ref::<HardSigmoid>()?;
    if (gate.alpha - 1.0 / 6.0).abs() > 1e-6 || gate.beta != 0.5 {
        return None;
    }
    let (_, product) = rewrite.only_reader(node.output(0)?).filter(|(_, n)| n.op.downcast_ref::<Mul>().is_some())?;
    (other_operand(product, node.output(0)?)? == node.input(0)?).then_some((node.input(0)?, product.output(0)?, true))
}

/// True if the node divides `value` by six.
fn is_sixth(rewrite: &Rewrite<'_>, node: &Node, value: ValueId) -> bool {
    let Some((x, c)) = rewrite.with_scalar(node).filter(|&(x, _)| x == value) else { return false };
    (node.op.downcast_ref::<Div>().is_some() && c == 6.0 && node.input(0) == Some(x)) || (is::<Mul>(node) && (c - 1.0 / 6.0).abs() < 1e-6)
}

fn is<T: Op>(node: &Node) -> bool {
    node.op.downcast_ref::<T>().is_some()
}

/// x · sigmoid(x) becomes `Swish`.
pub(crate) struct RecogniseSilu;

impl Rule for RecogniseSilu {
    fn name(&self) -> &'static str {
        "silu"
    }

    fn apply(&self, id: NodeId, rewrite: &mut Rewrite<'_>) -> bool {
        let found = || {
            let node = rewrite.node().filter(|n| is::<Sigmoid>(n))?;
            let (_, product) = rewrite.only_reader(node.output(0)?).filter(|(_, n)| is::<Mul>(n))?;
            let x = node.input(0)?;
            (other_operand(product, node.output(0)?)? == x).then_some((x, product.output(0)?))
        };
        let Some((x, result)) = found() else { return false };
        let swish = rewrite.add(id, "Swish", Arc::new(Swish { alpha: 1.0 }), vec![Some(x)]);
        rewrite.replace(result, swish);
        true
    }
}
