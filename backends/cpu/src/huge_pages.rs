//! Large memory asks Linux for huge pages: a large model's weights and workspace are mapped by a few hundred page faults instead of by a
//! hundred thousand.
//!
//! It is advice (`madvise(2)`, `MADV_HUGEPAGE`): a system that has no huge page left, or none at all, gives ordinary ones.

/// The environment variable that, at `0`, leaves large memory to ordinary pages: for systems whose memory is so scattered that making room for huge
/// pages takes longer than they save.
pub const HUGE_PAGES_VARIABLE: &str = "MILLSTREAM_HUGE_PAGES";

/// Asks for huge pages for the large memory that this process takes from now on.
pub(crate) fn ask_for() {
    #[cfg(target_os = "linux")]
    {
        use std::{env, sync::Once};
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            if env::var_os(HUGE_PAGES_VARIABLE).is_none_or(|value| value != "0") {
                millstream_tensor::prepare_large_memory(advise);
            }
        });
    }
}

/// Advises the pages that hold `room`. Its first and its last page may hold others' bytes too, which does them no harm; only so can a huge page
/// hold the end of one tensor and the beginning of the next.
#[cfg(target_os = "linux")]
fn advise(room: &mut [std::mem::MaybeUninit<u8>]) {
    // SAFETY: reads a constant of the system.
    let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else { return };
    let range = room.as_mut_ptr_range();
    let before = range.start.addr() % page.max(1);
    let length = (range.end.addr() - range.start.addr() + before).next_multiple_of(page.max(1));
    // SAFETY: the pages of `room`, all of which are mapped; the advice changes neither what they hold nor who may use them. If it is not
    // taken, nothing is lost.
    unsafe { libc::madvise(range.start.wrapping_sub(before).cast(), length, libc::MADV_HUGEPAGE) };
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn advised_memory_keeps_its_bytes() {
        let mut memory = vec![7u8; 5 << 20];
        let mut room: Vec<u8> = Vec::with_capacity(3 << 20);
        advise(room.spare_capacity_mut());
        room.resize(3 << 20, 9);
        memory.truncate(4 << 20);
        advise(memory.spare_capacity_mut());
        assert!(memory.iter().all(|&b| b == 7) && room.iter().all(|&b| b == 9));
        advise(&mut []);
    }
}
