//! The microkernel: a tile of `MR` × `NV` vectors of C stays in registers while k runs.
//!
//! ```text
//! acc = first ? 0 : C
//! for runs of k:                   (one, but for images that are read in place)
//!   for k in the run:  b[v] = B[k, v]           (contiguous, aligned panel)
//!     for r, v:  acc[r][v] = fma(splat(A[r, k]), b[v], acc[r][v])
//! C = last ? epilogue(acc) : acc
//! ```
//! Rows of A lie any stride apart, so that A needs no transposition while packing, or no packing at all; packed rows lie [`A_STRIDE`] apart, so
//! that no two of them are in one set of the L1 cache. AVX-512 can multiply by an element straight from memory, but not at an address of two
//! registers; where A is used often enough to pay for a transposition, its columns are packed ([`Transposed`]), and a step of k takes a
//! third fewer instructions. That is what a core's other hardware thread leaves too few of. One body serves all levels; the tile that fills a level's register file is its [`Tile`]
//! constants. Tiles of fewer rows and vectors are instances of the same body, hence the same chain for each element.

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
use millstream_simd::Neon;
#[cfg(target_arch = "x86_64")]
use millstream_simd::{Avx2, Avx512};

use millstream_simd::{Scalar, Simd, SimdF32};

/// The longest stretch of k that one call runs.
pub(crate) const KC: usize = 512;
/// Elements from a row of packed A to the next: 33 lines of 64 bytes, an odd number, spreads the rows over the sets of the cache.
pub(crate) const A_STRIDE: usize = KC + 16;

/// Columns of C, and rows, for which packing columns of A pays.
const MANY_COLUMNS: usize = 128;
const MANY_ROWS: usize = 8;

/// How many steps of k ahead the lines of B are called for: some 150 ns of a full tile.
const AHEAD: usize = 24;

/// Memory that a later call reads, called into the second cache a few bytes each step of k: the lines of a panel that stands in the third
/// cache or beyond arrive spread over the tiles that use the panel before it.
#[derive(Clone, Copy)]
pub(crate) struct Later {
    pub(crate) start: *const f32,
    /// Bytes from one step of k to the next.
    pub(crate) step: usize,
}

/// One call of a microkernel.
pub(crate) struct Call<'f> {
    /// A: MR rows of `kc` elements; or, for the kernels of [`Transposed`], `kc` columns of MR elements.
    pub(crate) a: *const f32,
    /// Elements from a row of A to the next.
    pub(crate) a_stride: usize,
    /// Runs of `kc` steps of k, and the elements from where A's rows have one to where they have the next.
    pub(crate) runs: usize,
    pub(crate) run_step: usize,
    /// Packed B: `kc` groups of `S::NR` elements.
    pub(crate) b: *const f32,
    pub(crate) kc: usize,
    pub(crate) c: *mut f32,
    pub(crate) c_stride: usize,
    /// Columns of C that exist, 1..=NV * LANES.
    pub(crate) cols: usize,
    /// Starts from zero instead of from C.
    pub(crate) first: bool,
    pub(crate) later: Later,
    /// Finishes the elements; None if k goes on.
    pub(crate) finish: Option<&'f Finish>,
    /// Where the tile begins in the matrices of `finish`.
    pub(crate) row: usize,
    pub(crate) col: usize,
}

/// The part of the epilogue that happens in registers. Null pointers mean none.
pub(crate) struct Finish {
    pub(crate) alpha: f32,
    pub(crate) bias_cols: *const f32,
    pub(crate) bias_rows: *const f32,
    pub(crate) residual: *const f32,
    pub(crate) residual_stride: usize,
    pub(crate) beta: f32,
    /// Whether `lo` and `hi` bound the result.
    pub(crate) clamp: bool,
    pub(crate) lo: f32,
    pub(crate) hi: f32,
}

/// A compiled tile.
///
/// # Safety
/// `a` is readable for MR rows of `runs` runs of `kc`, `b` for `runs * kc * NR`, `c` writable for MR rows of `cols` (and
/// initialised unless `first`), and the pointers of `finish` that are not null readable for MR rows from `row` on and `cols` columns from `col` on.
pub(crate) type Kernel<S> = unsafe fn(S, &Call<'_>);

/// The register tile of a level.
pub(crate) trait Tile: Simd {
    /// Rows of the greatest tile.
    const MR: usize;
    /// Vectors of the widest tile.
    const NV: usize;
    /// Columns of a panel of packed B.
    const NR: usize;
    /// `KERNELS[rows - 1][vectors - 1]`.
    const KERNELS: &'static [&'static [Kernel<Self>]];
    /// What the level gains from packed columns of A, if anything.
    const TRANSPOSED: Option<Transposed<Self>>;
}

/// Kernels for packed columns of A.
#[derive(Clone, Copy)]
pub(crate) struct Transposed<S: 'static> {
    /// As [`Tile::KERNELS`], for A in columns of as many elements as the tile has rows, and one run.
    pub(crate) kernels: &'static [&'static [Kernel<S>]],
    /// Writes the columns of a matrix of `rows` (at most `Tile::MR`) by `kc` elements, whose rows begin `stride` apart in `src`.
    ///
    /// # Safety
    /// `src` is readable for such rows, and `dst` writable for `rows * kc + 16` elements.
    pub(crate) pack: unsafe fn(S, src: *const f32, stride: usize, rows: usize, kc: usize, dst: *mut f32),
}

/// Where row tile `t` of `rows` rows begins, and how many it has. Heights differ by one at most.
#[inline(always)]
pub(crate) fn row_tile<S: Tile>(rows: usize, t: usize) -> (usize, usize) {
    let tiles = rows.div_ceil(S::MR);
    let (base, taller) = (rows / tiles, rows % tiles);
    (t * base + t.min(taller), base + usize::from(t < taller))
}

impl<S: Tile> Transposed<S> {
    /// What the level has for a block of A of so many rows, used for so many columns of C, if it pays.
    #[inline(always)]
    pub(crate) fn paying(rows: usize, cols: usize) -> Option<Self> {
        S::TRANSPOSED.filter(|_| cols >= MANY_COLUMNS && rows >= MANY_ROWS)
    }
}

macro_rules! tile {
    ($level:ident, $lanes:literal, $vectors:tt, $rows:tt) => {
        tile!($level, $lanes, $vectors, $rows, None);
    };
    ($level:ident, $lanes:literal, $vectors:tt, $rows:tt, $transposed:expr) => {
        impl Tile for $level {
            const MR: usize = tile!(@count $rows);
            const NV: usize = tile!(@count $vectors);
            const NR: usize = Self::NV * $lanes;
            const KERNELS: &'static [&'static [Kernel<Self>]] = tile!(@kernels false, $level, $rows, $vectors);
            const TRANSPOSED: Option<Transposed<Self>> = $transposed;
        }
    };
    (@count [$($i:literal)*]) => { [$($i),*].len() };
    (@kernels $columns:literal, $level:ident, [$($mr:literal)*], $vectors:tt) => { &[$(tile!(@row $columns, $level, $mr, $vectors)),*] };
    (@row $columns:literal, $level:ident, $mr:literal, [$($nv:literal)*]) => { &[$(kernel::<$level, $columns, $mr, $nv>),*] };
}

tile!(Scalar, 8, [1], [1 2 3 4]);
#[cfg(target_arch = "x86_64")]
tile!(Avx2, 8, [1 2], [1 2 3 4 5 6]);
#[cfg(target_arch = "x86_64")]
tile!(
    Avx512,
    16,
    [1 2],
    [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
    Some(Transposed { kernels: tile!(@kernels true, Avx512, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], [1 2]), pack: pack_columns })
);
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
tile!(Neon, 8, [1 2], [1 2 3 4 5 6]);

/// Runs `$body` for each row of a tile, unrolled, with the row's number as a literal constant.
macro_rules! rows {
    ($mr:ident, $r:ident => $body:expr) => {
        rows!(@ $mr, $r, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $mr:ident, $r:ident, $body:expr, $($i:literal)*) => {$(
        if $mr > $i {
            const $r: usize = $i;
            $body
        }
    )*};
}

pub(crate) use rows;

/// # Safety
/// As [`Kernel`].
unsafe fn kernel<S: Tile, const COLUMNS: bool, const MR: usize, const NV: usize>(s: S, call: &Call<'_>) {
    s.vectorize(
        #[inline(always)]
        || {
            // SAFETY: the caller's promise, passed on.
            unsafe { body::<S, COLUMNS, MR, NV>(s, call) }
        },
    );
}

/// # Safety
/// As [`Kernel`].
#[inline(always)]
unsafe fn body<S: Tile, const COLUMNS: bool, const MR: usize, const NV: usize>(s: S, call: &Call<'_>) {
    let lanes = S::F32::LANES;
    let (c, c_stride, cols) = (call.c, call.c_stride, call.cols);
    // Columns of the last vector.
    let tail = cols - (NV - 1) * lanes;
    let mut acc = [[S::F32::splat(s, 0.0); NV]; MR];
    if !call.first {
        rows!(MR, R => for v in 0..NV {
            // SAFETY: row R < MR of C has `cols` initialised elements, of which vector v holds the next `lanes` or `tail`.
            acc[R][v] = unsafe {
                let p = c.add(R * c_stride + v * lanes);
                if v + 1 < NV { S::F32::load_ptr(s, p) } else { S::F32::load_ptr_partial(s, p, tail) }
            };
        });
    }
    // Calls for the lines of C, and of what is added at the end, early, so that the end doesn't wait for them.
    rows!(MR, R => for v in 0..NV {
        s.prefetch(c.wrapping_add(R * c_stride + v * lanes));
    });
    if let Some(f) = call.finish.filter(|f| !f.residual.is_null()) {
        rows!(MR, R => for v in 0..NV {
            s.prefetch(f.residual.wrapping_add((call.row + R) * f.residual_stride + call.col + v * lanes));
        });
    }
    // SAFETY: the caller's promise for A and B.
    unsafe { if COLUMNS { columns::<S, MR, NV>(s, call, &mut acc) } else { lines::<S, MR, NV>(s, call, &mut acc) } }
    if let Some(f) = call.finish {
        // SAFETY: the caller's promise for the pointers of `finish`.
        unsafe { finish::<S, MR, NV>(s, f, call, tail, &mut acc) };
    }
    rows!(MR, R => for v in 0..NV {
        // SAFETY: row R < MR of C has `cols` elements, of which vector v holds the next `lanes` or `tail`.
        unsafe {
            let p = c.add(R * c_stride + v * lanes);
            if v + 1 < NV || tail == lanes { acc[R][v].store_ptr(p) } else { acc[R][v].store_ptr_partial(p, tail) }
        }
    });
}

/// The products of rows of A.
///
/// # Safety
/// As [`Kernel`], for A and B.
#[inline(always)]
unsafe fn lines<S: Tile, const MR: usize, const NV: usize>(s: S, call: &Call<'_>, acc: &mut [[S::F32; NV]; MR]) {
    let lanes = S::F32::LANES;
    let (mut b, mut later) = (call.b, call.later.start);
    // Three rows hang on one pointer, at addresses that cost nothing: base, base + stride, base + 2 stride.
    let stride = call.a_stride;
    let mut a = [call.a; 5];
    for (i, a) in a.iter_mut().enumerate() {
        *a = a.wrapping_add(3 * i * stride);
    }
    // Whether a step ahead is more than a line ahead.
    let far = call.later.step > 64;
    for _ in 0..call.runs {
        for _ in 0..call.kc {
            s.prefetch_far(later);
            if far {
                s.prefetch_far(later.wrapping_byte_add(64));
            }
            later = later.wrapping_byte_add(call.later.step);
            // Panels stream from beyond the L1 cache the first time that they are used.
            for v in 0..NV {
                s.prefetch(b.wrapping_add(AHEAD * S::NR + v * lanes));
            }
            let mut bv = [S::F32::splat(s, 0.0); NV];
            for v in 0..NV {
                // SAFETY: B has kc groups of NR >= NV * lanes elements; b is the start of the current one.
                bv[v] = unsafe { S::F32::load_ptr(s, b.add(v * lanes)) };
            }
            rows!(MR, R => {
                // SAFETY: A has MR rows of kc elements; a is the current column.
                let av = S::F32::splat(s, unsafe { *a[R / 3].add(R % 3 * stride) });
                for v in 0..NV {
                    acc[R][v] = av.mul_add(bv[v], acc[R][v]);
                }
            });
            for a in &mut a[..MR.div_ceil(3)] {
                *a = a.wrapping_add(1);
            }
            b = b.wrapping_add(S::NR);
        }
        for a in &mut a[..MR.div_ceil(3)] {
            *a = a.wrapping_add(call.run_step.wrapping_sub(call.kc));
        }
    }
}

/// The products of packed columns of A.
///
/// # Safety
/// As [`Kernel`], for A in columns of MR elements and one run, and B.
#[inline(always)]
unsafe fn columns<S: Tile, const MR: usize, const NV: usize>(s: S, call: &Call<'_>, acc: &mut [[S::F32; NV]; MR]) {
    let (mut b, mut later) = (call.b, call.later.start);
    let mut a = [call.a; 2];
    // Whether two steps ahead are two lines ahead.
    let far = 2 * call.later.step > 64;
    for _ in 0..call.kc / 2 {
        // Each vector reads A through a pointer of its own, of which the compiler must not see that they are the same: a load that is used once
        // becomes an operand of its multiply-add, one that is used twice an instruction. Nor may it see their steps, from which it would make
        // addresses of two registers.
        a = [opaque(a[0]), opaque(a[1])];
        // B is left to the machine's own prefetching: calling for it costs more than it brings here.
        s.prefetch_far(later);
        if far {
            s.prefetch_far(later.wrapping_byte_add(call.later.step));
        }
        later = later.wrapping_byte_add(2 * call.later.step);
        // SAFETY: two of the kc steps.
        unsafe {
            column::<S, MR, NV>(s, a, b, acc);
            column::<S, MR, NV>(s, [a[0].wrapping_add(MR), a[1].wrapping_add(MR)], b.wrapping_add(S::NR), acc);
        }
        a = [a[0].wrapping_add(2 * MR), a[1].wrapping_add(2 * MR)];
        b = b.wrapping_add(2 * S::NR);
    }
    if call.kc % 2 == 1 {
        // SAFETY: the last of the kc steps.
        unsafe { column::<S, MR, NV>(s, a, b, acc) }
    }
}

/// The same pointer, of which the compiler knows nothing; this takes no instruction.
#[inline(always)]
fn opaque(p: *const f32) -> *const f32 {
    #[cfg(target_arch = "x86_64")]
    #[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read through the pointer here")]
    {
        let mut p = p;
        // SAFETY: no instruction, and the register keeps its value.
        unsafe { core::arch::asm!("/* {0} */", inout(reg) p, options(nomem, nostack, preserves_flags)) };
        p
    }
    #[cfg(not(target_arch = "x86_64"))]
    p
}

/// One step of k.
///
/// # Safety
/// Each of `a` is readable for MR elements, `b` for NV vectors.
#[inline(always)]
unsafe fn column<S: Tile, const MR: usize, const NV: usize>(s: S, a: [*const f32; 2], b: *const f32, acc: &mut [[S::F32; NV]; MR]) {
    let mut bv = [S::F32::splat(s, 0.0); NV];
    for v in 0..NV {
        // SAFETY: the caller's promise for B.
        bv[v] = unsafe { S::F32::load_ptr(s, b.add(v * S::F32::LANES)) };
    }
    rows!(MR, R => for v in 0..NV {
        // SAFETY: the caller's promise for A.
        let av = S::F32::splat(s, unsafe { *a[v % 2].add(R) });
        acc[R][v] = av.mul_add(bv[v], acc[R][v]);
    });
}

/// [`Transposed::pack`] of AVX-512.
///
/// # Safety
/// As there.
#[cfg(target_arch = "x86_64")]
unsafe fn pack_columns(s: Avx512, src: *const f32, stride: usize, rows: usize, kc: usize, dst: *mut f32) {
    use millstream_simd::types::Avx512F32 as F32;
    s.vectorize(
        #[inline(always)]
        || {
            for k in (0..kc).step_by(16) {
                let count = 16.min(kc - k);
                let mut square = [F32::splat(s, 0.0); 16];
                for (r, line) in square.iter_mut().enumerate() {
                    if r < rows {
                        // SAFETY: row r has `kc` elements, of which `count` are left.
                        *line = unsafe { F32::load_ptr_partial(s, src.add(r * stride + k), count) };
                    }
                }
                for (i, column) in s.transpose(square).into_iter().enumerate() {
                    if i < count {
                        // SAFETY: each store writes 16 elements, from one of the first rows * kc on; the next one covers those past the column.
                        unsafe { column.store_ptr(dst.add((k + i) * rows)) }
                    }
                }
            }
        },
    );
}

/// # Safety
/// As [`Kernel`], for the pointers of `f`; the last vector has `tail` columns.
#[inline(always)]
unsafe fn finish<S: Tile, const MR: usize, const NV: usize>(s: S, f: &Finish, call: &Call<'_>, tail: usize, acc: &mut [[S::F32; NV]; MR]) {
    let lanes = S::F32::LANES;
    let (alpha, beta) = (S::F32::splat(s, f.alpha), S::F32::splat(s, f.beta));
    let mut bias = [S::F32::splat(s, 0.0); NV];
    if !f.bias_cols.is_null() {
        for v in 0..NV {
            // SAFETY: the bias has an element for each column of the tile.
            bias[v] = unsafe { S::F32::load_ptr_partial(s, f.bias_cols.add(call.col + v * lanes), if v + 1 < NV { lanes } else { tail }) };
        }
    }
    rows!(MR, R => {
        for v in 0..NV {
            acc[R][v] = acc[R][v].mul_add(alpha, bias[v]);
        }
        if !f.bias_rows.is_null() {
            // SAFETY: the bias has an element for each row of the tile.
            let bias = S::F32::splat(s, unsafe { *f.bias_rows.add(call.row + R) });
            for v in 0..NV {
                acc[R][v] = acc[R][v] + bias;
            }
        }
        if !f.residual.is_null() {
            for v in 0..NV {
                // SAFETY: the residual has the rows and columns of the tile.
                let x = unsafe {
                    let p = f.residual.add((call.row + R) * f.residual_stride + call.col + v * lanes);
                    S::F32::load_ptr_partial(s, p, if v + 1 < NV { lanes } else { tail })
                };
                acc[R][v] = x.mul_add(beta, acc[R][v]);
            }
        }
    });
    if f.clamp {
        let (lo, hi) = (S::F32::splat(s, f.lo), S::F32::splat(s, f.hi));
        rows!(MR, R => for v in 0..NV {
            acc[R][v] = hi.min(lo.max(acc[R][v]));
        });
    }
}
