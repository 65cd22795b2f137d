//! Microkernels of integer products: a tile of sums stays in registers while k runs.
//!
//! ```text
//! sums[r][j] = sum over i of A[r, 4 i .. 4 i + 4] . B[4 i .. 4 i + 4, j]
//! ```
//! A is unsigned and B signed. AVX-512 VNNI multiplies and adds four bytes of each lane in one instruction, straight from memory that holds
//! bytes; AMX multiplies tiles of bytes (`quantised_tiles`); AVX2 has no exact instruction for bytes, so that B is made harmless first
//! (`quantised_avx2`); NEON multiplies signed bytes, so that it starts from 128 times the sums of B's columns and takes 128 from A
//! (`quantised_neon`); portable code does the rest.

use millstream_simd::Level;
#[cfg(target_arch = "x86_64")]
use millstream_simd::{Amx, Avx512Vnni};

#[cfg(target_arch = "x86_64")]
use crate::micro::rows;
#[cfg(target_arch = "x86_64")]
use crate::quantised_avx2;
use crate::quantised_rhs::NR;
#[cfg(target_arch = "x86_64")]
use crate::quantised_tiles::{self, Tiles};

/// Elements of k in a word of B.
pub(crate) const GROUP: usize = 4;

/// Rows of the greatest tile of any level.
pub(crate) const MR: usize = 32;

/// The sums of a tile.
#[repr(align(64))]
pub(crate) struct Sums(pub(crate) [[i32; NR]; MR]);

/// One call of a kernel.
pub(crate) struct Call {
    /// Rows of the tile, 1..=`Kernel::rows`.
    pub(crate) rows: usize,
    /// A: for each row `words` groups of four elements, which need not be aligned.
    pub(crate) a: *const u8,
    /// Bytes from a row of A to the next.
    pub(crate) stride: usize,
    /// Packed B: `words` groups of [`NR`] words.
    pub(crate) b: *const i32,
    /// What [`Kernel::make`] made of them, if anything.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "no kernel of these machines makes anything of panels"))]
    pub(crate) made: Option<Made>,
    pub(crate) words: usize,
    /// The sum of each of B's [`NR`] columns.
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    pub(crate) column_sums: *const i32,
    /// Memory that a later call reads, called into the second cache a few bytes for each word.
    pub(crate) later: *const i32,
    /// Bytes of it for each word.
    pub(crate) later_step: usize,
}

/// What a kernel has made of a panel of B.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "no kernel of these machines makes anything of panels"))]
pub(crate) struct Made {
    /// As many groups as the panel's.
    pub(crate) main: *const i32,
    /// What is to be multiplied as well, for either half of the columns.
    pub(crate) again: [Again; 2],
}

/// Groups of B for half of a panel's columns.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "no kernel of these machines makes anything of panels"))]
pub(crate) struct Again {
    /// `count` groups of `NR / 2` words.
    pub(crate) words: *const i32,
    /// For each, the byte in a row of A where its elements begin.
    pub(crate) at: *const i32,
    pub(crate) count: usize,
}

/// How a kernel makes something of each panel of B before rows pass over it.
#[derive(Clone, Copy)]
pub(crate) struct Make {
    /// Rows for which it pays.
    pub(crate) rows: usize,
    /// Words of memory for what becomes of so many groups.
    pub(crate) len: fn(usize) -> usize,
    /// Makes it of a panel of so many groups, in memory of `len` words.
    pub(crate) run: fn(&[i32], usize, &mut [i32]) -> Made,
}

/// A level's kernel, and the form of A that it reads.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// Rows of the greatest tile.
    pub(crate) rows: usize,
    /// Rows that are read at a time: A is readable up to the next multiple.
    pub(crate) height: usize,
    /// Elements of k that are read at a time: A and B are readable up to the next multiple, and A is zero past k.
    pub(crate) depth: usize,
    /// Writes `call.rows` rows of sums.
    ///
    /// # Safety
    /// A and B are readable as [`Call`] says, up to the next multiples of `height` and `depth`. What [`Kernel::begin`] gave lives on this thread.
    pub(crate) run: unsafe fn(&Call, &mut Sums),
    /// What the kernel makes of panels of B, if anything.
    pub(crate) make: Option<Make>,
    /// What makes this thread ready.
    begin: fn() -> Ready,
}

/// A thread that is ready to run a kernel.
pub(crate) struct Ready {
    #[cfg(target_arch = "x86_64")]
    _tiles: Option<Tiles>,
}

impl Ready {
    /// Most kernels ask for nothing.
    fn always() -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            _tiles: None,
        }
    }
}

impl Kernel {
    /// The fastest one of this machine that `level` allows.
    pub(crate) fn of(level: Level) -> Kernel {
        #[cfg(target_arch = "x86_64")]
        match level {
            Level::Amx(_) => {
                let (rows, height, depth) = (2 * quantised_tiles::ROWS, quantised_tiles::ROWS, quantised_tiles::DEPTH);
                let begin = || Ready { _tiles: Amx::detect().map(Tiles::configure) };
                return Kernel { rows, height, depth, run: quantised_tiles::run, make: None, begin };
            }
            Level::Avx512(_) if Avx512Vnni::detect().is_some() => return Kernel { rows: 14, run: vnni::run, ..Self::PORTABLE },
            Level::Avx512(_) | Level::Avx2(_) => {
                return Kernel { rows: quantised_avx2::ROWS, run: quantised_avx2::run, make: Some(quantised_avx2::MAKE), ..Self::PORTABLE };
            }
            _ => {}
        }
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        if let Level::Neon(_) = level {
            let (rows, run) = crate::quantised_neon::kernel();
            return Kernel { rows, run, ..Self::PORTABLE };
        }
        let _ = level;
        Self::PORTABLE
    }

    const PORTABLE: Kernel = Kernel { rows: 8, height: 1, depth: GROUP, run: portable, make: None, begin: Ready::always };

    /// Makes this thread ready to run the kernel, until the result is dropped.
    pub(crate) fn begin(self) -> Ready {
        (self.begin)()
    }

    /// Elements of a row of packed A, for `k` that count.
    pub(crate) fn padded(self, k: usize) -> usize {
        k.next_multiple_of(self.depth)
    }

    /// Bytes from a row of packed A to the next: an odd number of cache lines, so that rows spread over the sets of the cache.
    pub(crate) fn stride(self, k: usize) -> usize {
        self.padded(k).next_multiple_of(128) + 64
    }
}

/// # Safety
/// As [`Kernel::run`].
pub(crate) unsafe fn portable(call: &Call, sums: &mut Sums) {
    for (r, sums) in sums.0.iter_mut().enumerate().take(call.rows) {
        *sums = [0; NR];
        for i in 0..call.words {
            // SAFETY: row r has `words` groups of four bytes, B as many groups of NR words.
            let (a, b) = unsafe { (call.a.add(r * call.stride + 4 * i).cast::<[u8; 4]>().read(), call.b.add(i * NR).cast::<[i32; NR]>().read()) };
            let a = a.map(i32::from);
            for (sum, b) in sums.iter_mut().zip(b) {
                let b = b.to_ne_bytes().map(|x| i32::from(x as i8));
                *sum = sum.wrapping_add(a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]);
            }
        }
    }
}

/// Calls `$body::<ROWS>` for the tile's rows.
#[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon")))]
macro_rules! by_rows {
    ($rows:expr, [$($mr:literal)*], $call:expr, $sums:expr, $s:expr) => {
        match $rows {
            $($mr => $s.vectorize(
                #[inline(always)]
                || {
                    // SAFETY: the caller's promise, passed on.
                    unsafe { body::<$mr>($s, $call, $sums) }
                },
            ),)*
            _ => {}
        }
    };
}

#[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon")))]
pub(crate) use by_rows;

/// Four products and their sum for each lane and instruction.
#[cfg(target_arch = "x86_64")]
mod vnni {
    use millstream_simd::types::Avx512I32 as I32;
    use millstream_simd::{Avx512, Avx512Vnni, Simd, SimdI32};

    use super::{Call, NR, Sums, portable, rows};

    const LANES: usize = <I32 as SimdI32<Avx512>>::LANES;
    const NV: usize = NR / LANES;
    /// How many words ahead the lines of B are called for.
    const AHEAD: usize = 16;

    /// # Safety
    /// As [`super::Kernel::run`].
    pub(super) unsafe fn run(call: &Call, sums: &mut Sums) {
        let Some(s) = Avx512Vnni::detect() else {
            // SAFETY: the caller's promise, passed on.
            return unsafe { portable(call, sums) };
        };
        by_rows!(call.rows, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], call, sums, s);
    }

    /// # Safety
    /// As [`super::Kernel::run`], for ROWS rows.
    #[inline(always)]
    unsafe fn body<const ROWS: usize>(s: Avx512Vnni, call: &Call, sums: &mut Sums) {
        let base = s.base();
        let mut acc = [[I32::splat(base, 0); NV]; ROWS];
        // Three rows hang on one pointer, at addresses that cost nothing: base, base + stride, base + 2 stride.
        let stride = call.stride;
        let mut a = [call.a; 5];
        for (i, a) in a.iter_mut().enumerate() {
            *a = a.wrapping_add(3 * i * stride);
        }
        let (mut b, mut later) = (call.b, call.later);
        for _ in 0..call.words {
            base.prefetch_far(later.cast());
            later = later.wrapping_byte_add(call.later_step);
            for v in 0..NV {
                base.prefetch(b.wrapping_add(AHEAD * NR + v * LANES).cast());
            }
            // SAFETY: b is the start of one of the groups of NR words.
            let words = unsafe { &*b.cast::<[i32; NR]>() };
            let mut bv = [I32::splat(base, 0); NV];
            for v in 0..NV {
                bv[v] = I32::load(base, &words[v * LANES..]);
            }
            rows!(ROWS, R => {
                // SAFETY: row R < ROWS has `words` groups of four bytes; a is at the current one.
                let av = I32::splat(base, unsafe { a[R / 3].add(R % 3 * stride).cast::<i32>().read_unaligned() });
                for v in 0..NV {
                    acc[R][v] = s.dot_u8_i8(acc[R][v], av, bv[v]);
                }
            });
            for a in &mut a[..ROWS.div_ceil(3)] {
                *a = a.wrapping_add(4);
            }
            b = b.wrapping_add(NR);
        }
        rows!(ROWS, R => for v in 0..NV {
            acc[R][v].store(&mut sums.0[R][v * LANES..]);
        });
    }
}
