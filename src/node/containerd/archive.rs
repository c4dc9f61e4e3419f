//! Tar archives, as far as image archives need them: an index of the members of a big file, and the
//! one-file layer that knarr writes itself. Knows OCI layouts and `docker save`'s older layout.

use ring::digest::{Context, SHA256};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom};

const BLOCK: u64 = 512;
/// The same, for buffers.
const BLOCK_BYTES: usize = 512;
/// Members of an image archive; an image has at most a few hundred blobs.
const MEMBERS: usize = 10_000;
/// Manifests and configurations are small; anything bigger is no image.
const JSON_BYTES: u64 = 8 << 20;

/// Bytes addressed by their digest, held in memory.
pub(crate) struct Blob {
    pub(crate) media_type: &'static str,
    pub(crate) digest: String,
    pub(crate) bytes: Vec<u8>,
    /// Digests it refers to, which the runtime's garbage collector must be told.
    pub(crate) children: Vec<String>,
}

impl Blob {
    pub(crate) fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        let digest = digest_of(&mut bytes.as_slice()).unwrap_or_default();
        Self { media_type, digest, bytes, children: Vec::new() }
    }

    pub(crate) fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// `sha256:…` of everything in `reader`.
pub(crate) fn digest_of(reader: &mut dyn Read) -> Result<String> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            n => context.update(&buffer[..n]),
        }
    }
    Ok(format!("sha256:{}", base::hex::of(context.finish().as_ref())))
}

/// A tar archive with one regular file owned by root.
pub(crate) fn tar_with_file(name: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; BLOCK_BYTES];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", content.len()));
    put(136, "00000000000");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(BLOCK_BYTES) + 2 * BLOCK_BYTES, 0);
    tar
}

/// Where a member's bytes lie in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) at: u64,
    pub(crate) size: u64,
}

/// The members of a tar archive by name, symbolic links resolved.
#[derive(Debug)]
pub(crate) struct Index(HashMap<String, Member>);

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

fn number(field: &[u8]) -> Option<u64> {
    if field.first()? & 0x80 != 0 {
        // GNU's form for what does not fit in octal digits.
        return Some(field[field.len() - 8..].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    }
    u64::from_str_radix(text(field).trim(), 8).ok()
}

/// The value of `key` in the records of a pax header.
fn pax(records: &str, key: &str) -> Option<String> {
    let line = records.lines().find(|line| line.split_once(' ').is_some_and(|(_, r)| r.starts_with(key)))?;
    Some(line.split_once('=')?.1.to_owned())
}

/// A path without `.` and with `..` resolved.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

impl Index {
    /// Reads the headers of an archive, skipping over the content.
    pub(crate) fn read(file: &mut (impl Read + Seek)) -> Result<Self> {
        let broken = |what: &str| Error::new(ErrorKind::InvalidData, what.to_owned());
        let mut members = HashMap::new();
        let mut links: Vec<(String, String)> = Vec::new();
        let mut long_name: Option<String> = None;
        let end = file.seek(SeekFrom::End(0))?;
        let mut at = 0;
        while at + BLOCK <= end && members.len() < MEMBERS {
            file.seek(SeekFrom::Start(at))?;
            let mut header = [0u8; BLOCK_BYTES];
            file.read_exact(&mut header)?;
            if header.iter().all(|byte| *byte == 0) {
                break;
            }
            let size = number(&header[124..136]).ok_or_else(|| broken("not a tar archive"))?;
            let here = Member { at: at + BLOCK, size };
            let prefix = if &header[257..262] == b"ustar" { text(&header[345..500]) } else { String::new() };
            let name = long_name.take().unwrap_or_else(|| format!("{prefix}/{}", text(&header[..100])));
            match header[156] {
                b'0' | 0 => drop(members.insert(normal(&name), here)),
                b'1' => links.push((normal(&name), normal(&text(&header[157..257])))),
                b'2' => {
                    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                    links.push((normal(&name), normal(&format!("{folder}/{}", text(&header[157..257])))));
                }
                b'x' => long_name = pax(&read_text(file, here)?, "path="),
                b'L' => long_name = Some(read_text(file, here)?.trim_end_matches('\0').to_owned()),
                _ => {}
            }
            at += BLOCK + size.next_multiple_of(BLOCK);
        }
        for (name, target) in links {
            if let Some(member) = members.get(&target).copied() {
                members.insert(name, member);
            }
        }
        Ok(Self(members))
    }

    pub(crate) fn get(&self, name: &str) -> Option<Member> {
        self.0.get(&normal(name)).copied()
    }

    /// The blob of an OCI layout with this digest.
    pub(crate) fn blob(&self, digest: &str) -> Option<Member> {
        self.get(&format!("blobs/{}", digest.replace(':', "/")))
    }
}

fn read_text(file: &mut (impl Read + Seek), member: Member) -> Result<String> {
    Ok(String::from_utf8_lossy(&read_member(file, member)?).into_owned())
}

/// A small member's bytes.
pub(crate) fn read_member(file: &mut (impl Read + Seek), member: Member) -> Result<Vec<u8>> {
    if member.size > JSON_BYTES {
        return Err(Error::new(ErrorKind::InvalidData, "a manifest of more than 8 MiB"));
    }
    file.seek(SeekFrom::Start(member.at))?;
    let mut bytes = Vec::new();
    file.take(member.size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A small member's bytes as JSON.
pub(crate) fn read_json(file: &mut (impl Read + Seek), member: Member) -> Result<Value> {
    Ok(serde_json::from_slice(&read_member(file, member)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn a_written_archive_is_read_back() {
        let mut file = Cursor::new(tar_with_file("./blobs/sha256/ab", 0o644, b"{\"a\":1}"));
        let index = Index::read(&mut file).unwrap();
        let member = index.blob("sha256:ab").unwrap();
        assert_eq!(member, Member { at: 512, size: 7 });
        assert_eq!(read_json(&mut file, member).unwrap(), json!({"a": 1}));
        assert!(Index::read(&mut Cursor::new(vec![7u8; 1024])).is_err());
    }
}
