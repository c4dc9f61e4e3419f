//! Private keys in the forms that tools write them in, brought to PKCS#8, which all here read.

use crate::pki::pem_of;
use crate::signing::{OCTET_STRING, OID, SEQUENCE, tlv};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

/// `rsaEncryption` (RFC 8017) and `id-ecPublicKey` (RFC 5480).
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const ELLIPTIC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
/// More keys than that are in no file.
const KEYS: usize = 16;

/// All private keys of a PEM text, as PKCS#8 in DER.
pub(crate) fn all(pem: &str) -> Result<Vec<Vec<u8>>, String> {
    if pem.contains("ENCRYPTED") {
        return Err("the key is encrypted with a password, which nobody could give at a start".to_owned());
    }
    let keys: Vec<Vec<u8>> =
        PrivateKeyDer::pem_slice_iter(pem.as_bytes()).take(KEYS + 1).map(one).collect::<Result<_, _>>()?;
    match keys.len() {
        0 => Err("there is no private key in it".to_owned()),
        KEYS.. => Err(format!("there are {KEYS} keys or more in it")),
        _ => Ok(keys),
    }
}

/// The only or first key of a PEM text, as PKCS#8 in PEM.
pub(crate) fn first(pem: &str) -> Result<String, String> {
    Ok(pem_of("PRIVATE KEY", &all(pem)?[0]))
}

fn one(key: Result<PrivateKeyDer<'static>, rustls::pki_types::pem::Error>) -> Result<Vec<u8>, String> {
    match key.map_err(|error| format!("the key cannot be read: {error}"))? {
        PrivateKeyDer::Pkcs8(key) => Ok(key.secret_pkcs8_der().to_vec()),
        PrivateKeyDer::Pkcs1(key) => Ok(wrapped(&[&tlv(OID, &[RSA]), &[5, 0]], key.secret_pkcs1_der())),
        PrivateKeyDer::Sec1(key) => {
            let curve = curve(key.secret_sec1_der()).ok_or("the key does not say of which curve it is")?;
            Ok(wrapped(&[&tlv(OID, &[ELLIPTIC]), &curve], key.secret_sec1_der()))
        }
        _ => Err("the key is of an unknown form".to_owned()),
    }
}

/// `PrivateKeyInfo` (RFC 5208).
fn wrapped(algorithm: &[&[u8]], key: &[u8]) -> Vec<u8> {
    tlv(SEQUENCE, &[&[2, 1, 0], &tlv(SEQUENCE, algorithm), &tlv(OCTET_STRING, &[key])])
}

/// The curve that an `ECPrivateKey` (RFC 5915) names, as an object identifier with its tag.
fn curve(key: &[u8]) -> Option<Vec<u8>> {
    // Version and the private number come first, then `[0]` with the curve.
    let (_, content, _) = split(key)?;
    let (_, _, rest) = split(content)?;
    let (_, _, rest) = split(rest)?;
    let (tag, curve, _) = split(rest)?;
    (tag == 0xa0 && curve.first() == Some(&OID)).then(|| curve.to_vec())
}

/// The tag and the content of the first value, and what follows it.
fn split(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match *length {
        short @ 0..0x80 => (usize::from(short), rest),
        long => {
            let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f).min(4))?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// The public key of a private one (PKCS#8 in DER), to compare by.
pub(crate) fn public(pkcs8: &[u8]) -> Result<Vec<u8>, String> {
    let key = rcgen::KeyPair::try_from(pkcs8).map_err(|error| format!("the key cannot be used: {error}"))?;
    Ok(key.public_key_raw().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `openssl ecparam -name prime256v1 -genkey -noout`.
    const SEC1: &str = "-----BEGIN EC PRIVATE KEY-----\n\
MHcCAQEEIENkuKS/1uODJwozN5ZzLkAA2kcvB8QCPboyLTbhcadqoAoGCCqGSM49\n\
AwEHoUQDQgAEHczQLld/b9TlMRExgk5Oq9ZRx8Z9vhKeXc6nXR/xR/H7MiGMvMnS\n\
96y4n2OFODFmCJ98DUbSHga2O062aGaKyw==\n\
-----END EC PRIVATE KEY-----\n\n";

    #[test]
    fn keys_are_read_in_every_usual_form() {
        assert_eq!(public(&all(SEC1).unwrap()[0]).unwrap().len(), 65);
        let again = first(SEC1).unwrap();
        assert_eq!(public(&all(&again).unwrap()[0]), public(&all(SEC1).unwrap()[0]));
        assert_eq!(all(&format!("{again}{SEC1}")).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_key_is_told_why() {
        assert!(all("nothing").unwrap_err().contains("no private key"));
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(all(encrypted).unwrap_err().contains("password"));
        assert!(all(&SEC1.repeat(KEYS)).unwrap_err().contains("16 keys or more"));
    }
}
