//! Container log files: reading them for `kubectl logs`; `rotation` keeps them small.

mod rotation;

pub(crate) use rotation::run as run_rotation;

use crate::cri::Runtime;
use crate::protocols::runtime::v1 as cri;
use crate::{Error, files};
use base::watch_folder::Changes;
use base::{Backoff, clock};
use jiff::Timestamp;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc::Sender;

/// A line is sent in pieces of at most this size.
const PIECE_BYTES: usize = 1 << 20;
/// How much of a file's end is searched at a time for its last lines.
const TAIL_STEP: u64 = 64 << 10;

/// What a reader asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) follow: bool,
    pub(crate) tail: Option<usize>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) timestamps: bool,
    pub(crate) limit_bytes: Option<usize>,
    /// Only lines of this stream.
    pub(crate) stream: Option<&'static str>,
}

/// One entry of a log file: `<time> <stream> <P or F> <text>`.
struct Entry<'a> {
    time: &'a str,
    stream: &'a str,
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let partial = parts.next()?.first() == Some(&b'P');
    Some(Entry { time, stream, partial, text: parts.next().unwrap_or_default() })
}

/// Turns entries into what a reader gets.
struct Renderer {
    options: Options,
    left: usize,
    /// The last entry did not end its line.
    open: bool,
}

impl Renderer {
    fn new(options: Options) -> Self {
        Self { left: options.limit_bytes.unwrap_or(usize::MAX), options, open: false }
    }

    fn is_done(&self) -> bool {
        self.left == 0
    }

    /// The bytes for one entry, which ends in a newline in the file.
    fn render(&mut self, line: &[u8]) -> Vec<u8> {
        let Some(entry) = parse(line.strip_suffix(b"\n").unwrap_or(line)) else { return Vec::new() };
        if self.options.stream.is_some_and(|wanted| wanted != entry.stream) {
            return Vec::new();
        }
        let time = || entry.time.parse::<Timestamp>().ok();
        if self.options.since.is_some_and(|since| time().is_some_and(|time| time < since)) {
            return Vec::new();
        }
        let mut bytes = Vec::with_capacity(line.len());
        if self.options.timestamps && !self.open {
            bytes.extend_from_slice(entry.time.as_bytes());
            bytes.push(b' ');
        }
        bytes.extend_from_slice(entry.text);
        if !entry.partial {
            bytes.push(b'\n');
        }
        self.open = entry.partial;
        bytes.truncate(self.left);
        self.left -= bytes.len();
        bytes
    }
}

/// The offset from which the last `lines` lines of a file follow.
fn tail_offset(file: &mut File, lines: usize) -> std::io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let (mut at, mut found) = (end, 0);
    while at > 0 {
        let from = at.saturating_sub(TAIL_STEP);
        let mut block = Vec::new();
        file.seek(SeekFrom::Start(from))?;
        Read::by_ref(file).take(at - from).read_to_end(&mut block)?;
        for (i, byte) in block.iter().enumerate().rev() {
            let position = from + i as u64;
            // The newline that ends the file ends its last line; it does not begin another.
            if *byte == b'\n' && position + 1 < end {
                found += 1;
                if found == lines {
                    return Ok(position + 1);
                }
            }
        }
        at = from;
    }
    Ok(0)
}

/// The text of the last lines of a log, for a termination message.
pub(crate) fn last_lines(path: &Path, lines: usize, bytes: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let at = tail_offset(&mut file, lines)?;
        file.seek(SeekFrom::Start(at))?;
        let mut renderer = Renderer::new(Options::default());
        let mut text = Vec::new();
        for line in BufReader::new(file).split(b'\n') {
            text.extend(renderer.render(&line?));
        }
        let excess = text.len().saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(text.split_off(excess))
    };
    read().map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
}

/// A container's log.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) runtime: Runtime,
    /// The runtime's id of the container.
    pub(crate) container: String,
}

impl Source {
    /// Sends the log to `into` until its end, or while following until the container has ended and
    /// everything was read. A reader that went away ends it too.
    pub(crate) async fn send(&self, options: Options, into: Sender<Vec<u8>>) -> Result<(), Error> {
        let path = self.path.as_path();
        let mut file = File::open(path).map_err(files::at(path))?;
        let start =
            options.tail.map_or(Ok(0), |lines| tail_offset(&mut file, lines)).map_err(files::at(path))?;
        // A reader that does not follow gets what is there now, however fast the container writes.
        let size = file.metadata().map_err(files::at(path))?.len();
        let mut left = if options.follow { u64::MAX } else { size.saturating_sub(start) };
        file.seek(SeekFrom::Start(start)).map_err(files::at(path))?;
        let mut changes = if options.follow { Some(watch(path)?) } else { None };
        let mut renderer = Renderer::new(options);
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        // Asked before reading: what was written before the end is read after it.
        let mut over = changes.is_none() || self.has_ended().await;
        // A file that was set aside may have got lines after its last look, until the runtime let go of it.
        let mut is_drained = false;
        loop {
            while left > 0 && read_line(&mut reader, &mut line, over).map_err(files::at(path))? {
                left = left.saturating_sub(line.len() as u64);
                let bytes = renderer.render(&line);
                line.clear();
                if !bytes.is_empty() && into.send(bytes).await.is_err() || renderer.is_done() {
                    return Ok(());
                }
            }
            if was_replaced(reader.get_ref(), path)
                && let Ok(fresh) = File::open(path)
            {
                if !std::mem::replace(&mut is_drained, true) {
                    continue;
                }
                is_drained = false;
                reader = BufReader::new(fresh);
                changes = changes.map(|_| watch(path)).transpose()?;
                continue;
            }
            let Some(changes) = changes.as_mut().filter(|_| !over) else { return Ok(()) };
            let ask = tokio::select! {
                closed = changes.next() => closed?,
                () = into.closed() => return Ok(()),
                () = clock::sleep(ASK) => true,
            };
            over = ask && self.has_settled().await;
        }
    }

    async fn has_ended(&self) -> bool {
        let request = cri::ContainerStatusRequest { container_id: self.container.clone(), verbose: false };
        match self.runtime.container_status(request).await {
            Ok(answer) => {
                answer.status.is_none_or(|status| status.state() != cri::ContainerState::ContainerRunning)
            }
            // A runtime that is away for a moment does not end its containers.
            Err(error) => error.is_gone(),
        }
    }

    /// The runtime closes a log a moment before it says that the container has ended.
    async fn has_settled(&self) -> bool {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
        while backoff.failures() < 6 {
            if self.has_ended().await {
                return true;
            }
            clock::sleep(backoff.next_delay()).await;
        }
        false
    }
}

/// How often a follower asks whether the container has ended, if nothing tells it.
const ASK: Duration = Duration::from_secs(30);

fn watch(path: &Path) -> Result<Changes, Error> {
    let changes = Changes::of(path)?;
    changes.and_new_in(path.parent().unwrap_or(path))?;
    Ok(changes)
}

/// Adds to `line` up to its newline; whether it is to be rendered: whole, or the last of a log that is
/// over.
fn read_line(reader: &mut BufReader<File>, line: &mut Vec<u8>, over: bool) -> std::io::Result<bool> {
    let read = reader.by_ref().take(PIECE_BYTES as u64).read_until(b'\n', line)?;
    Ok(line.ends_with(b"\n") || over && read == 0 && !line.is_empty())
}

fn was_replaced(open: &File, path: &Path) -> bool {
    let ours = open.metadata().map(|metadata| metadata.ino());
    let theirs = std::fs::metadata(path).map(|metadata| metadata.ino());
    matches!((ours, theirs), (Ok(ours), Ok(theirs)) if ours != theirs)
}

/// Removes a log with those set aside.
pub(crate) fn remove_all(path: &Path) -> Result<(), Error> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    files::remove(path)?;
    rotation::set_aside(path).iter().try_for_each(|old| files::remove(old))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.1Z stdout F one\n2026-01-01T00:00:01.1Z stderr P tw\n\
                       2026-01-01T00:00:01.2Z stderr F o\n2026-01-01T00:00:02.1Z stdout F three\n";

    fn rendered(options: Options) -> String {
        let mut renderer = Renderer::new(options);
        let bytes: Vec<u8> =
            LOG.split_inclusive('\n').flat_map(|line| renderer.render(line.as_bytes())).collect();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn entries_become_lines() {
        assert_eq!(rendered(Options::default()), "one\ntwo\nthree\n");
        let since = Some("2026-01-01T00:00:02Z".parse().unwrap());
        let options = Options { since, timestamps: true, ..Default::default() };
        assert_eq!(rendered(options), "2026-01-01T00:00:02.1Z three\n");
        assert_eq!(rendered(Options { limit_bytes: Some(5), ..Default::default() }), "one\nt");
        assert_eq!(rendered(Options { stream: Some("stderr"), ..Default::default() }), "two\n");
    }

    #[test]
    fn the_tail_is_found_from_the_end() {
        let path = std::env::temp_dir().join(format!("knarr-tail-{}", std::process::id()));
        std::fs::write(&path, LOG).unwrap();
        let mut file = File::open(&path).unwrap();
        assert_eq!(tail_offset(&mut file, 0).unwrap(), LOG.len() as u64);
        assert_eq!(tail_offset(&mut file, 1).unwrap(), LOG.rfind("2026").unwrap() as u64);
        assert_eq!(tail_offset(&mut file, 9).unwrap(), 0);
        assert_eq!(last_lines(&path, 1, 3), "ee\n");
        std::fs::remove_file(path).unwrap();
    }
}
