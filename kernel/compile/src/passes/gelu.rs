//! Recognises GELU as exporters spell it, x · ½ · (1 + erf(x / √2)) or x · ½ · (1 + tanh(√(2/π) (x + 0.044715 x³))), the factors in any order.

use super::{Rewrite, Rule, rewrite::other_operand};
use alloc::{sync::Arc, vec};
use core::f32::consts::{FRAC_1_SQRT_2, SQRT_2};
use millstream_graph::{NodeId, ValueId};
use millstream_ops::elementwise::{add::Add, div::Div, erf::Erf, gelu::Gelu, mul::Mul, pow::Pow, tanh::Tanh};

/// Replaces the nodes around an `Erf` or a `Tanh` by one `Gelu`.
pub(crate) struct RecogniseGelu;

impl Rule for RecogniseGelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn apply(&self, node: NodeId, rewrite: &mut Rewrite<'_>) -> bool {
        let Some((x, result, tanh)) = find(rewrite) else { return false };
        let gelu = rewrite.add(node, "Gelu", Arc::new(Gelu { tanh }), vec![Some(x)]);
        rewrite.replace(result, gelu);
        true
    }
}

/// Input and result of the GELU around the node at which the rule looks, and whether it is the approximation by a tangent.
fn find(rewrite: &Rewrite<'_>) -> Option<(ValueId, ValueId, bool)> {
    let node = rewrite.node()?;
    let tanh = node.op.downcast_ref::<Tanh>().is_some();
    let x = match tanh {
        true => cubic(rewrite, node.input(0)?)?,
        false => scaled(rewrite, node.input(0).filter(|_| node.op.downcast_ref::<Erf>().is_some())?)?,
    };
    Some((x, gate(rewrite, node.output(0)?, x)?, tanh))
}

/// The result of x · ½ · (1 + `phi`).
fn gate(rewrite: &Rewrite<'_>, phi: ValueId, x: ValueId) -> Option<ValueId> {
    let (_, sum) = rewrite.only_reader(phi)?;
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
        return first.output(0);
    }
    let (_, second) = rewrite.only_reader(first.output(0)?).filter(|(_, n)| n.op.downcast_ref::<Mul>().is_some())?;
    let last = other_operand(second, first.output(0)?)?;
    ((other == x && is_half(last)) || (is_half(other) && last == x)).then_some(second.output(0)?)
}

/// The x of √(2/π) (x + 0.044715 x³).
fn cubic(rewrite: &Rewrite<'_>, value: ValueId) -> Option<ValueId> {
    let near = |a: f32, b: f32| (a - b).abs() < 1e-5;
    let (_, product, _) = rewrite.producer::<Mul>(value)?;
    let (sum, _) = rewrite.with_scalar(product).filter(|&(_, c)| near(c, 0.797_884_6))?;
    let (_, sum, _) = rewrite.producer::<Add>(sum)?;
    let (a, b) = (sum.input(0)?, sum.input(1)?);
    [(a, b), (b, a)].into_iter().find_map(|(x, term)| {
        let mut factors = Factors { scalar: 1.0, power: 0 };
        factors.take(rewrite, term, x, 8)?;
        (factors.power == 3 && near(factors.scalar, 0.044_715)).then_some(x)
    })
}

/// A product of constants and powers of one value.
struct Factors {
    scalar: f32,
    power: usize,
}

impl Factors {
    /// Multiplies with `value`, a product of at most some depth; `None` if anything but `x` and constants is in it.
    fn take(&mut self, rewrite: &Rewrite<'_>, value: ValueId, x: ValueId, depth: usize) -> Option<()> {
        if value == x {
            self.power += 1;
            return Some(());
        }
        if let Some(c) = rewrite.scalar_beside(value, x) {
            self.scalar *= c;
            return Some(());
        }
        let (_, node) = rewrite.graph().producer(value).filter(|_| depth > 0)?;
        if node.op.downcast_ref::<Pow>().is_some() && node.input(0) == Some(x) && rewrite.scalar_beside(node.input(1)?, x) == Some(3.0) {
            self.power += 3;
            return Some(());
        }
        node.op.downcast_ref::<Mul>()?;
        self.take(rewrite, node.input(0)?, x, depth - 1)?;
        self.take(rewrite, node.input(1)?, x, depth - 1)
    }
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
