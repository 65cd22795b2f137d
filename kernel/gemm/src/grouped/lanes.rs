//! How the lanes of a vector of output channels find their inputs.
//!
//! | [`Spread`] | groups | a lane's input of channel c |
//! |---|---|---|
//! | `Own` | one channel in and out | its own lane of the image: a vector is loaded as it lies |
//! | `Quads` | four in and out | lane c of its quad: a vector is loaded once, a shuffle inside of quads for each channel |
//! | `Permuted` | several fit in a vector, in and out | a lane by a table: a permutation for each channel |
//! | `Broadcast` | one fills at least half of a vector | the same for all lanes: a scalar is loaded to all of them |

use millstream_simd::{Level, Simd, SimdF32, SimdI32, dispatch};

use super::GroupDims;

/// Lanes of the widest vectors.
pub(super) const MAX_LANES: usize = 16;

/// Output channels of a group from which on a product of matrices for each group is as good.
const PRODUCT_OUT: usize = 32;

/// The way of the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    Own,
    Quads,
    Permuted,
    Broadcast,
}

/// The output channels cut into blocks of at most a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    pub(super) spread: Spread,
    lanes: usize,
    /// Groups of a block, of which the last block may have fewer; 1 where a group has blocks of its own.
    groups: usize,
}

/// One block: which channels it reads and writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) first_in: usize,
    pub(super) n_in: usize,
    pub(super) first_out: usize,
    pub(super) n_out: usize,
    /// Where its weights begin.
    pub(super) weights: usize,
}

impl Blocks {
    /// The blocks on this level; `None` where a product for each group is at least as good.
    pub(super) fn new(level: Level, dims: GroupDims) -> Option<Self> {
        let lanes = dispatch!(level, s => lanes(s));
        let (spread, groups) = match (dims.channels, dims.out) {
            (0, _) | (_, 0) => return None,
            (1, 1) => (Spread::Own, lanes),
            (4, 4) => (Spread::Quads, lanes / 4),
            (c, o) if c <= lanes / 2 && o <= lanes / 2 => (Spread::Permuted, (lanes / c).min(lanes / o)),
            (_, o) if o >= lanes / 2 && o < PRODUCT_OUT => (Spread::Broadcast, 1),
            _ => return None,
        };
        Some(Self { spread, lanes, groups })
    }

    /// Blocks that a group has, where it has blocks of its own.
    fn of_a_group(&self, dims: GroupDims) -> usize {
        dims.out.div_ceil(self.lanes)
    }

    pub(super) fn count(&self, dims: GroupDims) -> usize {
        match self.spread {
            Spread::Broadcast => dims.groups * self.of_a_group(dims),
            _ => dims.groups.div_ceil(self.groups),
        }
    }

    /// Block `i`, whose channels are spread as the caller's code knows.
    #[inline(always)]
    pub(super) fn get(&self, spread: Spread, dims: GroupDims, taps: usize, i: usize) -> Block {
        if spread == Spread::Own {
            let first = i * self.lanes;
            let n = self.lanes.min(dims.groups - first);
            return Block { first_in: first, n_in: n, first_out: first, n_out: n, weights: first };
        }
        let (group, within) = match spread {
            Spread::Broadcast => (i / self.of_a_group(dims), i % self.of_a_group(dims) * self.lanes),
            _ => (i * self.groups, 0),
        };
        let groups = self.groups.min(dims.groups - group);
        Block {
            first_in: group * dims.channels,
            n_in: groups * dims.channels,
            first_out: group * dims.out + within,
            n_out: (groups * dims.out - within).min(self.lanes),
            weights: i * taps * dims.channels * self.lanes,
        }
    }

    /// Elements of the packed weights; `None` if they exceed the address space.
    pub(super) fn packed_len(&self, dims: GroupDims, taps: usize) -> Option<usize> {
        match self.spread {
            Spread::Own => dims.groups.checked_mul(taps),
            _ => self.count(dims).checked_mul(taps)?.checked_mul(dims.channels)?.checked_mul(self.lanes),
        }
    }

    /// Elements from a channel of a block to the next, and from a tap to the next. Depthwise weights are `[taps, channels]`, others
    /// `[blocks, taps, channels, lanes]` with zeros in the lanes that a block lacks.
    pub(super) fn strides(&self, dims: GroupDims) -> (usize, usize) {
        match self.spread {
            Spread::Own => (0, dims.groups),
            _ => (self.lanes, dims.channels * self.lanes),
        }
    }

    /// Where the weights of output channel `o` begin.
    pub(super) fn place(&self, dims: GroupDims, taps: usize, o: usize) -> usize {
        let (block, lane) = match self.spread {
            Spread::Own => return o,
            Spread::Broadcast => (o / dims.out * self.of_a_group(dims) + o % dims.out / self.lanes, o % dims.out % self.lanes),
            _ => (o / (self.groups * dims.out), o % (self.groups * dims.out)),
        };
        block * taps * dims.channels * self.lanes + lane
    }

    /// For each channel of a group, the lane of the image's vector that each lane of a block reads.
    pub(super) fn table(&self, dims: GroupDims) -> [[i32; MAX_LANES]; MAX_LANES / 2] {
        let mut table = [[0; MAX_LANES]; MAX_LANES / 2];
        for (c, row) in table.iter_mut().enumerate().take(dims.channels) {
            for (lane, from) in row.iter_mut().enumerate().take(self.groups * dims.out) {
                *from = (lane / dims.out * dims.channels + c) as i32;
            }
        }
        table
    }
}

#[inline(always)]
fn lanes<S: Simd>(_: S) -> usize {
    S::F32::LANES
}

/// What one tap adds to the sums of `P` pixels.
pub(super) trait Lanes {
    /// How they find their inputs.
    const SPREAD: Spread;

    /// Reads each pixel's image from its pointer and `at` elements on, and the tap's weights. (One offset for all pixels is what leaves the
    /// innermost loop with one addition for all their addresses.)
    ///
    /// # Safety
    /// The image is valid for the block's channels (a whole vector if `FULL`, else `n`) of all pixels, `weights` for the tap's.
    unsafe fn tap<S: Simd, const P: usize, const FULL: bool>(
        &self,
        s: S,
        inputs: &[*const f32; P],
        at: usize,
        n: usize,
        weights: *const f32,
        sums: &mut [S::F32; P],
    );
}

/// [`Spread::Own`].
pub(super) struct Own;

impl Lanes for Own {
    const SPREAD: Spread = Spread::Own;

    #[inline(always)]
    unsafe fn tap<S: Simd, const P: usize, const FULL: bool>(
        &self,
        s: S,
        inputs: &[*const f32; P],
        at: usize,
        n: usize,
        weights: *const f32,
        sums: &mut [S::F32; P],
    ) {
        // SAFETY: the caller's promise.
        let w = unsafe { load::<S, FULL>(s, weights, n) };
        for (sum, input) in sums.iter_mut().zip(inputs) {
            // SAFETY: the caller's promise.
            *sum = unsafe { load::<S, FULL>(s, input.wrapping_add(at), n) }.mul_add(w, *sum);
        }
    }
}

/// [`Spread::Quads`].
pub(super) struct Quads;

impl Lanes for Quads {
    const SPREAD: Spread = Spread::Quads;

    #[inline(always)]
    unsafe fn tap<S: Simd, const P: usize, const FULL: bool>(
        &self,
        s: S,
        inputs: &[*const f32; P],
        at: usize,
        n: usize,
        weights: *const f32,
        sums: &mut [S::F32; P],
    ) {
        let lanes = S::F32::LANES;
        // SAFETY: the caller's promise: four channels of a whole vector each.
        let w: [S::F32; 4] = core::array::from_fn(|c| unsafe { S::F32::load_ptr(s, weights.wrapping_add(c * lanes)) });
        for (sum, input) in sums.iter_mut().zip(inputs) {
            // SAFETY: the caller's promise.
            let x = unsafe { load::<S, FULL>(s, input.wrapping_add(at), n) };
            *sum = x.splat_in_quads::<0>().mul_add(w[0], *sum);
            *sum = x.splat_in_quads::<1>().mul_add(w[1], *sum);
            *sum = x.splat_in_quads::<2>().mul_add(w[2], *sum);
            *sum = x.splat_in_quads::<3>().mul_add(w[3], *sum);
        }
    }
}

/// [`Spread::Permuted`].
pub(super) struct Permuted<'a>(pub(super) &'a [[i32; MAX_LANES]]);

impl Lanes for Permuted<'_> {
    const SPREAD: Spread = Spread::Permuted;

    #[inline(always)]
    unsafe fn tap<S: Simd, const P: usize, const FULL: bool>(
        &self,
        s: S,
        inputs: &[*const f32; P],
        at: usize,
        n: usize,
        weights: *const f32,
        sums: &mut [S::F32; P],
    ) {
        for (c, lanes) in self.0.iter().enumerate() {
            let from = S::I32::load(s, lanes);
            // SAFETY: the caller's promise: a whole vector for each channel.
            let w = unsafe { S::F32::load_ptr(s, weights.wrapping_add(c * S::F32::LANES)) };
            for (sum, input) in sums.iter_mut().zip(inputs) {
                // SAFETY: the caller's promise.
                let x = unsafe { load::<S, FULL>(s, input.wrapping_add(at), n) };
                *sum = x.permute(from).mul_add(w, *sum);
            }
        }
    }
}

/// [`Spread::Broadcast`], of so many channels.
pub(super) struct Broadcast(pub(super) usize);

impl Lanes for Broadcast {
    const SPREAD: Spread = Spread::Broadcast;

    #[inline(always)]
    unsafe fn tap<S: Simd, const P: usize, const FULL: bool>(
        &self,
        s: S,
        inputs: &[*const f32; P],
        at: usize,
        _: usize,
        weights: *const f32,
        sums: &mut [S::F32; P],
    ) {
        for c in 0..self.0 {
            // SAFETY: the caller's promise: a whole vector for each channel.
            let w = unsafe { S::F32::load_ptr(s, weights.wrapping_add(c * S::F32::LANES)) };
            for (sum, input) in sums.iter_mut().zip(inputs) {
                // SAFETY: the caller's promise.
                let x = unsafe { *input.wrapping_add(at + c) };
                *sum = S::F32::splat(s, x).mul_add(w, *sum);
            }
        }
    }
}

/// `n` elements, a whole vector if `FULL`.
///
/// # Safety
/// There are as many at `p`.
#[inline(always)]
pub(super) unsafe fn load<S: Simd, const FULL: bool>(s: S, p: *const f32, n: usize) -> S::F32 {
    // SAFETY: the caller's promise.
    unsafe { if FULL { S::F32::load_ptr(s, p) } else { S::F32::load_ptr_partial(s, p, n) } }
}
