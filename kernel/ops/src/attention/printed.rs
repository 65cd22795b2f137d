//! The scores of an attention for whoever wants to see them: its last output, which nothing of the rest needs.

use super::heads::{Heads, Operands, Rules};
use crate::{carve::carve, numeric::Number};
use millstream_gemm::{KeyWindow, MaskElements};
use millstream_graph::{EvalCx, EvalError};
use millstream_tensor::tile::Tiles;

/// How far scores have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Scaled products.
    Products,
    /// With the cap.
    Capped,
    /// With mask and window too.
    Masked,
    /// After the softmax.
    Weights,
}

/// The scores of all heads.
pub(super) struct Printed<'a, 'o, W> {
    pub(super) heads: &'a Heads,
    pub(super) operands: &'a Operands<'o>,
    pub(super) rules: &'a Rules<W>,
    pub(super) stage: Stage,
}

impl<W: Fn(usize) -> KeyWindow + Sync> Printed<'_, '_, W> {
    /// Writes them `[heads, queries, keys]`. A grain is a query of a head.
    pub(super) fn write<T: Number>(&self, cx: &EvalCx<'_>, to: &mut [T]) -> Result<(), EvalError> {
        let (keys, queries) = (self.heads.keys(), self.heads.queries());
        if to.is_empty() {
            return Ok(());
        }
        let tiles = Tiles::chunks(to, keys).ok_or(EvalError::Output(3))?;
        cx.parallel(tiles.count(), |grain, mut scratch| {
            let row = carve::<f32>(&mut scratch, keys)?;
            let (head, query) = (grain / queries, grain % queries);
            self.heads.products(self.operands, head, query, row)?;
            row.iter_mut().for_each(|x| *x *= self.rules.scale);
            if self.stage >= Stage::Capped && self.rules.cap != 0.0 {
                row.iter_mut().for_each(|x| *x = self.rules.cap * libm::tanhf(*x / self.rules.cap));
            }
            if self.stage >= Stage::Masked {
                self.mask(head, query, row)?;
            }
            if self.stage == Stage::Weights {
                softmax(row);
            }
            tiles.claim(grain)?.as_slice()?.iter_mut().zip(row).for_each(|(to, x)| *to = T::from_f64(f64::from(*x)));
            Some(())
        })
    }

    fn mask(&self, head: usize, query: usize, row: &mut [f32]) -> Option<()> {
        let seen = (self.rules.window)(head).of(query);
        let mask = match self.heads.mask(self.operands, head) {
            Some(mask) => Some(mask.from_row(query)?),
            None => None,
        };
        for (j, x) in row.iter_mut().enumerate() {
            let shown = match mask.filter(|_| seen.contains(&j)).map(|m| (m.elements, j * m.col_stride)) {
                Some((MaskElements::Added(data), at)) => {
                    *x += data.get(at)?;
                    true
                }
                Some((MaskElements::Visible(data), at)) => bool::from(*data.get(at)?),
                None => seen.contains(&j),
            };
            if !shown {
                *x = f32::NEG_INFINITY;
            }
        }
        Some(())
    }
}

/// Zeros where all are -∞.
fn softmax(row: &mut [f32]) {
    let greatest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if greatest == f32::NEG_INFINITY && !row.iter().any(|x| x.is_nan()) {
        return row.fill(0.0);
    }
    row.iter_mut().for_each(|x| *x = libm::expf(*x - greatest));
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
}
