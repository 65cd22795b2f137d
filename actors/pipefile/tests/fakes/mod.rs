//! Models that are written by hand, called by what their files say.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::{error::Error, fs, path::Path, sync::Arc, thread, time::Duration};

use millstream_engine::{Executable, PlanBytes, Port, Request, RunError, Signature, Workspace};
use millstream_pipefile::{Models, Opened};
use millstream_tensor::{DType, Shape, Tensor, Value};

/// What a model's file says, and what the model does with the column of numbers `x`.
const WORDS: &[(&str, fn(f32) -> f32)] = &[
    ("double", |x| 2.0 * x),
    ("triple", |x| 3.0 * x),
    ("slow", |x| {
        thread::sleep(Duration::from_millis(1));
        2.0 * x
    }),
    ("stuck", |x| {
        if x == 7.0 {
            thread::sleep(Duration::from_secs(2));
        }
        2.0 * x
    }),
    ("fragile", |x| {
        assert!(x >= 0.0, "a negative number");
        2.0 * x
    }),
];

/// `y` is a number for each number of `x`. With a memory, `sumN` is `sum * rate + x`, and `y` is that too.
struct Fake {
    signature: Signature,
    each: Option<fn(f32) -> f32>,
}

fn port(name: &str, dims: &[Option<usize>]) -> Port {
    let dims = dims.iter().map(|dim| dim.ok_or_else(|| "batch".to_owned())).collect();
    Port { name: name.into(), dtype: Some(DType::F32), dims: Some(dims) }
}

impl Executable for Fake {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&self, _: &mut Workspace, request: Request<'_, '_>) -> Result<Vec<Option<Value>>, RunError> {
        let tensors: Vec<&Tensor> = request.inputs.iter().map(Value::as_tensor).collect::<Result<_, _>>()?;
        let numbers = tensors[0].as_slice::<f32>()?;
        let column = |numbers: &[f32]| Tensor::from_slice(&[numbers.len(), 1], numbers).map(|tensor| Some(Value::Tensor(tensor)));
        let Some(each) = self.each else {
            let (sums, rate) = (tensors[1].as_slice::<f32>()?, tensors[2].as_slice::<f32>()?[0]);
            let sums: Vec<f32> = sums.iter().zip(numbers).map(|(sum, x)| sum * rate + x).collect();
            return Ok(vec![column(&sums)?, column(&sums)?]);
        };
        Ok(vec![column(&numbers.iter().map(|x| each(*x)).collect::<Vec<_>>())?])
    }

    fn plan_bytes(&self, inputs: &[Shape]) -> Result<PlanBytes, RunError> {
        Ok(PlanBytes::new(0, inputs[0].elements() * 4, 0, 0))
    }

    fn describe(&self, _: &[Shape]) -> Result<Vec<String>, RunError> {
        Ok(Vec::new())
    }
}

/// Opens files that hold one of the words, or "sum" for the model with a memory.
pub fn fakes() -> Arc<dyn Models> {
    Arc::new(|path: &Path| -> Result<Opened, Box<dyn Error + Send + Sync>> {
        let word = fs::read_to_string(path)?;
        let (mut inputs, mut outputs) = (vec![port("x", &[None, Some(1)])], vec![port("y", &[None, Some(1)])]);
        let each = WORDS.iter().find(|(name, _)| *name == word).map(|(_, each)| *each);
        if each.is_none() {
            inputs.extend([port("sum", &[None, Some(1)]), port("rate", &[])]);
            outputs.push(port("sumN", &[None, Some(1)]));
        }
        let executable = Arc::new(Fake { signature: Signature { inputs, outputs }, each });
        Ok(Opened { executable, properties: Vec::new(), memory_limit: usize::MAX })
    })
}
