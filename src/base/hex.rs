//! Bytes and their digests in hexadecimal digits.

use ring::digest::{SHA256, digest};

/// Two digits, in lower case, for each byte.
pub fn of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of what is in `bytes`, as 64 digits.
pub fn sha256(bytes: &[u8]) -> String {
    of(digest(&SHA256, bytes).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_fips_180() {
        assert_eq!(of(&[0, 0xab, 7]), "00ab07");
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
