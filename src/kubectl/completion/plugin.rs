//! What plugins complete themselves: `kubectl_complete-NAME` beside `kubectl-NAME` prints candidates like
//! `kubectl __complete` does, and may leave out what the shell does besides.

use super::{Candidates, FILES};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// How long a shell waits for a plugin.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most that is read of what it says.
const BYTES: u64 = 1 << 20;

/// Candidates of the plugin that the words before name; none where they name none. `find` finds programs.
pub(super) async fn complete(
    before: &[String],
    last: &str,
    find: impl Fn(&str) -> Option<PathBuf>,
) -> Option<Candidates> {
    let names = before.iter().take_while(|word| !word.starts_with('-') && !word.contains('/'));
    let names: Vec<String> = names.map(|word| word.replace('-', "_")).collect();
    let called = |count: &usize| find(&format!("kubectl-{}", names[..*count].join("-"))).is_some();
    let count = (1..=names.len()).rev().find(called)?;
    let Some(program) = find(&format!("kubectl_complete-{}", names[..count].join("-"))) else {
        return Some(Candidates::files());
    };
    let mut command = base::process::command(&program);
    command.args(&before[count..]).arg(last).stdout(Stdio::piped()).kill_on_drop(true);
    let running = async {
        let mut child = command.spawn().ok()?;
        let mut said = Vec::new();
        child.stdout.take()?.take(BYTES).read_to_end(&mut said).await.ok()?;
        child.wait().await.ok()?.success().then(|| String::from_utf8_lossy(&said).into_owned())
    };
    let said = tokio::time::timeout(PATIENCE, running).await.ok().flatten();
    Some(said.map_or_else(Candidates::files, |said| read(&said)))
}

fn read(said: &str) -> Candidates {
    let mut lines: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    let directive = lines.last().and_then(|last| last.strip_prefix(':')?.parse().ok());
    if directive.is_some() {
        lines.pop();
    }
    let word = |line: &&str| {
        let (word, what) = line.split_once('\t').unwrap_or((line, ""));
        (word.to_owned(), what.to_owned())
    };
    Candidates { words: lines.iter().map(word).collect(), directive: directive.unwrap_or(FILES) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn plugins_complete_themselves() {
        let folder = std::env::temp_dir().join(format!("knarr-plugin-completion-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for (name, script) in [
            ("kubectl-a_b", "#!/bin/sh\n"),
            ("kubectl-a_b-c", "#!/bin/sh\n"),
            ("kubectl_complete-a_b-c", "#!/bin/sh\nprintf 'one\\twhat one is\\n%s\\n:6\\n' \"$*\"\n"),
        ] {
            std::fs::write(folder.join(name), script).unwrap();
            std::fs::set_permissions(folder.join(name), PermissionsExt::from_mode(0o755)).unwrap();
        }
        let find = |name: &str| Some(folder.join(name)).filter(|file| file.exists());
        let completed = async |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let (last, before) = words.split_last().unwrap();
            complete(before, last, find).await.map(|found| found.render())
        };
        assert_eq!(completed("a-b c d -x e").await.unwrap(), "one\twhat one is\nd -x e\n:6\n");
        assert_eq!(completed("a-b d").await.unwrap(), ":0\n");
        assert_eq!(completed("nothing d").await, None);
        assert_eq!(read("x\n\n").render(), "x\n:0\n");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
