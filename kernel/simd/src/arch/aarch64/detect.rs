//! Whether this machine has the products of bytes, without std.
//!
//! Targets that have them say so at compile time. Elsewhere the feature register of the processor would tell, but a program may read it only
//! where the operating system answers for it: Linux does from 4.11 on. Its version comes by a system call, which every Linux answers; what is
//! neither has no such products as far as this crate knows, and uses the instructions that all have.

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Set once the other bit is valid.
const KNOWN: u8 = 1;
const DOTPROD: u8 = 2;

static CACHE: AtomicU8 = AtomicU8::new(0);

/// True if this machine has SDOT and UDOT.
pub(super) fn dotprod() -> bool {
    if cfg!(target_feature = "dotprod") {
        return true;
    }
    let mut found = CACHE.load(Relaxed);
    if found & KNOWN == 0 {
        // Two threads may both ask; they get the same answer.
        found = KNOWN | if query() { DOTPROD } else { 0 };
        CACHE.store(found, Relaxed);
    }
    found & DOTPROD != 0
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn query() -> bool {
    false
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn query() -> bool {
    use core::arch::asm;
    if release() < (4, 11) {
        return false;
    }
    let features: u64;
    // SAFETY: Linux from 4.11 on answers this read for programs; it touches neither memory nor flags.
    unsafe { asm!("mrs {}, ID_AA64ISAR0_EL1", out(reg) features, options(nomem, nostack, preserves_flags)) };
    features >> 44 & 0xf != 0
}

/// The major and the minor number of the running Linux, zeros if it doesn't say.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn release() -> (u32, u32) {
    use core::arch::asm;
    /// The number of the system call `uname`, and the bytes of each of the six texts that it writes.
    const UNAME: usize = 160;
    const TEXT: usize = 65;
    let mut texts = [0_u8; 6 * TEXT];
    let status: isize;
    // SAFETY: the call writes six texts to memory of that size, which is ours, and returns; system calls change x0 alone.
    unsafe { asm!("svc 0", in("x8") UNAME, inlateout("x0") texts.as_mut_ptr() => status, options(nostack)) };
    if status == 0 { numbers(&texts[2 * TEXT..3 * TEXT]) } else { (0, 0) }
}

/// The first two numbers of a text such as `6.1.0-18-arm64`.
#[cfg(any(target_os = "linux", target_os = "android", test))]
fn numbers(text: &[u8]) -> (u32, u32) {
    let mut found =
        text.split(|c| !c.is_ascii_digit()).map(|digits| digits.iter().fold(0_u32, |n, d| n.saturating_mul(10).saturating_add(u32::from(d - b'0'))));
    (found.next().unwrap_or(0), found.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #[test]
    fn releases_are_read() {
        for (text, want) in [("6.1.0-18-arm64\0\0", (6, 1)), ("4.11\0", (4, 11)), ("5.10.43", (5, 10)), ("\0\0", (0, 0)), ("x.y", (0, 0)), ("7", (7, 0))] {
            assert_eq!(super::numbers(text.as_bytes()), want, "{text}");
        }
    }
}
