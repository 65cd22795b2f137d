//! NEON, and its products of bytes.

pub(crate) mod bytes;
mod detect;
pub(crate) mod neon;

pub use bytes::NeonDot;
pub use neon::Neon;
