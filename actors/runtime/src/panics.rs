//! Panics of user code: caught, described, and kept off standard error.
//!
//! The description (place and backtrace) is only to be had inside the panic hook, so the first pipeline of a process
//! chains a hook in front of the present one. It acts on panics that happen under [`guard`] and hands on all others.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    cell::{Cell, RefCell},
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

use crate::error::Fault;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<Option<(Option<String>, Option<String>)>> = const { RefCell::new(None) };
}

/// Runs user code; a panic comes back as a fault.
///
/// What the code was working on may be left half-done: the caller throws that away, as the contract of a stage says.
pub(crate) fn guard<R>(run: impl FnOnce() -> R) -> Result<R, Fault> {
    install_hook();
    let outer = GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    GUARDED.set(outer);
    result.map_err(|payload| {
        // One that was caught on another thread, and goes on here.
        let payload = match payload.downcast::<Fault>() {
            Ok(fault) => return *fault,
            Err(payload) => payload,
        };
        let (location, backtrace) = LAST.take().unwrap_or_default();
        Fault::Panic { message: message_of(&*payload), location, backtrace }
    })
}

/// Warns once where panics cannot be caught at all.
pub(crate) fn warn_if_aborting() {
    static ONCE: Once = Once::new();
    if cfg!(panic = "abort") {
        ONCE.call_once(|| {
            tracing::warn!("built with panic=abort: a panic in a stage ends the process, supervision cannot restart it");
        });
    }
}

fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                return previous(info);
            }
            let location = info.location().map(ToString::to_string);
            let backtrace = Backtrace::capture();
            let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
            LAST.set(Some((location, backtrace)));
        }));
    });
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a payload that is no text".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_fault_with_its_place() {
        let fault = guard(|| panic!("no {}", 7)).unwrap_err();
        let Fault::Panic { message, location, .. } = fault else { panic!("a panic") };
        assert_eq!(message, "no 7");
        assert!(location.unwrap().contains("panics.rs"));
        assert_eq!(guard(|| 5).unwrap(), 5);
    }
}
