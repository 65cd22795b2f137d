//! The part of protobuf's wire format that OTLP needs: fields are written as they come, messages as what a closure writes,
//! and one number is read from an answer.

/// Writes fields of a message.
#[derive(Default)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const DELIMITED: u8 = 2;
const FIXED32: u8 = 5;

impl Message {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn varint(&mut self, field: u8, value: u64) -> &mut Self {
        self.tag(field, VARINT);
        self.number(value);
        self
    }

    pub(crate) fn fixed64(&mut self, field: u8, value: u64) -> &mut Self {
        self.tag(field, FIXED64);
        self.bytes.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn fixed32(&mut self, field: u8, value: u32) -> &mut Self {
        self.tag(field, FIXED32);
        self.bytes.extend(value.to_le_bytes());
        self
    }

    /// Bytes, a string, or a message that is written already.
    pub(crate) fn bytes(&mut self, field: u8, value: &[u8]) -> &mut Self {
        self.tag(field, DELIMITED);
        self.number(value.len() as u64);
        self.bytes.extend(value);
        self
    }

    pub(crate) fn message(&mut self, field: u8, write: impl FnOnce(&mut Message)) -> &mut Self {
        let mut inner = Message::default();
        write(&mut inner);
        self.bytes(field, &inner.bytes)
    }

    fn tag(&mut self, field: u8, kind: u8) {
        self.number(u64::from(field) << 3 | u64::from(kind));
    }

    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

/// A field's value, as the wire has it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The last value of a field of a message; `None` if it is not there, or the message is torn.
pub(crate) fn find(mut message: &[u8], wanted: u64) -> Option<Field<'_>> {
    let mut found = None;
    while !message.is_empty() {
        let tag = take_number(&mut message)?;
        let value = match (tag & 7) as u8 {
            VARINT => Field::Number(take_number(&mut message)?),
            FIXED64 => Field::Bytes(take(&mut message, 8)?),
            DELIMITED => {
                let length = take_number(&mut message)?;
                Field::Bytes(take(&mut message, usize::try_from(length).ok()?)?)
            }
            FIXED32 => Field::Bytes(take(&mut message, 4)?),
            _ => return None,
        };
        if tag >> 3 == wanted {
            found = Some(value);
        }
    }
    found
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut message = Message::default();
        message.varint(1, 300).fixed64(2, 7).fixed32(16, 9).bytes(3, b"abc").varint(1, u64::MAX);
        let bytes = message.into_bytes();
        assert_eq!(&bytes[..3], [0x08, 0xAC, 0x02], "the example of the format's own description");
        assert_eq!(find(&bytes, 1), Some(Field::Number(u64::MAX)));
        assert_eq!(find(&bytes, 3), Some(Field::Bytes(b"abc")));
        assert_eq!(find(&bytes, 4), None);
        assert_eq!((0..bytes.len()).filter(|end| find(&bytes[..*end], 16).is_some()).count(), 2, "torn ones are not read: two ends lie between fields");
    }
}
