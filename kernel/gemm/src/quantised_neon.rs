//! Integer microkernels of NEON, whose products are of signed bytes:
//!
//! ```text
//! sum over k of A B = 128 sum over k of B + sum over k of (A - 128) B
//! ```
//! so the sums start from 128 times those of B's columns, and bytes of A lose 128 on their way to the registers.

use millstream_simd::types::NeonI32 as I32;
use millstream_simd::{Neon, NeonDot, SimdI32};

use crate::micro::rows;
use crate::quantised_micro::{Call, Sums, by_rows, portable};
use crate::quantised_rhs::NR;

const LANES: usize = <I32 as SimdI32<Neon>>::LANES;

/// The `run` of a kernel.
pub(crate) type Run = unsafe fn(&Call, &mut Sums);

/// The fastest kernel of this machine, and the rows of its greatest tile.
pub(crate) fn kernel() -> (usize, Run) {
    match NeonDot::detect() {
        Some(_) => (5, dot::run),
        None => (4, pairs::run),
    }
}

/// What the sums of eight columns start from.
///
/// # Safety
/// As [`Kernel::run`](crate::quantised_micro::Kernel::run); `column` is less than [`NR`] and a multiple of [`LANES`].
#[inline(always)]
unsafe fn start(s: Neon, call: &Call, column: usize) -> I32 {
    // SAFETY: there is a sum for each of NR columns, of which these are eight.
    I32::load(s, unsafe { &*call.column_sums.add(column).cast::<[i32; LANES]>() }).shl(7)
}

/// Four products and their sum for each lane and instruction. A tile of 5 × 16 fills 29 registers: 20 hold sums, 5 four words of each row of A,
/// which serve lane by lane, and 4 a row of B.
mod dot {
    use millstream_simd::types::{NeonBytes as Bytes, NeonI32 as I32};
    use millstream_simd::{NeonDot, Simd, SimdI32};

    use super::{Call, LANES, NR, Sums, by_rows, portable, rows, start};

    const NV: usize = 2;
    /// How many words ahead the lines of B are called for.
    const AHEAD: usize = 16;

    /// # Safety
    /// As [`Kernel::run`](crate::quantised_micro::Kernel::run).
    pub(super) unsafe fn run(call: &Call, sums: &mut Sums) {
        let Some(s) = NeonDot::detect() else {
            // SAFETY: the caller's promise, passed on.
            return unsafe { portable(call, sums) };
        };
        by_rows!(call.rows, [1 2 3 4 5], call, sums, s);
    }

    /// # Safety
    /// As [`Kernel::run`](crate::quantised_micro::Kernel::run), for ROWS rows.
    #[inline(always)]
    unsafe fn body<const ROWS: usize>(s: NeonDot, call: &Call, sums: &mut Sums) {
        let base = s.base();
        let mut later = call.later;
        for column in (0..NR).step_by(NV * LANES) {
            // SAFETY: these columns are within NR.
            let first = unsafe { [start(base, call, column), start(base, call, column + LANES)] };
            let mut acc = [first; ROWS];
            let mut b = call.b.wrapping_add(column);
            let mut i = 0;
            while i + 4 <= call.words {
                let mut a = [Bytes::splat(base, [0; 4]); ROWS];
                rows!(ROWS, R => {
                    // SAFETY: row R < ROWS has `words` groups of four bytes, of which four are left at i.
                    a[R] = Bytes::load(base, unsafe { &*call.a.add(R * call.stride + 4 * i).cast::<[u8; 16]>() }).less_128();
                });
                base.prefetch_far(later.cast());
                later = later.wrapping_byte_add(2 * call.later_step);
                // SAFETY: B has four more groups of NR words.
                unsafe {
                    words::<ROWS, 0>(s, &a, b, &mut acc);
                    words::<ROWS, 1>(s, &a, b.add(NR), &mut acc);
                    words::<ROWS, 2>(s, &a, b.add(2 * NR), &mut acc);
                    words::<ROWS, 3>(s, &a, b.add(3 * NR), &mut acc);
                }
                b = b.wrapping_add(4 * NR);
                i += 4;
            }
            while i < call.words {
                let mut a = [Bytes::splat(base, [0; 4]); ROWS];
                rows!(ROWS, R => {
                    // SAFETY: row R < ROWS has `words` groups of four bytes.
                    a[R] = Bytes::splat(base, unsafe { call.a.add(R * call.stride + 4 * i).cast::<[u8; 4]>().read() }).less_128();
                });
                // SAFETY: B has another group of NR words.
                unsafe { words::<ROWS, 0>(s, &a, b, &mut acc) };
                b = b.wrapping_add(NR);
                i += 1;
            }
            rows!(ROWS, R => for v in 0..NV {
                acc[R][v].store(&mut sums.0[R][column + v * LANES..]);
            });
        }
    }

    /// A word of each row by the words of 16 columns.
    ///
    /// # Safety
    /// `b` must be valid for reads of 16 words.
    #[inline(always)]
    unsafe fn words<const ROWS: usize, const WORD: usize>(s: NeonDot, a: &[Bytes; ROWS], b: *const i32, acc: &mut [[I32; NV]; ROWS]) {
        let base = s.base();
        base.prefetch(b.wrapping_add(AHEAD * NR).cast());
        // SAFETY: the caller's promise: these are the sixteen words.
        let at = |q: usize| Bytes::load(base, unsafe { &*b.add(4 * q).cast::<[u8; 16]>() });
        let b = [[at(0), at(1)], [at(2), at(3)]];
        rows!(ROWS, R => for v in 0..NV {
            acc[R][v] = s.dot::<WORD>(acc[R][v], a[R], b[v]);
        });
    }
}

/// Products of 16 bits, added to sums in pairs, which is exact. A tile of 4 × 8 fills 16 registers with the sums of the first and of the second
/// two of each four products; each product takes another one until it is added.
mod pairs {
    use millstream_simd::types::{NeonBytes as Bytes, NeonI32 as I32};
    use millstream_simd::{Neon, Simd, SimdI32};

    use super::{Call, LANES, NR, Sums, by_rows, rows, start};

    /// # Safety
    /// As [`Kernel::run`](crate::quantised_micro::Kernel::run).
    pub(super) unsafe fn run(call: &Call, sums: &mut Sums) {
        let s = Neon::new();
        by_rows!(call.rows, [1 2 3 4], call, sums, s);
    }

    /// # Safety
    /// As [`Kernel::run`](crate::quantised_micro::Kernel::run), for ROWS rows.
    #[inline(always)]
    unsafe fn body<const ROWS: usize>(s: Neon, call: &Call, sums: &mut Sums) {
        for column in (0..NR).step_by(LANES) {
            let mut acc = [[I32::splat(s, 0); 2]; ROWS];
            for i in 0..call.words {
                // SAFETY: the group has NR words, of which these are eight.
                let at = |v: usize| Bytes::load(s, unsafe { &*call.b.add(i * NR + column + 4 * v).cast::<[u8; 16]>() });
                let b = [at(0), at(1)];
                rows!(ROWS, R => {
                    // SAFETY: row R < ROWS has `words` groups of four bytes.
                    let a = Bytes::splat(s, unsafe { call.a.add(R * call.stride + 4 * i).cast::<[u8; 4]>().read() }).less_128();
                    for v in 0..2 {
                        acc[R][v] = s.dot_pairs(acc[R][v], a, b[v]);
                    }
                });
            }
            // SAFETY: these columns are within NR.
            let first = unsafe { start(s, call, column) };
            rows!(ROWS, R => (first + s.add_pairs(acc[R][0], acc[R][1])).store(&mut sums.0[R][column..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::quantised_micro::MR;

    /// Every height, words that fill no register and words that do, rows at odd addresses, and the bytes whose products are the greatest.
    #[test]
    fn kernels_agree_with_portable_code() {
        let kernels: [(Run, usize); 2] = [(dot::run, 5), (pairs::run, 4)];
        for (run, most) in kernels {
            for (rows, words) in (1..=most).flat_map(|rows| [0, 1, 3, 4, 7, 16, 33].map(|words| (rows, words))) {
                let byte = |i: usize| if i % 7 < 2 { 255 } else { ((i * i * 31) >> 3) as u8 };
                let stride = 4 * words + 3;
                let a: Vec<u8> = (0..rows * stride).map(byte).collect();
                let b: Vec<[u8; 4]> = (0..words * NR).map(|i| [0, 1, 2, 3].map(|q| if i % 5 < 2 { 128 } else { byte(4 * i + q + 1) })).collect();
                let sum_of = |j: usize| b.iter().skip(j).step_by(NR).flatten().map(|x| i32::from(*x as i8)).sum();
                let column_sums: [i32; NR] = core::array::from_fn(sum_of);
                let words_of_b: Vec<i32> = b.iter().map(|x| i32::from_ne_bytes(*x)).collect();
                let (b, later) = (words_of_b.as_ptr(), words_of_b.as_ptr());
                let call = Call { rows, a: a.as_ptr(), stride, b, words, column_sums: column_sums.as_ptr(), later, later_step: 4, made: None };
                let (mut got, mut want) = (Sums([[-1; NR]; MR]), Sums([[-1; NR]; MR]));
                // SAFETY: A has `rows` rows of `words` groups, a stride apart, B as many groups of NR words, and there are NR sums.
                unsafe {
                    run(&call, &mut got);
                    portable(&call, &mut want);
                }
                assert_eq!(got.0, want.0, "{rows} rows of {words} words, at most {most} rows");
            }
        }
    }
}
