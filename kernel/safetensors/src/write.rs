//! Writing a file.

use crate::{WriteError, dtype::to_format};
use alloc::{
    borrow::Cow,
    collections::BTreeSet,
    string::{String, ToString},
    vec::Vec,
};
use millstream_tensor::{Tensor, TensorView};
use safetensors::{Dtype, View, serialize};

/// Row-major bytes, borrowed where the tensor has them.
struct Entry<'a> {
    dtype: Dtype,
    shape: &'a [usize],
    data: Cow<'a, [u8]>,
}

impl View for Entry<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.data)
    }

    fn data_len(&self) -> usize {
        self.data.len()
    }
}

/// The bytes of a file that holds these tensors and notes. Tensors are ordered by element size, then by name, so that each
/// is aligned for its type if the file is.
pub fn to_bytes<'a>(
    tensors: impl IntoIterator<Item = (&'a str, TensorView<'a>)>,
    metadata: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Vec<u8>, WriteError> {
    let mut names = BTreeSet::from(["__metadata__"]);
    let mut entries = Vec::new();
    for (name, view) in tensors {
        if !names.insert(name) {
            return Err(WriteError::Name(name.into()));
        }
        let dtype = to_format(view.dtype()).ok_or_else(|| WriteError::ElementType(name.into(), view.dtype()))?;
        let data = if view.layout().is_row_major() { Cow::Borrowed(view.bytes()?) } else { Cow::Owned(Tensor::from_view(view)?.view().bytes()?.to_vec()) };
        entries.push((name, Entry { dtype, shape: view.shape().dims(), data }));
    }
    let mut notes = metadata.into_iter().map(|(k, v)| (String::from(k), String::from(v))).peekable();
    let notes = if notes.peek().is_some() { Some(notes.collect()) } else { None };
    serialize(entries, notes).map_err(|e| WriteError::Format(e.to_string()))
}
