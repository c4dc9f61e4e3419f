//! SPDY/3.1 without flow control, as streams are carried by it to and from containers: frames with compressed
//! headers. The framing stands by itself and serves either end.
//!
//! A [`Reader`] and a [`Writer`] each own one direction with its compression state.

mod frame;

pub use frame::Frame;

use frame::{Decoder, Encoder};
use std::io::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// One read from the connection.
const READ_BYTES: usize = 32 << 10;

/// The receiving direction.
pub struct Reader<R> {
    from: R,
    buffer: Vec<u8>,
    decoder: Decoder,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads from a connection.
    pub fn new(from: R) -> Self {
        Self { from, buffer: Vec::new(), decoder: Decoder::default() }
    }

    /// The next frame; none when the other end closed the connection. Safe to cancel.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some((frame, used)) = self.decoder.decode(&self.buffer)? {
                self.buffer.drain(..used);
                return Ok(Some(frame));
            }
            let mut chunk = vec![0; READ_BYTES];
            match self.from.read(&mut chunk).await? {
                0 if self.buffer.is_empty() => return Ok(None),
                0 => return Err(Error::new(ErrorKind::UnexpectedEof, "the connection ended within a frame")),
                n => self.buffer.extend_from_slice(&chunk[..n]),
            }
        }
    }
}

/// The sending direction.
pub struct Writer<W> {
    to: W,
    encoder: Encoder,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes to a connection.
    pub fn new(to: W) -> Self {
        Self { to, encoder: Encoder::default() }
    }

    /// Sends one frame.
    pub async fn send(&mut self, frame: &Frame) -> Result<()> {
        let bytes = self.encoder.encode(frame)?;
        self.to.write_all(&bytes).await?;
        self.to.flush().await
    }
}
