//! Event time: when things happened, as opposed to when they came.
//!
//! [`crate::Flow::event_time`] reads a record's time and says, from what it has seen, how far event time has come: that is a
//! watermark, which travels between the records. Every stage passes on the least of what its inputs say, behind the records
//! that came before it; an idle input is not waited for. [`crate::Flow::window`] gathers records by their times and gives a
//! window's result when the watermark has passed its end.

mod aggregate;
mod assign;
mod clock;
mod window;

pub use aggregate::{Aggregate, Fold, Stored, fold, stored};
pub(crate) use assign::AssignFn;
pub use assign::Watermarks;
pub use clock::{Clock, ManualClock};
pub(crate) use clock::{SystemClock, alarm};
pub(crate) use window::{WindowFn, WindowState};
pub use window::{Windowed, Windows};

use std::time::Duration;

/// A duration in the unit of event times.
fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
