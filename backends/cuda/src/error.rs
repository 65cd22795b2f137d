//! Why a device cannot be used, or did not do what it was told.

use cudarc::driver::DriverError;
use millstream_engine::RunError;

/// A device that is not there, a launch that does not fit its kernel, or what the driver says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The machine has no library of NVIDIA's driver.
    #[error("there is no NVIDIA driver on this machine (libcuda was not found)")]
    NoDriver,
    /// The driver is older than the kernels' PTX.
    #[error("the NVIDIA driver is for CUDA {major}.{minor}, the kernels need 13.0")]
    OldDriver {
        /// Of the CUDA version that the driver is for.
        major: i32,
        /// Of the CUDA version that the driver is for.
        minor: i32,
    },
    /// There are fewer devices than asked for.
    #[error("CUDA device {ordinal} is not there: the driver knows {count}")]
    NoDevice {
        /// The device that was asked for, counted from 0.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// A device that our kernels are not made for.
    #[error("{name} has compute capability {major}.{minor}, the kernels need 8.0")]
    TooOld {
        /// The device's name.
        name: String,
        /// Of its compute capability.
        major: i32,
        /// Of its compute capability.
        minor: i32,
    },
    /// A kernel that no module has.
    #[error("there is no CUDA kernel named `{0}`")]
    NoKernel(String),
    /// Arguments that are not the kernel's.
    #[error("kernel `{kernel}` takes {wanted}, {found} were given")]
    Arguments {
        /// The kernel.
        kernel: String,
        /// What it takes.
        wanted: String,
        /// What it was given.
        found: String,
    },
    /// More shared memory than a block of the device can have.
    #[error("kernel `{kernel}` needs {needed} bytes of shared memory, the device has {limit}")]
    SharedMemory {
        /// The kernel.
        kernel: String,
        /// What it needs.
        needed: u32,
        /// What the device has.
        limit: u32,
    },
    /// A range beyond the end of an allocation.
    #[error("bytes {offset} to {end} lie beyond a memory of {bytes}")]
    Range {
        /// Where the range begins.
        offset: usize,
        /// Where it ends.
        end: usize,
        /// Bytes of the memory.
        bytes: usize,
    },
    /// The device has no memory left.
    #[error("the device has no memory for {0} bytes")]
    OutOfMemory(usize),
    /// What the driver says.
    #[error("{what}: {code}")]
    Driver {
        /// What was tried.
        what: &'static str,
        /// The driver's name of the error.
        code: String,
    },
}

impl CudaError {
    /// The driver's answer to something that was tried.
    pub(crate) fn of(what: &'static str) -> impl Fn(DriverError) -> CudaError {
        move |error| {
            let name = error.error_name().ok().map(|n| n.to_string_lossy().into_owned());
            CudaError::Driver { what, code: name.unwrap_or_else(|| format!("error {}", error.0 as u32)) }
        }
    }
}

impl From<CudaError> for RunError {
    fn from(e: CudaError) -> RunError {
        match e {
            CudaError::OutOfMemory(bytes) => RunError::OutOfMemory(bytes),
            other => RunError::Backend(format!("CUDA: {other}")),
        }
    }
}
