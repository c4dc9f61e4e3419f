//! Files as a tar archive (ustar, with GNU's entries for long names).

use std::fs::{File, Metadata};
use std::io::{Error, Read, Result};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tokio::io::{AsyncWrite, AsyncWriteExt};

const BLOCK: usize = 512;
const CHUNK: usize = 64 << 10;
/// The longest name that a header holds.
const NAME: usize = 100;
/// How deep folders may lie within each other.
const DEPTH: usize = 512;

/// Writes a file, link or folder with all that is in it as `name`, and the archive's end.
pub(super) async fn pack(from: &Path, name: &str, mut to: impl AsyncWrite + Unpin) -> Result<()> {
    let mut waiting = vec![(from.to_owned(), name.to_owned(), 0)];
    while let Some((path, name, depth)) = waiting.pop() {
        let about = path.symlink_metadata().map_err(|error| at(&path, &error))?;
        if about.is_dir() {
            let entries = std::fs::read_dir(&path).map_err(|error| at(&path, &error))?;
            let mut entries = entries.collect::<Result<Vec<_>>>().map_err(|error| at(&path, &error))?;
            if depth > DEPTH {
                return Err(Error::other(format!("{}: folders lie too deep", path.display())));
            }
            if entries.is_empty() {
                header(&mut to, &Entry { name: &format!("{name}/"), kind: b'5', link: "", size: 0 }, &about)
                    .await?;
            }
            // The last is taken first.
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
            waiting.extend(entries.iter().map(|entry| {
                let own = entry.file_name().to_string_lossy().into_owned();
                (entry.path(), format!("{name}/{own}"), depth + 1)
            }));
        } else if about.is_symlink() {
            let link = std::fs::read_link(&path).map_err(|error| at(&path, &error))?;
            let entry = Entry { name: &name, kind: b'2', link: &link.to_string_lossy(), size: 0 };
            header(&mut to, &entry, &about).await?;
        } else if about.is_file() {
            file(&mut to, &path, &name).await?;
        } else {
            return Err(Error::other(format!("{}: neither a file, a folder nor a link", path.display())));
        }
    }
    to.write_all(&[0; 2 * BLOCK]).await?;
    to.shutdown().await
}

fn at(path: &Path, error: &Error) -> Error {
    Error::other(format!("{}: {error}", path.display()))
}

async fn file(to: &mut (impl AsyncWrite + Unpin), path: &Path, name: &str) -> Result<()> {
    let mut file = File::open(path).map_err(|error| at(path, &error))?;
    let about = file.metadata().map_err(|error| at(path, &error))?;
    let size = about.len();
    header(to, &Entry { name, kind: b'0', link: "", size }, &about).await?;
    let mut left = size;
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let count = file.read(&mut buffer[..most]).map_err(|error| at(path, &error))?;
        if count == 0 {
            return Err(Error::other(format!("{}: became shorter while it was read", path.display())));
        }
        to.write_all(&buffer[..count]).await?;
        left -= count as u64;
    }
    pad(to, size).await
}

/// Fills up the last block.
async fn pad(to: &mut (impl AsyncWrite + Unpin), size: u64) -> Result<()> {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if over > 0 { to.write_all(&vec![0; BLOCK - over]).await } else { Ok(()) }
}

/// What a header says beside what the file system knows.
struct Entry<'a> {
    name: &'a str,
    kind: u8,
    link: &'a str,
    size: u64,
}

async fn header(to: &mut (impl AsyncWrite + Unpin), entry: &Entry<'_>, about: &Metadata) -> Result<()> {
    for (kind, text) in [(b'L', entry.name), (b'K', entry.link)] {
        if text.len() > NAME {
            let size = text.len() as u64 + 1;
            let long = Entry { name: "././@LongLink", kind, link: "", size };
            to.write_all(&block(&long, [0; 4])).await?;
            to.write_all(text.as_bytes()).await?;
            to.write_all(&[0]).await?;
            pad(to, size).await?;
        }
    }
    let mtime = u64::try_from(about.mtime()).unwrap_or(0);
    let numbers = [u64::from(about.mode() & 0o7777), u64::from(about.uid()), u64::from(about.gid()), mtime];
    to.write_all(&block(entry, numbers)).await
}

/// A header with mode, owner, group and time.
fn block(entry: &Entry<'_>, [mode, uid, gid, mtime]: [u64; 4]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let cut = |text: &str| text.as_bytes()[..text.len().min(NAME)].to_vec();
    put(0, &cut(entry.name));
    put(100, &number(mode, 8));
    put(108, &number(uid, 8));
    put(116, &number(gid, 8));
    put(124, &number(entry.size, 12));
    put(136, &number(mtime, 12));
    put(148, b"        ");
    put(156, &[entry.kind]);
    put(157, &cut(entry.link));
    put(257, b"ustar  \0");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Octal digits, or where they do not suffice the number itself with its first bit set.
fn number(value: u64, width: usize) -> Vec<u8> {
    let digits = format!("{value:0width$o}\0", width = width - 1).into_bytes();
    if digits.len() <= width {
        return digits;
    }
    let mut bytes = vec![0; width];
    bytes[width - 8..].copy_from_slice(&value.to_be_bytes());
    bytes[0] |= 0x80;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_their_fields() {
        assert_eq!(number(0o644, 8), b"0000644\0");
        assert_eq!(number(1 << 33, 12), [0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(number(u64::from(u32::MAX), 12), b"37777777777\0"[..].to_vec());
    }
}
