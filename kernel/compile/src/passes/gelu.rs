//! Recognises GELU as exporters spell it: x · ½ · (1 + erf(x / √2)), the factors in any order.

use super::{Rewrite, Rule, rewrite::other_operand};
use alloc::{sync::Arc, vec};
use core::f32::consts::{FRAC_1_SQRT_2, SQRT_2};
use millstream_graph::{NodeId, ValueId};
use millstream_ops::elementwise::{add::Add, div::Div, erf::Erf, gelu::Gelu, mul::Mul};

/// Replaces the five nodes around an `Erf` by one `Gelu`.
pub(crate) struct RecogniseGelu;

impl Rule for RecogniseGelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn apply(&self, node: NodeId, rewrite: &mut Rewrite<'_>) -> bool {
        let Some((x, result)) = find(rewrite) else { return false };
        let gelu = rewrite.add(node, "Gelu", Arc::new(Gelu { tanh: false }), vec![Some(x)]);
        rewrite.replace(result, gelu);
        true
    }
}

/// Input and result of the GELU around the `Erf` at which the rule looks.
fn find(rewrite: &Rewrite<'_>) -> Option<(ValueId, ValueId)> {
    let erf = rewrite.node().filter(|n| n.op.downcast_ref::<Erf>().is_some())?;
    let x = scaled(rewrite, erf.input(0)?)?;
    let (_, sum) = rewrite.only_reader(erf.output(0)?)?;
    let (_, one) = rewrite.with_scalar(sum).filter(|_| sum.op.downcast_ref::<Add>().is_some())?;
    if one != 1.0 {
        return None;
    }
    // What is left are two products, of the sum with x and ½ in either order, or with x · ½.
    let (_, first) = rewrite.only_reader(sum.output(0)?).filter(|(_, n)| n.op.downcast_ref::<Mul>().is_some())?;
    let other = other_operand(first, sum.output(0)?)?;
    let is_half = |v| rewrite.scalar_beside(v, x) == Some(0.5);
    if let Some((_, half_x, _)) = rewrite.producer::<Mul>(other)
        && rewrite.with_scalar(half_x) == Some((x, 0.5))
    {
        return Some((x, first.output(0)?));
    }
    let (_, second) = rewrite.only_reader(first.output(0)?).filter(|(_, n)| n.op.downcast_ref::<Mul>().is_some())?;
    let last = other_operand(second, first.output(0)?)?;
    ((other == x && is_half(last)) || (is_half(other) && last == x)).then_some((x, second.output(0)?))
}

/// The value of which this one is the √½-fold.
fn scaled(rewrite: &Rewrite<'_>, value: ValueId) -> Option<ValueId> {
    let near = |a: f32, b: f32| (a - b).abs() < 1e-5;
    let (_, node) = rewrite.graph().producer(value)?;
    let (x, c) = rewrite.with_scalar(node)?;
    let by_division = node.op.downcast_ref::<Div>().is_some() && near(c, SQRT_2) && node.input(0) == Some(x);
    let by_product = node.op.downcast_ref::<Mul>().is_some() && near(c, FRAC_1_SQRT_2);
    (by_division || by_product).then_some(x)
}
