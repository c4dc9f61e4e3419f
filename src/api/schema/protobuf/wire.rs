//! Writes protobuf messages, field by field.

/// A message that is being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// A message of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A field that is a number, a flag or an enumeration.
    pub fn number(&mut self, field: u32, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    /// A field that is a number with a fraction.
    pub fn double(&mut self, field: u32, value: f64) {
        self.key(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A field that is text or bytes.
    pub fn bytes(&mut self, field: u32, value: &[u8]) {
        self.announce(field, value.len());
        self.0.extend_from_slice(value);
    }

    /// The beginning of a field of this many bytes, which are to be written elsewhere.
    pub fn announce(&mut self, field: u32, length: usize) {
        self.key(field, 2);
        self.varint(length as u64);
    }

    /// A field that is a message.
    pub fn message(&mut self, field: u32, value: &Self) {
        self.bytes(field, &value.0);
    }

    /// The message as it goes over the wire.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn key(&mut self, field: u32, wire: u64) {
        self.varint(u64::from(field) << 3 | wire);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_written_as_the_encoding_documents_them() {
        let mut inner = Message::new();
        inner.number(1, 150);
        let mut outer = Message::new();
        outer.message(3, &inner);
        outer.bytes(2, b"testing");
        outer.double(1, 1.0);
        let wanted = [
            &[0x1a, 0x03, 0x08, 0x96, 0x01][..],
            &[0x12, 0x07],
            b"testing",
            &[0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f],
        ]
        .concat();
        assert_eq!(outer.into_bytes(), wanted);
    }
}
