//! What is made of passwords: hashes that others verify, passwords of sites, sealed texts.
//!
//! Sprig's documentation says what comes out, and the tests hold its examples. Hashes are slow on purpose, so that they
//! count for more than what they write: a few hundred of them, or thirty passwords of sites, are all that one run makes.

use super::{Answer, fixed, text};
use aes::Aes256;
use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};
use base64::Engine;
use base64::alphabet::BCRYPT;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, STANDARD};
use blowfish::Blowfish;
use ring::{hmac, pbkdf2};
use std::num::NonZeroU32;
use template::{Calling, Failure, Function, Value};

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("bcrypt", fixed(1, |c, a| hashed(c, &text(a, 0)?).map(Value::text))),
    ("htpasswd", fixed(2, |c, a| line_of(c, &text(a, 0)?, &text(a, 1)?))),
    ("derivePassword", fixed(5, derived)),
    ("encryptAES", fixed(2, |_, a| Ok(Value::text(encrypted(&text(a, 0)?, &text(a, 1)?))))),
    ("decryptAES", fixed(2, |_, a| decrypted(&text(a, 0)?, &text(a, 1)?))),
];

/// What a hash counts for, in bytes of the run's.
const HASH_BYTES: usize = 1 << 20;
/// What a password of a site counts for; it takes 32 MiB for a moment.
const SITE_BYTES: usize = 8 << 20;

/// 2^10 rounds, Go's default.
const COST: u32 = 10;
/// bcrypt reads no more of a password.
const PASSWORD_BYTES: usize = 72;
/// "OrpheanBeholderScryDoubt", which is what is encrypted.
const ORPHEAN: [u32; 6] = [0x4f72_7068, 0x6561_6e42, 0x6568_6f6c, 0x6465_7253, 0x6372_7944, 0x6f75_6274];

/// A user and a hash, as files of Apache and nginx have them.
fn line_of(calling: &Calling<'_>, user: &str, password: &str) -> Answer {
    if user.contains(':') {
        return Ok(Value::text(format!("invalid username: {user}")));
    }
    Ok(Value::text(format!("{user}:{}", hashed(calling, password)?)))
}

fn hashed(calling: &Calling<'_>, password: &str) -> Result<String, Failure> {
    calling.makes(HASH_BYTES)?;
    if password.len() > PASSWORD_BYTES {
        return Ok(
            "failed to encrypt string with bcrypt: bcrypt: password length exceeds 72 bytes".to_owned()
        );
    }
    Ok(bcrypt(password.as_bytes(), &base::random::bytes(), COST))
}

/// `$2a$`, as Provos and Mazières have it in "A Future-Adaptable Password Scheme".
fn bcrypt(password: &[u8], salt: &[u8; 16], cost: u32) -> String {
    let mut key = [password, &[0]].concat();
    key.truncate(PASSWORD_BYTES);
    let mut state = Blowfish::bc_init_state();
    state.salted_expand_key(salt, &key);
    for _ in 0..1_u64 << cost {
        state.bc_expand_key(&key);
        state.bc_expand_key(salt);
    }
    let halves = ORPHEAN
        .chunks_exact(2)
        .flat_map(|pair| (0..64).fold([pair[0], pair[1]], |halves, _| state.bc_encrypt(halves)));
    let bytes: Vec<u8> = halves.flat_map(u32::to_be_bytes).collect();
    let letters = GeneralPurpose::new(&BCRYPT, NO_PAD);
    format!("$2a${cost:02}${}{}", letters.encode(salt), letters.encode(&bytes[..bytes.len() - 1]))
}

/// What the Master Password algorithm starts everything with.
const SEED: &[u8] = b"com.lyndir.masterpassword";
const SCRYPT_ROUNDS: usize = 32_768;
const SCRYPT_LANES: usize = 2;
/// How many blocks of 128 bytes are mixed at once.
const SCRYPT_BLOCKS: usize = 8;

/// The password of a user at a site, by the one password that the user knows.
fn derived(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let counter = super::int(args, 0)?;
    let counter = u32::try_from(counter)
        .map_err(|_| Failure::from(format!("derivePassword: the counter {counter} is not within 32 bits")))?;
    let (kind, password, user, site) = (text(args, 1)?, text(args, 2)?, text(args, 3)?, text(args, 4)?);
    calling.makes(SITE_BYTES)?;
    if shapes(&kind).is_empty() {
        return Ok(Value::text(format!("cannot find password template {kind}")));
    }
    let key = scrypt(password.as_bytes(), &told(&user), (SCRYPT_ROUNDS, SCRYPT_LANES));
    Ok(Value::text(of_site(&key, &kind, &site, counter)))
}

/// The seed, then a text with its length before it.
fn told(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
    [SEED, &length, text.as_bytes()].concat()
}

fn of_site(key: &[u8], kind: &str, site: &str, counter: u32) -> String {
    let message = [told(site), counter.to_be_bytes().to_vec()].concat();
    let seed = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &message);
    let (first, rest) = seed.as_ref().split_first().unwrap_or((&0, &[]));
    let shapes = shapes(kind);
    let shape = shapes[usize::from(*first) % shapes.len()];
    let pick = |(class, by): (u8, &u8)| {
        let letters = letters(class);
        char::from(letters[usize::from(*by) % letters.len()])
    };
    shape.bytes().zip(rest).map(pick).collect()
}

/// What passwords of a kind look like, each letter one of a class; none of kinds that there are not.
fn shapes(kind: &str) -> &'static [&'static str] {
    match kind {
        "maximum" => &["anoxxxxxxxxxxxxxxxxx", "axxxxxxxxxxxxxxxxxno"],
        "long" => LONG,
        "medium" => &["CvcnoCvc", "CvcCvcno"],
        "short" => &["Cvcn"],
        "basic" => &["aaanaaan", "aannaaan", "aaannaaa"],
        "pin" => &["nnnn"],
        _ => &[],
    }
}

#[rustfmt::skip]
const LONG: &[&str] = &[
    "CvcvnoCvcvCvcv", "CvcvCvcvnoCvcv", "CvcvCvcvCvcvno", "CvccnoCvcvCvcv", "CvccCvcvnoCvcv", "CvccCvcvCvcvno",
    "CvcvnoCvccCvcv", "CvcvCvccnoCvcv", "CvcvCvccCvcvno", "CvcvnoCvcvCvcc", "CvcvCvcvnoCvcc", "CvcvCvcvCvccno",
    "CvccnoCvccCvcv", "CvccCvccnoCvcv", "CvccCvccCvcvno", "CvcvnoCvccCvcc", "CvcvCvccnoCvcc", "CvcvCvccCvccno",
    "CvccnoCvcvCvcc", "CvccCvcvnoCvcc", "CvccCvcvCvccno",
];

fn letters(class: u8) -> &'static [u8] {
    match class {
        b'C' => b"BCDFGHJKLMNPQRSTVWXYZ",
        b'v' => b"aeiou",
        b'c' => b"bcdfghjklmnpqrstvwxyz",
        b'a' => b"AEIOUaeiouBCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz",
        b'n' => b"0123456789",
        b'o' => b"@&%?,=[]_:-+*$#!'^~;()/.",
        _ => b"AEIOUaeiouBCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz0123456789!@#$%^&*()",
    }
}

/// RFC 7914 with eight blocks at once and a key of 64 bytes.
fn scrypt(password: &[u8], salt: &[u8], (rounds, lanes): (usize, usize)) -> [u8; 64] {
    let mut mixed = vec![0; lanes * SCRYPT_BLOCKS * 128];
    stretch(password, salt, &mut mixed);
    for lane in mixed.chunks_exact_mut(SCRYPT_BLOCKS * 128) {
        let mut words: Vec<u32> = lane
            .chunks_exact(4)
            .map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
            .collect();
        mix(&mut words, rounds);
        lane.chunks_exact_mut(4)
            .zip(words)
            .for_each(|(four, word)| four.copy_from_slice(&word.to_le_bytes()));
    }
    let mut key = [0; 64];
    stretch(password, &mixed, &mut key);
    key
}

fn stretch(password: &[u8], salt: &[u8], into: &mut [u8]) {
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, NonZeroU32::MIN, salt, password, into);
}

/// `scryptROMix`: `rounds` is a power of two.
fn mix(words: &mut Vec<u32>, rounds: usize) {
    let mut seen = Vec::with_capacity(rounds * words.len());
    let mut other = vec![0; words.len()];
    for _ in 0..rounds {
        seen.extend_from_slice(words);
        blocks(words, &mut other);
        std::mem::swap(words, &mut other);
    }
    for _ in 0..rounds {
        let chosen = usize::try_from(words[words.len() - 16]).unwrap_or(0) % rounds;
        let before = &seen[chosen * words.len()..][..words.len()];
        words.iter_mut().zip(before).for_each(|(word, before)| *word ^= before);
        blocks(words, &mut other);
        std::mem::swap(words, &mut other);
    }
}

/// `scryptBlockMix`: blocks at even places go to the first half.
fn blocks(from: &[u32], into: &mut [u32]) {
    let mut state = [0; 16];
    state.copy_from_slice(&from[from.len() - 16..]);
    let half = from.len() / 32;
    for (index, block) in from.chunks_exact(16).enumerate() {
        state.iter_mut().zip(block).for_each(|(word, other)| *word ^= other);
        salsa(&mut state);
        let place = index / 2 + index % 2 * half;
        into[place * 16..][..16].copy_from_slice(&state);
    }
}

/// Salsa20/8.
fn salsa(state: &mut [u32; 16]) {
    const COLUMNS: [[usize; 4]; 4] = [[0, 4, 8, 12], [5, 9, 13, 1], [10, 14, 2, 6], [15, 3, 7, 11]];
    const ROWS: [[usize; 4]; 4] = [[0, 1, 2, 3], [5, 6, 7, 4], [10, 11, 8, 9], [15, 12, 13, 14]];
    let before = *state;
    for _ in 0..4 {
        for [a, b, c, d] in COLUMNS.into_iter().chain(ROWS) {
            state[b] ^= state[a].wrapping_add(state[d]).rotate_left(7);
            state[c] ^= state[b].wrapping_add(state[a]).rotate_left(9);
            state[d] ^= state[c].wrapping_add(state[b]).rotate_left(13);
            state[a] ^= state[d].wrapping_add(state[c]).rotate_left(18);
        }
    }
    state.iter_mut().zip(before).for_each(|(word, before)| *word = word.wrapping_add(before));
}

const BLOCK_BYTES: usize = 16;

/// AES-256 by the password itself, as far as it goes, as Sprig has it.
fn cipher(password: &str) -> Aes256 {
    let mut key = [0; 32];
    let length = password.len().min(key.len());
    key[..length].copy_from_slice(&password.as_bytes()[..length]);
    Aes256::new(&key.into())
}

/// Chained blocks behind a random first one, in base64.
fn encrypted(password: &str, plain: &str) -> String {
    let cipher = cipher(password);
    let missing = BLOCK_BYTES - plain.len() % BLOCK_BYTES;
    let filled = [plain.as_bytes(), &vec![u8::try_from(missing).unwrap_or(0); missing]].concat();
    let mut last: [u8; BLOCK_BYTES] = base::random::bytes();
    let mut out = last.to_vec();
    for block in filled.chunks_exact(BLOCK_BYTES) {
        last.iter_mut().zip(block).for_each(|(byte, other)| *byte ^= other);
        let mut sealed = last.into();
        cipher.encrypt_block(&mut sealed);
        last = sealed.into();
        out.extend(last);
    }
    STANDARD.encode(out)
}

fn decrypted(password: &str, sealed: &str) -> Answer {
    let wrong = |why: &str| Failure::from(format!("decryptAES: {why}"));
    let bytes = STANDARD.decode(sealed).map_err(|error| wrong(&format!("the text is no base64: {error}")))?;
    if bytes.len() < 2 * BLOCK_BYTES || bytes.len() % BLOCK_BYTES != 0 {
        return Err(wrong("the text is not made of whole blocks"));
    }
    let cipher = cipher(password);
    let blocks: Vec<&[u8]> = bytes.chunks_exact(BLOCK_BYTES).collect();
    let mut plain = Vec::with_capacity(bytes.len());
    for pair in blocks.windows(2) {
        let mut open = [0; BLOCK_BYTES];
        open.copy_from_slice(pair[1]);
        let mut open = open.into();
        cipher.decrypt_block(&mut open);
        plain.extend(open.iter().zip(pair[0]).map(|(byte, before)| byte ^ before));
    }
    let filling = plain.last().copied().map_or(0, usize::from);
    if !(1..=BLOCK_BYTES).contains(&filling) {
        return Err(wrong("the password is another one"));
    }
    plain.truncate(plain.len() - filling);
    let plain = String::from_utf8(plain).map_err(|_| wrong("the password is another one"))?;
    Ok(Value::text(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the C library's `crypt` makes of an empty password and of one letter.
    #[test]
    fn hashes_are_those_of_others() {
        let letters = GeneralPurpose::new(&BCRYPT, NO_PAD);
        for hash in [
            "$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s.",
            "$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe",
        ] {
            let salt: [u8; 16] = letters.decode(&hash[7..29]).unwrap().try_into().unwrap();
            let password: &[u8] = if hash.contains("DCq7") { b"" } else { b"a" };
            assert_eq!(bcrypt(password, &salt, 6), hash);
        }
    }

    /// What OpenSSL makes of it with few rounds.
    #[test]
    fn keys_are_those_of_others() {
        let wanted = "3de56034cc30842967daf99f62c41fca51b3e1f27e88d904ac3a2e19423c64542d5ca1ad56a74b21a5a034859b9130e91f8334f47628be75fbb9421658846747";
        assert_eq!(base::hex::of(&scrypt(b"password", b"NaCl", (64, 2))), wanted);
    }

    /// The examples of Sprig's documentation, by the key that OpenSSL makes of their user and password with all rounds;
    /// those are seen in `tests/it/charts.rs`.
    #[test]
    fn passwords_of_sites_are_those_of_others() {
        let key = "c89ecc86ff70a08a61ab19409168fd6b4f09ca2342c951c59427eb587092aff2822a284a74eaf4037d149306ef16386766c720b679722cc1fc78379000b417ee";
        let key: Vec<u8> =
            (0..64).map(|at| u8::from_str_radix(&key[at * 2..at * 2 + 2], 16).unwrap()).collect();
        for (kind, wanted) in [
            ("long", "ZedaFaxcZaso9*"),
            ("maximum", "pf4zS1LjCg&LjhsZ7T2~"),
            ("medium", "ZedJuz8$"),
            ("basic", "pIS54PLs"),
            ("short", "Zed5"),
            ("pin", "6685"),
        ] {
            assert_eq!(of_site(&key, kind, "example.com", 1), wanted);
        }
    }

    #[test]
    fn sealed_texts_are_opened_by_their_password_alone() {
        let opened = |password: &str, sealed: &str| match decrypted(password, sealed) {
            Ok(Value::Text(text)) => Ok(text.to_string()),
            Ok(other) => Err(other.type_name().to_owned()),
            Err(Failure::Said(why)) => Err(why),
            Err(_) => Err("it fails otherwise".to_owned()),
        };
        // Sprig's own example.
        let known = "30tEfhuJSVRhpG97XCuWgz2okj7L8vQ1s6V9zVUPeDQ=";
        assert_eq!(opened("secretkey", known).as_deref(), Ok("plaintext"));
        for text in ["", "plaintext", "sixteen letters.", "more than sixteen letters"] {
            assert_eq!(opened("secretkey", &encrypted("secretkey", text)).as_deref(), Ok(text));
        }
        assert_eq!(opened("other", known), Err("decryptAES: the password is another one".to_owned()));
        assert_eq!(opened("a", "AAAA"), Err("decryptAES: the text is not made of whole blocks".to_owned()));
    }
}
