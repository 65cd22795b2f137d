//! The protobuf wire format, read in place.
//!
//! A message is a run of fields, each a key (field number and wire type) and a payload. Scalars come as varints or as 4
//! or 8 fixed bytes; texts, bytes, messages and packed lists as a length and that many bytes. Nothing is copied or
//! allocated here; every offset counts from the first byte of the file. Groups, which ONNX never had, are refused.

use crate::LoadError;

/// The fields of one message. After an error the iteration ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    base: usize,
}

/// One field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) number: u32,
    /// Where the payload (for bytes: their first one) lies in the file.
    pub(crate) offset: usize,
    wire: Wire<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// How the elements of a repeated scalar are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    Varint,
    Fixed32,
    Fixed64,
}

pub(crate) fn malformed<T>(offset: usize, what: &'static str) -> Result<T, LoadError> {
    Err(LoadError::Malformed { offset, what })
}

impl<'a> Reader<'a> {
    /// A message that begins at byte `base` of the file.
    pub(crate) fn new(bytes: &'a [u8], base: usize) -> Reader<'a> {
        Reader { bytes, at: 0, base }
    }

    /// Where the next field begins in the file.
    pub(crate) fn offset(&self) -> usize {
        self.base + self.at
    }

    /// Bytes that are left.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn varint(&mut self) -> Result<u64, LoadError> {
        let start = self.at;
        let mut value = 0u64;
        for (i, &b) in self.bytes[start..].iter().take(10).enumerate() {
            if i == 9 && b > 1 {
                return malformed(self.base + start, "a varint of more than 64 bits");
            }
            value |= u64::from(b & 0x7f) << (7 * i);
            if b < 0x80 {
                self.at = start + i + 1;
                return Ok(value);
            }
        }
        malformed(self.base + start, "a varint that does not end")
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], LoadError> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(n).ok().and_then(|n| rest.get(..n)) {
            Some(part) => {
                self.at += part.len();
                Ok(part)
            }
            None => malformed(self.offset(), "a field that is longer than its message"),
        }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    fn scalar(&mut self, kind: Scalar) -> Result<u64, LoadError> {
        match kind {
            Scalar::Varint => self.varint(),
            Scalar::Fixed32 => Ok(u32::from_le_bytes(self.fixed()?).into()),
            Scalar::Fixed64 => Ok(u64::from_le_bytes(self.fixed()?)),
        }
    }

    fn field(&mut self) -> Result<Field<'a>, LoadError> {
        let start = self.offset();
        let key = self.varint()?;
        let number = match u32::try_from(key >> 3) {
            Ok(n @ 1..=0x1fff_ffff) => n,
            _ => return malformed(start, "a field number out of range"),
        };
        let mut offset = self.offset();
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.fixed()?)),
            5 => Wire::Fixed32(u32::from_le_bytes(self.fixed()?)),
            2 => {
                let length = self.varint()?;
                offset = self.offset();
                Wire::Bytes(self.take(length)?)
            }
            3 | 4 => return malformed(start, "a group"),
            _ => return malformed(start, "an unknown wire type"),
        };
        Ok(Field { number, offset, wire })
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Field<'a>, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.len() == 0 {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.bytes.len();
        }
        Some(field)
    }
}

impl<'a> Field<'a> {
    fn wrong<T>(&self) -> Result<T, LoadError> {
        malformed(self.offset, "a field of another wire type than ONNX gives it")
    }

    /// An integer or an enumeration.
    pub(crate) fn int(&self) -> Result<i64, LoadError> {
        match self.wire {
            Wire::Varint(v) => Ok(v as i64),
            _ => self.wrong(),
        }
    }

    /// A 32-bit float.
    pub(crate) fn float(&self) -> Result<f32, LoadError> {
        match self.wire {
            Wire::Fixed32(v) => Ok(f32::from_bits(v)),
            _ => self.wrong(),
        }
    }

    /// Bytes.
    pub(crate) fn bytes(&self) -> Result<&'a [u8], LoadError> {
        match self.wire {
            Wire::Bytes(b) => Ok(b),
            _ => self.wrong(),
        }
    }

    /// Text.
    pub(crate) fn text(&self) -> Result<&'a str, LoadError> {
        core::str::from_utf8(self.bytes()?).or_else(|_| malformed(self.offset, "text that is not UTF-8"))
    }

    /// A message.
    pub(crate) fn message(&self) -> Result<Reader<'a>, LoadError> {
        Ok(Reader::new(self.bytes()?, self.offset))
    }

    /// The elements of a repeated scalar in this field, be it packed or a single one.
    pub(crate) fn scalars(&self, kind: Scalar, mut each: impl FnMut(u64) -> Result<(), LoadError>) -> Result<(), LoadError> {
        match (self.wire, kind) {
            (Wire::Varint(v), Scalar::Varint) | (Wire::Fixed64(v), Scalar::Fixed64) => each(v),
            (Wire::Fixed32(v), Scalar::Fixed32) => each(v.into()),
            (Wire::Bytes(bytes), _) => {
                let mut packed = Reader::new(bytes, self.offset);
                while packed.len() > 0 {
                    each(packed.scalar(kind)?)?;
                }
                Ok(())
            }
            _ => self.wrong(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn fields(bytes: &[u8]) -> Result<Vec<Field<'_>>, LoadError> {
        Reader::new(bytes, 100).collect()
    }

    fn offset_of(bytes: &[u8]) -> usize {
        match fields(bytes) {
            Err(LoadError::Malformed { offset, .. }) => offset,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_wire_type() {
        let f = fields(&[0x08, 0x96, 0x01, 0x11, 1, 0, 0, 0, 0, 0, 0, 0, 0x1d, 0, 0, 0x80, 0x3f, 0x22, 2, b'h', b'i']).unwrap();
        assert_eq!(f[0].int().unwrap(), 150);
        assert_eq!(f[2].float().unwrap(), 1.0);
        assert_eq!((f[3].text().unwrap(), f[3].offset), ("hi", 119));
        assert!(f[0].bytes().is_err() && f[3].int().is_err());
        let mut doubles = Vec::new();
        f[1].scalars(Scalar::Fixed64, |v| {
            doubles.push(v);
            Ok(())
        })
        .unwrap();
        assert_eq!(doubles, [1]);
    }

    #[test]
    fn negative_numbers_take_ten_bytes() {
        let f = fields(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).unwrap();
        assert_eq!(f[0].int().unwrap(), -1);
    }

    #[test]
    fn packed_and_single_elements_are_the_same() {
        for bytes in [&[0x0a, 3, 1, 0x80, 0x01][..], &[0x08, 1, 0x08, 0x80, 0x01]] {
            let mut out = Vec::new();
            for f in fields(bytes).unwrap() {
                f.scalars(Scalar::Varint, |v| {
                    out.push(v);
                    Ok(())
                })
                .unwrap();
            }
            assert_eq!(out, [1, 128]);
        }
    }

    #[test]
    fn broken_bytes_are_errors_where_they_are() {
        assert_eq!(offset_of(&[0x08]), 101, "no payload");
        assert_eq!(offset_of(&[0x08, 0x80]), 101, "a varint that does not end");
        assert_eq!(offset_of(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]), 101, "65 bits");
        assert_eq!(offset_of(&[0x0a, 0x05, 1, 2]), 102, "longer than the message");
        assert_eq!(offset_of(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), 111, "longer than memory");
        assert_eq!(offset_of(&[0x0b]), 100, "a group");
        assert_eq!(offset_of(&[0x0f]), 100, "wire type 7");
        assert_eq!(offset_of(&[0x00, 0]), 100, "field number 0");
    }
}
