//! CPUID and XGETBV, without std. The answer is cached because each CPUID of a virtual machine traps to its host.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Set once the other bits are valid.
const KNOWN: u8 = 1;
pub(super) const AVX2: u8 = 2;
pub(super) const AVX512: u8 = 4;
pub(super) const AVX512_VNNI: u8 = 8;

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
            }
        }
    }
    found
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
