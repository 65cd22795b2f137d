//! `millstream.FusedAttention`: `softmax(scale · Q·Kᵀ + mask) · V` over stacks of heads, where the operands and the output are seen
//! through permutations of their axes, so that projections are read and written as they lie. The matrix of scores is never stored.
//!
//! Inputs: Q `[.., L, depth]`, K `[.., S, depth]`, V `[.., S, width]` (each after its permutation), and perhaps a mask that
//! broadcasts to `[.., L, S]`, added to the scores. A single key stands for as many as the mask has.

use super::heads::{Heads, Layouts, Operands, Rules};
use crate::conv::geometry::positive;
use alloc::{boxed::Box, string::String, vec, vec::Vec};
use millstream_gemm::{KeyWindow, MaskElements};
use millstream_graph::{Arity, BuildCx, BuildError, Cost, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, Scratch, StepCx};
use millstream_tensor::{DType, Layout, MAX_RANK, Order};
use smallvec::SmallVec;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "millstream",
    name: "FusedAttention",
    since: &[1],
    inputs: Arity::range(3, 4),
    outputs: Arity::exactly(1),
    attributes: &["perm_q", "perm_k", "perm_v", "perm_y", "scale"],
    subgraphs: &[],
    dtypes: "f32",
    build,
};

fn build(cx: &BuildCx<'_>) -> Result<Box<dyn Op>, BuildError> {
    let perm = |name| -> Result<Vec<usize>, BuildError> {
        let perm = positive(cx, name, 0)?;
        match Order::from_axes(&perm) {
            Some(_) => Ok(perm),
            None => Err(BuildError::UnsupportedAttribute { name, value: alloc::format!("{perm:?}") }),
        }
    };
    let op =
        FusedAttention { perms: [perm("perm_q")?, perm("perm_k")?, perm("perm_v")?], perm_y: perm("perm_y")?, scale: cx.attributes.float_or("scale", 1.0)? };
    if op.perm_y.last().is_some_and(|&p| p + 1 != op.perm_y.len()) {
        return Err(BuildError::UnsupportedAttribute { name: "perm_y", value: alloc::format!("{:?}", op.perm_y) });
    }
    Ok(Box::new(op))
}

/// `softmax(scale · Q·Kᵀ + mask) · V`.
#[derive(Debug, Clone, PartialEq)]
pub struct FusedAttention {
    /// For Q, K and V the axes in the order in which attention sees them; empty for as they are.
    perms: [Vec<usize>; 3],
    /// Axes of the result in the order of the output; the columns stay innermost.
    perm_y: Vec<usize>,
    scale: f32,
}

impl FusedAttention {
    /// Attention whose operands and result are permuted so, empty for not at all. `None` if an order is no permutation or the
    /// result's columns do not stay innermost.
    pub fn new(perms: [&[usize]; 3], perm_y: &[usize], scale: f32) -> Option<FusedAttention> {
        let valid = perms.iter().chain([&perm_y]).all(|p| Order::from_axes(p).is_some());
        let innermost = perm_y.last().is_none_or(|&p| p + 1 == perm_y.len());
        (valid && innermost).then(|| FusedAttention { perms: perms.map(<[usize]>::to_vec), perm_y: perm_y.to_vec(), scale })
    }

    /// For Q, K and V the axes in the order in which attention sees them, and the axes of the result in the order of the output;
    /// empty for as they are.
    pub fn permutations(&self) -> ([&[usize]; 3], &[usize]) {
        (self.perms.each_ref().map(Vec::as_slice), &self.perm_y)
    }

    /// The factor of scores.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    fn heads(&self, inputs: [&Layout; 3], mask: Option<&Layout>, y: &Layout) -> Result<Heads, EvalError> {
        let mut seen = [*inputs[0], *inputs[1], *inputs[2]];
        for (layout, perm) in seen.iter_mut().zip(&self.perms) {
            *layout = permuted(layout, perm)?;
        }
        let inverse: SmallVec<[usize; MAX_RANK]> = (0..self.perm_y.len()).filter_map(|i| self.perm_y.iter().position(|&p| p == i)).collect();
        // A single key stands for as many as the mask has; a mask of one key counts for all.
        let keys = [&seen[1], &seen[2]].into_iter().map(|l| l.shape().iter().rev().nth(1).copied().unwrap_or(1)).find(|&keys| keys != 1).unwrap_or(1);
        let mask = mask.map(|m| (*m, m.shape().last().copied().filter(|_| keys == 1).unwrap_or(keys)));
        Heads::new(&Layouts { q: seen[0], k: seen[1], v: seen[2], y: permuted(y, &inverse)?, mask, group: 1 })
    }

    fn step(&self, cx: &StepCx<'_>) -> Result<Heads, EvalError> {
        let optional = |i: usize| cx.inputs.get(i).and_then(|s| s.as_ref()).map(|s| &s.layout);
        let layout = |i: usize| optional(i).ok_or(EvalError::MissingInput(i));
        let y = &cx.outputs.first().ok_or(EvalError::Output(0))?.layout;
        self.heads([layout(0)?, layout(1)?, layout(2)?], optional(3), y)
    }
}

fn permuted(layout: &Layout, perm: &[usize]) -> Result<Layout, EvalError> {
    match perm {
        [] => Ok(*layout),
        _ if perm.len() == layout.shape().rank() => Ok(layout.permuted(perm)),
        _ => Err(EvalError::Invalid("a permutation does not fit its operand")),
    }
}

fn permuted_dims(input: usize, dims: &[Dim], perm: &[usize]) -> Result<Vec<Dim>, InferError> {
    match perm {
        [] => Ok(dims.to_vec()),
        _ if perm.len() == dims.len() => Ok(perm.iter().map(|&i| dims[i].clone()).collect()),
        _ => Err(InferError::Rank { input, found: dims.len(), wanted: "the rank of its permutation is expected" }),
    }
}

impl Op for FusedAttention {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let q = cx.input(0)?;
        if q.dtype != DType::F32 {
            return Err(InferError::DType { input: 0, found: q.dtype });
        }
        let mut seen = Vec::with_capacity(3);
        for i in 0..3 {
            let fact = cx.input(i)?;
            if fact.dtype != q.dtype {
                return Err(InferError::DType { input: i, found: fact.dtype });
            }
            if fact.rank() != q.rank() || fact.rank() < 2 {
                return Err(InferError::Rank { input: i, found: fact.rank(), wanted: "the rank of the others, at least 2, is expected" });
            }
            seen.push(permuted_dims(i, &fact.dims, &self.perms[i])?);
        }
        let depth = q.rank() - 2;
        let (q, k, v) = (&seen[0], &seen[1], &seen[2]);
        if let (Some(a), Some(b)) = (q[depth + 1].as_const(), k[depth + 1].as_const())
            && a != b
        {
            return Err(InferError::Mismatch { what: "depths of queries and keys", left: alloc::format!("{a}"), right: alloc::format!("{b}") });
        }
        cx.broadcast(&k[depth..depth + 1], &v[depth..depth + 1])?;
        let mut rows = cx.broadcast(&cx.broadcast(&q[..depth], &k[..depth])?, &v[..depth])?;
        rows.push(q[depth].clone());
        if let Some(mask) = cx.optional(3) {
            if mask.dtype != DType::F32 {
                return Err(InferError::DType { input: 3, found: mask.dtype });
            }
            if mask.rank() > depth + 2 {
                return Err(InferError::Rank { input: 3, found: mask.rank(), wanted: "at most the rank of the scores is expected" });
            }
            rows = cx.broadcast(&rows, &mask.dims[..mask.rank().saturating_sub(1)])?;
        }
        rows.push(v[depth + 1].clone());
        Ok(vec![Fact::new(DType::F32, permuted_dims(0, &rows, &self.perm_y)?)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let (q, k, v, mask) = (cx.input::<f32>(0)?, cx.input::<f32>(1)?, cx.input::<f32>(2)?, cx.optional::<f32>(3)?);
        let y = cx.output::<f32>(0)?;
        let heads = self.heads([q.layout(), k.layout(), v.layout()], mask.as_ref().map(|m| m.layout()), y.layout())?;
        let operands = Operands { q: q.data(), k: k.data(), v: v.data(), mask: mask.map(|m| MaskElements::Added(m.data())) };
        let window = |_| KeyWindow::all(heads.keys());
        heads.run(cx, &operands, &Rules { scale: self.scale, cap: 0.0, blind_is_zero: false, window }, y.into_data())
    }

    fn scratch(&self, cx: &StepCx<'_>) -> Scratch {
        self.step(cx).map(|h| h.scratch(cx.level)).unwrap_or_default()
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        let y = Order::row_major(cx.outputs.first()?.shape().rank());
        let mut wanted = inputs.to_vec();
        if let Some(order) = wanted.get_mut(3) {
            *order = cx.input_shape(3).map(|s| Order::row_major(s.rank()));
        }
        Some(Permutation { inputs: wanted, outputs: vec![y] })
    }

    fn cost(&self, cx: &StepCx<'_>) -> Cost {
        let base = cx.elementwise_cost();
        Cost { flops: self.step(cx).map_or(base.flops, |h| h.flops()), ..base }
    }

    fn kernel(&self, cx: &StepCx<'_>) -> String {
        alloc::format!("attention-rows-{}", cx.level.vectors())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::oracle::{matmul, transpose};
    use crate::testing::{Case, Tolerance, random, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let perm = |x: &Tensor, name: &str| match case.attributes.ints(name).unwrap() {
            Some(p) => transpose(x, &p.iter().map(|&i| i as usize).collect::<Vec<_>>()),
            None => x.clone(),
        };
        let (q, k, v) = (perm(case.tensor(0), "perm_q"), perm(case.tensor(1), "perm_k"), perm(case.tensor(2), "perm_v"));
        let rank = k.shape().rank();
        let mut swap: Vec<usize> = (0..rank).collect();
        swap.swap(rank - 2, rank - 1);
        let scores = matmul(&q, &transpose(&k, &swap));
        let scale = case.float_or("scale", 1.0);
        let mut scores = t(scores.shape(), &scores.as_slice::<f32>().unwrap().iter().map(|x| (f64::from(*x) * scale) as f32).collect::<Vec<_>>());
        if let Some(mask) = case.optional(3) {
            let layout = Layout::row_major(*mask.shape()).broadcast_to(*scores.shape()).unwrap();
            let mask = mask.as_slice::<f32>().unwrap();
            let sums: Vec<f32> = scores.as_slice::<f32>().unwrap().iter().zip(layout.offsets()).map(|(s, at)| s + mask[at]).collect();
            scores = t(scores.shape(), &sums);
        }
        let keys = *scores.shape().last().unwrap();
        let mut weights = scores.as_slice::<f32>().unwrap().to_vec();
        for row in weights.chunks_exact_mut(keys.max(1)) {
            let greatest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|x| f64::from(x - greatest).exp()).sum();
            row.iter_mut().for_each(|x| *x = (f64::from(*x - greatest).exp() / sum) as f32);
        }
        vec![perm(&matmul(&t(scores.shape(), &weights), &v), "perm_y")]
    }

    /// Queries, keys and values of one kind of dims.
    fn case(q: &[usize], k: &[usize], v: &[usize]) -> Case {
        Case::new([random(q, 1), random(k, 2), random(v, 3)]).float("scale", 0.4)
    }

    /// As projections leave them: `[batch, length, heads, depth]`.
    fn projected(batch: usize, l: usize, s: usize, heads: usize, depth: usize) -> Case {
        let swap = &[0, 2, 1, 3];
        let case = case(&[batch, l, heads, depth], &[batch, s, heads, depth], &[batch, s, heads, depth]);
        case.ints("perm_q", swap).ints("perm_k", swap).ints("perm_v", swap).ints("perm_y", swap)
    }

    op_tests! { DEF, reference, Tolerance { rel: 1e-5, abs: 2e-6 };
        heads => case(&[2, 3, 17, 16], &[2, 3, 21, 16], &[2, 3, 21, 24]);
        one_head => case(&[5, 8], &[9, 8], &[9, 4]);
        projections => projected(2, 15, 33, 3, 16);
        masked => projected(2, 15, 33, 3, 16).input(random(&[2, 1, 15, 33], 4));
        mask_of_keys => projected(3, 4, 9, 2, 8).input(random(&[3, 1, 1, 9], 4));
        mask_of_heads => projected(1, 4, 9, 2, 8).input(random(&[2, 4, 9], 4));
        mask_of_queries => projected(2, 4, 9, 2, 8).input(random(&[2, 1, 4, 1], 4));
        shared_keys => case(&[4, 3, 6, 8], &[4, 1, 10, 8], &[4, 1, 10, 8]);
        few_heads_many_queries => case(&[1, 2, 300, 8], &[1, 2, 40, 8], &[1, 2, 40, 8]);
        one_long_head => case(&[1, 300, 4], &[1, 600, 4], &[1, 600, 4]).input(random(&[300, 600], 4));
        permuted_few => projected(1, 270, 20, 2, 8);
        very_many_heads => case(&[1100, 2, 3], &[1100, 2, 3], &[1100, 2, 3]);
        one_query => projected(2, 1, 65, 8, 32);
        no_queries => case(&[2, 0, 4], &[2, 3, 4], &[2, 3, 4]);
        no_keys => case(&[2, 2, 4], &[2, 0, 4], &[2, 0, 4]);
        no_depth => case(&[2, 2, 0], &[2, 3, 0], &[2, 3, 4]);
        no_heads => case(&[0, 2, 4], &[0, 3, 4], &[0, 3, 4]);
    }
}
