//! Fail points: places at which a test stops a process, to kill it there.
//!
//! Without the feature `fail-points` they are nothing. With it, the environment's `MILLSTREAM_FAIL_AT=NAME:COUNT` makes the
//! process say `FAILED AT NAME` on its standard output when it comes to that point for the `COUNT`th time, and stand still.

/// A place at which a test may stop the process.
#[macro_export]
#[doc(hidden)]
macro_rules! fail_point {
    ($name:literal) => {
        $crate::fail_here($name)
    };
}

/// Nothing.
#[cfg(not(feature = "fail-points"))]
#[doc(hidden)]
#[inline(always)]
pub const fn fail_here(_name: &str) {}

/// Stands still for ever if it is this point's turn.
#[cfg(feature = "fail-points")]
#[doc(hidden)]
#[expect(clippy::print_stdout, reason = "the test reads it")]
pub fn fail_here(name: &str) {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    };

    static PLAN: LazyLock<Option<(String, AtomicU64)>> = LazyLock::new(|| {
        let plan = std::env::var("MILLSTREAM_FAIL_AT").ok()?;
        let (name, count) = plan.split_once(':')?;
        Some((name.to_owned(), AtomicU64::new(count.parse().ok()?)))
    });
    if let Some((chosen, left)) = &*PLAN
        && chosen == name
        && left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        println!("FAILED AT {name}");
        loop {
            std::thread::park();
        }
    }
}
