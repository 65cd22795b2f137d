//! Products by NVIDIA's cuBLASLt, where its library is.
//!
//! The library is looked for when a device is first asked for it. Sums are f32 for every type, and f32 stays f32: no TF32, and no
//! partial sums in halves. What follows a product and the library knows (a bias, relu, gelu by tanh, a residual before them) is
//! done by it; what it does not know is a launch of ours behind it. A product that it has no algorithm for is our kernel's.
//!
//! cuBLASLt has matrices by columns. Ours are by rows, so that it is given Cᵀ = Bᵀ Aᵀ.

use crate::{
    CudaError, Gpu,
    call::{Argument, Call},
    lane::Sent,
    shape::Gemm,
};
use cudarc::{
    cublaslt::{
        result::{self, CublasError},
        sys,
    },
    driver::sys::CUstream,
};
use millstream_tensor::DType;
use std::ffi::c_void;

/// Memory that an algorithm may take beside its operands.
pub(crate) const WORKSPACE: usize = 4 << 20;

/// The oldest library that is taken: of CUDA 12.0.
const OLDEST: usize = 120_000;

/// What the library does to the results of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Epilogue {
    Nothing,
    Relu,
    GeluTanh,
}

/// A product as data, in the place of a launch of our kernel: `c = end(scale a b + residual + bias)`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Product {
    pub(crate) dtype: DType,
    pub(crate) shape: Gemm,
    pub(crate) a: Argument,
    pub(crate) b: Argument,
    /// One element a column.
    pub(crate) bias: Option<Argument>,
    pub(crate) residual: Option<Argument>,
    pub(crate) c: Argument,
    pub(crate) end: Epilogue,
    /// A launch of ours for what the library does not know.
    pub(crate) then: Option<Box<Call>>,
}

/// A matrix by columns: how it lies, and whether it is the transpose of what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Columns {
    rows: u64,
    columns: u64,
    leading: i64,
    batch: i64,
    turned: bool,
}

impl Columns {
    /// `None` if neither rows nor columns are neighbours.
    fn new([rows, columns]: [i64; 2], [down, across]: [i64; 2], batch: i64) -> Option<Columns> {
        let leading = |along: i64, others: i64, step: i64| if others == 1 { along } else { step };
        let (plain, turned) = (leading(rows, columns, across), leading(columns, rows, down));
        let (rows_, columns_) = (u64::try_from(rows).ok()?, u64::try_from(columns).ok()?);
        if (down == 1 || rows == 1) && plain >= rows {
            return Some(Columns { rows: rows_, columns: columns_, leading: plain, batch, turned: false });
        }
        ((across == 1 || columns == 1) && turned >= columns).then_some(Columns { rows: columns_, columns: rows_, leading: turned, batch, turned: true })
    }
}

impl Product {
    /// How the library's first and second operand, what is added, and the result lie; `None` if it cannot read them so.
    fn columns(&self) -> Option<[Columns; 4]> {
        let s = &self.shape;
        let first = Columns::new([s.n, s.k], [s.b_column, s.b_row], s.b_batch)?;
        let second = Columns::new([s.k, s.m], [s.a_column, s.a_row], s.a_batch)?;
        let result = Columns::new([s.n, s.m], [1, s.c_row], s.c_batch)?;
        let added = if self.residual.is_some() { Columns::new([s.n, s.m], [1, s.residual_row], s.residual_batch)? } else { result };
        let is_result = |c: &Columns| !c.turned && (s.batch == 1 || c.batch != 0);
        (i32::try_from(s.batch).is_ok() && is_result(&result) && !added.turned).then_some([first, second, added, result])
    }

    /// The same product, if the library can read its operands.
    pub(crate) fn readable(self) -> Option<Product> {
        self.columns().is_some().then_some(self)
    }

    /// The type of elements, for the library and for people.
    fn kind(&self) -> Option<(sys::cudaDataType, &'static str)> {
        Some(match self.dtype {
            DType::F32 => (sys::cudaDataType::CUDA_R_32F, "cublaslt_f32"),
            DType::F16 => (sys::cudaDataType::CUDA_R_16F, "cublaslt_f16"),
            DType::BF16 => (sys::cudaDataType::CUDA_R_16BF, "cublaslt_bf16"),
            _ => return None,
        })
    }

    /// A name for people.
    pub(crate) fn name(&self) -> String {
        let then = self.then.as_ref().map_or(String::new(), |call| format!(" + {}", call.kernel));
        format!("{}{then}", self.kind().map_or("cublaslt", |(_, name)| name))
    }
}

/// The library, begun.
pub(crate) struct Blas(sys::cublasLtHandle_t);

// SAFETY: the library's handles may be used by any thread, by several at once.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

impl Blas {
    /// The library, if it is there, new enough, and begins. The device's context is this thread's.
    pub(crate) fn open() -> Option<Blas> {
        // SAFETY: asking loads a library, which is what it is for; cudarc panics where it is missing.
        #[cfg(not(feature = "linked"))]
        let is_there = unsafe { sys::is_culib_present() };
        #[cfg(feature = "linked")]
        let is_there = true;
        // SAFETY: the library is there, and tells a number.
        let is_there = is_there && unsafe { sys::cublasLtGetVersion() } >= OLDEST;
        is_there.then(|| result::create_handle().ok().map(Blas)).flatten()
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: made by `create_handle`, destroyed nowhere else. An error has nobody to go to.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

/// A matrix's layout, a product's description, and what an algorithm is looked for by, each destroyed with its owner.
struct Layout(sys::cublasLtMatrixLayout_t);
struct Description(sys::cublasLtMatmulDesc_t);
struct Preference(sys::cublasLtMatmulPreference_t);

macro_rules! destroyed {
    ($($owner:ident by $function:ident),*) => {
        $(impl Drop for $owner {
            fn drop(&mut self) {
                // SAFETY: made by the library, destroyed nowhere else. An error has nobody to go to.
                let _ = unsafe { result::$function(self.0) };
            }
        })*
    };
}
destroyed!(Layout by destroy_matrix_layout, Description by destroy_matmul_desc, Preference by destroy_matmul_pref);

fn bytes_of<T>(value: &T) -> (*const c_void, usize) {
    (std::ptr::from_ref(value).cast(), size_of::<T>())
}

impl Layout {
    fn new(kind: sys::cudaDataType, columns: &Columns, count: i64) -> Result<Layout, CublasError> {
        use sys::cublasLtMatrixLayoutAttribute_t::{CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT as COUNT, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET as OFFSET};
        let layout = Layout(result::create_matrix_layout(kind, columns.rows, columns.columns, columns.leading)?);
        let count = count as i32;
        let ((count, count_bytes), (offset, offset_bytes)) = (bytes_of(&count), bytes_of(&columns.batch));
        // SAFETY: the layout is alive, the values are an i32 and an i64, which the library copies.
        unsafe {
            result::set_matrix_layout_attribute(layout.0, COUNT, count, count_bytes)?;
            result::set_matrix_layout_attribute(layout.0, OFFSET, offset, offset_bytes)?;
        }
        Ok(layout)
    }
}

impl Description {
    fn new([first, second]: [&Columns; 2], end: Epilogue, bias: Option<u64>) -> Result<Description, CublasError> {
        use sys::{cublasLtEpilogue_t as E, cublasLtMatmulDescAttributes_t as A};
        // Plain f32: the fast variants round operands to TF32 or halves.
        let made = Description(result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F)?);
        let set = |attribute, (value, bytes): (*const c_void, usize)| {
            // SAFETY: the description is alive, the value has the attribute's type and is copied.
            unsafe { result::set_matmul_desc_attribute(made.0, attribute, value, bytes) }
        };
        // CUBLAS_OP_T and CUBLAS_OP_N.
        let operation = |c: &Columns| i32::from(c.turned);
        set(A::CUBLASLT_MATMUL_DESC_TRANSA, bytes_of(&operation(first)))?;
        set(A::CUBLASLT_MATMUL_DESC_TRANSB, bytes_of(&operation(second)))?;
        let epilogue = match (end, bias.is_some()) {
            (Epilogue::Nothing, false) => E::CUBLASLT_EPILOGUE_DEFAULT,
            (Epilogue::Nothing, true) => E::CUBLASLT_EPILOGUE_BIAS,
            (Epilogue::Relu, false) => E::CUBLASLT_EPILOGUE_RELU,
            (Epilogue::Relu, true) => E::CUBLASLT_EPILOGUE_RELU_BIAS,
            (Epilogue::GeluTanh, false) => E::CUBLASLT_EPILOGUE_GELU,
            (Epilogue::GeluTanh, true) => E::CUBLASLT_EPILOGUE_GELU_BIAS,
        };
        set(A::CUBLASLT_MATMUL_DESC_EPILOGUE, bytes_of(&epilogue))?;
        if let Some(bias) = bias {
            set(A::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bytes_of(&bias))?;
        }
        Ok(made)
    }
}

impl Preference {
    /// For operands at these addresses: the library takes them for aligned to 256 bytes unless it is told.
    fn new(addresses: [u64; 4]) -> Result<Preference, CublasError> {
        use sys::{cublasLtMatmulPreferenceAttributes_t as A, cublasLtReductionScheme_t as Scheme};
        let made = Preference(result::create_matmul_pref()?);
        let set = |attribute, (value, bytes): (*const c_void, usize)| {
            // SAFETY: the preference is alive, the value has the attribute's type and is copied.
            unsafe { result::set_matmul_pref_attribute(made.0, attribute, value, bytes) }
        };
        set(A::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, bytes_of(&WORKSPACE))?;
        // Parts of a sum are joined as f32, whatever the output is.
        let schemes = Scheme::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        set(A::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, bytes_of(&schemes))?;
        let each = [
            A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ];
        for (attribute, address) in each.into_iter().zip(addresses) {
            let alignment = 1u32 << address.trailing_zeros().min(8);
            set(attribute, bytes_of(&alignment))?;
        }
        Ok(made)
    }
}

/// A product with addresses and an algorithm.
pub(crate) struct Bound {
    description: Description,
    layouts: [Layout; 4],
    algorithm: sys::cublasLtMatmulAlgo_t,
    /// Of the first and second operand, what is added, and the result.
    addresses: [u64; 4],
    workspace: u64,
    factors: [f32; 2],
    /// The name for people.
    name: &'static str,
    gpu: Gpu,
}

// SAFETY: the library's objects belong to this product alone and may be used by any thread.
unsafe impl Send for Bound {}

impl Bound {
    /// `None` if the library has no algorithm for it. `address` gives what only a device knows.
    pub(crate) fn new(gpu: &Gpu, product: &Product, address: impl Fn(&Argument) -> Option<u64>) -> Result<Option<Bound>, CudaError> {
        match Bound::find(gpu, product, address) {
            Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => Ok(None),
            Err(error) => Err(failed("looking for an algorithm of a product", error)),
            Ok(found) => Ok(found),
        }
    }

    fn find(gpu: &Gpu, product: &Product, address: impl Fn(&Argument) -> Option<u64>) -> Result<Option<Bound>, CublasError> {
        let (Some(blas), Some(columns), Some((kind, name))) = (gpu.blas(), product.columns(), product.kind()) else { return Ok(None) };
        let place = |argument: Option<&Argument>| argument.map_or(Some(None), |a| address(a).map(Some));
        let (Some(a), Some(b), Some(c)) = (address(&product.a), address(&product.b), address(&product.c)) else { return Ok(None) };
        let (Some(bias), Some(residual), Some(workspace)) = (place(product.bias.as_ref()), place(product.residual.as_ref()), address(&Argument::Workspace))
        else {
            return Ok(None);
        };
        let addresses = [b, a, residual.unwrap_or(c), c];
        let description = Description::new([&columns[0], &columns[1]], product.end, bias)?;
        let [first, second, added, result] = &columns;
        let layout = |columns| Layout::new(kind, columns, product.shape.batch);
        let layouts = [layout(first)?, layout(second)?, layout(added)?, layout(result)?];
        let preference = Preference::new(addresses)?;
        let [la, lb, lc, ld] = layouts.each_ref().map(|l| l.0);
        // SAFETY: all objects are alive.
        let found = unsafe { result::get_matmul_algo_heuristic(blas.0, description.0, la, lb, lc, ld, preference.0) }?;
        let factors = [product.shape.scale, f32::from(u8::from(residual.is_some()))];
        Ok(Some(Bound { description, layouts, algorithm: found.algo, addresses, workspace, factors, name, gpu: gpu.clone() }))
    }

    /// The name for people.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }
}

impl Sent for Bound {
    fn send(&mut self, stream: CUstream) -> Result<(), CudaError> {
        let Some(blas) = self.gpu.blas() else { return Ok(()) };
        let [a, b, c, d] = self.addresses.map(|address| address as *mut c_void);
        let [la, lb, lc, ld] = self.layouts.each_ref().map(|l| l.0);
        let [alpha, beta] = self.factors.each_ref().map(|f| std::ptr::from_ref(f).cast());
        // SAFETY: the library's objects are alive, and were made for operands that lie so, at these addresses. Whoever made the
        // product gave it memory that lives as long as the plan; the workspace is as large as the preference said.
        let sent = unsafe {
            result::matmul(
                blas.0,
                self.description.0,
                alpha,
                beta,
                a,
                la,
                b,
                lb,
                c,
                lc,
                d,
                ld,
                &self.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE,
                stream.cast(),
            )
        };
        sent.map_err(|e| failed("launching a product of cuBLASLt's", e))
    }
}

fn failed(what: &'static str, CublasError(status): CublasError) -> CudaError {
    CudaError::Driver { what, code: format!("{status:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_read_by_columns_or_turned() {
        let columns = |extents, strides| Columns::new(extents, strides, 0).map(|c| (c.rows, c.columns, c.leading, c.turned));
        // Three by five, by columns, with room between them; by rows.
        assert_eq!(columns([3, 5], [1, 3]), Some((3, 5, 3, false)));
        assert_eq!(columns([3, 5], [1, 8]), Some((3, 5, 8, false)));
        assert_eq!(columns([3, 5], [5, 1]), Some((5, 3, 5, true)));
        // One row or column may have any stride along itself, and the other way its own length.
        assert_eq!(columns([1, 5], [9, 1]), Some((1, 5, 1, false)));
        assert_eq!(columns([5, 1], [2, 1]), Some((1, 5, 2, true)));
        assert_eq!(columns([1, 1], [0, 0]), Some((1, 1, 1, false)));
        // Every other element, or one element for all, is nothing that it knows.
        assert_eq!(columns([3, 5], [2, 6]), None);
        assert_eq!(columns([3, 5], [1, 0]), None);
    }
}
