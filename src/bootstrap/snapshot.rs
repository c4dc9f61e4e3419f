//! The whole state of a cluster in one file, with what its servers have in common, sealed with a key that is made of
//! the server token: who has both brings the cluster back, on this machine or another, to whichever datastore.
//!
//! A line in the clear says what it is of. Then come pieces, each with its length before it and sealed for its place, so
//! that none can be missing, changed or moved; the last one is sealed as the last. Together they are a gzip stream of
//! lines of JSON: first what servers have in common, then one object each.

use crate::shared::{Common, SALT_BYTES, key_of};
use crate::{Error, files};
use base::hex;
use base::seal::Key;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// What the names of snapshots end with.
pub const SUFFIX: &str = ".snapshot";
const FORMAT: &str = "knarr snapshot 1";
/// The bytes of a piece before it is sealed.
const PIECE: usize = 64 << 10;
/// What sealing adds to a piece: nonce and tag.
const SEALING: usize = 12 + 16;
/// The longest first line, and the longest line of an object: several times what the API takes.
const HEAD_BYTES: u64 = 4096;
const LINE_BYTES: u64 = 64 << 20;

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    format: String,
    /// When it was taken (RFC 3339).
    pub created: String,
    /// The version of the server that took it.
    pub version: String,
    /// The node of that server.
    pub node: String,
    /// The revision of the state.
    pub revision: u64,
    /// How many objects it has.
    pub objects: usize,
    salt: String,
}

impl Head {
    /// The head of a snapshot to be taken.
    pub fn new(version: &str, node: &str, (revision, objects): (u64, usize)) -> Self {
        let salt: [u8; SALT_BYTES] = base::random::bytes();
        Self {
            format: FORMAT.to_owned(),
            created: base::clock::whole_seconds(base::clock::now()).to_string(),
            version: version.to_owned(),
            node: node.to_owned(),
            revision,
            objects,
            salt: STANDARD.encode(salt),
        }
    }
}

/// An object of a snapshot.
#[derive(Deserialize)]
struct Line<'a> {
    key: String,
    #[serde(borrow)]
    value: &'a RawValue,
}

/// Seals what is written in pieces.
struct Sealing<W> {
    into: W,
    key: Key,
    about: String,
    number: u64,
    buffer: Vec<u8>,
}

fn place(about: &str, number: u64, last: bool) -> String {
    format!("{about}/{number}{}", if last { "/last" } else { "" })
}

impl<W: Write> Sealing<W> {
    fn piece(&mut self, last: bool) -> io::Result<()> {
        let end = self.buffer.len().min(PIECE);
        let sealed = self.key.seal(&place(&self.about, self.number, last), &self.buffer[..end]);
        self.buffer.drain(..end);
        self.number += 1;
        let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
        self.into.write_all(&length.to_be_bytes())?;
        self.into.write_all(&sealed)
    }

    fn finish(mut self) -> io::Result<W> {
        self.piece(true)?;
        Ok(self.into)
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        // The last piece, which may be empty, is for the end.
        while self.buffer.len() > PIECE {
            self.piece(false)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens what was sealed in pieces.
struct Opening<R> {
    from: R,
    key: Key,
    about: String,
    number: u64,
    open: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<R: Read> Opening<R> {
    fn piece(&mut self) -> io::Result<()> {
        let cut = |error: io::Error| match error.kind() {
            ErrorKind::UnexpectedEof => io::Error::other("it is cut off"),
            _ => error,
        };
        let mut length = [0; 4];
        self.from.read_exact(&mut length).map_err(cut)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > PIECE + SEALING {
            return Err(io::Error::other("it is damaged"));
        }
        let mut sealed = vec![0; length];
        self.from.read_exact(&mut sealed).map_err(cut)?;
        let try_as = |last| self.key.open(&place(&self.about, self.number, last), &sealed);
        let (open, last) = match (try_as(false), try_as(true)) {
            (Some(open), _) => (open, false),
            (None, Some(open)) => (open, true),
            (None, None) if self.number == 0 => {
                return Err(io::Error::other("the token is not that of its cluster, or it is damaged"));
            }
            (None, None) => return Err(io::Error::other("it is damaged")),
        };
        (self.open, self.at, self.ended) = (open, 0, last);
        self.number += 1;
        Ok(())
    }
}

impl<R: Read> Read for Opening<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.open.len() && !self.ended {
            self.piece()?;
        }
        let count = buffer.len().min(self.open.len() - self.at);
        buffer[..count].copy_from_slice(&self.open[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Writes a snapshot, whole or not at all, and reads it again to see that it is good. `objects` are keys and their
/// values in JSON.
pub fn write<'a>(
    path: &Path,
    head: &Head,
    common: &Common,
    objects: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<u64, Error> {
    let draft = path.with_extension("part");
    let written = write_draft(&draft, head, common, objects)
        .map_err(files::failed("write", path))
        .and_then(|()| {
            let mut reader = open(&draft, common.secret())?;
            let count = reader.by_ref().try_fold(0, |count, object| object.map(|_| count + 1))?;
            if count == head.objects {
                Ok(())
            } else {
                Err(unusable(path, "it does not read as it was written"))
            }
        })
        .and_then(|()| std::fs::rename(&draft, path).map_err(files::failed("write", path)))
        .and_then(|()| files::sync_folder(path));
    if let Err(error) = written {
        files::remove(&draft)?;
        return Err(error);
    }
    std::fs::metadata(path).map(|file| file.len()).map_err(files::failed("read", path))
}

fn write_draft<'a>(
    draft: &Path,
    head: &Head,
    common: &Common,
    objects: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> io::Result<()> {
    let mut file = BufWriter::new(files::create_private(draft)?);
    let line = serde_json::to_string(head)?;
    writeln!(file, "{line}")?;
    let salt = STANDARD.decode(&head.salt).unwrap_or_default();
    let key = key_of(common.secret(), &salt);
    let about = hex::sha256(line.as_bytes());
    let sealing = Sealing { into: file, key, about, number: 0, buffer: Vec::with_capacity(2 * PIECE) };
    let mut lines = GzEncoder::new(sealing, Compression::default());
    serde_json::to_writer(&mut lines, common.files())?;
    lines.write_all(b"\n")?;
    for (key, value) in objects {
        lines.write_all(b"{\"key\":")?;
        serde_json::to_writer(&mut lines, key)?;
        lines.write_all(b",\"value\":")?;
        lines.write_all(value)?;
        lines.write_all(b"}\n")?;
    }
    lines.finish()?.finish()?.into_inner().map_err(|error| error.into_error())?.sync_all()
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::Snapshot { path: path.to_owned(), reason: why.to_owned() }
}

/// What a snapshot says of itself, which is verified when it is opened.
pub fn head(path: &Path) -> Result<Head, Error> {
    Ok(head_of(path)?.0)
}

fn head_of(path: &Path) -> Result<(Head, String, BufReader<File>), Error> {
    let mut file = BufReader::new(File::open(path).map_err(files::failed("read", path))?);
    let mut line = Vec::new();
    let reading = file.by_ref().take(HEAD_BYTES).read_until(b'\n', &mut line);
    reading.map_err(files::failed("read", path))?;
    let line = line.strip_suffix(b"\n").unwrap_or_default();
    let head: Option<Head> = serde_json::from_slice(line).ok();
    match head {
        Some(head) if head.format == FORMAT => Ok((head, hex::sha256(line), file)),
        Some(head) => {
            Err(unusable(path, &format!("it is a {:?}, and this knarr reads {FORMAT:?}", head.format)))
        }
        None => Err(unusable(path, "it is no snapshot of knarr, or its beginning is damaged")),
    }
}

/// A snapshot that is read: its objects, one after the other.
pub struct Reader {
    /// What it is of.
    pub head: Head,
    /// What its servers had in common.
    pub common: Common,
    lines: BufReader<GzDecoder<BufReader<Opening<BufReader<File>>>>>,
    path: PathBuf,
    left: usize,
}

/// Opens a snapshot with the secret of its cluster's server token.
pub fn open(path: &Path, token: &str) -> Result<Reader, Error> {
    let (head, about, from) = head_of(path)?;
    let salt = STANDARD.decode(&head.salt).unwrap_or_default();
    let key = key_of(crate::shared::secret_of(token), &salt);
    let opening = Opening { from, key, about, number: 0, open: Vec::new(), at: 0, ended: false };
    let lines = BufReader::new(GzDecoder::new(BufReader::new(opening)));
    let left = head.objects;
    let common = Common::from_files(BTreeMap::new());
    let mut reader = Reader { head, common, lines, path: path.to_owned(), left };
    let first = reader.line()?;
    let files = serde_json::from_slice(&first).map_err(|_| unusable(path, "it is damaged"))?;
    reader.common = Common::from_files(files);
    Ok(reader)
}

impl Reader {
    fn line(&mut self) -> Result<Vec<u8>, Error> {
        let mut line = Vec::new();
        let reading = self.lines.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line);
        reading.map_err(|error| unusable(&self.path, &error.to_string()))?;
        Ok(line)
    }

    fn object(&mut self) -> Result<Option<(String, Vec<u8>)>, Error> {
        let line = self.line()?;
        if line.is_empty() {
            return if self.left == 0 { Ok(None) } else { Err(unusable(&self.path, "it is cut off")) };
        }
        let Line { key, value } =
            serde_json::from_slice(&line).map_err(|_| unusable(&self.path, "it is damaged"))?;
        let left = self.left.checked_sub(1);
        self.left = left.ok_or_else(|| unusable(&self.path, "it has more objects than it says"))?;
        Ok(Some((key, value.get().as_bytes().to_vec())))
    }
}

impl Iterator for Reader {
    type Item = Result<(String, Vec<u8>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.object().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "a-secret-of-some-length";

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("knarr-snapshot-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }

    fn common() -> Common {
        let files = [("server-ca.key", "KEY"), ("token", "server:a-secret-of-some-length")];
        Common::from_files(files.map(|(name, text)| (name.to_owned(), text.to_owned())).into())
    }

    fn objects(count: usize) -> Vec<(String, String)> {
        (0..count)
            .map(|n| (format!("secrets/a/{n}"), format!("{{\"v\":\"{}\"}}", "x".repeat(n % 999))))
            .collect()
    }

    fn save(path: &Path, objects: &[(String, String)]) -> Head {
        let head = Head::new("v1", "node", (77, objects.len()));
        let all = objects.iter().map(|(key, value)| (key.as_str(), value.as_bytes()));
        assert!(write(path, &head, &common(), all).unwrap() > 0);
        head
    }

    #[test]
    fn what_is_saved_is_read_again_by_who_has_the_token() {
        let folder = Folder::new("whole");
        for count in [0, 1, 5_000] {
            let path = folder.0.join(format!("{count}{SUFFIX}"));
            let objects = objects(count);
            let saved = save(&path, &objects);
            assert_eq!(head(&path).unwrap(), saved);
            for token in [TOKEN, "K10abc::server:a-secret-of-some-length"] {
                let mut reader = open(&path, token).unwrap();
                assert_eq!(reader.common, common());
                let read: Result<Vec<_>, _> = reader.by_ref().collect();
                let read: Vec<_> = read
                    .unwrap()
                    .into_iter()
                    .map(|(key, value)| (key, String::from_utf8(value).unwrap()))
                    .collect();
                assert!(read == objects);
            }
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(7).any(|part| part == b"secrets"), "it is sealed");
        }
        let left = std::fs::read_dir(&folder.0).unwrap().count();
        assert_eq!(left, 3, "no draft is left");
    }

    fn why(path: &Path, token: &str) -> String {
        let read = open(path, token).and_then(|reader| reader.collect::<Result<Vec<_>, _>>());
        read.err().map_or_else(|| "it is good".to_owned(), |error| error.to_string())
    }

    #[test]
    fn what_is_cut_off_damaged_or_anothers_is_refused() {
        let folder = Folder::new("bad");
        let path = folder.0.join(format!("one{SUFFIX}"));
        save(&path, &objects(5_000));
        let good = std::fs::read(&path).unwrap();
        assert!(why(&path, "another-secret-of-some-length").contains("the token is not that of its cluster"));
        for at in [10, 300, good.len() / 2, good.len() - 1] {
            std::fs::write(&path, &good[..at]).unwrap();
            let said = why(&path, TOKEN);
            assert!(said.contains("cut off") || said.contains("no snapshot of knarr"), "{at}: {said}");
        }
        let start = good.iter().position(|byte| *byte == b'\n').unwrap();
        for at in [20, start + 100, good.len() / 2, good.len() - 1] {
            let mut bent = good.clone();
            bent[at] ^= 1;
            std::fs::write(&path, &bent).unwrap();
            assert_ne!(why(&path, TOKEN), "it is good", "byte {at}");
        }
    }
}
