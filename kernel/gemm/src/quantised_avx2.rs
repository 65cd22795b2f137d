//! Products of bytes with AVX2.
//!
//! Its instruction for bytes multiplies an unsigned byte by a signed one and adds two neighbouring products to 16 bits, where they may not
//! fit: `255 * (127 + 127)` is too much. Engines that use it as it is saturate. Here a panel of B is made harmless before many rows pass over
//! it: groups of B whose neighbours could add up to too much are halved, `b = floor(b / 2) + (b - floor(b / 2))`, and the second halves stand
//! in a list that is multiplied as well. No pair of halves exceeds 128, and `255 * 128` fits. Weights that a model's quantiser spread over all
//! of a byte's range have few such groups; at worst, each is multiplied twice, which takes what 16-bit products take.
//!
//! ```text
//! made of a panel:  main[i][j]     = B's words, or the first halves               ceil(k / 4) groups of NR words
//!                   of each half of the columns h:
//!                     again[h][e]  = the second halves of group at[h][e]          as many groups of NR / 2 words as there are, and their
//!                     at[h][e]     = 4 i, where A's elements for that group begin places
//! ```
//! For a few rows that does not pay: their elements and B's are widened to 16 bits, whose products always fit.

use millstream_simd::types::Avx2I32 as I32;
use millstream_simd::{Avx2, Simd, SimdI32};

use crate::micro::rows;
use crate::quantised_micro::{Again, Call, Made, Make, Sums, by_rows, portable};
use crate::quantised_rhs::NR;

/// Rows of a tile.
pub(crate) const ROWS: usize = 6;

/// Makes panels harmless for so many rows or more.
pub(crate) const MAKE: Make = Make { rows: 16, len: |words| words * (NR + HALVES * (COLS + 1)), run: make };

const LANES: usize = <I32 as SimdI32<Avx2>>::LANES;
/// Vectors of a tile.
const NV: usize = 2;
/// Columns of a tile.
const COLS: usize = NV * LANES;
/// Tiles across a panel.
const HALVES: usize = NR / COLS;

/// As [`Make::run`].
fn make(panel: &[i32], words: usize, memory: &mut [i32]) -> Made {
    let (main, rest) = memory.split_at_mut(words * NR);
    let (again, at) = rest.split_at_mut(words * NR);
    let mut counts = [0; HALVES];
    if let Some(s) = Avx2::detect() {
        s.vectorize(
            #[inline(always)]
            || split(s, &panel[..words * NR], main, again, at, &mut counts),
        );
    }
    let again = [0, 1].map(|h| Again { words: again[h * words * COLS..].as_ptr(), at: at[h * words..].as_ptr(), count: counts[h] });
    Made { main: main.as_ptr(), again }
}

/// Copies a panel, and splits the groups that may saturate.
#[inline(always)]
fn split(s: Avx2, panel: &[i32], main: &mut [i32], again: &mut [i32], at: &mut [i32], counts: &mut [usize; HALVES]) {
    let words = panel.len() / NR;
    for (i, (group, main)) in panel.chunks_exact(NR).zip(main.chunks_exact_mut(NR)).enumerate() {
        for h in 0..HALVES {
            let (group, main) = (&group[h * COLS..][..COLS], &mut main[h * COLS..][..COLS]);
            let (left, right) = (I32::load(s, group), I32::load(s, &group[LANES..]));
            left.store(main);
            right.store(&mut main[LANES..]);
            if !s.may_saturate(left) && !s.may_saturate(right) {
                continue;
            }
            let e = h * words + counts[h];
            let second = &mut again[e * COLS..][..COLS];
            for (first, second) in bytemuck::cast_slice_mut::<i32, i8>(main).iter_mut().zip(bytemuck::cast_slice_mut::<i32, i8>(second)) {
                let b = *first;
                *first = b >> 1;
                *second = b - (b >> 1);
            }
            at[e] = 4 * i as i32;
            counts[h] += 1;
        }
    }
}

/// # Safety
/// As [`crate::quantised_micro::Kernel::run`].
pub(crate) unsafe fn run(call: &Call, sums: &mut Sums) {
    let Some(s) = Avx2::detect() else {
        // SAFETY: the caller's promise, passed on.
        return unsafe { portable(call, sums) };
    };
    by_rows!(call.rows, [1 2 3 4 5 6], call, sums, s);
}

/// # Safety
/// As [`run`], for ROWS rows.
#[inline(always)]
unsafe fn body<const ROWS: usize>(s: Avx2, call: &Call, sums: &mut Sums) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match &call.made {
            Some(made) => harmless::<ROWS>(s, call, made, sums),
            None => widened::<ROWS>(s, call, sums),
        }
    }
}

/// Three rows hang on one pointer, at addresses that cost nothing: base, base + stride, base + 2 stride.
#[inline(always)]
fn bases(a: *const u8, stride: usize) -> [*const u8; 2] {
    [a, a.wrapping_add(3 * stride)]
}

/// The products of a panel that was made harmless.
///
/// # Safety
/// As [`run`], for ROWS rows.
#[inline(always)]
unsafe fn harmless<const ROWS: usize>(s: Avx2, call: &Call, made: &Made, sums: &mut Sums) {
    let stride = call.stride;
    for (h, again) in made.again.iter().enumerate() {
        let mut acc = [[I32::splat(s, 0); NV]; ROWS];
        let mut a = bases(call.a, stride);
        let mut b = made.main.wrapping_add(h * COLS);
        for _ in 0..call.words {
            // SAFETY: row R < ROWS has `words` groups of four bytes, of which `a` is at the current one; so is `b`, of groups of NR words.
            unsafe { group::<ROWS>(s, a, stride, b, &mut acc) };
            // Not by `map`, which is not always inlined.
            a = [a[0].wrapping_add(4), a[1].wrapping_add(4)];
            b = b.wrapping_add(NR);
        }
        for e in 0..again.count {
            // SAFETY: there are `count` places, each of one of the groups of A, and as many groups of COLS words.
            unsafe { group::<ROWS>(s, bases(call.a.add(*again.at.add(e) as usize), stride), stride, again.words.add(e * COLS), &mut acc) };
        }
        rows!(ROWS, R => for v in 0..NV {
            acc[R][v].store(&mut sums.0[R][h * COLS + v * LANES..]);
        });
    }
}

/// The products of a group.
///
/// # Safety
/// The rows of A have four bytes there, and B COLS words.
#[inline(always)]
unsafe fn group<const ROWS: usize>(s: Avx2, a: [*const u8; 2], stride: usize, b: *const i32, acc: &mut [[I32; NV]; ROWS]) {
    // SAFETY: the caller's promise for B.
    let words = unsafe { &*b.cast::<[i32; COLS]>() };
    let b = [I32::load(s, words), I32::load(s, &words[LANES..])];
    rows!(ROWS, R => {
        // SAFETY: the caller's promise for A.
        let a = I32::splat(s, unsafe { a[R / 3 % 2].add(R % 3 * stride).cast::<i32>().read_unaligned() });
        for v in 0..NV {
            acc[R][v] = s.dot_u8_i8(acc[R][v], a, b[v]);
        }
    });
}

/// The products of a panel as it is, eight columns at a time: two registers hold the sums of the first and of the second two of each four
/// products, for four columns each.
///
/// # Safety
/// As [`run`], for ROWS rows.
#[inline(always)]
unsafe fn widened<const ROWS: usize>(s: Avx2, call: &Call, sums: &mut Sums) {
    let stride = call.stride;
    for column in (0..NR).step_by(LANES) {
        let mut acc = [[I32::splat(s, 0); 2]; ROWS];
        let mut a = bases(call.a, stride);
        let mut words = call.b.wrapping_add(column);
        for _ in 0..call.words {
            // SAFETY: the group has NR words, of which these are twice four.
            let b = unsafe { [s.widen_i8(&*words.cast()), s.widen_i8(&*words.add(4).cast())] };
            rows!(ROWS, R => {
                // SAFETY: row R < ROWS has `words` groups of four bytes, of which `a` is at the current one.
                let a = s.widen_quad(unsafe { a[R / 3 % 2].add(R % 3 * stride).cast::<i32>().read_unaligned() });
                for v in 0..2 {
                    acc[R][v] = s.dot_i16(acc[R][v], a, b[v]);
                }
            });
            a = [a[0].wrapping_add(4), a[1].wrapping_add(4)];
            words = words.wrapping_add(NR);
        }
        rows!(ROWS, R => s.add_pairs(acc[R][0], acc[R][1]).store(&mut sums.0[R][column..]));
    }
}
