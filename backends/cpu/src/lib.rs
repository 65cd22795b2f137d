//! The CPU backend: our own plans, run by a thread pool on the best instructions that the machine has.
//!
//! - [`Pool`] runs a step's grains; a run enters it once, and a run that finds it taken runs alone on its caller's thread.
//! - [`CpuBackend`] lowers graphs for a [`Level`] and a pool.
//! - [`level`] reads `MILLSTREAM_LEVEL`; [`HUGE_PAGES_VARIABLE`] is this crate's other environment variable.
//! - [`MappedFile`] maps weights, [`Files`] opens what a model refers to in its folder.
//! - [`StdClock`] times steps, [`Peaks`] is what the machine can do at most.

mod backend;
mod clock;
mod files;
mod huge_pages;
mod peaks;
mod pool;

pub use backend::{CpuBackend, level};
pub use clock::StdClock;
pub use files::{FileError, Files, MappedFile};
pub use huge_pages::HUGE_PAGES_VARIABLE;
pub use millstream_simd::Level;
pub use peaks::{Peaks, flops_once};
pub use pool::Pool;
