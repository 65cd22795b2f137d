//! CPUID and XGETBV, without std. The answer is cached because each CPUID of a virtual machine traps to its host.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Set once the other bits are valid.
const KNOWN: u8 = 1;
pub(super) const AVX2: u8 = 2;
pub(super) const AVX512: u8 = 4;
pub(super) const AVX512_VNNI: u8 = 8;
/// Tiles of bytes, which this process may use.
pub(super) const AMX_INT8: u8 = 16;

static CACHE: AtomicU8 = AtomicU8::new(0);

/// True if every feature group in `groups` is there.
pub(super) fn has(groups: u8) -> bool {
    let mut found = CACHE.load(Relaxed);
    if found & KNOWN == 0 {
        // Two threads may both ask; they get the same answer.
        found = KNOWN | query();
        CACHE.store(found, Relaxed);
    }
    found & groups == groups
}

fn query() -> u8 {
    let bit = |word: u32, i: u32| word >> i & 1 == 1;
    if __cpuid(0).eax < 7 {
        return 0;
    }
    let one = __cpuid(1);
    let seven = __cpuid_count(7, 0);
    let (osxsave, avx, fma, f16c) = (bit(one.ecx, 27), bit(one.ecx, 28), bit(one.ecx, 12), bit(one.ecx, 29));
    if !osxsave {
        return 0;
    }
    let state = xcr0();
    // The operating system saves XMM and YMM; for AVX-512 also the mask registers and both halves of ZMM.
    let ymm = state & 0x6 == 0x6;
    let zmm = state & 0xe6 == 0xe6;
    let mut found = 0;
    if ymm && avx && fma && f16c && bit(seven.ebx, 5) {
        found |= AVX2;
        // F, DQ, BW, VL.
        if zmm && [16, 17, 30, 31].into_iter().all(|i| bit(seven.ebx, i)) {
            found |= AVX512;
            if bit(seven.ecx, 11) {
                found |= AVX512_VNNI;
                // TILE and INT8, their state saved, and granted.
                if bit(seven.edx, 24) && bit(seven.edx, 25) && state & 0x6_0000 == 0x6_0000 && tiles_are_whole() && tiles_are_granted() {
                    found |= AMX_INT8;
                }
            }
        }
    }
    found
}

/// True if palette 1 has eight tiles of 16 rows by 64 bytes.
fn tiles_are_whole() -> bool {
    if __cpuid(0).eax < 0x1d {
        return false;
    }
    let palette = __cpuid_count(0x1d, 1);
    (palette.ebx & 0xffff, palette.ebx >> 16, palette.ecx & 0xffff) == (64, 8, 16)
}

/// Asks Linux for the tiles; a process that has not asked dies of its first tile.
#[cfg(target_os = "linux")]
fn tiles_are_granted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: a system call by its calling convention, which clobbers rcx and r11. The call reads and writes no memory of ours.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _, out("r11") _, options(nostack));
    }
    result == 0
}

/// Elsewhere we don't know how to ask.
#[cfg(not(target_os = "linux"))]
fn tiles_are_granted() -> bool {
    false
}

/// The state components that the operating system saves.
fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: called only if CPUID reports OSXSAVE, which makes XGETBV of register 0 valid; it reads no memory and changes no flags.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}
