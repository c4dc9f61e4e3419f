//! `knarr upgrade-node`: from a pod that sees a machine's files and processes, puts this executable in place of the one
//! that runs there, and has the service manager start it. The way in which Plans of upgrades reach a node.

use crate::life::{Failure, once};
use crate::processes::{self, Process};
use crate::screen;
use base::clock;
use clap::{Arg, ArgMatches, Command};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How long the service manager may take to start the new one.
const STARTS: Duration = Duration::from_secs(90);
/// So long it has to live, before it is taken for one that works.
const STAYS: Duration = Duration::from_secs(15);
/// How long one may take to be seen that runs.
const APPEARS: Duration = Duration::from_secs(5);
/// OpenRC's `supervise-daemon`, of which the kernel keeps 15 letters.
const OPENRC: &str = "supervise-daemo";
/// Endings of files beside an executable.
const PREVIOUS: &str = "previous";
const NEW: &str = "new";
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub(crate) fn command() -> Command {
    let host = Arg::new("host").long("host").value_name("FOLDER").default_value("/host");
    Command::new("upgrade-node")
        .about("From a pod of an upgrade's Plan: put this executable in place of the node's, and start it")
        .arg(host.help("Where the machine's root is mounted").value_parser(clap::value_parser!(PathBuf)))
}

pub(crate) fn main(matches: &ArgMatches) -> ExitCode {
    let host = matches.get_one::<PathBuf>("host").cloned().unwrap_or_default();
    once(upgrade(&host, Path::new("/proc")))
}

/// A knarr that runs on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Running {
    pid: i32,
    /// As the machine has it.
    executable: PathBuf,
    /// The file that it runs is not the one at that path any more.
    replaced: bool,
    supervised: bool,
}

/// The knarr that is this machine's node.
fn find(proc: &Path) -> Result<Option<Running>, Failure> {
    let own = std::process::id();
    let alive = processes::alive(proc);
    let others = alive.values().filter(|process| u32::try_from(process.pid) != Ok(own));
    let all: Vec<Running> = others.filter_map(|process| running(proc, process)).collect();
    match all.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => {
            let pids: Vec<String> = several.iter().map(|one| one.pid.to_string()).collect();
            Err(format!("several knarr run here, and which is the node cannot be told: {}", pids.join(", "))
                .into())
        }
    }
}

fn running(proc: &Path, process: &Process) -> Option<Running> {
    let [program, subcommand, ..] = process.arguments.as_slice() else { return None };
    let name = Path::new(program).file_name()?.to_string_lossy();
    if !name.starts_with("knarr") || !matches!(subcommand.as_str(), "server" | "agent") {
        return None;
    }
    let link = fs::read_link(proc.join(process.pid.to_string()).join("exe")).ok()?;
    let text = link.to_string_lossy().into_owned();
    let replaced = text.ends_with(" (deleted)");
    let executable = PathBuf::from(text.trim_end_matches(" (deleted)"));
    Some(Running { pid: process.pid, executable, replaced, supervised: is_supervised(proc, process) })
}

/// Whether somebody starts it again when it ends: systemd, by the cgroup of a service, or OpenRC's supervisor above it.
fn is_supervised(proc: &Path, process: &Process) -> bool {
    let of =
        |pid: i32, file: &str| fs::read_to_string(proc.join(pid.to_string()).join(file)).unwrap_or_default();
    of(process.pid, "cgroup").lines().any(|line| line.contains(".service"))
        || of(process.parent, "comm").trim() == OPENRC
}

async fn upgrade(host: &Path, proc: &Path) -> Result<(), Failure> {
    let own = fs::read("/proc/self/exe")?;
    let found = look(proc).await?;
    let below = found.executable.strip_prefix("/").unwrap_or(&found.executable);
    let target = host.join(below);
    let there = fs::read(&target).map_err(|error| format!("{}: {error}", target.display()))?;
    if there == own && !found.replaced {
        screen::say(&format!("{} is {} already", found.executable.display(), screen::VERSION));
        return Ok(());
    }
    if !found.supervised {
        return Err(
            format!("nobody would start {} again: it is no service", found.executable.display()).into()
        );
    }
    let previous = beside(&target, PREVIOUS);
    if there != own {
        replace(&target, &previous, &own)?;
    }
    screen::say(&format!("{} is {} now; it starts", found.executable.display(), screen::VERSION));
    stop(found.pid)?;
    match comes(proc, &found).await {
        Ok(()) => Ok(()),
        Err(why) => {
            fs::rename(&previous, &target)?;
            if let Some(other) = find(proc)? {
                stop(other.pid)?;
            }
            Err(format!("{why}: {} is what it was before", found.executable.display()).into())
        }
    }
}

/// One that ends as soon as it starts, again and again, is looked for a while.
async fn look(proc: &Path) -> Result<Running, Failure> {
    let deadline = clock::instant() + APPEARS;
    loop {
        match find(proc)? {
            Some(found) if found.supervised => return Ok(found),
            found if clock::instant() >= deadline => {
                return found.ok_or("no knarr runs on this machine (the pod needs hostPID)".into());
            }
            _ => clock::sleep(LOOK_AGAIN).await,
        }
    }
}

fn stop(pid: i32) -> Result<(), Failure> {
    match kill(Pid::from_raw(pid), Signal::SIGTERM) {
        Err(errno) if errno != Errno::ESRCH => Err(format!("cannot end process {pid}: {errno}").into()),
        _ => Ok(()),
    }
}

/// What upgrades leave beside an executable: the one before, and the next one where a machine failed meanwhile.
pub(crate) fn left_beside(executable: &Path) -> [PathBuf; 2] {
    [PREVIOUS, NEW].map(|ending| beside(executable, ending))
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// Puts an executable in place of another, which stays as `previous`.
fn replace(target: &Path, previous: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| -> Failure { format!("{path}: {error}").into() }
    };
    let new = beside(target, NEW);
    for old in [&new, previous] {
        match fs::remove_file(old) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(at(old)(error)),
            _ => {}
        }
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o755).open(&new).map_err(at(&new))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(&new))?;
    fs::hard_link(target, previous).map_err(at(previous))?;
    fs::rename(&new, target).map_err(at(target))?;
    let folder = target.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

/// Waits until another process runs the executable, and stays.
async fn comes(proc: &Path, before: &Running) -> Result<(), Failure> {
    let deadline = clock::instant() + STARTS;
    let mut since: Option<(i32, clock::Instant)> = None;
    loop {
        let now = find(proc)?.filter(|one| one.pid != before.pid && !one.replaced).map(|one| one.pid);
        since = match (now, since) {
            (Some(pid), Some((same, at))) if pid == same => Some((pid, at)),
            (Some(pid), _) => Some((pid, clock::instant())),
            (None, _) => None,
        };
        if since.is_some_and(|(_, at)| at.elapsed() >= STAYS) {
            return Ok(());
        }
        if clock::instant() >= deadline {
            return Err("the new one does not start, or does not stay".into());
        }
        clock::sleep(LOOK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_machines_knarr_is_found_among_its_processes() {
        let proc = std::env::temp_dir().join(format!("knarr-upgrade-{}", std::process::id()));
        let process = |pid: &str, words: &str, executable: &str, cgroup: &str, parent: &str| {
            let folder = proc.join(pid);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("cmdline"), words.replace(' ', "\0")).unwrap();
            fs::write(folder.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
            fs::write(folder.join("stat"), format!("{pid} (a) b) S {parent} 1")).unwrap();
            let name: String = words.split(' ').next().unwrap().chars().take(15).collect();
            fs::write(folder.join("comm"), name + "\n").unwrap();
            symlink(executable, folder.join("exe")).unwrap();
        };
        process("7", "supervise-daemon knarr", "/sbin/supervise-daemon", "/", "1");
        process(
            "8",
            "/usr/bin/containerd --config x",
            "/usr/bin/containerd",
            "/system.slice/knarr.service",
            "1",
        );
        process("9", "knarr kubectl get", "/usr/local/bin/knarr", "/user.slice", "1");
        assert_eq!(find(&proc).unwrap(), None);
        process(
            "10",
            "/usr/local/bin/knarr server",
            "/usr/local/bin/knarr (deleted)",
            "/system.slice/knarr.service",
            "1",
        );
        let found = find(&proc).unwrap().unwrap();
        let executable = PathBuf::from("/usr/local/bin/knarr");
        assert_eq!(
            found,
            Running { pid: 10, executable: executable.clone(), replaced: true, supervised: true }
        );
        fs::remove_dir_all(proc.join("10")).unwrap();
        process("11", "/usr/local/bin/knarr agent", "/usr/local/bin/knarr", "/", "7");
        let found = find(&proc).unwrap().unwrap();
        assert_eq!(found, Running { pid: 11, executable, replaced: false, supervised: true });
        process("12", "knarr agent", "/usr/local/bin/knarr", "/", "1");
        assert!(find(&proc).unwrap_err().to_string().contains("11, 12"));
        fs::remove_dir_all(proc.join("11")).unwrap();
        assert!(!find(&proc).unwrap().unwrap().supervised, "nobody starts it again");
        fs::remove_dir_all(&proc).unwrap();
    }

    #[test]
    fn the_old_executable_stays_beside_the_new_one() {
        let folder = std::env::temp_dir().join(format!("knarr-replace-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (target, previous) = (folder.join("knarr"), folder.join("knarr.previous"));
        fs::write(&target, "one").unwrap();
        replace(&target, &previous, b"two").unwrap();
        replace(&target, &previous, b"three").unwrap();
        assert_eq!(
            (fs::read(&target).unwrap(), fs::read(&previous).unwrap()),
            (b"three".to_vec(), b"two".to_vec())
        );
        let names = fs::read_dir(&folder).unwrap().count();
        assert_eq!(names, 2);
        fs::remove_dir_all(&folder).unwrap();
    }
}
