//! Graph to plan: passes that simplify, lowering that packs weights, binding that plans memory. Everything is pure data.
//!
//! - [`simplify`] rewrites a graph by rules: what every backend gets.
//! - [`Template`] is the CPU's own lowering of a simplified graph: operators fused, constants packed. It is made once.
//! - [`Template::bind`] makes a [`Plan`](millstream_engine::Plan) for concrete inputs: shapes inferred, memory orders chosen, buffers placed.
//! - [`planner`] places buffers by live range, for whoever has some.
//!
//! Invariants: binding is deterministic; buffers that are live at the same time never overlap; `plan_bytes` is what a run
//! takes; every pass can be switched off and changes no result beyond rounding.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

mod bind;
mod executable;
mod passes;
pub mod planner;
mod program;
mod template;

pub use executable::CompiledModel;
pub use passes::{Options, rules, simplify};
pub use program::Program;
pub use template::{Segment, Template, signature, walkable};
