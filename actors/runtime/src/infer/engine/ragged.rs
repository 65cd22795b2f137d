//! Examples of different lengths in one batch: padding with masks, and outputs cut back.
//!
//! ```text
//! for each length that examples have (tokens of a text, height of a picture)
//!   the batch's length is the longest, rounded up
//!   inputs along it are filled up with their padding value; its masks are made: 1 before an example's own end, 0 behind
//!   outputs along it are cut back to each example's own length
//! ```

use millstream_engine::Signature;
use millstream_tensor::{Bool, DType, Element, Tensor, TensorError, bf16, f16};

use crate::error::StageError;

/// One length in which examples differ: which inputs have it, how they are padded, which mask says what is padding, and
/// which outputs have it too. Axes are those of an example, without the batch axis.
///
/// ```
/// use millstream_runtime::Ragged;
///
/// // The examples of a text model are its token ids and types; the mask is made.
/// let tokens = Ragged::new().pad("input_ids", 0, 0.0).pad("token_type_ids", 0, 0.0).mask("attention_mask").cut("last_hidden_state", 0);
/// # let _ = tokens;
/// ```
#[derive(Clone, Debug, Default)]
pub struct Ragged {
    pads: Vec<(String, usize, f64)>,
    masks: Vec<String>,
    cuts: Vec<(String, usize)>,
    multiple: usize,
}

impl Ragged {
    /// A length that no input has yet.
    pub fn new() -> Self {
        Ragged::default()
    }

    /// Says that this axis of this input has the length, and what it is filled up with. (Strings are filled up with empty
    /// ones.)
    #[must_use]
    pub fn pad(mut self, input: &str, axis: usize, value: f64) -> Self {
        self.pads.push((input.to_owned(), axis, value));
        self
    }

    /// Says that this input is a vector of the length that holds 1 where the example is, and 0 in the padding. Examples
    /// then lack it.
    #[must_use]
    pub fn mask(mut self, input: &str) -> Self {
        self.masks.push(input.to_owned());
        self
    }

    /// Says that this axis of this output has the length: an example gets its own part.
    #[must_use]
    pub fn cut(mut self, output: &str, axis: usize) -> Self {
        self.cuts.push((output.to_owned(), axis));
        self
    }

    /// Rounds a batch's length up to a multiple of this, so that the model sees few shapes.
    #[must_use]
    pub fn pad_to(mut self, multiple: usize) -> Self {
        self.multiple = multiple;
        self
    }
}

/// A [`Ragged`] with its names looked up.
pub(super) struct Length {
    /// Input, axis, value.
    pub(super) pads: Vec<(usize, usize, f64)>,
    /// Input and type.
    pub(super) masks: Vec<(usize, DType)>,
    /// Output, axis.
    pub(super) cuts: Vec<(usize, usize)>,
    pub(super) multiple: usize,
}

impl Length {
    pub(super) fn new(ragged: Ragged, signature: &Signature) -> Result<Self, StageError> {
        let input = |name: &str| signature.input_index(name).ok_or_else(|| StageError::permanent(format!("the model has no input `{name}`")));
        let output = |name: &str| {
            let found = signature.outputs.iter().position(|port| &*port.name == name);
            found.ok_or_else(|| StageError::permanent(format!("the model has no output `{name}`")))
        };
        if ragged.pads.is_empty() {
            return Err(StageError::permanent("a length needs an input that has it"));
        }
        let mut masks = Vec::new();
        for name in &ragged.masks {
            let index = input(name)?;
            let dtype = signature.inputs[index].dtype.unwrap_or(DType::I64);
            mask_row(dtype, 0, 0).map_err(|_| StageError::permanent(format!("the mask `{name}` cannot be {dtype}")))?;
            masks.push((index, dtype));
        }
        Ok(Length {
            pads: ragged.pads.iter().map(|(name, axis, value)| Ok((input(name)?, *axis, *value))).collect::<Result<_, StageError>>()?,
            masks,
            cuts: ragged.cuts.iter().map(|(name, axis)| Ok((output(name)?, *axis))).collect::<Result<_, StageError>>()?,
            multiple: ragged.multiple.max(1),
        })
    }

    /// The padding value of an axis of an input, if that has this length.
    pub(super) fn pad(&self, input: usize, axis: usize) -> Option<f64> {
        self.pads.iter().find(|pad| (pad.0, pad.1) == (input, axis)).map(|pad| pad.2)
    }

    pub(super) fn padded(&self, length: usize) -> usize {
        length.checked_next_multiple_of(self.multiple).unwrap_or(length)
    }
}

/// One example's mask: ones up to its length, zeros up to the batch's.
pub(super) fn mask_row(dtype: DType, length: usize, padded: usize) -> Result<Tensor, TensorError> {
    fn row<T: Element>(one: T, zero: T, length: usize, padded: usize) -> Result<Tensor, TensorError> {
        let values: Vec<T> = (0..padded).map(|at| if at < length { one } else { zero }).collect();
        Tensor::from_slice(&[padded], &values)
    }
    match dtype {
        DType::F32 => row(1f32, 0.0, length, padded),
        DType::F64 => row(1f64, 0.0, length, padded),
        DType::F16 => row(f16::ONE, f16::ZERO, length, padded),
        DType::BF16 => row(bf16::ONE, bf16::ZERO, length, padded),
        DType::I8 => row(1i8, 0, length, padded),
        DType::I16 => row(1i16, 0, length, padded),
        DType::I32 => row(1i32, 0, length, padded),
        DType::I64 => row(1i64, 0, length, padded),
        DType::U8 => row(1u8, 0, length, padded),
        DType::U16 => row(1u16, 0, length, padded),
        DType::U32 => row(1u32, 0, length, padded),
        DType::U64 => row(1u64, 0, length, padded),
        DType::Bool => row(Bool::from(true), Bool::from(false), length, padded),
        _ => Err(TensorError::Length { needed: 1, found: 0 }),
    }
}

/// The bytes of one element of padding.
pub(super) fn element(dtype: DType, value: f64) -> Vec<u8> {
    match dtype {
        DType::F32 => (value as f32).to_ne_bytes().into(),
        DType::F64 => value.to_ne_bytes().into(),
        DType::F16 => f16::from_f64(value).to_ne_bytes().into(),
        DType::BF16 => bf16::from_f64(value).to_ne_bytes().into(),
        DType::I8 => (value as i8).to_ne_bytes().into(),
        DType::I16 => (value as i16).to_ne_bytes().into(),
        DType::I32 => (value as i32).to_ne_bytes().into(),
        DType::I64 => (value as i64).to_ne_bytes().into(),
        DType::U8 => (value as u8).to_ne_bytes().into(),
        DType::U16 => (value as u16).to_ne_bytes().into(),
        DType::U32 => (value as u32).to_ne_bytes().into(),
        DType::U64 => (value as u64).to_ne_bytes().into(),
        DType::Bool => vec![u8::from(value != 0.0)],
        _ => Vec::new(),
    }
}
