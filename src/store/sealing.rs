//! Sealing of what lies on the disk. In memory everything lies open.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

/// Seals values before they are written, and opens them when they are read. What it decides by may change while it is
/// in use, as long as it opens what it ever sealed.
pub trait Sealer: Send + Sync + 'static {
    /// What is written in a value's place; none where it lies open.
    fn seal(&self, key: &str, value: &[u8]) -> Option<Vec<u8>>;

    /// The value of what was written at a key; an error where it was sealed in a way that is not known.
    fn open<'a>(&self, key: &str, written: &'a [u8]) -> Result<Cow<'a, [u8]>, String>;

    /// Learns anew how others seal, where there are others.
    fn renew(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Everything lies open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unsealed;

impl Sealer for Unsealed {
    fn seal(&self, _: &str, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn open<'a>(&self, _: &str, written: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
        Ok(Cow::Borrowed(written))
    }
}
