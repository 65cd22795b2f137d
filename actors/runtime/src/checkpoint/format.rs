//! Checkpoints as bytes: a header by which a torn one is recognised, and the parts.
//!
//! ```text
//! "MSTREAMC" | version u32 | length of the body u64 | FNV-1a of the body u64 | body
//! body: epoch u64 | parts u64 | for each: name | replica u64 | 0, or 1 and the state
//! ```
//!
//! Numbers are little-endian; names and states have their lengths before them.

use super::{Checkpoint, Part};

const MAGIC: &[u8; 8] = b"MSTREAMC";
const VERSION: u32 = 1;

impl Checkpoint {
    /// The checkpoint as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.number(self.epoch);
        body.number(self.parts.len() as u64);
        for part in &self.parts {
            body.bytes(part.stage.as_bytes());
            body.number(u64::from(part.replica));
            body.option(part.state.as_deref(), Writer::bytes);
        }
        let body = body.0;
        let mut all = Vec::with_capacity(body.len() + 28);
        all.extend_from_slice(MAGIC);
        all.extend_from_slice(&VERSION.to_le_bytes());
        all.extend_from_slice(&(body.len() as u64).to_le_bytes());
        all.extend_from_slice(&checksum(&body).to_le_bytes());
        all.extend_from_slice(&body);
        all
    }

    /// The checkpoint of these bytes; `None` if they are not exactly what [`Checkpoint::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let (sum, body) = rest.split_first_chunk::<8>()?;
        let whole = u32::from_le_bytes(*version) == VERSION && u64::from_le_bytes(*length) == body.len() as u64;
        if !whole || u64::from_le_bytes(*sum) != checksum(body) {
            return None;
        }
        let mut body = Reader::new(body);
        let epoch = body.number()?;
        let count = body.number()?;
        let mut parts = Vec::new();
        for _ in 0..count {
            let stage = std::str::from_utf8(body.bytes()?).ok()?.into();
            let replica = u32::try_from(body.number()?).ok()?;
            let state = body.option(Reader::bytes)?.map(<[u8]>::to_vec);
            parts.push(Part { stage, replica, state });
        }
        body.is_empty().then_some(Checkpoint { epoch, parts })
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}

/// Puts numbers and bytes one behind the other.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(crate) fn time(&mut self, time: i64) {
        self.number(time.cast_unsigned());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn option<V>(&mut self, value: Option<V>, write: impl FnOnce(&mut Self, V)) {
        self.0.push(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }
}

/// Takes them apart again; `None` where there is something else.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    pub(crate) fn time(&mut self) -> Option<i64> {
        self.number().map(u64::cast_signed)
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(crate) fn option<V>(&mut self, read: impl FnOnce(&mut Self) -> Option<V>) -> Option<Option<V>> {
        let (is_some, rest) = self.0.split_first()?;
        self.0 = rest;
        match is_some {
            0 => Some(None),
            1 => Some(Some(read(self)?)),
            _ => None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_or_changed_checkpoint_is_recognised() {
        let part = |stage: &str, state: Option<&[u8]>| Part { stage: stage.into(), replica: 1, state: state.map(<[u8]>::to_vec) };
        let checkpoint = Checkpoint { epoch: 3, parts: vec![part("source", Some(&[1, 2, 3])), part("map", None)] };
        let bytes = checkpoint.to_bytes();
        assert_eq!(Checkpoint::from_bytes(&bytes), Some(checkpoint));
        for end in 0..bytes.len() {
            assert_eq!(Checkpoint::from_bytes(&bytes[..end]), None, "cut at {end}");
            let mut changed = bytes.clone();
            changed[end] ^= 0x10;
            assert_eq!(Checkpoint::from_bytes(&changed), None, "changed at {end}");
        }
    }
}
