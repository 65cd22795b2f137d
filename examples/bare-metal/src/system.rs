//! What std and the C library do for other programs: the entry, two system calls, the panic handler, and the memory
//! functions that compiled code calls. x86-64 Linux.

use core::{
    arch::{asm, global_asm},
    fmt::{self, Write},
    panic::PanicInfo,
};

// The kernel enters with a stack aligned to 16; a function expects it so before the call pushes its return address.
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {start}", "ud2", start = sym start);

extern "C" fn start() -> ! {
    exit(crate::program())
}

/// Standard output.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let written: isize;
            // SAFETY: `write(1, pointer, length)` reads `rest` only; the call clobbers rcx and r11.
            unsafe {
                asm!("syscall", inlateout("rax") 1_isize => written, in("rdi") 1, in("rsi") rest.as_ptr(), in("rdx") rest.len(),
                    lateout("rcx") _, lateout("r11") _, options(nostack));
            }
            let written = usize::try_from(written).map_err(|_| fmt::Error)?;
            rest = rest.get(written..).ok_or(fmt::Error)?;
        }
        Ok(())
    }
}

/// Ends the program.
fn exit(status: i32) -> ! {
    // SAFETY: `exit_group(status)` does not return and touches no memory.
    unsafe { asm!("syscall", in("rax") 231, in("rdi") status, options(noreturn, nostack)) }
}

#[panic_handler]
fn panicked(info: &PanicInfo<'_>) -> ! {
    let _ = writeln!(Console, "{info}");
    exit(101)
}

/// Core and alloc were compiled to unwind and name these; with `panic = "abort"` nothing calls them.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() -> ! {
    exit(102)
}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    exit(103)
}

// In assembly, so that the compiler cannot make a call to the function out of the function's own loop.

/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    // SAFETY: the caller gives n readable bytes at `from` and n writable ones at `to`; the direction flag is clear.
    unsafe { asm!("rep movsb", inout("rcx") n => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack, preserves_flags)) };
    to
}

/// # Safety
/// As C's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= n {
        // SAFETY: copying upwards is right, since no byte is written before it is read; the rest is the caller's promise.
        return unsafe { memcpy(to, from, n) };
    }
    // SAFETY: copies downwards from the last byte (n > 0 here), and clears the direction flag again.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") n => _, inout("rdi") to.add(n - 1) => _, inout("rsi") from.add(n - 1) => _, options(nostack));
    }
    to
}

/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, n: usize) -> *mut u8 {
    // SAFETY: the caller gives n writable bytes at `to`; the direction flag is clear.
    unsafe { asm!("rep stosb", inout("rcx") n => _, inout("rdi") to => _, in("al") byte as u8, options(nostack, preserves_flags)) };
    to
}

/// # Safety
/// As C's `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    for i in 0..n {
        // SAFETY: the caller gives n readable bytes at both.
        let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// # Safety
/// As `memcmp`, of which only zero or not is told.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: the caller's promise is the same.
    unsafe { memcmp(a, b, n) }
}
