//! Archives that are compressed: unpacked into a file without a name, since images are imported by where their parts
//! lie. What an archive is compressed with is told by its first bytes, not by its name.

use crate::{Error, files};
use flate2::read::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::fs::File;
use std::io::{BufRead, BufReader, Error as IoError, ErrorKind, Read, Seek, Write};
use std::path::Path;

/// Endings of archives' names.
pub(super) const ENDINGS: [&str; 5] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"];

/// What an archive may grow to: the images of a large application are a few dozen GiB.
const UNPACKED_BYTES: u64 = 256 << 30;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTANDARD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// What `zstd --ultra -22 --long` asks of whoever unpacks.
const WINDOW_BYTES: u64 = 128 << 20;

/// The archive as a plain one: the file itself, or what is in it, in a file of `folder` without a name.
pub(super) fn open(path: &Path, folder: &Path) -> Result<File, Error> {
    let mut packed = File::open(path).map_err(files::at(path))?;
    let mut start = [0; 4];
    let known = packed.read(&mut start).map_err(files::at(path))?;
    packed.rewind().map_err(files::at(path))?;
    let start = &start[..known];
    let source = BufReader::with_capacity(1 << 16, packed);
    if start.starts_with(&GZIP) {
        unpack(&mut MultiGzDecoder::new(source), path, folder)
    } else if start.starts_with(&ZSTANDARD) {
        unpack(&mut Frames::new(source), path, folder)
    } else {
        Ok(source.into_inner())
    }
}

fn unpack(from: &mut dyn Read, path: &Path, folder: &Path) -> Result<File, Error> {
    let name = folder.join(format!(".unpacked-{}", base::random::uuid()));
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    let mut into = options.open(&name).map_err(files::at(&name))?;
    // Whatever happens from here on, nothing of it stays.
    std::fs::remove_file(&name).map_err(files::at(&name))?;
    let copied = std::io::copy(&mut from.take(UNPACKED_BYTES), &mut into);
    let copied = copied.map_err(|error| match error.kind() {
        ErrorKind::StorageFull => Error::Archive(format!(
            "{} cannot be unpacked: the disk of {} is full",
            path.display(),
            folder.display()
        )),
        _ => Error::Archive(format!("{} cannot be unpacked: {error}", path.display())),
    })?;
    if copied == UNPACKED_BYTES {
        return Err(Error::Archive(format!("{} is larger than 256 GiB when unpacked", path.display())));
    }
    into.flush().and_then(|()| into.rewind()).map_err(files::at(path))?;
    Ok(into)
}

/// The frames of a Zstandard file one after the other (RFC 8878), those to be skipped left out.
struct Frames<S> {
    source: S,
    decoder: FrameDecoder,
    /// Whether the decoder is in a frame.
    within: bool,
}

impl<S: BufRead> Frames<S> {
    fn new(source: S) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_BYTES);
        Self { source, decoder, within: false }
    }

    /// Begins the next frame, unless there is none.
    fn begin(&mut self) -> Result<(), IoError> {
        while !self.within && !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => self.within = true,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => self.skip(length.into())?,
                Err(error) => return Err(IoError::other(error)),
            }
        }
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Result<(), IoError> {
        let skipped = std::io::copy(&mut self.source.by_ref().take(bytes), &mut std::io::sink())?;
        if skipped < bytes { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Ends a frame, whose sum has to be right.
    fn end(&mut self) -> Result<(), IoError> {
        self.within = false;
        let told = self.decoder.get_checksum_from_data();
        if told.is_some() && told != self.decoder.get_calculated_checksum() {
            return Err(IoError::new(ErrorKind::InvalidData, "its checksum is wrong"));
        }
        Ok(())
    }
}

impl<S: BufRead> Read for Frames<S> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, IoError> {
        loop {
            self.begin()?;
            if !self.within {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(IoError::other)?;
            }
            match self.decoder.read(buffer)? {
                0 => self.end()?,
                count => return Ok(count),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    use std::path::PathBuf;

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("knarr-unpack-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn opened(&self, content: &[u8]) -> Result<Vec<u8>, Error> {
            let archive = self.0.join("archive");
            std::fs::write(&archive, content).unwrap();
            let mut found = Vec::new();
            open(&archive, &self.0)?.read_to_end(&mut found).unwrap();
            let left = std::fs::read_dir(&self.0).unwrap().count();
            assert_eq!(left, 1, "what was unpacked has no name");
            Ok(found)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn content() -> Vec<u8> {
        (0..300_000u32).flat_map(|number| (number / 7).to_le_bytes()).collect()
    }

    #[test]
    fn archives_are_unpacked_by_their_first_bytes() {
        let folder = Folder::new("kinds");
        let content = content();
        assert_eq!(folder.opened(&content).unwrap(), content);
        assert_eq!(folder.opened(b"").unwrap(), b"");
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&content).unwrap();
        assert_eq!(folder.opened(&packed.finish().unwrap()).unwrap(), content);
        let packed = compress_to_vec(content.as_slice(), CompressionLevel::Fastest);
        assert!(packed.len() < content.len());
        assert_eq!(folder.opened(&packed).unwrap(), content);
    }

    #[test]
    fn frames_follow_one_another_and_some_are_skipped() {
        let folder = Folder::new("frames");
        let mut packed = compress_to_vec(b"one ".as_slice(), CompressionLevel::Fastest);
        packed.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 7, 7, 7]);
        packed.extend(compress_to_vec(b"two".as_slice(), CompressionLevel::Fastest));
        assert_eq!(folder.opened(&packed).unwrap(), b"one two");
        let torn = folder.opened(&packed[..packed.len() - 2]).unwrap_err().to_string();
        assert!(torn.contains("cannot be unpacked"), "{torn}");
        packed.extend(b"more");
        assert!(folder.opened(&packed).is_err(), "what is no frame is not passed over");
    }

    #[test]
    fn what_is_spoiled_is_told() {
        let folder = Folder::new("spoiled");
        let mut packed = compress_to_vec(content().as_slice(), CompressionLevel::Fastest);
        let end = packed.len() - 1;
        packed[end] ^= 1;
        let error = folder.opened(&packed).unwrap_err().to_string();
        assert!(error.contains("checksum"), "{error}");
    }
}
