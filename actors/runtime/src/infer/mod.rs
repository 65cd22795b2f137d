//! Stages that run models: [`RunInference`] over any [`ModelHandler`], or over a [`SequenceModel`] that remembers.

mod closure;
mod engine;
mod handler;
mod options;
mod postprocess;
mod sequence;
mod stage;
mod within;
mod worker;

pub use closure::{FnHandler, handler, handler_with};
pub use engine::{Carried, EngineModel, EngineSequence, Ragged};
pub use handler::{IntoHandler, ModelHandler, ModelId, Prediction};
pub use options::RunInference;
pub use postprocess::{Postprocess, postprocess};
pub use sequence::{FnSequence, SequenceModel, SequenceOptions, Sequences, StateCodec, Step, WhenFull, sequence};
pub(crate) use stage::InferStage;
pub use within::{Limited, Within, within};
