//! Checksums of the kubelet's files of state: FNV-1a, in 32 bits, of how Go prints the structure that Kubernetes
//! writes. Files that it has left are understood, and it understands ours. Pure.

/// Kubernetes' words for a file whose checksum is another.
pub(crate) const CORRUPT: &str = "checkpoint is corrupted";

/// The checksum of a text.
pub(crate) fn of(text: &str) -> u64 {
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    text.bytes().fold(0x811c_9dc5, step).into()
}

/// Whether a file is as it was written; 0 is one without a checksum.
pub(crate) fn check(told: u64, sum: impl FnOnce() -> u64) -> Result<(), String> {
    if told == 0 || told == sum() { Ok(()) } else { Err(CORRUPT.to_owned()) }
}

/// A map as Go prints it.
pub(crate) fn map<K: std::fmt::Display>(entries: impl Iterator<Item = (K, String)>) -> String {
    let entries: Vec<String> = entries.map(|(key, value)| format!("{key}:{value}")).collect();
    format!("map[{}]", entries.join(" "))
}

/// A list as Go prints it.
pub(crate) fn list(entries: impl Iterator<Item = String>) -> String {
    format!("[{}]", entries.collect::<Vec<_>>().join(" "))
}
