//! Where models run.

use millstream_engine::{Backend, Workers};
use std::{fmt, str::FromStr, sync::Arc};

/// Where models run. Text names a device as `cpu`, `cuda`, `cuda:1` or `auto`.
///
/// A device that is not there is an error, never another device; who wants one that is there asks for [`Device::Auto`].
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Device {
    /// This machine's processor.
    #[default]
    Cpu,
    /// A GPU of NVIDIA's, counted from 0 (feature `cuda`).
    Cuda(usize),
    /// A device of Candle's.
    #[cfg(feature = "candle")]
    Candle(millstream_candle::candle_core::Device),
    /// The first GPU if there is one that can be used, else the processor.
    Auto,
}

/// A device that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Text that names no device.
    #[error("`{0}` names no device: cpu, cuda, cuda:N and auto do")]
    Unknown(String),
    /// The program was built without this kind of device.
    #[error("this program was built without CUDA (the feature `cuda` of millstream)")]
    NotBuilt,
    /// There is no driver, no such device, or it does not answer.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] millstream_cuda::CudaError),
}

impl Device {
    /// The backend of this device, `None` for the processor's own.
    pub(crate) fn backend(&self, workers: Option<Arc<dyn Workers>>) -> Result<Option<Arc<dyn Backend>>, DeviceError> {
        match self {
            Device::Cpu => Ok(None),
            Device::Cuda(ordinal) => cuda(*ordinal, workers).map(Some),
            #[cfg(feature = "candle")]
            Device::Candle(device) => {
                let backend = millstream_candle::CandleBackend::on(device.clone());
                Ok(Some(match workers {
                    Some(workers) => Arc::new(backend.with_workers(workers)),
                    None => Arc::new(backend),
                }))
            }
            Device::Auto => match cuda(0, workers) {
                Ok(backend) => Ok(Some(backend)),
                Err(_) => Ok(None),
            },
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize, workers: Option<Arc<dyn Workers>>) -> Result<Arc<dyn Backend>, DeviceError> {
    let backend = millstream_cuda::CudaBackend::new(millstream_cuda::Gpu::open(ordinal)?);
    Ok(match workers {
        Some(workers) => Arc::new(backend.with_workers(workers)),
        None => Arc::new(backend),
    })
}

#[cfg(not(feature = "cuda"))]
fn cuda(_ordinal: usize, _workers: Option<Arc<dyn Workers>>) -> Result<Arc<dyn Backend>, DeviceError> {
    Err(DeviceError::NotBuilt)
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Device, DeviceError> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Device::Cpu),
            None if text == "cuda" => Ok(Device::Cuda(0)),
            None if text == "auto" => Ok(Device::Auto),
            Some(("cuda", ordinal)) => ordinal.parse().map(Device::Cuda).map_err(|_| DeviceError::Unknown(text.to_owned())),
            _ => Err(DeviceError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            #[cfg(feature = "candle")]
            Device::Candle(device) => write!(f, "candle:{device:?}"),
            Device::Auto => f.write_str("auto"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        for (text, name) in [("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:3", "cuda:3"), ("auto", "auto")] {
            assert_eq!(text.parse::<Device>().expect("a device").to_string(), name);
        }
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0"] {
            assert_eq!(text.parse::<Device>().expect_err("no device"), DeviceError::Unknown(text.to_owned()));
        }
    }
}
