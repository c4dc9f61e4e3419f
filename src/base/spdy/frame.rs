//! Frames as bytes (draft-mbelshe-httpbis-spdy-00, version 3).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::io::{Error, ErrorKind, Result};

/// What both ends begin compressing headers with.
const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");
/// The largest frame taken: data frames of the peers there are are at most 32 KiB.
const FRAME_BYTES: usize = 1 << 20;
/// The largest block of headers, unpacked.
const HEADER_BYTES: usize = 64 << 10;

const FIN: u8 = 1;

/// Names and values, names in lower case.
type Headers = Vec<(String, String)>;

/// What is sent and understood; frames of other kinds are skipped as [`Frame::Other`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    Open {
        /// Its number: odd ones are the client's.
        stream: u32,
        /// Names and values, names in lower case.
        headers: Headers,
        /// Nothing follows in this direction.
        fin: bool,
    },
    /// Accepts a stream.
    Reply {
        /// Its number.
        stream: u32,
        /// Names and values, names in lower case.
        headers: Headers,
        /// Nothing follows in this direction.
        fin: bool,
    },
    /// Ends a stream in both directions.
    Reset {
        /// Its number.
        stream: u32,
        /// Why, as the draft numbers it.
        status: u32,
    },
    /// Asks for the same back.
    Ping(u32),
    /// No more streams are taken.
    GoAway {
        /// The last that was.
        last: u32,
    },
    /// What a stream carries.
    Data {
        /// Its number.
        stream: u32,
        /// The next of its bytes.
        bytes: Vec<u8>,
        /// Nothing follows in this direction.
        fin: bool,
    },
    /// One of another kind.
    Other(u16),
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("SPDY: {what}"))
}

fn number(bytes: &[u8], at: usize) -> Result<u32> {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map(u32::from_be_bytes).ok_or_else(|| broken("a frame is too short"))
}

/// Packs frames; headers share one compression stream.
#[derive(Default)]
pub(super) struct Encoder(Option<Compress>);

impl Encoder {
    /// The frame's bytes.
    pub(super) fn encode(&mut self, frame: &Frame) -> Result<Vec<u8>> {
        let flags = |fin: bool| if fin { FIN } else { 0 };
        let id = |stream: u32| (stream & 0x7fff_ffff).to_be_bytes();
        match frame {
            Frame::Open { stream, headers, fin } => {
                let block = self.pack(headers)?;
                let body = [&id(*stream)[..], &[0; 6], &block].concat();
                control(1, flags(*fin), &body)
            }
            Frame::Reply { stream, headers, fin } => {
                let block = self.pack(headers)?;
                control(2, flags(*fin), &[&id(*stream)[..], &block].concat())
            }
            Frame::Reset { stream, status } => control(3, 0, &[id(*stream), status.to_be_bytes()].concat()),
            Frame::Ping(number) => control(6, 0, &number.to_be_bytes()),
            Frame::GoAway { last } => control(7, 0, &[id(*last), [0; 4]].concat()),
            Frame::Data { stream, bytes, fin } => {
                let length = length(bytes)?;
                Ok([&id(*stream)[..], &[flags(*fin)], &length, bytes].concat())
            }
            Frame::Other(kind) => control(*kind, 0, &[]),
        }
    }

    fn pack(&mut self, headers: &Headers) -> Result<Vec<u8>> {
        let mut plain = u32_of(headers.len())?.to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(u32_of(text.len())?);
            plain.extend(text.as_bytes());
        }
        if self.0.is_none() {
            let mut fresh = Compress::new(Compression::best(), true);
            fresh.set_dictionary(DICTIONARY).map_err(Error::other)?;
            self.0 = Some(fresh);
        }
        let compress = self.0.as_mut().ok_or_else(|| broken("no compression"))?;
        // More than enough for text that does not shrink, with the block's end.
        let mut packed = Vec::with_capacity(plain.len() + 1024);
        compress.compress_vec(&plain, &mut packed, FlushCompress::Sync).map_err(Error::other)?;
        Ok(packed)
    }
}

fn u32_of(length: usize) -> Result<[u8; 4]> {
    u32::try_from(length).map(u32::to_be_bytes).map_err(Error::other)
}

/// A length in three bytes.
fn length(body: &[u8]) -> Result<[u8; 3]> {
    match u32_of(body.len())? {
        [0, a, b, c] => Ok([a, b, c]),
        _ => Err(broken("a frame is too long")),
    }
}

fn control(kind: u16, flags: u8, body: &[u8]) -> Result<Vec<u8>> {
    let [high, low] = kind.to_be_bytes();
    Ok([&[0x80, 3, high, low, flags][..], &length(body)?, body].concat())
}

/// Unpacks frames.
pub(super) struct Decoder(Decompress);

impl Default for Decoder {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Decoder {
    /// The first frame in `buffer` and how many bytes it took; none if it is not whole yet.
    pub(super) fn decode(&mut self, buffer: &[u8]) -> Result<Option<(Frame, usize)>> {
        if buffer.len() < 8 {
            return Ok(None);
        }
        let size = (number(buffer, 4)? & 0x00ff_ffff) as usize;
        if size > FRAME_BYTES {
            return Err(broken("a frame is too long"));
        }
        let Some(body) = buffer.get(8..8 + size) else { return Ok(None) };
        let (head, fin) = (number(buffer, 0)?, buffer[4] & FIN != 0);
        let frame = if head & 0x8000_0000 == 0 {
            Frame::Data { stream: head, bytes: body.to_vec(), fin }
        } else {
            self.control(u16::from_be_bytes([buffer[2], buffer[3]]), fin, body)?
        };
        Ok(Some((frame, 8 + size)))
    }

    fn control(&mut self, kind: u16, fin: bool, body: &[u8]) -> Result<Frame> {
        let stream = || number(body, 0).map(|stream| stream & 0x7fff_ffff);
        Ok(match kind {
            1 => Frame::Open { stream: stream()?, headers: self.unpack(body.get(10..))?, fin },
            2 => Frame::Reply { stream: stream()?, headers: self.unpack(body.get(4..))?, fin },
            3 => Frame::Reset { stream: stream()?, status: number(body, 4)? },
            6 => Frame::Ping(number(body, 0)?),
            7 => Frame::GoAway { last: stream()? },
            8 => {
                // More headers carry nothing for us, but the compression must keep step.
                self.unpack(body.get(4..))?;
                Frame::Other(kind)
            }
            other => Frame::Other(other),
        })
    }

    fn unpack(&mut self, packed: Option<&[u8]>) -> Result<Headers> {
        let plain = self.inflate(packed.ok_or_else(|| broken("a frame is too short"))?)?;
        let mut at = 4;
        let mut text = || -> Result<String> {
            let length = number(&plain, at)? as usize;
            let bytes = plain.get(at + 4..at + 4 + length).ok_or_else(|| broken("a header is cut off"))?;
            at += 4 + length;
            Ok(String::from_utf8_lossy(bytes).into_owned())
        };
        (0..number(&plain, 0)?).map(|_| Ok((text()?.to_ascii_lowercase(), text()?))).collect()
    }

    fn inflate(&mut self, packed: &[u8]) -> Result<Vec<u8>> {
        let mut plain = Vec::with_capacity(HEADER_BYTES);
        let mut used = 0;
        while used < packed.len() && plain.len() < HEADER_BYTES {
            let before = self.0.total_in();
            match self.0.decompress_vec(&packed[used..], &mut plain, FlushDecompress::Sync) {
                Ok(Status::Ok | Status::StreamEnd) => {}
                Ok(Status::BufError) => break,
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(DICTIONARY).map_err(Error::other)?;
                }
                Err(error) => return Err(Error::other(error)),
            }
            used += usize::try_from(self.0.total_in() - before).map_err(Error::other)?;
        }
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_both_directions_and_any_split() {
        let headers = |kind: &str| vec![("streamtype".to_owned(), kind.to_owned())];
        let frames = [
            Frame::Open { stream: 1, headers: headers("error"), fin: false },
            Frame::Open { stream: 3, headers: headers("stdout"), fin: true },
            Frame::Reply { stream: 1, headers: Vec::new(), fin: false },
            Frame::Data { stream: 3, bytes: b"hello".to_vec(), fin: true },
            Frame::Ping(7),
            Frame::Reset { stream: 3, status: 5 },
            Frame::GoAway { last: 3 },
        ];
        let mut encoder = Encoder::default();
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| encoder.encode(frame).unwrap()).collect();
        let (mut decoder, mut buffer, mut seen) = (Decoder::default(), Vec::new(), Vec::new());
        for byte in bytes {
            buffer.push(byte);
            if let Some((frame, used)) = decoder.decode(&buffer).unwrap() {
                seen.push(frame);
                buffer.drain(..used);
            }
        }
        assert_eq!(seen, frames);
    }
}
