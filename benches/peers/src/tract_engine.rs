//! tract, optimised for the inputs' very shapes.

use crate::{Engine, Result, case::by_dtype, locked};
use millstream::Tensor;
use std::{path::Path, sync::Arc};
use tract_onnx::{
    prelude::*,
    tract_core::{
        model::{TypedFact, TypedOp},
        tract_linalg::multithread::{Executor, set_default_executor},
    },
};

pub(crate) struct Tract {
    model: Arc<RunnableModel<TypedFact, Box<dyn TypedOp>>>,
    inputs: TVec<TValue>,
}

impl Tract {
    pub(crate) fn load(path: &Path, inputs: &[(String, Tensor)], threads: usize) -> Result<Self> {
        if threads > 1 {
            set_default_executor(Executor::multithread(threads));
        }
        let mut model = tract_onnx::onnx().model_for_path(path)?;
        let names: Vec<String> = model.input_outlets()?.iter().map(|outlet| model.node(outlet.node).name.clone()).collect();
        let mut values = tvec![];
        for (index, name) in names.iter().enumerate() {
            let (_, tensor) = inputs.iter().find(|(n, _)| n == name).ok_or("an input is missing")?;
            let dims = tensor.shape().to_vec();
            let value: TValue = by_dtype!(tensor, F32: f32, I64: i64, I32: i32, U8: u8; slice => tract_onnx::prelude::Tensor::from_shape(&dims, slice)?.into());
            model = model.with_input_fact(index, InferenceFact::dt_shape(value.datum_type(), dims))?;
            values.push(value);
        }
        // The outputs that the file declares can contradict what follows from the inputs.
        for output in 0..model.output_outlets()?.len() {
            model = model.with_output_fact(output, InferenceFact::default())?;
        }
        Ok(Tract { model: model.into_optimized()?.into_runnable()?, inputs: values })
    }
}

impl Engine for Tract {
    fn version(&self) -> String {
        locked("tract-onnx")
    }

    fn run(&mut self) -> Result<()> {
        self.model.run(self.inputs.clone())?;
        Ok(())
    }

    fn outputs(&mut self) -> Result<Vec<Vec<f64>>> {
        let floats = |value: &TValue| -> Result<Vec<f64>> {
            let cast = value.cast_to::<f64>()?;
            Ok(cast.to_plain_array_view::<f64>()?.iter().copied().collect())
        };
        self.model.run(self.inputs.clone())?.iter().map(floats).collect()
    }
}
