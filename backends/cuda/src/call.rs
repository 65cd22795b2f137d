//! Launches as data: kernels by name, with what their arguments stand for. Made for a node's types and shapes, without a device.

use crate::{
    CudaError,
    blas::Product,
    lane::check,
    ptx,
    shape::{MOST_AXES, Walk},
};
use bytemuck::Pod;

/// What an argument stands for. Pointers are a value of the node and an offset in bytes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Argument {
    Input(usize, usize),
    Output(usize, usize),
    /// Memory beside inputs and outputs, by its position in [`Calls::scratch`], and an offset in bytes.
    Scratch(usize, usize),
    /// Memory of a library's product ([`crate::blas::WORKSPACE`]).
    Workspace,
    /// An input that is a constant of the graph, a matrix of bytes, transposed; no argument reads it as it is.
    Turned(usize),
    /// The integer that a kernel sets where an element is none that it may be.
    Fault,
    Null,
    I32(i32),
    I64(i64),
    F32(f32),
    /// A structure by value: its bytes, and its words.
    Struct(usize, Vec<u64>),
}

impl Argument {
    pub(crate) fn count(n: usize) -> Argument {
        Argument::I64(n as i64)
    }

    pub(crate) fn structure<T: Pod>(of: &T) -> Argument {
        let words = bytemuck::bytes_of(of).chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        });
        Argument::Struct(size_of::<T>(), words.collect())
    }

    pub(crate) fn walk<const OPERANDS: usize>(walk: &Walk<OPERANDS>) -> Argument {
        Argument::Struct(size_of::<Walk<OPERANDS>>(), walk.words())
    }

    /// Bytes of memory of the argument as data.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Argument>() + if let Argument::Struct(_, words) = self { words.len() * size_of::<u64>() } else { 0 }
    }

    /// Bytes and words, with `address` for what only a device knows: `None` if that has none.
    pub(crate) fn bound(&self, address: impl Fn(&Argument) -> Option<u64>) -> Option<(usize, Vec<u64>)> {
        Some(match self {
            Argument::I32(v) => (4, vec![u64::from(*v as u32)]),
            Argument::F32(v) => (4, vec![u64::from(v.to_bits())]),
            Argument::I64(v) => (8, vec![*v as u64]),
            Argument::Null => (8, vec![0]),
            Argument::Struct(bytes, words) => (*bytes, words.clone()),
            pointer => (8, vec![address(pointer)?]),
        })
    }
}

/// One launch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) kernel: String,
    /// Blocks that pay; the device may take fewer.
    pub(crate) grid: u64,
    /// Bytes of dynamic shared memory.
    pub(crate) shared: u32,
    pub(crate) arguments: Vec<Argument>,
    /// The same by a library, which is taken where it is.
    pub(crate) product: Option<Box<Product>>,
}

/// What a node does on the device: launches one after the other, and the bytes of memory that they take beside it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Calls {
    pub(crate) calls: Vec<Call>,
    pub(crate) scratch: Vec<usize>,
}

impl Calls {
    /// Nothing yet.
    pub(crate) fn new() -> Calls {
        Calls::default()
    }

    /// A launch of as many blocks as `each` goes into `work`. Words are in C's order within a word.
    pub(crate) fn call(mut self, kernel: impl Into<String>, work: usize, each: usize, arguments: Vec<Argument>) -> Calls {
        self.calls.push(Call { kernel: kernel.into(), grid: work.div_ceil(each) as u64, shared: 0, arguments, product: None });
        self
    }

    /// The last launch by a library, where there is one that can.
    pub(crate) fn or_by(mut self, product: Option<Product>) -> Calls {
        if let Some(last) = self.calls.last_mut() {
            last.product = product.map(Box::new);
        }
        self
    }

    /// The same without a library.
    pub(crate) fn by_kernels(mut self) -> Calls {
        self.calls.iter_mut().for_each(|call| call.product = None);
        self
    }

    /// True if a library may do a part of it.
    pub(crate) fn has_products(&self) -> bool {
        self.calls.iter().any(|call| call.product.is_some())
    }

    /// The launches of both, of which `other` has no scratch memory of its own.
    pub(crate) fn followed_by(mut self, other: Calls) -> Calls {
        self.calls.extend(other.calls);
        self
    }

    /// The last launch with dynamic shared memory.
    pub(crate) fn shared(mut self, bytes: usize) -> Calls {
        if let Some(last) = self.calls.last_mut() {
            last.shared = bytes as u32;
        }
        self
    }

    /// Memory beside inputs and outputs.
    pub(crate) fn scratch(mut self, bytes: usize) -> Calls {
        self.scratch.push(bytes);
        self
    }

    /// An error unless every launch is of a kernel that exists, with arguments of its sizes.
    pub(crate) fn check(&self) -> Result<(), CudaError> {
        self.calls.iter().try_for_each(|call| {
            let given: Vec<_> = call.arguments.iter().filter_map(|a| a.bound(|_| Some(0))).collect();
            check(&call.kernel, &ptx::entry(&call.kernel)?.arguments, &given)
        })
    }

    /// True if a launch may find a fault of its data.
    pub(crate) fn may_fault(&self) -> bool {
        self.calls.iter().any(|c| c.arguments.contains(&Argument::Fault))
    }

    /// The kernels' names, for people.
    pub(crate) fn names(&self) -> String {
        joined(&self.calls.iter().map(|c| c.product.as_ref().map_or_else(|| c.kernel.clone(), |p| p.name())).collect::<Vec<_>>())
    }
}

/// Several names as one, for people.
pub(crate) fn joined(names: &[String]) -> String {
    match names {
        [one] => one.clone(),
        [first, rest @ ..] if rest.iter().all(|name| name == first) => format!("{} x {first}", names.len()),
        _ => names.join(" + "),
    }
}

/// A walk over `dims` through operands of these strides, with axes joined that can be; `None` if too many are left.
pub(crate) fn walk<const OPERANDS: usize>(dims: &[usize], strides: [&[i64]; OPERANDS]) -> Option<Walk<OPERANDS>> {
    let mut axes: Vec<(i64, [i64; OPERANDS])> = Vec::with_capacity(dims.len());
    for (axis, &dim) in dims.iter().enumerate().filter(|(_, d)| **d != 1) {
        let (size, stride) = (dim as i64, strides.map(|s| s[axis]));
        match axes.last_mut() {
            // The axis before steps over just this one.
            Some((before, steps)) if (0..OPERANDS).all(|o| steps[o] == stride[o] * size) => {
                *before *= size;
                *steps = stride;
            }
            _ => axes.push((size, stride)),
        }
    }
    if axes.len() > MOST_AXES {
        return None;
    }
    let mut made = Walk { rank: axes.len() as i64, size: [1; MOST_AXES], stride: [[0; MOST_AXES]; OPERANDS] };
    for (axis, (size, stride)) in axes.into_iter().enumerate() {
        made.size[axis] = size;
        for operand in 0..OPERANDS {
            made.stride[operand][axis] = stride[operand];
        }
    }
    Some(made)
}

/// Row-major strides.
pub(crate) fn row_major(dims: &[usize]) -> Vec<i64> {
    let mut strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis] as i64;
    }
    strides
}

/// Strides of a row-major operand of `dims` as one that is repeated to `shape`; `None` if it does not broadcast.
pub(crate) fn repeated(dims: &[usize], shape: &[usize]) -> Option<Vec<i64>> {
    let missing = shape.len().checked_sub(dims.len())?;
    let own = row_major(dims);
    let mut strides = vec![0; shape.len()];
    for (axis, &dim) in dims.iter().enumerate() {
        match dim {
            1 => {}
            d if d == shape[missing + axis] => strides[missing + axis] = own[axis],
            _ => return None,
        }
    }
    Some(strides)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_that_can_be_joined_are_joined() {
        let whole = walk(&[2, 1, 3, 4], [&row_major(&[2, 1, 3, 4])]).unwrap();
        assert_eq!((whole.rank, whole.size[0], whole.stride[0][0]), (1, 24, 1));
        let broadcast = walk(&[2, 3, 4], [&row_major(&[2, 3, 4]), &repeated(&[3, 1], &[2, 3, 4]).unwrap()]).unwrap();
        assert_eq!((broadcast.rank, &broadcast.size[..3]), (3, &[2, 3, 4][..]));
        assert_eq!((&broadcast.stride[0][..3], &broadcast.stride[1][..3]), (&[12, 4, 1][..], &[0, 1, 0][..]));
        let bias = walk(&[2, 3, 4], [&row_major(&[2, 3, 4]), &repeated(&[4], &[2, 3, 4]).unwrap()]).unwrap();
        assert_eq!((bias.rank, &bias.size[..2]), (2, &[6, 4][..]));
        assert_eq!(repeated(&[2], &[3]), None);
        assert!(walk(&[2; 7], [&[0, 1, 0, 1, 0, 1, 0]]).is_none(), "seven axes that differ");
    }

    #[test]
    fn arguments_are_held_against_the_text() {
        let good = Calls::new().call("fill_b4", 5000, 1024, vec![Argument::Output(0, 0), Argument::count(5000), Argument::I64(0)]);
        assert_eq!((good.check(), good.calls[0].grid), (Ok(()), 5));
        let bad = Calls::new().call("fill_b4", 1, 1, vec![Argument::Output(0, 0), Argument::I32(1), Argument::I64(0)]);
        assert!(matches!(bad.check(), Err(CudaError::Arguments { .. })));
        assert!(matches!(Calls::new().call("fill_b3", 1, 1, vec![]).check(), Err(CudaError::NoKernel(_))));
    }
}
