//! New RSA keys, which no crate here makes: two random primes (FIPS 186-5 A.1.3 and B.3.1, Miller-Rabin), and what
//! follows from them, as PKCS#1 has it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::cmp::Ordering;

/// The public exponent, which all keys have.
const EXPONENT: u64 = 65_537;
/// How often a number has to stand the test to count as prime: of random ones of these lengths fewer than one in 2^128
/// is none then (FIPS 186-5, table B.1, asks for four rounds).
const ROUNDS: usize = 8;
/// Numbers that a smaller prime divides are passed over without the test.
const SMALL: u64 = 2_000;

/// A number, its least part first.
type Number = Vec<u64>;

/// A new private key of so many bits, in PEM.
pub(super) fn private_key(bits: usize) -> String {
    let der = STANDARD.encode(der(bits));
    let lines: Vec<&str> =
        der.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n", lines.join("\n"))
}

/// `RSAPrivateKey` of RFC 8017, A.1.2.
fn der(bits: usize) -> Vec<u8> {
    let one = prime(bits / 2);
    let other = std::iter::repeat_with(|| prime(bits / 2)).find(|other| *other != one).unwrap_or_default();
    let (p, q) = if compare(&one, &other).is_gt() { (one, other) } else { (other, one) };
    let (p_less, q_less) = (minus(&p, &[1]), minus(&q, &[1]));
    let inverse = power(&q, &minus(&p, &[2]), &p);
    let parts = [
        vec![0],
        times(&p, &q),
        vec![EXPONENT],
        private_exponent(&times(&p_less, &q_less)),
        p.clone(),
        q.clone(),
        private_exponent(&p_less),
        private_exponent(&q_less),
        inverse,
    ];
    let content: Vec<u8> = parts.iter().flat_map(|part| integer(part)).collect();
    element(0x30, &content)
}

/// The inverse of the exponent by a modulus: (1 + k·modulus) / exponent, with the k for which that is whole.
fn private_exponent(modulus: &[u64]) -> Number {
    let rest = remainder(modulus, EXPONENT);
    let k = (1..EXPONENT).find(|k| (1 + k * rest).is_multiple_of(EXPONENT)).unwrap_or(1);
    let mut product = times(modulus, &[k]);
    let mut carry = 1;
    for part in &mut product {
        let (sum, over) = part.overflowing_add(carry);
        (*part, carry) = (sum, u64::from(over));
    }
    let mut quotient = vec![0; product.len()];
    let mut rest = 0_u128;
    for (part, into) in product.iter().zip(&mut quotient).rev() {
        rest = (rest << 64) | u128::from(*part);
        *into = low(rest / u128::from(EXPONENT));
        rest %= u128::from(EXPONENT);
    }
    quotient
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut out = vec![tag];
    match content.len() {
        0..=127 => out.push(length.first().copied().unwrap_or(0)),
        _ => {
            out.push(0x80 | u8::try_from(length.len()).unwrap_or(0));
            out.extend(length);
        }
    }
    out.extend(content);
    out
}

fn integer(number: &[u64]) -> Vec<u8> {
    let bytes = number.iter().rev().flat_map(|part| part.to_be_bytes());
    let mut bytes: Vec<u8> = bytes.skip_while(|byte| *byte == 0).collect();
    if bytes.first().is_none_or(|first| *first >= 0x80) {
        bytes.insert(0, 0);
    }
    element(2, &bytes)
}

/// A random prime whose two highest bits are set, so that products have all their bits; less one it has no part in
/// common with the exponent.
fn prime(bits: usize) -> Number {
    let small: Vec<u64> = (3..SMALL).step_by(2).filter(|n| (3..*n).step_by(2).all(|d| n % d != 0)).collect();
    loop {
        let mut candidate: Number =
            std::iter::repeat_with(|| u64::from_ne_bytes(base::random::bytes())).take(bits / 64).collect();
        candidate[0] |= 1;
        if let Some(top) = candidate.last_mut() {
            *top |= 3 << 62;
        }
        let passes = small.iter().all(|divisor| remainder(&candidate, *divisor) != 0);
        if passes && remainder(&candidate, EXPONENT) != 1 && is_prime(&candidate) {
            return candidate;
        }
    }
}

/// Miller and Rabin's test, with random bases.
fn is_prime(number: &[u64]) -> bool {
    let less = minus(number, &[1]);
    let twos = less.iter().take_while(|part| **part == 0).count();
    let shift = twos * 64 + less.get(twos).map_or(0, |part| part.trailing_zeros() as usize);
    let odd = shifted(&less, shift);
    (0..ROUNDS).all(|_| {
        let mut base: Number =
            std::iter::repeat_with(|| u64::from_ne_bytes(base::random::bytes())).take(number.len()).collect();
        if let Some(top) = base.last_mut() {
            *top >>= 1;
        }
        base[0] |= 2;
        let mut x = power(&base, &odd, number);
        if is_one(&x) || x == less {
            return true;
        }
        for _ in 1..shift {
            x = power(&x, &[2], number);
            if x == less {
                return true;
            }
        }
        false
    })
}

fn is_one(number: &[u64]) -> bool {
    number[0] == 1 && number[1..].iter().all(|part| *part == 0)
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
fn low(number: u128) -> u64 {
    number as u64
}

fn compare(one: &[u64], other: &[u64]) -> Ordering {
    one.iter().rev().cmp(other.iter().rev())
}

fn remainder(number: &[u64], divisor: u64) -> u64 {
    let divisor = u128::from(divisor);
    low(number.iter().rev().fold(0, |rest, part| ((rest << 64) | u128::from(*part)) % divisor))
}

/// `one - other`, which must not be larger.
fn minus(one: &[u64], other: &[u64]) -> Number {
    let mut borrow = 0;
    let parts = one.iter().enumerate().map(|(at, part)| {
        let (less, under) = part.overflowing_sub(other.get(at).copied().unwrap_or(0));
        let (less, again) = less.overflowing_sub(borrow);
        borrow = u64::from(under || again);
        less
    });
    parts.collect()
}

fn times(one: &[u64], other: &[u64]) -> Number {
    let mut product = vec![0; one.len() + other.len()];
    for (at, part) in one.iter().enumerate() {
        let mut carry = 0;
        for (by, factor) in other.iter().enumerate() {
            let sum =
                u128::from(*part) * u128::from(*factor) + u128::from(product[at + by]) + u128::from(carry);
            (product[at + by], carry) = (low(sum), low(sum >> 64));
        }
        product[at + other.len()] = carry;
    }
    product
}

fn shifted(number: &[u64], bits: usize) -> Number {
    let (parts, bits) = (bits / 64, bits % 64);
    let part = |at: usize| number.get(at).copied().unwrap_or(0);
    let moved = |at: usize| {
        let upper = if bits == 0 { 0 } else { part(at + parts + 1) << (64 - bits) };
        (part(at + parts) >> bits) | upper
    };
    (0..number.len()).map(moved).collect()
}

/// `base ^ exponent` by an odd modulus, with Montgomery's multiplication. The base has to be smaller.
fn power(base: &[u64], exponent: &[u64], modulus: &[u64]) -> Number {
    let size = modulus.len();
    let mut base = base.to_vec();
    base.resize(size, 0);
    // -1/modulus by 2^64, doubling the bits that are right.
    let inverse = (0..6).fold(1_u64, |x, _| x.wrapping_mul(2_u64.wrapping_sub(modulus[0].wrapping_mul(x))));
    let negative = inverse.wrapping_neg();
    let mut one = vec![0; size];
    one[0] = 1;
    // 2^(64·size) by the modulus, and its square.
    let mut unit = one.clone();
    (0..64 * size).for_each(|_| unit = doubled(&unit, modulus));
    let mut square = unit.clone();
    (0..64 * size).for_each(|_| square = doubled(&square, modulus));
    let base = montgomery(&base, &square, (modulus, negative));
    let mut result = unit;
    for bit in (0..64 * exponent.len()).rev() {
        result = montgomery(&result, &result, (modulus, negative));
        if exponent[bit / 64] >> (bit % 64) & 1 == 1 {
            result = montgomery(&result, &base, (modulus, negative));
        }
    }
    montgomery(&result, &one, (modulus, negative))
}

fn doubled(number: &[u64], modulus: &[u64]) -> Number {
    let over = number.last().is_some_and(|top| top >> 63 == 1);
    let lower = |at: usize| at.checked_sub(1).map_or(0, |at| number[at] >> 63);
    let twice: Number = (0..number.len()).map(|at| (number[at] << 1) | lower(at)).collect();
    if over || compare(&twice, modulus).is_ge() { minus(&twice, modulus) } else { twice }
}

/// `one · other / 2^(64·size)` by the modulus.
fn montgomery(one: &[u64], other: &[u64], (modulus, negative): (&[u64], u64)) -> Number {
    let size = modulus.len();
    let mut sum = vec![0_u64; size + 2];
    for part in one {
        let mut carry = 0_u128;
        for at in 0..size {
            carry += u128::from(*part) * u128::from(other[at]) + u128::from(sum[at]);
            sum[at] = low(carry);
            carry >>= 64;
        }
        carry += u128::from(sum[size]);
        sum[size] = low(carry);
        sum[size + 1] = low(carry >> 64);
        let factor = sum[0].wrapping_mul(negative);
        let mut carry = (u128::from(factor) * u128::from(modulus[0]) + u128::from(sum[0])) >> 64;
        for at in 1..size {
            carry += u128::from(factor) * u128::from(modulus[at]) + u128::from(sum[at]);
            sum[at - 1] = low(carry);
            carry >>= 64;
        }
        carry += u128::from(sum[size]);
        sum[size - 1] = low(carry);
        sum[size] = sum[size + 1].wrapping_add(low(carry >> 64));
    }
    let over = sum[size] > 0;
    sum.truncate(size);
    if over || compare(&sum, modulus).is_ge() { minus(&sum, modulus) } else { sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_by_others_rules() {
        let der = der(2048);
        // It checks that all parts belong together.
        let pair = ring::signature::RsaKeyPair::from_der(&der).unwrap();
        assert_eq!(pair.public().modulus_len(), 256);
        let pem = private_key(1024);
        assert!(pem.starts_with("-----BEGIN RSA PRIVATE KEY-----\nMII") && pem.ends_with("KEY-----\n"));
    }

    #[test]
    fn powers_are_those_of_small_numbers() {
        let modulus = 0xffff_ffff_ffff_ffc5_u64;
        let slow = |base: u64, exponent: u64| {
            (0..exponent).fold(1_u128, |x, _| x * u128::from(base) % u128::from(modulus))
        };
        for (base, exponent) in [(2, 10), (3, 200), (0xdead_beef_dead_beef, 77), (5, 0)] {
            assert_eq!(
                power(&[base], &[exponent], &[modulus]),
                [low(slow(base, exponent))],
                "{base} {exponent}"
            );
        }
        assert!(is_prime(&[modulus]) && !is_prime(&[modulus - 2]));
    }
}
