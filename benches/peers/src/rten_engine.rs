//! rten, weights prepacked.

use crate::{Engine, Result, locked};
use millstream::{DType, Tensor};
use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use rten_tensor::{AsView, Tensor as RtenTensor};
use std::{path::Path, sync::Arc};

pub(crate) struct Rten {
    model: Model,
    inputs: Vec<(NodeId, Value)>,
    pool: Arc<ThreadPool>,
}

impl Rten {
    pub(crate) fn load(path: &Path, inputs: &[(String, Tensor)], threads: usize) -> Result<Self> {
        let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(path)?;
        // rten has no 64-bit integers: it takes them as 32-bit ones.
        let value = |tensor: &Tensor| -> Result<Value> {
            let dims = tensor.shape().to_vec();
            Ok(match tensor.dtype() {
                DType::F32 => RtenTensor::from_data(&dims, tensor.as_slice::<f32>()?.to_vec()).into(),
                DType::I64 => {
                    RtenTensor::from_data(&dims, tensor.as_slice::<i64>()?.iter().map(|&x| i32::try_from(x)).collect::<std::result::Result<Vec<_>, _>>()?)
                        .into()
                }
                DType::I32 => RtenTensor::from_data(&dims, tensor.as_slice::<i32>()?.to_vec()).into(),
                DType::U8 => RtenTensor::from_data(&dims, tensor.as_slice::<u8>()?.to_vec()).into(),
                other => return Err(format!("tensors of {other} are not supported").into()),
            })
        };
        let inputs = inputs.iter().map(|(name, tensor)| Ok((model.node_id(name)?, value(tensor)?))).collect::<Result<_>>()?;
        Ok(Rten { model, inputs, pool: Arc::new(ThreadPool::with_num_threads(threads)) })
    }

    fn values(&self) -> Result<Vec<Value>> {
        let inputs = self.inputs.iter().map(|(id, value)| (*id, ValueOrView::from(value))).collect();
        let options = RunOptions::default().with_thread_pool(Some(self.pool.clone()));
        Ok(self.model.run(inputs, self.model.output_ids(), Some(options))?)
    }
}

impl Engine for Rten {
    fn version(&self) -> String {
        locked("rten")
    }

    fn run(&mut self) -> Result<()> {
        self.values().map(drop)
    }

    fn outputs(&mut self) -> Result<Vec<Vec<f64>>> {
        let floats = |value: Value| -> Result<Vec<f64>> {
            Ok(match value {
                Value::FloatTensor(t) => t.iter().map(|&x| f64::from(x)).collect(),
                Value::Int32Tensor(t) => t.iter().map(|&x| f64::from(x)).collect(),
                other => return Err(format!("an output of {:?}", other.dtype()).into()),
            })
        };
        self.values()?.into_iter().map(floats).collect()
    }
}
