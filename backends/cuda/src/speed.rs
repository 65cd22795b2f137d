//! How fast kernels are on this machine's device, and whether products are those of cuBLAS. Nothing else in the project says
//! anything of speed on a GPU.
//!
//!     cargo test --release -p millstream-cuda --lib -- --ignored speed --nocapture

use crate::{
    Gpu,
    call::{Argument, Calls, row_major, walk},
    lane::{DeviceMemory, Lane, Launch},
    shape,
};
use cudarc::cublas::{result as blas, sys as blas_sys};
use std::{ffi::c_void, time::Instant};

/// Launches that are timed together.
const REPEATS: usize = 50;

/// Numbers in −1..1 as f32.
fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / (1u64 << 31) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Memory of a device that holds noise in a type of kernels.
fn random(gpu: &Gpu, dtype: &str, n: usize, seed: u32) -> DeviceMemory {
    let values = noise(n, seed);
    let bytes: Vec<u8> = match dtype {
        "f32" => values.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        _ => values.iter().flat_map(|x| millstream_tensor::f16::from_f32(*x).to_ne_bytes()).collect(),
    };
    DeviceMemory::holding(gpu, &bytes).expect("memory")
}

/// Seconds that one of these calls takes, among many.
fn seconds(gpu: &Gpu, lane: &mut Lane, calls: &Calls, memory: &[&DeviceMemory]) -> f64 {
    let address = |a: &Argument| match a {
        Argument::Input(i, offset) => Some(memory[*i].at(*offset)),
        Argument::Output(..) => memory.last().map(|m| m.at(0)),
        _ => None,
    };
    let bind = |call: &crate::call::Call| {
        let arguments: Vec<_> = call.arguments.iter().map(|a| a.bound(address).expect("an address")).collect();
        Launch::new(gpu, &call.kernel, call.grid, call.shared, &arguments).expect("it fits")
    };
    let mut launches: Vec<Launch> = calls.calls.iter().map(bind).collect();
    let mut time = |repeats: usize| {
        lane.wait().expect("done");
        let start = Instant::now();
        for _ in 0..repeats {
            launches.iter_mut().for_each(|one| lane.launch(one).expect("launched"));
        }
        lane.wait().expect("done");
        start.elapsed().as_secs_f64() / repeats as f64
    };
    time(3);
    time(REPEATS)
}

/// C = A B, row-major, by cuBLAS; its seconds.
fn cublas(gpu: &Gpu, lane: &mut Lane, dtype: &str, [m, n, k]: [usize; 3], [a, b, c]: [&DeviceMemory; 3]) -> f64 {
    let kind = if dtype == "f32" { blas_sys::cudaDataType::CUDA_R_32F } else { blas_sys::cudaDataType::CUDA_R_16F };
    let (one, zero) = (1f32, 0f32);
    let pointer = |m: &DeviceMemory| m.at(0) as *mut c_void;
    let handle = blas::create_handle().expect("cuBLAS begins");
    let normal = blas_sys::cublasOperation_t::CUBLAS_OP_N;
    let (compute, algorithm) = (blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT);
    let mut time = |repeats: usize| {
        lane.wait().expect("done");
        let start = Instant::now();
        for _ in 0..repeats {
            // SAFETY: the matrices have m k, k n and m n elements of this type; by columns, B A is the transpose of C.
            let done = unsafe {
                blas::gemm_ex(
                    handle,
                    normal,
                    normal,
                    n as i32,
                    m as i32,
                    k as i32,
                    (&raw const one).cast(),
                    pointer(b),
                    kind,
                    n as i32,
                    pointer(a),
                    kind,
                    k as i32,
                    (&raw const zero).cast(),
                    pointer(c),
                    kind,
                    n as i32,
                    compute,
                    algorithm,
                )
            };
            done.expect("cuBLAS multiplies");
        }
        gpu.context().synchronize().expect("done");
        start.elapsed().as_secs_f64() / repeats as f64
    };
    time(3);
    let seconds = time(REPEATS);
    // SAFETY: the handle was made above.
    unsafe { blas::destroy_handle(handle) }.expect("cuBLAS ends");
    seconds
}

fn pointers(inputs: usize) -> Vec<Argument> {
    (0..inputs).map(|i| Argument::Input(i, 0)).chain([Argument::Output(0, 0)]).collect()
}

#[test]
#[ignore = "a benchmark: needs a device"]
#[expect(clippy::print_stdout, reason = "the figures are what this is for")]
fn speed_of_kernels() {
    let gpu = Gpu::open(0).expect("a device");
    let mut lane = Lane::new(&gpu).expect("a lane");
    println!("{}", gpu.name());
    let (rows, length) = (8192, 2048);
    let n = rows * length;
    let counts = [Argument::count(rows), Argument::count(length)];
    for (dtype, size) in [("f32", 4), ("f16", 2)] {
        let (x, z, y) = (random(&gpu, dtype, n, 1), random(&gpu, dtype, n, 2), random(&gpu, dtype, n, 3));
        let with = |inputs: usize, rest: &[Argument]| pointers(inputs).into_iter().chain(rest.iter().cloned()).collect::<Vec<_>>();
        let turned = walk(&[length, rows], [&[1, length as i64], &row_major(&[length, rows])]).expect("two axes");
        let moved = [
            ("add", 3, Calls::new().call(format!("binary_add_{dtype}"), n, 1024, with(2, &[Argument::count(n), Argument::I32(1), Argument::I32(1)]))),
            ("gelu", 2, Calls::new().call(format!("unary_gelu_{dtype}"), n, 1024, with(1, &[Argument::count(n), Argument::F32(0.0), Argument::F32(0.0)]))),
            ("softmax", 2, Calls::new().call(format!("softmax_block_{dtype}"), rows, 1, with(1, &counts))),
            ("transpose", 2, Calls::new().call(format!("transpose_b{size}"), n, 1024, with(1, &[Argument::count(1), counts[0].clone(), counts[1].clone()]))),
            ("strided", 2, Calls::new().call(format!("copy_strided_b{size}"), n, 1024, with(1, &[Argument::count(n), Argument::walk(&turned)]))),
        ];
        for (name, passes, calls) in moved {
            let memory: &[&DeviceMemory] = if passes == 3 { &[&x, &z, &y] } else { &[&x, &y] };
            let time = seconds(&gpu, &mut lane, &calls, memory);
            println!("{name:12} {dtype}  {:9.1} us  {:8.1} GB/s", time * 1e6, (passes * n * size) as f64 / time / 1e9);
        }
        for side in [1024usize, 4096] {
            let (a, b) = (random(&gpu, dtype, side * side, 4), random(&gpu, dtype, side * side, 5));
            let (ours, theirs) = (random(&gpu, dtype, side * side, 6), random(&gpu, dtype, side * side, 7));
            let s = side as i64;
            let shape = shape::Gemm { batch: 1, m: s, n: s, k: s, a_row: s, a_column: 1, b_row: s, b_column: 1, c_row: s, scale: 1.0, ..Default::default() };
            let arguments =
                vec![Argument::Input(0, 0), Argument::Input(1, 0), Argument::Null, Argument::Null, Argument::Output(0, 0), Argument::structure(&shape)];
            let time = seconds(&gpu, &mut lane, &Calls::new().call(format!("gemm_{dtype}"), (side / 64) * (side / 64), 1, arguments), &[&a, &b, &ours]);
            let rate = |time: f64| 2.0 * (side as f64).powi(3) / time / 1e12;
            print!("product {side:4} {dtype}  {:9.1} us  {:8.2} TFLOP/s", time * 1e6, rate(time));
            // SAFETY: asking loads a library, which is what it is for.
            if unsafe { blas_sys::is_culib_present() } {
                let time = cublas(&gpu, &mut lane, dtype, [side; 3], [&a, &b, &theirs]);
                let difference = worst(dtype, &ours.bytes().expect("there"), &theirs.bytes().expect("there"));
                print!("   cuBLAS {:9.1} us  {:8.2} TFLOP/s, apart by {difference:.2e} of the largest", time * 1e6, rate(time));
            }
            println!();
        }
    }
}

/// The largest difference of two tensors, as a share of the largest element.
fn worst(dtype: &str, a: &[u8], b: &[u8]) -> f32 {
    let read = |bytes: &[u8]| -> Vec<f32> {
        match dtype {
            "f32" => bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect(),
            _ => bytes.chunks_exact(2).map(|c| bytemuck::pod_read_unaligned::<millstream_tensor::f16>(c).to_f32()).collect(),
        }
    };
    let (a, b) = (read(a), read(b));
    let largest = b.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
    a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max) / largest
}
