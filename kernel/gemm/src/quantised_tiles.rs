//! The microkernel of integer products for AMX: two by two tiles of 16 × 16 sums stay in tile registers while k runs, 64 at a time.
//!
//! ```text
//! tile 0 1   sums           tile 6 7   16 groups of B by 16 columns
//!      2 3                  tile 4     64 elements of 16 rows of A
//!                           tile 5
//! ```
//! Tiles are always whole: rows past the last are multiplied too, and their sums are nobody's.

use core::arch::asm;
use core::marker::PhantomData;

use millstream_simd::Amx;

use crate::quantised_micro::{Call, Sums};
use crate::quantised_rhs::NR;

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Elements of k in a row of a tile of A.
pub(crate) const DEPTH: usize = 64;
/// Bytes from a group of B, or a row of sums, to the next.
const STRIDE: usize = NR * size_of::<i32>();

/// The tiles of this thread, configured for [`run`] and given back at the end.
pub(crate) struct Tiles {
    /// Tiles belong to a thread.
    _here: PhantomData<*const ()>,
}

/// The memory operand of LDTILECFG.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// Eight tiles of 16 rows by 64 bytes.
    pub(crate) fn configure(_: Amx) -> Self {
        let mut configuration = Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        configuration.row_bytes[..8].fill(DEPTH as u16);
        configuration.rows[..8].fill(ROWS as u8);
        // SAFETY: the token proves that the machine has AMX and that this process may use it; the operand is 64 readable bytes in the form of
        // palette 1, whose limits the token checked. Compiled code never keeps anything in tiles.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly, preserves_flags));
        }
        Self { _here: PhantomData }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: tiles were configured on this thread, since `Tiles` cannot leave it.
        unsafe {
            asm!("tilerelease", options(nostack, nomem, preserves_flags));
        }
    }
}

/// Writes the sums of `call.rows` rows, of which `2 * ROWS` may be asked for; those up to the next multiple of [`ROWS`] are overwritten.
///
/// # Safety
/// A [`Tiles`] lives on this thread. Rows of A up to the next multiple of [`ROWS`], and all groups of A and B up to the next multiple of [`DEPTH`] elements of k, are readable;
/// past `4 * call.words` elements A is zero.
#[inline]
pub(crate) unsafe fn run(call: &Call, sums: &mut Sums) {
    debug_assert!(call.rows <= 2 * ROWS);
    let steps = (call.words * 4).div_ceil(DEPTH);
    if steps == 0 {
        sums.0.as_flattened_mut()[..call.rows * NR].fill(0);
        return;
    }
    let lower = call.a.wrapping_add(ROWS * call.stride);
    let step = call.later_step * DEPTH / 4;
    // SAFETY: this thread's tiles are configured, which the caller promises. Loads are of 16 rows of 64 bytes: of A `stride` apart, which the caller
    // promises, the lower ones only if there are such rows; of B 128 bytes apart, 16 groups for each of `steps`, which the caller promises
    // too. Stores are of 16 or 32 rows of sums, and `sums` has 32 rows of 128 bytes. Prefetches never fault.
    unsafe {
        if call.rows <= ROWS {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "2:",
                "tileloadd tmm4, [{a} + {a_stride}]",
                "tileloadd tmm6, [{b} + {stride}]",
                "tileloadd tmm7, [{b} + {stride} + 64]",
                "prefetcht1 [{later}]",
                "prefetcht1 [{later} + 64]",
                "tdpbusd tmm0, tmm4, tmm6",
                "prefetcht1 [{later} + 128]",
                "prefetcht1 [{later} + 192]",
                "tdpbusd tmm1, tmm4, tmm7",
                "add {a}, 64",
                "add {b}, 2048",
                "add {later}, {step}",
                "dec {n}",
                "jnz 2b",
                "tilestored [{c} + {stride}], tmm0",
                "tilestored [{c} + {stride} + 64], tmm1",
                a = inout(reg) call.a => _,
                b = inout(reg) call.b => _,
                later = inout(reg) call.later => _,
                n = inout(reg) steps => _,
                step = in(reg) step,
                a_stride = in(reg) call.stride,
                stride = in(reg) STRIDE,
                c = in(reg) sums.0.as_mut_ptr(),
                options(nostack),
            );
            return;
        }
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a} + {a_stride}]",
            "tileloadd tmm6, [{b} + {stride}]",
            "prefetcht1 [{later}]",
            "prefetcht1 [{later} + 64]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {stride} + 64]",
            "prefetcht1 [{later} + 128]",
            "prefetcht1 [{later} + 192]",
            "tdpbusd tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{lower} + {a_stride}]",
            "prefetcht1 [{later} + 256]",
            "prefetcht1 [{later} + 320]",
            "tdpbusd tmm2, tmm5, tmm6",
            "prefetcht1 [{later} + 384]",
            "prefetcht1 [{later} + 448]",
            "tdpbusd tmm3, tmm5, tmm7",
            "add {a}, 64",
            "add {lower}, 64",
            "add {b}, 2048",
            "add {later}, {step}",
            "dec {n}",
            "jnz 2b",
            "tilestored [{c} + {stride}], tmm0",
            "tilestored [{c} + {stride} + 64], tmm1",
            "tilestored [{c} + {stride} + 2048], tmm2",
            "tilestored [{c} + {stride} + 2112], tmm3",
            a = inout(reg) call.a => _,
            lower = inout(reg) lower => _,
            b = inout(reg) call.b => _,
            later = inout(reg) call.later => _,
            n = inout(reg) steps => _,
            step = in(reg) step,
            a_stride = in(reg) call.stride,
            stride = in(reg) STRIDE,
            c = in(reg) sums.0.as_mut_ptr(),
            options(nostack),
        );
    }
}
