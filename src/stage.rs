//! A loaded model as a stage of a pipeline.

use crate::Model;
use millstream_runtime::{EngineModel, IntoHandler, ModelId};

/// Examples are the model's inputs in the order of its signature, without the batch axis. The stage shares the model's
/// weights; each replica has a workspace, within the session's limit on memory.
impl IntoHandler for &Model {
    type Handler = EngineModel;

    fn into_handler(self) -> EngineModel {
        EngineModel::new(ModelId::new(self.name(), "1"), self.executable().clone()).memory_limit(self.memory_limit())
    }
}

impl IntoHandler for Model {
    type Handler = EngineModel;

    fn into_handler(self) -> EngineModel {
        (&self).into_handler()
    }
}
