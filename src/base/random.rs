//! Randomness, of the system's source.

use ring::rand::{SecureRandom, SystemRandom};
use std::time::Duration;

/// Random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system's random source works");
    bytes
}

/// A random time, shorter than this.
pub fn within(longest: Duration) -> Duration {
    longest.mul_f64(f64::from(u32::from_ne_bytes(bytes())) / (f64::from(u32::MAX) + 1.0))
}

/// A random UUID (RFC 9562, version 4).
pub fn uuid() -> String {
    let mut b: [u8; 16] = bytes();
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let hex = crate::hex::of(&b);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_uuids() {
        let uid = uuid();
        assert_eq!((uid.len(), &uid[14..15]), (36, "4"));
    }
}
