//! How an asynchronous stage runs.

use std::time::Duration;

use crate::stage::StageOptions;

/// Options of an asynchronous stage that takes `T` and gives `U`.
pub struct AsyncOptions<T, U> {
    pub(crate) concurrency: usize,
    pub(crate) limit: Option<Duration>,
    pub(crate) in_order: bool,
    pub(crate) stage: StageOptions<T, U>,
}

impl<T, U> Clone for AsyncOptions<T, U> {
    fn clone(&self) -> Self {
        AsyncOptions { concurrency: self.concurrency, limit: self.limit, in_order: self.in_order, stage: self.stage.clone() }
    }
}

impl<T, U> AsyncOptions<T, U> {
    /// Up to so many futures at once in each replica, no limit on their time, results in the order of their keys.
    pub fn new(concurrency: usize) -> Self {
        AsyncOptions { concurrency: concurrency.max(1), limit: None, in_order: false, stage: StageOptions::new() }
    }

    /// The longest that a record may take, all its tries together. One that takes longer goes to the dead letters
    /// ([`crate::ErrorKind::TimedOut`]), and its future is dropped.
    #[must_use]
    pub fn limit(mut self, time: Duration) -> Self {
        self.limit = Some(time);
        self
    }

    /// Results leave each replica in the order in which records came to it, and not in that of their keys only. A record that
    /// takes long then holds up all behind it.
    #[must_use]
    pub fn in_order(mut self) -> Self {
        self.in_order = true;
        self
    }

    /// What stages of all kinds can be told: replicas, errors, letters, growth.
    #[must_use]
    pub fn stage(mut self, options: StageOptions<T, U>) -> Self {
        self.stage = options;
        self
    }
}
