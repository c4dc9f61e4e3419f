//! Seals bytes that are to lie on a disk: AES-256-GCM (NIST SP 800-38D).

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// How many bytes a key has.
pub const KEY_BYTES: usize = 32;

/// A key to seal with and to open.
pub struct Key(LessSafeKey);

impl Key {
    /// From bytes that nobody can guess.
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("a key of AES-256 has 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// The nonce, then what is sealed with its tag. It opens only for the same `about`: who it belongs to, say.
    /// A nonce is random, so that one key seals some billions of times.
    pub fn seal(&self, about: &str, plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = crate::random::bytes();
        let mut sealed = plain.to_vec();
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(about), &mut sealed)
            .expect("it is far shorter than 64 GiB");
        [&nonce[..], &sealed].concat()
    }

    /// What was sealed about this with this key; none where anything was changed.
    pub fn open(&self, about: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut rest = rest.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.0.open_in_place(nonce, Aad::from(about), &mut rest).ok()?.len();
        rest.truncate(length);
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_unchanged_or_not_at_all() {
        let key = Key::new(&[7; KEY_BYTES]);
        let sealed = key.seal("one", b"secret");
        assert_eq!(key.open("one", &sealed).as_deref(), Some(&b"secret"[..]));
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_ne!(key.seal("one", b"secret"), sealed);
        let mut bent = sealed.clone();
        bent[14] ^= 1;
        let other = Key::new(&[8; KEY_BYTES]);
        for (key, about, sealed) in [
            (&key, "two", &sealed),
            (&key, "one", &bent),
            (&other, "one", &sealed),
            (&key, "one", &b"short".to_vec()),
        ] {
            assert_eq!(key.open(about, sealed), None);
        }
    }
}
