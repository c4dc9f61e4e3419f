//! JSON for people to read: `?pretty=true`, browsers, curl.

use bytes::Bytes;

/// Puts JSON on lines, as it passes by: two spaces a level, as Go's encoder writes it. The text is not
/// decoded, so that a list of any length needs no memory.
#[derive(Default)]
pub(super) struct Indenter {
    depth: usize,
    in_text: bool,
    escaped: bool,
    /// An object or list was opened, and nothing is in it yet.
    opened: bool,
}

impl Indenter {
    /// The next part of the text, indented.
    pub(super) fn part(&mut self, json: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(json.len() * 3 / 2);
        json.iter().for_each(|byte| self.byte(*byte, &mut out));
        out.into()
    }

    fn byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.in_text {
            self.text(byte, out);
            return;
        }
        let closes = matches!(byte, b'}' | b']');
        if byte.is_ascii_whitespace() {
            return;
        }
        if closes {
            self.depth = self.depth.saturating_sub(1);
        }
        if self.opened != closes {
            self.line(out);
        }
        self.opened = false;
        out.push(byte);
        match byte {
            b'{' | b'[' => {
                self.depth += 1;
                self.opened = true;
            }
            b',' => self.line(out),
            b':' => out.push(b' '),
            b'"' => self.in_text = true,
            _ => {}
        }
    }

    fn text(&mut self, byte: u8, out: &mut Vec<u8>) {
        out.push(byte);
        self.in_text = byte != b'"' || self.escaped;
        self.escaped = byte == b'\\' && !self.escaped;
    }

    fn line(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', 2 * self.depth));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_is_what_an_encoder_would_write() {
        let value = json!({"a": [], "b": {}, "c": [1, {"d": "x \"}\\", "e": [null, [true]]}], "f": -1.5, "g": ", : {"});
        let text = value.to_string();
        for split in [1, 2, 3, 7, text.len()] {
            let mut indenter = Indenter::default();
            let parts: Vec<u8> = text.as_bytes().chunks(split).flat_map(|part| indenter.part(part)).collect();
            assert_eq!(String::from_utf8(parts).unwrap(), format!("{value:#}"));
        }
    }
}
