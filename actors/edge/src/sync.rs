//! The one place where this crate's atomics and locks come from: std, or loom's models of them under `cfg(loom)`.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};
// Reference counts are no part of our protocols, and loom's `Arc` cannot be a receiver of methods.
pub(crate) use std::sync::Arc;
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

/// Waits to be notified, until the deadline: none when that has passed.
#[cfg(not(loom))]
pub(crate) fn wait<'a, T>(bell: &Condvar, guard: MutexGuard<'a, T>, deadline: Option<std::time::Instant>) -> Option<MutexGuard<'a, T>> {
    let Some(deadline) = deadline else {
        return Some(bell.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner()));
    };
    let left = deadline.checked_duration_since(std::time::Instant::now()).filter(|left| !left.is_zero())?;
    // Woken early or late, the caller looks again, and comes back here.
    Some(bell.wait_timeout(guard, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0)
}

/// Time does not pass in a model: a deadline is as good as none.
#[cfg(loom)]
pub(crate) fn wait<'a, T>(bell: &Condvar, guard: MutexGuard<'a, T>, _: Option<std::time::Instant>) -> Option<MutexGuard<'a, T>> {
    Some(bell.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// Locks, whatever became of the last holder: every structure behind our locks is whole between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
