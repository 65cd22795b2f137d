//! Giving records up.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

/// Asks that work be given up. Clones share one state.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<Shared>);

#[derive(Default)]
struct Shared {
    cancelled: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels: records that carry the token are dropped before their next execution, and futures that work on them are dropped
    /// as they are.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
        // Who looks under the lock sees the flag, or is found here.
        let wakers = std::mem::take(&mut self.waiting().wakers);
        wakers.into_values().for_each(Waker::wake);
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// Comes to its end when the token is cancelled.
    pub(crate) fn cancelled(&self) -> Cancelled {
        Cancelled { token: self.clone(), place: None }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CancelToken").field(&self.is_cancelled()).finish()
    }
}

/// Waits for a token.
pub(crate) struct Cancelled {
    token: CancelToken,
    /// Under which number its waker is kept.
    place: Option<u64>,
}

impl Future for Cancelled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let token = self.token.clone();
        let mut waiting = token.waiting();
        if token.is_cancelled() {
            return Poll::Ready(());
        }
        let place = *self.place.get_or_insert_with(|| {
            waiting.next += 1;
            waiting.next
        });
        waiting.wakers.insert(place, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Cancelled {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.token.waiting().wakers.remove(&place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_woken_and_who_is_gone_is_forgotten() {
        struct Flag(AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let (token, flag) = (CancelToken::new(), Arc::new(Flag(AtomicBool::new(false))));
        let waker = Waker::from(flag.clone());
        let mut context = Context::from_waker(&waker);
        let (mut stays, mut goes) = (token.cancelled(), token.cancelled());
        assert!(Pin::new(&mut stays).poll(&mut context).is_pending() && Pin::new(&mut goes).poll(&mut context).is_pending());
        drop(goes);
        assert_eq!(token.waiting().wakers.len(), 1);
        token.cancel();
        assert!(flag.0.load(Ordering::SeqCst));
        assert!(Pin::new(&mut stays).poll(&mut context).is_ready() && token.is_cancelled());
    }
}
