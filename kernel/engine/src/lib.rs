//! Runs compiled plans: all that a device needs, and the contract between models and whatever executes them.
//!
//! - [`Backend`] turns a simplified graph into an [`Executable`]; [`Executable::run`] takes a [`Workspace`] and a
//!   [`Request`]. Executables are shared between threads, workspaces are not.
//! - [`Plan`] is what the CPU's own compiler makes for one set of input shapes: steps, arena offsets, bytes. It is pure data,
//!   and [`run_plan`] executes it, on any [`Workers`].
//!
//! Invariants: a run never allocates arena memory beyond what its plan states; concurrent runs share no mutable memory;
//! results do not depend on the number of workers.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

mod error;
mod executable;
mod execute;
mod given;
mod plan;
mod profile;
mod signature;
mod workers;
mod workspace;

pub use error::{CompileError, NodeError, RunError, ShapeError, StepError, describe};
pub use executable::{Backend, Cancel, Executable, PlanBytes, Request};
pub use execute::run_plan;
pub use given::{Given, hand_over};
pub use millstream_tensor::WeightSource;
pub use plan::{Argument, Guard, Place, Plan, PlanOutput, Step, Target};
pub use profile::{Clock, Profiler, StepRecord};
pub use signature::{Port, Signature};
pub use workers::{SerialWorkers, Workers};
pub use workspace::{Bindings, Workspace};
