//! Ends knarr, its containerd, and what runs in its pods. Whose a process is, is known by its arguments and by its mount
//! namespace: another knarr on the machine with folders of the same names has mounts of its own.

use crate::installed;
use crate::killall::Troubles;
use crate::options::Options;
use base::clock;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

const PROC: &str = "/proc";
/// How long a process is asked before it is killed, and how long it may then take to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks whether processes are there.
const STEP: Duration = Duration::from_millis(50);

/// A process, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) arguments: Vec<String>,
}

/// Whether a knarr of these folders runs.
pub(crate) fn is_running(options: &Options) -> bool {
    !pids(&everything(), |process| runs_from(process, variables(process.pid), options)).is_empty()
}

/// Ends the knarr of these folders with all that it started.
pub(crate) async fn stop(options: &Options, troubles: &mut Troubles) {
    let own = std::process::id();
    let is_knarr = |process: &Process| {
        u32::try_from(process.pid) != Ok(own) && runs_from(process, variables(process.pid), options)
    };
    end(|all| pids(all, is_knarr), Signal::SIGTERM, "knarr", troubles).await;
    let configuration = options.data_dir.join("agent/containerd/config.toml").display().to_string();
    let is_runtime = |process: &Process| process.arguments.contains(&configuration);
    end(|all| pids(all, is_runtime), Signal::SIGTERM, "containerd", troubles).await;
    let socket = options.run_dir.join("containerd/containerd.sock").display().to_string();
    let is_shim = |process: &Process| {
        process.arguments.windows(2).any(|words| words[0] == "-address" && words[1] == socket)
    };
    // Each pod's processes descend from its shim; gathered at once, since orphans are nobody's.
    let pods = trees(&everything(), is_shim);
    end(|_| pods.clone(), Signal::SIGKILL, "pods", troubles).await;
}

/// Whether this is a knarr that keeps its state in the same folder.
fn runs_from(process: &Process, variables: Vec<(String, String)>, options: &Options) -> bool {
    let [program, rest @ ..] = process.arguments.as_slice() else { return false };
    Path::new(program).file_name().is_some_and(|name| name == "knarr")
        && installed::settings(rest, variables).is_ok_and(|other| other.data_dir == options.data_dir)
}

fn variables(pid: i32) -> Vec<(String, String)> {
    words(&Path::new(PROC).join(pid.to_string()).join("environ"))
        .iter()
        .filter_map(|word| word.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn words(path: &Path) -> Vec<String> {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.split_terminator('\0').map(str::to_owned).collect()
}

fn everything() -> BTreeMap<i32, Process> {
    alive(Path::new(PROC))
}

/// All processes that are alive, as a mounted proc tells.
pub(crate) fn alive(proc: &Path) -> BTreeMap<i32, Process> {
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| {
        let folder = proc.join(pid.to_string());
        let parent = parent(&std::fs::read_to_string(folder.join("stat")).ok()?)?;
        Some((pid, Process { pid, parent, arguments: words(&folder.join("cmdline")) }))
    })
    .collect()
}

/// The parent in `/proc/PID/stat`, of a process that is not dead. Its name may have spaces and brackets.
fn parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.next()?.parse().ok() }
}

/// Those that are meant, of this mount namespace.
fn pids(all: &BTreeMap<i32, Process>, is_meant: impl Fn(&Process) -> bool) -> BTreeSet<i32> {
    let mounts = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let own = mounts("self");
    let found = all.values().filter(|process| is_meant(process));
    found.map(|process| process.pid).filter(|pid| mounts(&pid.to_string()) == own).collect()
}

/// Those that are meant, and all that descend from them.
fn trees(all: &BTreeMap<i32, Process>, is_meant: impl Fn(&Process) -> bool) -> BTreeSet<i32> {
    grow(pids(all, is_meant), all)
}

fn grow(mut tree: BTreeSet<i32>, all: &BTreeMap<i32, Process>) -> BTreeSet<i32> {
    loop {
        let more = all.values().filter(|process| tree.contains(&process.parent)).map(|process| process.pid);
        let before = tree.len();
        let more: Vec<i32> = more.collect();
        tree.extend(more);
        if tree.len() == before {
            return tree;
        }
    }
}

/// Signals processes and waits until they are gone; those that do not hear are killed.
async fn end(
    look: impl Fn(&BTreeMap<i32, Process>) -> BTreeSet<i32>,
    first: Signal,
    name: &str,
    troubles: &mut Troubles,
) {
    for signal in [first, Signal::SIGKILL] {
        let wanted = look(&everything());
        for pid in &wanted {
            match kill(Pid::from_raw(*pid), signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => troubles.note(format!("cannot end process {pid} of {name}: {errno}")),
            }
        }
        let deadline = clock::instant() + PATIENCE;
        loop {
            let all = everything();
            if !wanted.iter().any(|pid| all.contains_key(pid)) {
                return;
            }
            if clock::instant() > deadline {
                break;
            }
            clock::sleep(STEP).await;
        }
    }
    let all = everything();
    let left: Vec<String> =
        look(&all).iter().filter(|pid| all.contains_key(pid)).map(ToString::to_string).collect();
    if !left.is_empty() {
        troubles.note(format!("these processes of {name} do not end: {}", left.join(" ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, words: &[&str]) -> Process {
        Process { pid, parent, arguments: words.iter().map(|word| (*word).to_owned()).collect() }
    }

    #[test]
    fn a_knarr_is_known_by_the_folder_of_its_state() {
        let options = Options { data_dir: "/srv/a".into(), ..Options::default() };
        let runs = |words: &[&str], variables: &[(&str, &str)]| {
            let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            runs_from(&process(7, 1, words), variables.iter().map(own).collect(), &options)
        };
        let none = "--config=/nonexistent";
        assert!(runs(&["/usr/local/bin/knarr", "server", none, "--data-dir=/srv/a"], &[]));
        assert!(runs(&["knarr", "agent", none], &[("KNARR_DATA_DIR", "/srv/a")]));
        assert!(!runs(&["knarr", "server", none], &[]), "that is the usual folder");
        assert!(!runs(&["knarr", "killall", "--data-dir=/srv/a"], &[]));
        assert!(!runs(&["vi", "server", none, "--data-dir=/srv/a"], &[]));
        assert!(!runs(&[], &[]), "threads of the kernel have no arguments");
    }

    #[test]
    fn descendants_are_found_whatever_their_order() {
        let all: BTreeMap<i32, Process> =
            [(5, 9), (7, 5), (9, 1), (11, 2)].map(|(pid, parent)| (pid, process(pid, parent, &[]))).into();
        assert_eq!(grow([9].into(), &all), [5, 7, 9].into());
        assert_eq!(grow([].into(), &all), [].into());
    }

    #[test]
    fn names_of_processes_may_look_like_fields() {
        assert_eq!(parent("7 (a) S 1) R 5 7 7"), Some(5));
        assert_eq!(parent("7 (sh) Z 5 7 7"), None);
        assert_eq!(parent("torn"), None);
    }
}
