//! Places buffers in one arena: best fit over live ranges.
//!
//! Buffers are placed from the largest to the smallest. Each goes into the tightest gap between the buffers placed already
//! that are live at the same time, or after the last of them. (Greedy-by-size of Pisarchyk and Lee, "Efficient Memory
//! Management for Deep Neural Net Inference", 2020.)

use alloc::{vec, vec::Vec};
use millstream_tensor::align_up;

/// A buffer and the steps during which it holds something, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Bytes.
    pub bytes: usize,
    /// The first step that touches it.
    pub first: usize,
    /// The last step that touches it.
    pub last: usize,
}

impl Buffer {
    /// True if both hold something during some step.
    pub fn overlaps(&self, other: &Buffer) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Where buffers lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The byte offset of each buffer, a multiple of [`millstream_tensor::ALIGN`].
    pub offsets: Vec<usize>,
    /// Bytes of the arena that holds them all.
    pub bytes: usize,
}

/// Places the buffers so that those live at the same time do not overlap. Deterministic.
pub fn place(buffers: &[Buffer]) -> Placement {
    let mut order: Vec<usize> = (0..buffers.len()).filter(|&i| buffers[i].bytes > 0).collect();
    order.sort_by_key(|&i| (core::cmp::Reverse(align_up(buffers[i].bytes)), buffers[i].first, i));
    let mut offsets = vec![0usize; buffers.len()];
    let mut total = 0usize;
    // Placed buffers by offset, so that one walk sees the gaps in order.
    let mut placed: Vec<usize> = Vec::with_capacity(order.len());
    for i in order {
        let size = align_up(buffers[i].bytes);
        let (mut best, mut end) = (None, 0usize);
        for &p in placed.iter().filter(|&&p| buffers[p].overlaps(&buffers[i])) {
            let gap = offsets[p].saturating_sub(end);
            if offsets[p] >= end && gap >= size && best.is_none_or(|(_, g)| gap < g) {
                best = Some((end, gap));
            }
            end = end.max(offsets[p] + align_up(buffers[p].bytes));
        }
        offsets[i] = best.map_or(end, |(at, _)| at);
        total = total.max(offsets[i] + size);
        let at = placed.partition_point(|&p| (offsets[p], p) < (offsets[i], i));
        placed.insert(at, i);
    }
    Placement { offsets, bytes: total }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buffers() -> impl Strategy<Value = Vec<Buffer>> {
        let one = (0usize..5000, 0usize..40, 0usize..10).prop_map(|(bytes, first, n)| Buffer { bytes, first, last: first + n });
        proptest::collection::vec(one, 0..60)
    }

    proptest! {
        #[test]
        fn live_buffers_never_overlap(buffers in buffers()) {
            let placement = place(&buffers);
            for (i, a) in buffers.iter().enumerate() {
                prop_assert!(placement.offsets[i].is_multiple_of(millstream_tensor::ALIGN));
                prop_assert!(placement.offsets[i] + a.bytes <= placement.bytes);
                for (j, b) in buffers.iter().enumerate().skip(i + 1) {
                    let apart = placement.offsets[i] + a.bytes <= placement.offsets[j] || placement.offsets[j] + b.bytes <= placement.offsets[i];
                    prop_assert!(apart || !a.overlaps(b) || a.bytes == 0 || b.bytes == 0, "{i} and {j}");
                }
            }
            prop_assert_eq!(place(&buffers), placement);
        }

        #[test]
        fn the_arena_is_at_least_the_peak_and_at_most_the_sum(buffers in buffers()) {
            let placement = place(&buffers);
            let at = |step| buffers.iter().filter(|b| b.first <= step && step <= b.last).map(|b| align_up(b.bytes)).sum::<usize>();
            let peak = (0..50).map(at).max().unwrap_or(0);
            prop_assert!(placement.bytes >= peak);
            prop_assert!(placement.bytes <= buffers.iter().map(|b| align_up(b.bytes)).sum::<usize>());
        }
    }

    #[test]
    fn a_chain_takes_two_buffers() {
        let chain: Vec<Buffer> = (0..10).map(|i| Buffer { bytes: 640, first: i, last: i + 1 }).collect();
        assert_eq!(place(&chain).bytes, 1280);
    }
}
