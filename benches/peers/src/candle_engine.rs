//! candle's own evaluator of ONNX graphs (feature `candle`, whose build needs protoc).

use crate::{Engine, Result, case::by_dtype, locked};
use candle_core::{DType, Device, Tensor};
use candle_onnx::onnx::ModelProto;
use std::{collections::HashMap, path::Path};

pub(crate) struct Candle {
    model: ModelProto,
    inputs: HashMap<String, Tensor>,
}

impl Candle {
    /// The number of threads is rayon's: `RAYON_NUM_THREADS`.
    pub(crate) fn load(path: &Path, inputs: &[(String, millstream::Tensor)]) -> Result<Self> {
        let model = candle_onnx::read_file(path)?;
        let value = |tensor: &millstream::Tensor| -> Result<Tensor> {
            // candle has no 32-bit integers.
            if tensor.dtype() == millstream::DType::I32 {
                let wide = tensor.as_slice::<i32>()?.iter().map(|&x| i64::from(x)).collect::<Vec<_>>();
                return Ok(Tensor::from_vec(wide, tensor.shape().to_vec(), &Device::Cpu)?);
            }
            Ok(by_dtype!(tensor, F32: f32, I64: i64, U8: u8; slice => Tensor::from_slice(slice, tensor.shape().to_vec(), &Device::Cpu)?))
        };
        let inputs = inputs.iter().map(|(name, tensor)| Ok((name.clone(), value(tensor)?))).collect::<Result<_>>()?;
        Ok(Candle { model, inputs })
    }
}

impl Engine for Candle {
    fn version(&self) -> String {
        locked("candle-onnx")
    }

    fn run(&mut self) -> Result<()> {
        candle_onnx::simple_eval(&self.model, self.inputs.clone())?;
        Ok(())
    }

    fn outputs(&mut self) -> Result<Vec<Vec<f64>>> {
        let outputs = candle_onnx::simple_eval(&self.model, self.inputs.clone())?;
        let graph = self.model.graph.as_ref().ok_or("there is no graph")?;
        let floats = |name: &str| -> Result<Vec<f64>> {
            let tensor = outputs.get(name).ok_or("an output is missing")?;
            Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
        };
        graph.output.iter().map(|output| floats(&output.name)).collect()
    }
}
