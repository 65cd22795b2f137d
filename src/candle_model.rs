//! Models that run on Candle's tensors.

use crate::{Error, Model};
use millstream_candle::{Output, candle_core::Tensor, run_candle};

impl Model {
    /// Runs the model on tensors of Candle's by the inputs' names, in any order, and gives its outputs by name, in order. Dense
    /// tensors on the CPU are read where they lie; outputs are written into memory that Candle takes over.
    pub fn run_candle(&self, inputs: &[(&str, &Tensor)]) -> Result<Vec<(String, Output)>, Error> {
        Ok(self.with_workspace(|workspace| run_candle(&**self.executable(), workspace, inputs))?)
    }
}
