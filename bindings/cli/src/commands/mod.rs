//! One module a command: its arguments, and the function that does it.

pub(crate) mod bench;
pub(crate) mod demo;
pub(crate) mod inspect;
pub(crate) mod load;
mod pipeline;
mod profile;
pub(crate) mod run;
pub(crate) mod test;
pub(crate) mod top;
