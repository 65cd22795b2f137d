//! A device: its context, its modules, its kernels by name.

use crate::{
    CudaError,
    blas::Blas,
    ptx::{self, Entry, MODULES},
};
use cudarc::driver::{
    CudaContext, result,
    sys::{self, CUdevice_attribute as Attribute, CUfunction_attribute as FunctionAttribute},
};
use std::{
    collections::HashMap,
    ffi::CString,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

/// The names under which systems know the driver's library. Those that cudarc looks for are more.
#[cfg(not(feature = "linked"))]
const LIBRARIES: [&str; 3] = ["libcuda.so.1", "libcuda.so", "nvcuda.dll"];

/// The oldest driver that takes the PTX, as `cuDriverGetVersion` counts: CUDA 13.0.
const OLDEST_DRIVER: i32 = 13_000;

/// Dynamic shared memory that a kernel has without asking.
const FREE_SHARED: u32 = 48 * 1024;

/// A device of NVIDIA's. Clones are the same device.
#[derive(Clone)]
pub struct Gpu(Arc<Device>);

/// What ends with the last clone: the library and modules first, then the context.
struct Device {
    blas: OnceLock<Option<Blas>>,
    kernels: Mutex<HashMap<String, Kernel>>,
    modules: Mutex<Vec<Option<Module>>>,
    limits: Limits,
    name: String,
    context: Arc<CudaContext>,
}

/// What the device can take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Blocks of a grid.
    pub(crate) grid: u32,
    /// Dynamic shared memory of a block.
    pub(crate) shared: u32,
}

/// A kernel of a module that is loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    pub(crate) handle: sys::CUfunction,
    pub(crate) entry: &'static Entry,
}

// SAFETY: a handle of the driver's, which any thread may use as long as the module is loaded: until the device is dropped.
unsafe impl Send for Kernel {}
// SAFETY: as above; nothing is written through it.
unsafe impl Sync for Kernel {}

struct Module {
    handle: sys::CUmodule,
    context: Arc<CudaContext>,
}

// SAFETY: a handle of the driver's, which any thread may use until it is unloaded, which dropping does once.
unsafe impl Send for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: the module was loaded in this context and is unloaded nowhere else. An error has nobody to go to.
            let _ = unsafe { result::module::unload(self.handle) };
        }
    }
}

impl Gpu {
    /// Device `ordinal`, counted from 0.
    ///
    /// # Errors
    /// There is no driver, no such device, or one that is too old.
    pub fn open(ordinal: usize) -> Result<Gpu, CudaError> {
        let count = Gpu::count()?;
        if ordinal >= count {
            return Err(CudaError::NoDevice { ordinal, count });
        }
        Gpu::of(CudaContext::new(ordinal).map_err(CudaError::of("opening a device"))?)
    }

    /// The device of a context.
    pub(crate) fn of(context: Arc<CudaContext>) -> Result<Gpu, CudaError> {
        let ask = |attribute| context.attribute(attribute).map_err(CudaError::of("asking a device for its limits"));
        let name = context.name().map_err(CudaError::of("asking a device for its name"))?;
        let (major, minor) = (ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?, ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?);
        if major < 8 {
            return Err(CudaError::TooOld { name, major, minor });
        }
        let limit = |attribute| Ok::<u32, CudaError>(u32::try_from(ask(attribute)?).unwrap_or(1).max(1));
        let limits = Limits {
            grid: limit(Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X)?,
            shared: limit(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        };
        let modules = Mutex::new(MODULES.iter().map(|_| None).collect());
        Ok(Gpu(Arc::new(Device { blas: OnceLock::new(), kernels: Mutex::default(), modules, limits, name, context })))
    }

    /// How many devices there are.
    ///
    /// # Errors
    /// There is no driver, or none that can be used.
    pub fn count() -> Result<usize, CudaError> {
        driver_is_new_enough()?;
        let count = CudaContext::device_count().map_err(CudaError::of("counting devices"))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Bytes of device memory that are free now, and of all of it.
    ///
    /// # Errors
    /// The driver does not say.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.0.context.mem_get_info().map_err(CudaError::of("asking for free memory"))
    }

    /// True if products can be cuBLASLt's: its library was found, and begins.
    pub fn has_cublas(&self) -> bool {
        self.blas().is_some()
    }

    /// The library of products, if it is there.
    pub(crate) fn blas(&self) -> Option<&Blas> {
        let open = || self.0.context.bind_to_thread().ok().and_then(|()| Blas::open());
        self.0.blas.get_or_init(open).as_ref()
    }

    pub(crate) fn limits(&self) -> Limits {
        self.0.limits
    }

    pub(crate) fn context(&self) -> &Arc<CudaContext> {
        &self.0.context
    }

    /// A kernel by name, with leave for `shared` bytes of dynamic shared memory.
    pub(crate) fn kernel(&self, name: &str, shared: u32) -> Result<Kernel, CudaError> {
        let mut kernels = locked(&self.0.kernels);
        let kernel = match kernels.get(name) {
            Some(kernel) => *kernel,
            None => {
                let entry = ptx::entry(name)?;
                let kernel = Kernel { handle: self.function(entry.module, name)?, entry };
                kernels.insert(name.to_owned(), kernel);
                kernel
            }
        };
        if shared > self.0.limits.shared {
            return Err(CudaError::SharedMemory { kernel: name.to_owned(), needed: shared, limit: self.0.limits.shared });
        }
        if shared > FREE_SHARED {
            self.0.context.bind_to_thread().map_err(CudaError::of("using a device"))?;
            // SAFETY: the handle is of a module that is loaded. The most that was asked for stays, so that nobody lowers it.
            let asked = unsafe {
                result::function::set_function_attribute(
                    kernel.handle,
                    FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    self.0.limits.shared as i32,
                )
            };
            asked.map_err(CudaError::of("asking for shared memory"))?;
        }
        Ok(kernel)
    }

    /// A function of a module, which is loaded if it was not.
    fn function(&self, module: usize, name: &str) -> Result<sys::CUfunction, CudaError> {
        let context = &self.0.context;
        context.bind_to_thread().map_err(CudaError::of("using a device"))?;
        let mut modules = locked(&self.0.modules);
        let (slot, (_, text)) = modules.get_mut(module).zip(MODULES.get(module)).ok_or_else(|| CudaError::NoKernel(name.to_owned()))?;
        if slot.is_none() {
            // SAFETY: the text is PTX and ends with a zero.
            let handle = unsafe { result::module::load_data(text.as_ptr().cast()) }.map_err(CudaError::of("loading a module"))?;
            *slot = Some(Module { handle, context: context.clone() });
        }
        let handle = slot.as_ref().map(|m| m.handle).ok_or_else(|| CudaError::NoKernel(name.to_owned()))?;
        let symbol = CString::new(name).map_err(|_| CudaError::NoKernel(name.to_owned()))?;
        // SAFETY: the module is loaded until the device is dropped.
        unsafe { result::module::get_function(handle, symbol) }.map_err(|_| CudaError::NoKernel(name.to_owned()))
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu").field("name", &self.0.name).field("limits", &self.0.limits).finish_non_exhaustive()
    }
}

/// An error unless there is a driver that takes the PTX.
pub(crate) fn driver_is_new_enough() -> Result<(), CudaError> {
    // cudarc panics where the library is missing.
    if !driver_is_there() {
        return Err(CudaError::NoDriver);
    }
    let mut version = 0;
    // SAFETY: the library is there, and the pointer is to an integer of ours.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(CudaError::of("asking the driver for its version"))?;
    if version < OLDEST_DRIVER {
        return Err(CudaError::OldDriver { major: version / 1000, minor: version % 1000 / 10 });
    }
    Ok(())
}

/// True if the driver's library can be loaded; a program that is linked with it would not have begun without.
fn driver_is_there() -> bool {
    #[cfg(feature = "linked")]
    return true;
    #[cfg(not(feature = "linked"))]
    // SAFETY: loading the driver's library runs its initialisers, which is what the library is for.
    LIBRARIES.iter().any(|name| unsafe { libloading::Library::new(*name) }.is_ok())
}

/// What a mutex holds; nothing that it guards here is ever left half-made.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_or_such_a_device_is_a_typed_error() {
        match Gpu::count() {
            Err(CudaError::NoDriver) => assert_eq!(Gpu::open(0).unwrap_err(), CudaError::NoDriver),
            Err(other) => assert_eq!(Gpu::open(0).unwrap_err(), other),
            Ok(count) => assert_eq!(Gpu::open(count).unwrap_err(), CudaError::NoDevice { ordinal: count, count }),
        }
    }

    #[test]
    #[ignore = "needs a device, or the stand-in driver"]
    fn kernels_are_loaded_by_name() {
        let gpu = Gpu::open(0).expect("a device");
        assert!(gpu.memory().expect("it says").0 > 0);
        for name in ["gemm_f32", "conv2d_tiled_bf16", "attention_d256_f16", "sample_f32", "linear_int4_tensor_bf16"] {
            assert_eq!(gpu.kernel(name, 0).expect(name).entry, ptx::entry(name).expect(name));
        }
        assert_eq!(gpu.kernel("gemm_f64", 0).unwrap_err(), CudaError::NoKernel("gemm_f64".into()));
        assert!(gpu.kernel("attention_d256_f32", 100 * 1024).is_ok());
        assert!(matches!(gpu.kernel("attention_d256_f32", 1 << 24), Err(CudaError::SharedMemory { .. })));
    }

    #[test]
    #[ignore = "needs a device, or the stand-in driver"]
    fn every_kernel_of_the_texts_can_be_found() {
        let gpu = Gpu::open(0).expect("a device");
        for name in ptx::entries().keys() {
            gpu.kernel(name, 0).expect(name);
        }
    }
}
