//! A lane: what one run at a time has of a device. A stream, an arena in the device's memory, one in pinned memory of the
//! host, and the copies and launches between them, done in order.
//!
//! The host's bytes are only lent while nothing is on its way, so that no copy ever meets a reader or a writer.

use crate::{
    CudaError, blas,
    gpu::{Gpu, Kernel},
};
use cudarc::driver::{CudaGraph, CudaStream, result, sys};
use std::{ffi::c_void, ops::Range, ptr::NonNull, slice, sync::Arc};

/// Memory of a device, freed when it is dropped.
pub(crate) struct DeviceMemory {
    address: sys::CUdeviceptr,
    bytes: usize,
    gpu: Gpu,
}

impl DeviceMemory {
    /// `bytes` whose elements are whatever they are.
    pub(crate) fn new(gpu: &Gpu, bytes: usize) -> Result<DeviceMemory, CudaError> {
        gpu.context().bind_to_thread().map_err(CudaError::of("using a device"))?;
        let address = match bytes {
            0 => 0,
            // SAFETY: the context is this thread's; the memory is freed once, on drop.
            n => unsafe { result::malloc_sync(n) }.map_err(|e| allocation(e, n))?,
        };
        Ok(DeviceMemory { address, bytes, gpu: gpu.clone() })
    }

    /// Bytes copied from the host's memory; they are there when this returns.
    pub(crate) fn holding(gpu: &Gpu, from: &[u8]) -> Result<DeviceMemory, CudaError> {
        let memory = DeviceMemory::new(gpu, from.len())?;
        if !from.is_empty() {
            // SAFETY: the destination is as large as the source, and the copy is done on return.
            unsafe { result::memcpy_htod_sync(memory.address, from) }.map_err(CudaError::of("copying to the device"))?;
        }
        Ok(memory)
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// The address of byte `offset`, which is inside or just behind the end.
    pub(crate) fn at(&self, offset: usize) -> u64 {
        self.address + offset as u64
    }

    /// A copy of the bytes, once all that was sent to the device is done.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, CudaError> {
        let mut bytes = vec![0; self.bytes];
        self.gpu.context().synchronize().map_err(CudaError::of("waiting for the device"))?;
        // SAFETY: as many bytes were allocated, and the copy is done on return.
        unsafe { result::memcpy_dtoh_sync(&mut bytes, self.address) }.map_err(CudaError::of("copying from the device"))?;
        Ok(bytes)
    }

    /// The address of a range's first byte.
    fn range(&self, offset: usize, bytes: usize) -> Result<sys::CUdeviceptr, CudaError> {
        Ok(self.at(within(offset, bytes, self.bytes)?.start))
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.address != 0 && self.gpu.context().bind_to_thread().is_ok() {
            // SAFETY: allocated in this context, freed nowhere else. An error has nobody to go to.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Pinned memory of the host: copies to and from it go on beside the host's work.
struct Pinned {
    start: NonNull<u8>,
    bytes: usize,
    gpu: Gpu,
}

impl Pinned {
    /// `bytes` of zeros.
    fn new(gpu: &Gpu, bytes: usize) -> Result<Pinned, CudaError> {
        gpu.context().bind_to_thread().map_err(CudaError::of("using a device"))?;
        let mut start = NonNull::dangling();
        if bytes > 0 {
            // SAFETY: the context is this thread's. Memory that the host reads again is not write-combined: no flags.
            let memory = unsafe { result::malloc_host(bytes, 0) }.map_err(|e| allocation(e, bytes))?;
            start = NonNull::new(memory.cast()).ok_or(CudaError::OutOfMemory(bytes))?;
            // SAFETY: as many bytes were allocated.
            unsafe { start.write_bytes(0, bytes) };
        }
        Ok(Pinned { start, bytes, gpu: gpu.clone() })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.bytes > 0 && self.gpu.context().bind_to_thread().is_ok() {
            // SAFETY: allocated by `malloc_host`, freed nowhere else; the lane waits for its copies before.
            let _ = unsafe { result::free_host(self.start.as_ptr().cast()) };
        }
    }
}

/// A launch with everything but its stream: the arguments as words, and where each of them begins.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// The kernel's name, for people.
    name: String,
    kernel: Kernel,
    grid: u32,
    shared: u32,
    words: Vec<u64>,
    starts: Vec<usize>,
}

impl Launch {
    /// A launch of a kernel by name. Each argument is its words, of which the low bytes count where it is shorter; the
    /// number of arguments and their sizes are held against the kernel's.
    pub(crate) fn new(gpu: &Gpu, name: &str, grid: u64, shared: u32, arguments: &[(usize, Vec<u64>)]) -> Result<Launch, CudaError> {
        let kernel = gpu.kernel(name, shared)?;
        check(name, &kernel.entry.arguments, arguments)?;
        let (mut words, mut starts) = (Vec::new(), Vec::with_capacity(arguments.len()));
        for (_, argument) in arguments {
            starts.push(words.len());
            words.extend(argument);
        }
        let grid = u32::try_from(grid).unwrap_or(u32::MAX).clamp(1, gpu.limits().grid);
        Ok(Launch { name: name.to_owned(), kernel, grid, shared, words, starts })
    }

    /// Blocks of the grid, as launched.
    #[cfg(test)]
    fn grid(&self) -> u32 {
        self.grid
    }
}

/// An error unless arguments (bytes and words of each) are a kernel's.
pub(crate) fn check(kernel: &str, wanted: &[usize], given: &[(usize, Vec<u64>)]) -> Result<(), CudaError> {
    let sizes: Vec<usize> = given.iter().map(|(bytes, _)| *bytes).collect();
    if sizes == wanted && given.iter().all(|(bytes, words)| words.len() == bytes.div_ceil(8)) {
        return Ok(());
    }
    let text = |sizes: &[usize]| format!("arguments of {sizes:?} bytes");
    Err(CudaError::Arguments { kernel: kernel.to_owned(), wanted: text(wanted), found: text(&sizes) })
}

/// What goes to a stream as a launch does.
pub(crate) trait Sent {
    fn send(&mut self, stream: sys::CUstream) -> Result<(), CudaError>;
}

impl Sent for Launch {
    fn send(&mut self, stream: sys::CUstream) -> Result<(), CudaError> {
        let mut pointers: Vec<*mut c_void> = Vec::with_capacity(self.starts.len());
        for &start in &self.starts {
            pointers.push(self.words.get_mut(start).map_or(std::ptr::null_mut(), |w| std::ptr::from_mut(w).cast()));
        }
        let block = self.kernel.entry.block;
        // SAFETY: the kernel's module is loaded as long as the device, number and sizes of arguments are the kernel's, and the
        // driver copies them before it returns. Whoever made the launch gave it ranges of memory that live as long as the plan.
        let sent = unsafe { result::launch_kernel(self.kernel.handle, (self.grid, 1, 1), (block, 1, 1), self.shared, stream, &mut pointers) };
        sent.map_err(CudaError::of("launching a kernel"))
    }
}

/// A launch of a kernel of ours, or a product of a library's.
pub(crate) enum Task {
    Kernel(Launch),
    Product(Box<Multiplied>),
}

/// A product of a library's with a launch behind it, and the same by our kernel: for good, once the library has failed.
pub(crate) struct Multiplied {
    library: Option<(blas::Bound, Option<Launch>)>,
    plain: Launch,
}

impl Multiplied {
    pub(crate) fn new(bound: blas::Bound, then: Option<Launch>, plain: Launch) -> Multiplied {
        Multiplied { library: Some((bound, then)), plain }
    }
}

impl Sent for Multiplied {
    fn send(&mut self, stream: sys::CUstream) -> Result<(), CudaError> {
        if let Some((bound, then)) = &mut self.library {
            // What the library refuses it has not begun. If the device itself is at fault, our launch says so.
            if bound.send(stream).is_ok() {
                return then.as_mut().map_or(Ok(()), |then| then.send(stream));
            }
            self.library = None;
        }
        self.plain.send(stream)
    }
}

impl Task {
    /// The name for people.
    pub(crate) fn name(&self) -> String {
        match self {
            Task::Kernel(launch) => launch.name.clone(),
            Task::Product(product) => match &product.library {
                Some((bound, Some(then))) => format!("{} + {}", bound.name(), then.name),
                Some((bound, None)) => bound.name().to_owned(),
                None => product.plain.name.clone(),
            },
        }
    }
}

impl Sent for Task {
    fn send(&mut self, stream: sys::CUstream) -> Result<(), CudaError> {
        match self {
            Task::Kernel(launch) => launch.send(stream),
            Task::Product(product) => product.send(stream),
        }
    }
}

/// A recorded sequence of launches.
pub(crate) struct Recorded(CudaGraph);

// SAFETY: handles of the driver's, which any thread may use as long as not two do at once: it is launched by `&mut Lane`s only.
unsafe impl Send for Recorded {}

/// See the module. One run at a time uses a lane.
pub(crate) struct Lane {
    stream: Arc<CudaStream>,
    device: DeviceMemory,
    host: Pinned,
    /// Something is on its way.
    busy: bool,
    gpu: Gpu,
}

// SAFETY: the host's memory belongs to the lane alone, and the driver's handles may be used by any thread.
unsafe impl Send for Lane {}

impl Lane {
    /// A lane without memory.
    pub(crate) fn new(gpu: &Gpu) -> Result<Lane, CudaError> {
        let stream = gpu.context().new_stream().map_err(CudaError::of("making a stream"))?;
        Ok(Lane { stream, device: DeviceMemory::new(gpu, 0)?, host: Pinned::new(gpu, 0)?, busy: false, gpu: gpu.clone() })
    }

    /// Makes both arenas as large as this at the least. True if the device's lies elsewhere now.
    pub(crate) fn reserve(&mut self, device: usize, host: usize) -> Result<bool, CudaError> {
        self.wait()?;
        let moves = device > self.device.len();
        if moves {
            // The old memory goes before the new one comes.
            self.device = DeviceMemory::new(&self.gpu, 0)?;
            self.device = DeviceMemory::new(&self.gpu, device)?;
        }
        if host > self.host.bytes {
            self.host = Pinned::new(&self.gpu, 0)?;
            self.host = Pinned::new(&self.gpu, host)?;
        }
        Ok(moves)
    }

    /// The device's arena.
    pub(crate) fn device(&self) -> &DeviceMemory {
        &self.device
    }

    /// The host's arena, once nothing is on its way.
    pub(crate) fn host(&mut self) -> Result<&mut [u8], CudaError> {
        self.wait()?;
        // SAFETY: as many bytes were allocated and written; the lane is borrowed exclusively, and no copy is on its way.
        Ok(unsafe { slice::from_raw_parts_mut(self.host.start.as_ptr(), self.host.bytes) })
    }

    /// Sends bytes of the host's arena to the device's.
    pub(crate) fn upload(&mut self, to: usize, from: usize, bytes: usize) -> Result<(), CudaError> {
        let (to, from) = (self.device.range(to, bytes)?, self.host_range(from, bytes)?);
        self.begin()?;
        // SAFETY: both ranges were checked. The host's memory stays as it is until `wait`, since nobody is lent it before.
        let sent = unsafe { result::memcpy_htod_async(to, slice::from_raw_parts(from, bytes), self.stream.cu_stream()) };
        sent.map_err(CudaError::of("copying to the device"))
    }

    /// Fetches bytes of the device's arena into the host's.
    pub(crate) fn download(&mut self, to: usize, from: usize, bytes: usize) -> Result<(), CudaError> {
        let (from, to) = (self.device.range(from, bytes)?, self.host_range(to, bytes)?);
        self.begin()?;
        // SAFETY: both ranges were checked. Nobody is lent the host's memory until `wait`.
        let sent = unsafe { result::memcpy_dtoh_async(slice::from_raw_parts_mut(to, bytes), from, self.stream.cu_stream()) };
        sent.map_err(CudaError::of("copying from the device"))
    }

    /// Sets bytes of the device's arena to 0.
    pub(crate) fn clear(&mut self, at: usize, bytes: usize) -> Result<(), CudaError> {
        let at = self.device.range(at, bytes)?;
        self.begin()?;
        // SAFETY: the range was checked.
        unsafe { result::memset_d8_async(at, 0, bytes, self.stream.cu_stream()) }.map_err(CudaError::of("clearing memory"))
    }

    /// Sends a launch.
    pub(crate) fn launch(&mut self, launch: &mut impl Sent) -> Result<(), CudaError> {
        self.begin()?;
        launch.send(self.stream.cu_stream())
    }

    /// Records launches, without doing them.
    pub(crate) fn record<'l, S: Sent + 'l>(&mut self, launches: impl IntoIterator<Item = &'l mut S>) -> Result<Recorded, CudaError> {
        self.begin()?;
        self.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(CudaError::of("recording a graph"))?;
        let sent = launches.into_iter().try_for_each(|launch| launch.send(self.stream.cu_stream()));
        // Recording ends whatever happened.
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0)).map_err(CudaError::of("recording a graph"));
        sent?;
        graph?.map(Recorded).ok_or(CudaError::Driver { what: "recording a graph", code: "nothing was recorded".into() })
    }

    /// Does what was recorded on this lane.
    pub(crate) fn replay(&mut self, recorded: &Recorded) -> Result<(), CudaError> {
        self.begin()?;
        recorded.0.launch().map_err(CudaError::of("replaying a graph"))
    }

    /// Waits until everything is done.
    pub(crate) fn wait(&mut self) -> Result<(), CudaError> {
        if self.busy {
            self.stream.synchronize().map_err(CudaError::of("waiting for the device"))?;
            self.busy = false;
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), CudaError> {
        self.gpu.context().bind_to_thread().map_err(CudaError::of("using a device"))?;
        self.busy = true;
        Ok(())
    }

    fn host_range(&self, offset: usize, bytes: usize) -> Result<*mut u8, CudaError> {
        let start = within(offset, bytes, self.host.bytes)?.start;
        // SAFETY: the offset lies inside of the allocation, or just behind it.
        Ok(unsafe { self.host.start.as_ptr().add(start) })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // The host's memory may not go while a copy is on its way. An error has nobody to go to.
        let _ = self.wait();
    }
}

fn within(offset: usize, bytes: usize, of: usize) -> Result<Range<usize>, CudaError> {
    let end = offset.saturating_add(bytes);
    if end > of {
        return Err(CudaError::Range { offset, end, bytes: of });
    }
    Ok(offset..end)
}

fn allocation(error: result::DriverError, bytes: usize) -> CudaError {
    match error.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => CudaError::OutOfMemory(bytes),
        _ => CudaError::of("allocating memory")(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane() -> (Gpu, Lane) {
        let gpu = Gpu::open(0).expect("a device");
        let mut lane = Lane::new(&gpu).expect("a lane");
        assert!(lane.reserve(4096, 4096).expect("memory"));
        (gpu, lane)
    }

    fn floats(lane: &mut Lane, at: usize, values: &[f32]) {
        let bytes = bytemuck::cast_slice(values);
        lane.host().expect("the host's arena")[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn read(lane: &mut Lane, at: usize, n: usize) -> Vec<f32> {
        lane.host().expect("the host's arena")[at..at + 4 * n].chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()
    }

    /// y = a + b of `n` elements, a at 0, b at 512, y at 1024 of the device's arena.
    fn addition(gpu: &Gpu, lane: &Lane, n: u64) -> Launch {
        let word = |bytes, value| (bytes, vec![value]);
        let at = |offset| word(8, lane.device().at(offset));
        Launch::new(gpu, "binary_add_f32", n.div_ceil(1024), 0, &[at(0), at(512), at(1024), word(8, n), word(4, 1), word(4, 0)]).expect("it fits")
    }

    #[test]
    #[ignore = "needs a device, or the stand-in driver"]
    fn copies_and_launches_go_in_order() {
        let (gpu, mut lane) = lane();
        floats(&mut lane, 0, &[1.0, 2.0, 3.0, 4.0, 5.0]);
        floats(&mut lane, 512, &[0.5]);
        let mut launch = addition(&gpu, &lane, 5);
        lane.upload(0, 0, 20).unwrap();
        lane.upload(512, 512, 4).unwrap();
        lane.launch(&mut launch).unwrap();
        lane.download(1024, 1024, 20).unwrap();
        assert_eq!(read(&mut lane, 1024, 5), [1.5, 2.5, 3.5, 4.5, 5.5]);
    }

    #[test]
    #[ignore = "needs a device, or the stand-in driver"]
    fn what_is_recorded_can_be_repeated() {
        let (gpu, mut lane) = lane();
        // The second one adds to what the first one made.
        let first = addition(&gpu, &lane, 2);
        let mut second = first.clone();
        second.words[0] = lane.device().at(1024);
        let recorded = lane.record(&mut [first, second]).expect("a graph");
        for x in [1.0, 10.0] {
            floats(&mut lane, 0, &[x, -x]);
            floats(&mut lane, 512, &[2.0]);
            lane.upload(0, 0, 8).unwrap();
            lane.upload(512, 512, 4).unwrap();
            lane.replay(&recorded).unwrap();
            lane.download(1024, 1024, 8).unwrap();
            assert_eq!(read(&mut lane, 1024, 2), [x + 4.0, 4.0 - x]);
        }
    }

    #[test]
    #[ignore = "needs a device, or the stand-in driver"]
    fn what_does_not_fit_is_an_error() {
        let (gpu, mut lane) = lane();
        let error = Launch::new(&gpu, "binary_add_f32", 1, 0, &[(8, vec![0]), (4, vec![0])]).unwrap_err();
        assert!(matches!(error, CudaError::Arguments { .. }), "{error}");
        assert_eq!(lane.upload(4090, 0, 8), Err(CudaError::Range { offset: 4090, end: 4098, bytes: 4096 }));
        assert_eq!(lane.download(4090, 0, 8), Err(CudaError::Range { offset: 4090, end: 4098, bytes: 4096 }));
        assert_eq!(DeviceMemory::new(&gpu, 1 << 50).err(), Some(CudaError::OutOfMemory(1 << 50)));
        assert!(!lane.reserve(16, 16).expect("it is there"), "a smaller arena is not made anew");
    }

    #[test]
    #[ignore = "needs a device, or the stand-in driver"]
    fn grids_are_clamped() {
        let (gpu, lane) = lane();
        assert_eq!(addition(&gpu, &lane, 1 << 60).grid(), gpu.limits().grid);
        assert_eq!(addition(&gpu, &lane, 0).grid(), 1);
    }
}
