//! A tar archive as it comes in pieces, and the files that it becomes. Whoever wrote it is not trusted: nothing leaves
//! the destination, and no link is made.

use super::spec::{Remote, clean};
use crate::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

const BLOCK: usize = 512;
/// The longest name, or other extended header, that is taken.
const EXTENDED_BYTES: usize = 1 << 20;

/// Where in the archive the next byte is.
enum State {
    Header,
    /// An extended header with this kind.
    Extended {
        kind: u8,
        left: usize,
        text: Vec<u8>,
    },
    /// What a file holds; none for what is passed over.
    Content {
        file: Option<File>,
        left: u64,
    },
    /// What fills up a block.
    Padding(usize),
    End,
}

pub(super) struct Unpack {
    state: State,
    /// A header as far as it came.
    header: Vec<u8>,
    /// What follows whatever is being read.
    padding: usize,
    name: Option<String>,
    link: Option<String>,
    size: Option<u64>,
    bytes: u64,
    failed: bool,
    files: Files,
}

/// Where entries go.
struct Files {
    /// What all entries begin with.
    prefix: String,
    to: String,
    /// How links are had, for the first that is passed over.
    advice: Option<String>,
}

impl Unpack {
    pub(super) fn new(from: &Remote, to: &str, namespace: &str) -> Self {
        let prefix = clean(from.path.trim_start_matches('/'));
        let mut prefix = prefix.as_str();
        while let Some(rest) = prefix.strip_prefix("../") {
            prefix = rest;
        }
        let prefix = if matches!(prefix, "." | "..") { "" } else { prefix }.to_owned();
        let namespace = if from.namespace.is_empty() { namespace } else { &from.namespace };
        let advice = format!(
            " (consider using \"kubectl exec -n {namespace:?} {:?} -- tar cf - {:?} | tar xf -\")",
            from.pod, from.path
        );
        Self {
            state: State::Header,
            header: Vec::new(),
            padding: 0,
            name: None,
            link: None,
            size: None,
            bytes: 0,
            failed: false,
            files: Files { prefix, to: to.to_owned(), advice: Some(advice) },
        }
    }

    /// How much came.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The archive's end came.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// Something was wrong with it, or could not be written.
    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    /// Takes the next piece.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.bytes += bytes.len() as u64;
        let taken = self.take(bytes);
        self.failed |= taken.is_err();
        taken
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let mut next = |most: usize| {
                let (piece, rest) = bytes.split_at(bytes.len().min(most));
                bytes = rest;
                piece
            };
            match &mut self.state {
                State::Header => {
                    self.header.extend_from_slice(next(BLOCK - self.header.len()));
                    if self.header.len() == BLOCK {
                        let header = std::mem::take(&mut self.header);
                        self.begin(&header)?;
                    }
                }
                State::Extended { kind, left, text } => {
                    let piece = next(*left);
                    text.extend_from_slice(piece);
                    *left -= piece.len();
                    if *left == 0 {
                        let (kind, text) = (*kind, std::mem::take(text));
                        self.extended(kind, &text)?;
                        self.state = State::Padding(self.padding);
                    }
                }
                State::Content { file, left } => {
                    let piece = next(usize::try_from(*left).unwrap_or(usize::MAX));
                    if let Some(file) = file {
                        file.write_all(piece).map_err(|error| Error::plain(error.to_string()))?;
                    }
                    *left -= piece.len() as u64;
                    if *left == 0 {
                        self.state = State::Padding(self.padding);
                    }
                }
                State::Padding(left) => *left -= next(*left).len(),
                State::End => return Ok(()),
            }
            if matches!(self.state, State::Padding(0)) {
                self.state = State::Header;
            }
        }
        Ok(())
    }

    /// Reads a header.
    fn begin(&mut self, header: &[u8]) -> Result<(), Error> {
        if header.iter().all(|byte| *byte == 0) {
            self.state = State::End;
            return Ok(());
        }
        let broken = || Error::plain("archive/tar: invalid tar header");
        let sum: u64 = (0..)
            .zip(header)
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
            .sum();
        if number(&header[148..156]) != Some(sum) {
            return Err(broken());
        }
        let kind = header[156];
        let own = number(&header[124..136]).ok_or_else(broken)?;
        if matches!(kind, b'L' | b'K' | b'x' | b'g') {
            let left = usize::try_from(own).ok().filter(|size| *size <= EXTENDED_BYTES).ok_or_else(broken)?;
            self.padding = (BLOCK - left % BLOCK) % BLOCK;
            self.state = State::Extended { kind, left, text: Vec::new() };
            if left == 0 {
                self.state = State::Header;
            }
            return Ok(());
        }
        let name = self.name.take().unwrap_or_else(|| whole_name(header));
        let link = self.link.take().unwrap_or_else(|| text(&header[157..257]));
        let size = self.size.take().unwrap_or(own);
        // Only files have contents, whatever a header says.
        let size = if matches!(kind, b'1'..=b'6') { 0 } else { size };
        let file = self.files.open(&name, &link, kind)?;
        self.padding = usize::try_from((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64).unwrap_or(0);
        self.state = if size == 0 { State::Header } else { State::Content { file, left: size } };
        Ok(())
    }

    fn extended(&mut self, kind: u8, content: &[u8]) -> Result<(), Error> {
        match kind {
            b'L' => self.name = Some(text(content)),
            b'K' => self.link = Some(text(content)),
            b'x' => {
                let broken = || Error::plain("archive/tar: invalid tar header");
                let mut rest = content;
                // Records are `LENGTH KEY=VALUE\n`.
                while !rest.is_empty() {
                    let digits = rest.iter().position(|byte| *byte == b' ').ok_or_else(broken)?;
                    let length: usize = text(&rest[..digits]).parse().map_err(|_| broken())?;
                    let record = rest.get(digits + 1..length).ok_or_else(broken)?;
                    rest = &rest[length..];
                    let record = String::from_utf8_lossy(record.strip_suffix(b"\n").ok_or_else(broken)?);
                    match record.split_once('=') {
                        Some(("path", value)) => self.name = Some(value.to_owned()),
                        Some(("linkpath", value)) => self.link = Some(value.to_owned()),
                        Some(("size", value)) => self.size = Some(value.parse().map_err(|_| broken())?),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Files {
    /// Makes what an entry is; a file is opened for its content.
    fn open(&mut self, name: &str, link: &str, kind: u8) -> Result<Option<File>, Error> {
        let Some(path) = self.place(name)? else { return Ok(None) };
        let shown = path.display().to_string();
        let failed = |what: &str, path: &Path, error: &std::io::Error| {
            Error::plain(format!("{what} {}: {}", path.display(), system(error)))
        };
        if kind == b'5' || name.ends_with('/') {
            fs::create_dir_all(&path).map_err(|error| failed("mkdir", &path, &error))?;
            return Ok(None);
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|error| failed("mkdir", folder, &error))?;
        }
        match kind {
            b'2' => {
                let advice = self.advice.take().unwrap_or_default();
                eprintln!("warning: skipping symlink: {shown:?} -> {link:?}{advice}");
                Ok(None)
            }
            // Another name of a file that came before.
            b'1' => {
                let other = self.place(link).ok().flatten().filter(|other| other.is_file());
                match other.map(|other| fs::copy(other, &path)) {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(failed("open", &path, &error)),
                    None => eprintln!("warning: skipping hard link: {shown:?} -> {link:?}"),
                }
                Ok(None)
            }
            b'3' | b'4' | b'6' => {
                eprintln!("warning: skipping special file: {shown:?}");
                Ok(None)
            }
            _ => File::create(&path).map(Some).map_err(|error| failed("open", &path, &error)),
        }
    }

    /// Where an entry goes; none if that is outside.
    fn place(&self, name: &str) -> Result<Option<PathBuf>, Error> {
        let rest = name.strip_prefix(&self.prefix).ok_or_else(|| Error::plain("tar contents corrupted"))?;
        // What only begins alike, such as `a/bc` for `a/b`, was not asked for.
        if !self.prefix.is_empty() && !rest.is_empty() && !rest.starts_with('/') {
            return Err(Error::plain("tar contents corrupted"));
        }
        let inner = clean(rest.replace('\\', "/").trim_start_matches('/'));
        let path = Path::new(&self.to).join(if inner == "." { "" } else { &inner });
        if inner == ".." || inner.starts_with("../") {
            eprintln!(
                "warning: file {:?} is outside target destination, skipping",
                clean(&path.to_string_lossy())
            );
            return Ok(None);
        }
        Ok(Some(if inner == "." { PathBuf::from(&self.to) } else { path }))
    }
}

fn system(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        std::io::ErrorKind::NotADirectory => "not a directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        _ => error.to_string(),
    }
}

/// A text that ends with the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// The name with what ustar puts in front of it.
fn whole_name(header: &[u8]) -> String {
    let name = text(&header[..100]);
    let posix = &header[257..263] == b"ustar\0";
    match if posix { text(&header[345..500]) } else { String::new() } {
        front if front.is_empty() => name,
        front => format!("{front}/{name}"),
    }
}

/// Octal digits, or a number whose first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (front, low) = field.split_at(field.len().saturating_sub(8));
        if front.iter().skip(1).any(|byte| *byte != 0) || front.first().is_some_and(|byte| *byte != 0x80) {
            return None;
        }
        let mut bytes: [u8; 8] = low.try_into().ok()?;
        if front.is_empty() {
            bytes[0] &= 0x7f;
        }
        return Some(u64::from_be_bytes(bytes));
    }
    let digits = text(field);
    let digits = digits.trim();
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
