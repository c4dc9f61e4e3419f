//! Reads tar archives from memory: names and contents of files, in any of the usual formats.

/// How much the files of an archive may be together, and each of them (Helm's limits).
const ALL_BYTES: usize = 100 << 20;
const FILE_BYTES: usize = 5 << 20;
/// How many files there may be.
const FILES: usize = 10_000;
const BLOCK: usize = 512;

/// The files of a gzipped archive, by name, in their order. An error is a sentence.
pub(crate) fn unpack(archive: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    use std::io::Read;
    let mut tar = Vec::new();
    let limit = u64::try_from(ALL_BYTES).unwrap_or(u64::MAX);
    let mut unzipped = flate2::read::MultiGzDecoder::new(archive).take(limit + 1);
    unzipped.read_to_end(&mut tar).map_err(|error| format!("the chart is no gzip archive: {error}"))?;
    if tar.len() > ALL_BYTES {
        return Err(format!("decompressed chart is larger than the maximum size {ALL_BYTES}"));
    }
    files(&tar)
}

fn files(tar: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let cut_off = || "the chart's archive ends in the middle of a file".to_owned();
    let (mut at, mut found) = (0, Vec::new());
    // A name too long for its field stands in an entry of its own, before.
    let mut long_name: Option<String> = None;
    while let Some(header) = tar.get(at..at + BLOCK) {
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        if !sum_is_right(header) {
            return Err("the chart's archive is no tar: a checksum is wrong".to_owned());
        }
        let size = number(&header[124..136]).ok_or("the chart's archive names a size that is no number")?;
        let start = at + BLOCK;
        let end = start.checked_add(size).filter(|end| *end <= tar.len()).ok_or_else(cut_off)?;
        let content = &tar[start..end];
        at = start + size.div_ceil(BLOCK) * BLOCK;
        match header[156] {
            b'L' => long_name = Some(text(content)),
            b'x' => long_name = path_of(content).or(long_name),
            b'0' | b'7' | 0 => {
                let name = long_name.take().unwrap_or_else(|| full_name(header));
                if name.ends_with('/') {
                    continue;
                }
                if size > FILE_BYTES {
                    return Err(format!(
                        "decompressed chart file {name:?} is larger than the maximum file size {FILE_BYTES}"
                    ));
                }
                found.push((name, content.to_vec()));
            }
            b'g' => {}
            // Folders need no mention, and links lead who knows where.
            _ => long_name = None,
        }
        if found.len() > FILES {
            return Err(format!("the chart has more than {FILES} files"));
        }
    }
    Ok(found)
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

fn number(field: &[u8]) -> Option<usize> {
    if field[0] & 0x80 != 0 {
        // Sizes that octal digits are too few for are larger than any chart may be.
        return None;
    }
    let digits = text(field);
    let digits = digits.trim();
    if digits.is_empty() { Some(0) } else { usize::from_str_radix(digits, 8).ok() }
}

fn sum_is_right(header: &[u8]) -> bool {
    let sum: usize = header
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { usize::from(b' ') } else { usize::from(*byte) })
        .sum();
    number(&header[148..156]) == Some(sum)
}

fn full_name(header: &[u8]) -> String {
    let (name, prefix) = (text(&header[..100]), text(&header[345..500]));
    if header[257..262] == *b"ustar" && header[262] == 0 && !prefix.is_empty() {
        return format!("{prefix}/{name}");
    }
    name
}

/// The `path` of an extended header: `LENGTH path=VALUE\n`.
fn path_of(header: &[u8]) -> Option<String> {
    let mut rest = header;
    while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
        let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
        let record = rest.get(space + 1..length)?;
        if let Some(path) = record.strip_prefix(b"path=") {
            return Some(String::from_utf8_lossy(path.strip_suffix(b"\n").unwrap_or(path)).into_owned());
        }
        rest = rest.get(length..)?;
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;

    /// A gzipped archive of these files.
    pub(crate) fn pack(files: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = Vec::new();
        for (name, content) in files {
            let mut header = [0; BLOCK];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[100..107].copy_from_slice(b"0000644");
            header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
            header[156] = b'0';
            header[257..263].copy_from_slice(b"ustar\0");
            header[148..156].copy_from_slice(b"        ");
            let sum: usize = header.iter().map(|byte| usize::from(*byte)).sum();
            header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            tar.extend(header);
            tar.extend(content.as_bytes());
            tar.resize(tar.len().next_multiple_of(BLOCK), 0);
        }
        tar.resize(tar.len() + 2 * BLOCK, 0);
        let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zipped.write_all(&tar).unwrap();
        zipped.finish().unwrap()
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let packed = pack(&[("a/Chart.yaml", "name: a"), ("a/empty", ""), ("a/b", &"x".repeat(600))]);
        let names: Vec<(String, usize)> =
            unpack(&packed).unwrap().into_iter().map(|(name, content)| (name, content.len())).collect();
        assert_eq!(
            names,
            [("a/Chart.yaml".to_owned(), 7), ("a/empty".to_owned(), 0), ("a/b".to_owned(), 600)]
        );
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        assert!(unpack(b"text").unwrap_err().contains("no gzip"));
        let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zipped.write_all(&[b'a'; 2048]).unwrap();
        assert!(unpack(&zipped.finish().unwrap()).unwrap_err().contains("checksum"));
    }
}
