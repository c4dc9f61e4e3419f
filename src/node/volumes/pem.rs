//! PEM (RFC 7468), read and written without headers and without what is between blocks.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// Characters of a line.
const LINE: usize = 64;

/// The contents of a text's blocks; what is no block is passed over.
pub(super) fn blocks(text: &str) -> Vec<Vec<u8>> {
    let read = x509_parser::pem::Pem::iter_from_buffer(text.as_bytes());
    read.filter_map(|block| Some(block.ok()?.contents)).collect()
}

/// One block.
pub(super) fn block(label: &str, content: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(content);
    let lines = text.as_bytes().chunks(LINE).map(|line| format!("{}\n", String::from_utf8_lossy(line)));
    format!("-----BEGIN {label}-----\n{}-----END {label}-----\n", lines.collect::<String>())
}
