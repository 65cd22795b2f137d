//! The bytes that models' weights may take together.

use std::sync::Arc;

use millstream_edge::{Cost, Credit, Ledger, Limits};

/// What the weights of several models may take together. Clones share one account.
///
/// It counts what models say they take ([`ModelHandler::model_bytes`](crate::ModelHandler::model_bytes)); deployments and
/// caches reserve before they load.
#[derive(Clone)]
pub struct ModelMemory(Arc<Ledger>);

impl ModelMemory {
    /// An account of so many bytes.
    pub fn new(bytes: u64) -> Self {
        ModelMemory(Arc::new(Ledger::new(Limits { records: u32::MAX, bytes })))
    }

    /// What is reserved at the moment.
    pub fn used(&self) -> u64 {
        self.0.outstanding().bytes
    }

    /// What is not.
    pub fn free(&self) -> u64 {
        self.limit() - self.used()
    }

    /// What there is.
    pub fn limit(&self) -> u64 {
        self.0.limits().bytes
    }

    /// Reserves this much, if it is free. (Nothing passes here for being too large: a model either fits or does not.)
    pub(super) fn reserve(&self, bytes: u64) -> Option<Credit> {
        if bytes > self.limit() { None } else { self.0.clone().try_acquire(Cost { records: 0, bytes }) }
    }
}
