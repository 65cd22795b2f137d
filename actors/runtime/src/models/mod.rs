//! Models that change while they are used.
//!
//! - [`Deployment`] is a model with versions: swap and rollback without a gap, trials on a share of the batches. Its handler
//!   can be given to several stages, which then share one model.
//! - [`PerKey`] holds a model for each key, as many as fit: loaded when they are first asked for, dropped when they have not
//!   been used for longest.
//! - [`ModelMemory`] bounds what the weights of all of them take.

mod canary;
mod deployed;
mod deployment;
mod memory;
mod per_key;
mod version;

pub use canary::{Canary, Verdict};
pub use deployed::Deployed;
pub use deployment::{Deployment, DeploymentOptions};
pub use memory::ModelMemory;
pub use per_key::{Keyed, PerKey, PerKeyStats};
pub use version::{LoadModel, OnMemory, SwapError, VersionInfo};
