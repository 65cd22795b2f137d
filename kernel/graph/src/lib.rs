//! The graph that models become: operators, symbolic shapes, and the contract that every operator fulfils.
//!
//! - [`Graph`] holds values and nodes; a node's [`Op`] came from the [`Registry`], built by an [`OpDef`].
//! - [`Fact`] is what is known of a value before it exists: its type, its [`Dim`]s, sometimes its elements.
//! - [`Op::infer`] computes facts from facts, symbolic or concrete alike; [`Op::eval`] computes elements.
//! - [`EvalCx`] is all that a kernel sees of the machine: borrowed inputs and outputs, the ISA level, scratch memory, and
//!   [`EvalCx::parallel`], which runs independent grains and returns when all are done.
//!
//! Invariants (checked by [`Graph::verify`]): every value has one producer at most; nodes can be ordered so that producers
//! come first; a subgraph reads outer values only through its captures, which are inputs of its own.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

mod analyse;
mod attribute;
mod dim;
mod error;
mod eval;
mod fact;
mod ir;
mod op;
mod parallel;
mod registry;
mod verify;

pub use analyse::{FOLD_LIMIT, analyse, infer_node};
pub use attribute::{Attribute, Attributes};
pub use dim::{Dim, Symbol};
pub use error::{BuildError, EvalError, InferError};
pub use eval::{EvalCx, Input, Output, eval_to_values};
pub use fact::{Fact, Known};
pub use ir::{Declared, DeclaredDim, Graph, Node, NodeId, Source, Subgraph, ValueId, ValueInfo};
pub use op::{Control, Cost, InferCx, Op, Packed, Permutation, PrepackCx, Scratch, Spec, StepCx};
pub use parallel::{Parallel, Serial};
pub use registry::{Arity, BuildCx, OpDef, Registry};
pub use verify::VerifyError;
