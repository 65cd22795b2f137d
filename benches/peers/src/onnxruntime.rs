//! ONNX Runtime through the `ort` crate; the library is the one that `ORT_DYLIB_PATH` names.

use crate::{Engine, Result, case::by_dtype};
use millstream::Tensor;
use ort::{
    session::{Session, SessionInputValue},
    value::{DynValue, Tensor as OrtTensor},
};
use std::{env, path::Path};

pub(crate) struct OnnxRuntime {
    session: Session,
    inputs: Vec<(String, DynValue)>,
}

impl OnnxRuntime {
    pub(crate) fn load(path: &Path, inputs: &[(String, Tensor)], threads: usize, spin: bool) -> Result<Self> {
        let library = env::var("ORT_DYLIB_PATH").map_err(|_| "ORT_DYLIB_PATH has to name ONNX Runtime's library")?;
        let environment = ort::init_from(library)?.build()?;
        let builder = Session::builder(&environment)?.with_intra_threads(threads).map_err(|e| e.to_string())?;
        let builder = builder.with_inter_threads(1).map_err(|e| e.to_string())?;
        let mut builder = builder.with_intra_op_spinning(spin).map_err(|e| e.to_string())?;
        let session = builder.commit_from_file(path)?;
        let value = |tensor: &Tensor| -> Result<DynValue> {
            let dims = tensor.shape().to_vec();
            Ok(by_dtype!(tensor, F32: f32, I64: i64, I32: i32, U8: u8; slice => OrtTensor::from_array((dims, slice.to_vec()))?.into_dyn()))
        };
        let inputs = inputs.iter().map(|(name, tensor)| Ok((name.clone(), value(tensor)?))).collect::<Result<_>>()?;
        Ok(OnnxRuntime { session, inputs })
    }

    fn arguments(inputs: &[(String, DynValue)]) -> Vec<(String, SessionInputValue<'_>)> {
        inputs.iter().map(|(name, value)| (name.clone(), value.into())).collect()
    }
}

impl Engine for OnnxRuntime {
    fn version(&self) -> String {
        let library = env::var("ORT_DYLIB_PATH").unwrap_or_default();
        format!("onnxruntime {}", library.rsplit_once(".so.").map_or("of unknown version", |(_, version)| version))
    }

    fn run(&mut self) -> Result<()> {
        self.session.run(Self::arguments(&self.inputs))?;
        Ok(())
    }

    fn outputs(&mut self) -> Result<Vec<Vec<f64>>> {
        let outputs = self.session.run(Self::arguments(&self.inputs))?;
        let floats = |value: &DynValue| -> Result<Vec<f64>> {
            if let Ok((_, x)) = value.try_extract_tensor::<f32>() {
                return Ok(x.iter().map(|&x| f64::from(x)).collect());
            }
            Ok(value.try_extract_tensor::<i64>()?.1.iter().map(|&x| x as f64).collect())
        };
        outputs.values().map(|value| floats(&value)).collect()
    }
}
