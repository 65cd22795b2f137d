//! `NonMaxSuppression`: for each batch and class, boxes by descending score, without those that overlap a chosen one by more
//! than a threshold. One row (batch, class, box) each; how many there are only a run can tell.

use crate::movement::index;
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::{DType, Tensor, Value};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "NonMaxSuppression",
    since: &[10, 11],
    inputs: Arity::range(2, 5),
    outputs: Arity::exactly(1),
    attributes: &["center_point_box"],
    subgraphs: &[],
    dtypes: "f32",
    build: |cx: &BuildCx<'_>| Ok(Box::new(NonMaxSuppression { centered: cx.attributes.flag_or("center_point_box", false)? })),
};

/// Boxes that do not overlap.
#[derive(Debug, Clone, Copy)]
pub struct NonMaxSuppression {
    /// Boxes are (x, y, width, height) of their centre, not two corners (y, x).
    centered: bool,
}

impl NonMaxSuppression {
    /// A box as its least and greatest corners.
    fn corners(&self, b: &[f32]) -> [f32; 4] {
        let &[p, q, r, s] = b else { return [0.0; 4] };
        if self.centered {
            return [q - s / 2.0, p - r / 2.0, q + s / 2.0, p + r / 2.0];
        }
        [p.min(r), q.min(s), p.max(r), q.max(s)]
    }
}

/// Intersection over union.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |b: &[f32; 4]| (b[2] - b[0]) * (b[3] - b[1]);
    let (height, width) = (a[2].min(b[2]) - a[0].max(b[0]), a[3].min(b[3]) - a[1].max(b[1]));
    let common = height.max(0.0) * width.max(0.0);
    let union = area(a) + area(b) - common;
    if area(a) <= 0.0 || area(b) <= 0.0 || union <= 0.0 { 0.0 } else { common / union }
}

impl Op for NonMaxSuppression {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        cx.input(0)?;
        cx.input(1)?;
        Ok(vec![Fact::new(DType::I64, vec![cx.fresh("selected"), Dim::from(3)])])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let (boxes, scores) = (cx.input::<f32>(0)?, cx.input::<f32>(1)?);
        let (&[batches, spots, 4], &[n, classes, m]) = (boxes.shape().dims(), scores.shape().dims()) else {
            return Err(EvalError::Invalid("boxes are batch × boxes × 4, scores batch × classes × boxes"));
        };
        if n != batches || m != spots {
            return Err(EvalError::Invalid("the scores do not fit the boxes"));
        }
        let most = if cx.has(2) { index::integers(cx, 2)?.first().copied().unwrap_or(0) } else { 0 };
        let most = usize::try_from(most).unwrap_or(0).min(spots);
        let limit = cx.optional::<f32>(3)?.and_then(|v| v.iter().next()).unwrap_or(0.0);
        let least = cx.optional::<f32>(4)?.and_then(|v| v.iter().next());
        let (boxes, scores) = (boxes.to_vec(), scores.to_vec());
        let mut out: Vec<i64> = Vec::new();
        for (batch, class) in (0..batches).flat_map(|b| (0..classes).map(move |c| (b, c))) {
            let scores = &scores[(batch * classes + class) * spots..][..spots];
            let corners = |i: usize| self.corners(&boxes[(batch * spots + i) * 4..][..4]);
            let mut candidates: Vec<usize> = (0..spots).filter(|&i| least.is_none_or(|l| scores[i] > l)).collect();
            candidates.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let mut chosen: Vec<[f32; 4]> = Vec::new();
            for i in candidates {
                if chosen.len() >= most {
                    break;
                }
                let corners = corners(i);
                if chosen.iter().all(|c| overlap(c, &corners) <= limit) {
                    chosen.push(corners);
                    out.extend([batch as i64, class as i64, i as i64]);
                }
            }
        }
        cx.set_value(0, Value::Tensor(Tensor::from_slice(&[out.len() / 3, 3], &out)?))
    }

    fn bound(&self, cx: &InferCx<'_>, _output: usize) -> Option<usize> {
        let scores = cx.input(1).ok()?.shape()?.ok()?;
        let most = cx.optional(2).and_then(Fact::ints).and_then(|m| usize::try_from(*m.first()?).ok());
        let &[batches, classes, spots] = scores.dims() else { return None };
        (batches * classes).checked_mul(most.map_or(spots, |m| m.min(spots)))?.checked_mul(3 * size_of::<i64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, t};

    /// The examples of the operator's specification.
    fn reference(case: &Case) -> Vec<Tensor> {
        let rows: &[i64] = match (case.int_or("center_point_box", 0), case.optional(2).map(|m| m.as_slice::<i64>().unwrap()[0]), case.optional(4)) {
            (_, None, _) => &[],
            (_, Some(2), _) => &[0, 0, 3, 0, 0, 0],
            (_, _, Some(s)) if s.as_slice::<f32>().unwrap()[0] > 0.0 => &[0, 0, 3, 0, 0, 0],
            _ => &[0, 0, 3, 0, 0, 0, 0, 0, 5],
        };
        vec![t(&[rows.len() / 3, 3], rows)]
    }

    fn case(centered: bool) -> Case {
        let ys = [0.0f32, 0.1, -0.1, 10.0, 10.1, 100.0];
        let boxes: Vec<f32> = ys.iter().flat_map(|&y| if centered { [0.5, y + 0.5, 1.0, 1.0] } else { [y + 1.0, 0.0, y, 1.0] }).collect();
        let scores = [0.9f32, 0.75, 0.6, 0.95, 0.5, 0.3];
        Case::new([t(&[1, 6, 4], &boxes), t(&[1, 1, 6], &scores)]).int("center_point_box", i64::from(centered))
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        none => case(false);
        flipped => case(false).input(t(&[1], &[3i64])).input(t(&[1], &[0.5f32])).input(t(&[1], &[0.0f32]));
        centered => case(true).input(t(&[1], &[3i64])).input(t(&[1], &[0.5f32])).input(t(&[1], &[0.0f32]));
        few => case(false).input(t(&[1], &[2i64])).input(t(&[1], &[0.5f32]));
        scored => case(false).input(t(&[1], &[3i64])).input(t(&[1], &[0.5f32])).input(t(&[1], &[0.4f32]));
    }
}
