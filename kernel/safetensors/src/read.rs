//! Opening a file: the header's claims are checked against the bytes, then every tensor is a range of them.

use crate::{OpenError, Problem, Reason, dtype::from_format};
use alloc::{
    collections::BTreeMap,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::fmt;
use millstream_tensor::{Weight, WeightSource};
use safetensors::tensor::Metadata;

/// Bytes of the number that tells the header's length.
const PREFIX: usize = 8;

/// Bounds on what an untrusted file may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the header. While it is read, it may take up to some thirty times as much memory.
    pub header_bytes: usize,
    /// Tensors.
    pub tensors: usize,
}

impl Default for Limits {
    /// 16 MiB of header and 200,000 tensors: several times what the largest published models have.
    fn default() -> Limits {
        Limits { header_bytes: 16 << 20, tensors: 200_000 }
    }
}

/// The tensors of one file by name. Clones share the source.
#[derive(Clone)]
pub struct Weights {
    tensors: BTreeMap<String, Weight>,
    metadata: BTreeMap<String, String>,
}

impl Weights {
    /// Opens a file within the default [`Limits`].
    pub fn open(source: Arc<dyn WeightSource>) -> Result<Weights, OpenError> {
        Weights::open_with(source, &Limits::default())
    }

    /// Opens a file. The tensors' elements are neither read nor copied, except that booleans are checked.
    pub fn open_with(source: Arc<dyn WeightSource>, limits: &Limits) -> Result<Weights, OpenError> {
        let bytes = source.bytes();
        let prefix: [u8; PREFIX] = bytes.first_chunk().copied().ok_or(OpenError::Malformed("shorter than 8 bytes"))?;
        let length = usize::try_from(u64::from_le_bytes(prefix)).unwrap_or(usize::MAX);
        if length > limits.header_bytes {
            return Err(OpenError::Limit { what: "bytes of header", limit: limits.header_bytes });
        }
        let start = PREFIX + length;
        let header = bytes.get(PREFIX..start).ok_or(OpenError::Malformed("the header is longer than the file"))?;
        let header: Metadata = serde_json::from_slice(header).map_err(|e| OpenError::Header(e.to_string()))?;
        // Deserialising has checked that the tensors lie one after the other, each as long as its shape says.
        if start.checked_add(header.data_len()) != Some(bytes.len()) {
            return Err(OpenError::Malformed("the tensors do not fill the file"));
        }
        let names = header.offset_keys();
        if names.len() > limits.tensors {
            return Err(OpenError::Limit { what: "tensors", limit: limits.tensors });
        }
        let (mut tensors, mut problems) = (BTreeMap::new(), Vec::new());
        for name in names {
            let Some(info) = header.info(&name) else { continue };
            let (from, to) = info.data_offsets;
            let weight = match from_format(info.dtype) {
                Some(dtype) => Weight::in_source(source.clone(), start + from..start + to, dtype, &info.shape).map_err(Reason::Tensor),
                None => Err(Reason::ElementType(info.dtype.to_string())),
            };
            match weight {
                Ok(weight) => drop(tensors.insert(name, weight)),
                Err(reason) => problems.push(Problem { name, reason }),
            }
        }
        if !problems.is_empty() {
            return Err(OpenError::Unsupported(problems));
        }
        let metadata = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(Weights { tensors, metadata })
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor of this name.
    pub fn find(&self, name: &str) -> Option<&Weight> {
        self.tensors.get(name)
    }

    /// All tensors with their names, sorted.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Weight)> {
        self.tensors.iter().map(|(n, w)| (n.as_str(), w))
    }

    /// What the file's writer noted, by key.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weights({} tensors)", self.tensors.len())
    }
}
