//! The keys that leave an attached container running, such as `ctrl-p,ctrl-q`.

use crate::error::Error;

/// What leaves where nothing else is said.
pub(crate) const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Looks for the keys in what is typed, however it comes in pieces.
#[derive(Debug)]
pub(crate) struct Detach {
    keys: Vec<u8>,
    /// How many of them were typed last.
    seen: usize,
}

impl Detach {
    /// Reads keys with commas between them: a character, `ctrl-` and one of `@` to `_`, or `DEL`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let text = if text.is_empty() { DEFAULT } else { text };
        let key = |name: &str| {
            let single = |text: &str| match text.as_bytes() {
                [byte] => Some(*byte),
                _ => None,
            };
            let control = name.strip_prefix("ctrl-").and_then(single);
            match (single(name), control) {
                (Some(byte), _) => Ok(byte),
                (_, Some(letter @ b'a'..=b'z')) => Ok(letter - b'a' + 1),
                (_, Some(sign @ (b'@' | b'['..=b'_'))) => Ok(sign - b'@'),
                _ if name == "DEL" => Ok(127),
                _ => Err(Error::plain(format!("could not bind detach keys: Unknown character: '{name}'"))),
            }
        };
        Ok(Self { keys: text.split(',').map(key).collect::<Result<_, _>>()?, seen: 0 })
    }

    /// What of a piece is to be sent, and whether the keys were typed. Keys that may be the beginning are held back.
    pub(crate) fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut sent = Vec::with_capacity(typed.len() + self.seen);
        for byte in typed {
            if *byte == self.keys[self.seen] {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    self.seen = 0;
                    return (sent, true);
                }
                continue;
            }
            sent.extend_from_slice(&self.keys[..self.seen]);
            self.seen = usize::from(*byte == self.keys[0] && self.keys.len() > 1);
            if self.seen == 0 {
                sent.push(*byte);
            }
        }
        (sent, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_any_pieces() {
        let mut detach = Detach::parse("").unwrap();
        assert_eq!(detach.pass(b"ls\x10"), (b"ls".to_vec(), false));
        assert_eq!(detach.pass(b"x\x10"), (b"\x10x".to_vec(), false));
        assert_eq!(detach.pass(b"\x10"), (b"\x10".to_vec(), false));
        assert_eq!(detach.pass(b"\x11never"), (Vec::new(), true));
        let mut one = Detach::parse("ctrl-]").unwrap();
        assert_eq!(one.pass(b"ab\x1dcd"), (b"ab".to_vec(), true));
    }

    #[test]
    fn keys_that_there_are_not_are_refused() {
        let said = Detach::parse("ctrl-x,meta").unwrap_err().to_string();
        assert_eq!(said, "error: could not bind detach keys: Unknown character: 'meta'");
        assert_eq!(Detach::parse("a,ctrl-a,DEL,ctrl-@").unwrap().keys, [b'a', 1, 127, 0]);
    }
}
