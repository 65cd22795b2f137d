//! How much work makes a grain.

/// The fewest elements that are worth a grain of their own in a pass that is bound by memory.
const MIN_ELEMENTS: usize = 16 * 1024;

/// At most this many grains in a phase: enough to balance any machine, few enough to cost nothing.
pub(crate) const MAX_GRAINS: usize = 256;

/// Elements per grain for `n` elements of `work` elementary operations each: a multiple of 64, so that grains share no
/// cache line. A function of the sizes alone: grains never depend on the machine.
pub(crate) fn chunk(n: usize, work: usize) -> usize {
    let least = (MIN_ELEMENTS / work.max(1)).max(64);
    n.div_ceil(MAX_GRAINS).max(least).next_multiple_of(64)
}

/// Rows per grain for rows of `row` elements of `work` elementary operations each.
pub(crate) fn rows(n: usize, row: usize, work: usize) -> usize {
    let least = (MIN_ELEMENTS / (row.max(1) * work.max(1)).max(1)).max(1);
    n.div_ceil(MAX_GRAINS).max(least)
}
