//! Files that only the person can read, written as a whole or not at all.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Puts the bytes in place of what is there; with `lasting` they are on the disk before.
pub(crate) fn write(path: &Path, bytes: &[u8], lasting: bool) -> io::Result<()> {
    let draft = path.with_extension(format!("{}.new", base::random::uuid()));
    let written = draft_of(&draft, bytes, lasting).and_then(|()| std::fs::rename(&draft, path));
    if written.is_err() {
        // The draft may not be there either.
        _ = std::fs::remove_file(&draft);
    }
    written
}

fn draft_of(draft: &Path, bytes: &[u8], lasting: bool) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    file.write_all(bytes)?;
    if lasting { file.sync_all() } else { Ok(()) }
}
