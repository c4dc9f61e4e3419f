//! The keys of service accounts' tokens: ES256 and RS256 (RFC 7518).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::rsa;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey,
};
use serde_json::{Value, json};

enum Pair {
    Elliptic(Box<EcdsaKeyPair>),
    Rsa(Box<rsa::KeyPair>),
}

/// One key.
pub(super) struct Key {
    pair: Pair,
    /// By which tokens name it.
    pub(super) id: String,
}

/// Reads keys, each in PKCS#8 form.
pub(super) fn read(keys: &[Vec<u8>]) -> Result<Vec<Key>, String> {
    if keys.is_empty() {
        return Err("there is no key of service accounts".to_owned());
    }
    keys.iter().map(|pkcs8| Key::read(pkcs8)).collect()
}

impl Key {
    fn read(pkcs8: &[u8]) -> Result<Self, String> {
        let random = SystemRandom::new();
        let elliptic = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random);
        let pair = match (elliptic, rsa::KeyPair::from_pkcs8(pkcs8)) {
            (Ok(pair), _) => Pair::Elliptic(Box::new(pair)),
            (_, Ok(pair)) => Pair::Rsa(Box::new(pair)),
            (Err(elliptic), Err(rsa)) => {
                return Err(format!(
                    "a key of service accounts has to be of P-256 or RSA of 2048 bits or more: it cannot be used ({elliptic}; {rsa})"
                ));
            }
        };
        let public = match &pair {
            Pair::Elliptic(pair) => pair.public_key().as_ref(),
            Pair::Rsa(pair) => pair.public_key().as_ref(),
        };
        let id = URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, public));
        Ok(Self { pair, id })
    }

    pub(super) fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Elliptic(_) => "ES256",
            Pair::Rsa(_) => "RS256",
        }
    }

    /// The public key as a JWK.
    pub(super) fn public(&self) -> Value {
        let mut key = json!({"use": "sig", "alg": self.algorithm(), "kid": self.id});
        match &self.pair {
            Pair::Elliptic(pair) => {
                // An uncompressed point: 0x04, then x and y of 32 bytes each.
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                key["kty"] = "EC".into();
                key["crv"] = "P-256".into();
                key["x"] = URL_SAFE_NO_PAD.encode(x).into();
                key["y"] = URL_SAFE_NO_PAD.encode(y).into();
            }
            Pair::Rsa(pair) => {
                let parts = rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public());
                key["kty"] = "RSA".into();
                key["n"] = URL_SAFE_NO_PAD.encode(parts.n).into();
                key["e"] = URL_SAFE_NO_PAD.encode(parts.e).into();
            }
        }
        key
    }

    pub(super) fn sign(&self, body: &[u8], random: &SystemRandom) -> Option<Vec<u8>> {
        match &self.pair {
            Pair::Elliptic(pair) => pair.sign(random, body).ok().map(|signature| signature.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, random, body, &mut signature).ok().map(|()| signature)
            }
        }
    }

    pub(super) fn verifies(&self, body: &[u8], signature: &[u8]) -> bool {
        match &self.pair {
            Pair::Elliptic(pair) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key())
                .verify(body, signature)
                .is_ok(),
            Pair::Rsa(pair) => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key())
                .verify(body, signature)
                .is_ok(),
        }
    }
}
