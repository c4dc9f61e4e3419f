//! `knarr uninstall`: what `knarr killall` does, then services, logs, data, and what install.sh made go.

use crate::installed::{Init, Record};
use crate::killall::{Troubles, call, need_root, stop};
use crate::life::{self, Failure};
use crate::places::{SETTINGS, Target, targets};
use crate::traces::{mountinfo, others_run, pods, remove_path, unescaped};
use crate::upgrade_node::left_beside;
use crate::{options, screen, traces};
use clap::{Arg, ArgAction, ArgMatches, Command};
use nix::mount::{MntFlags, umount2};
use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

/// knarr's settings and records; nothing of anybody else's is in there.
const FOLDER: &str = "/etc/knarr";
/// Where install.sh puts executables when it cannot where they are mostly.
const SECOND_BIN_DIR: &str = "/opt/bin";
/// Others that keep pods' volumes and logs in the same folders.
const KUBELETS: [&str; 5] = ["kubelet", "k3s-server", "k3s-agent", "k0s", "rke2"];

pub(crate) fn command() -> Command {
    let yes = Arg::new("yes").long("yes").short('y').action(ArgAction::SetTrue);
    let command = Command::new("uninstall")
        .about("Remove knarr from this machine: what killall does, then services, data, kubeconfig and the executable; packages stay")
        .arg(yes.help("Do not ask"));
    options::subset(command, &SETTINGS)
}

pub(crate) fn main(matches: &ArgMatches) -> ExitCode {
    life::once(async {
        need_root("uninstall")?;
        let targets = targets(matches)?;
        if !matches.get_flag("yes") && !confirm(&targets)? {
            screen::say(&"Nothing was removed.");
            return Ok(());
        }
        let mut troubles = Troubles::default();
        run(&targets, &mut troubles).await;
        troubles.into_result()?;
        screen::say(&"knarr is uninstalled.");
        Ok(())
    })
}

/// Asks whether all of it is to go. Fails where nobody can answer.
fn confirm(targets: &[Target]) -> Result<bool, Failure> {
    screen::say(&"This removes knarr, its pods and all data of the cluster on this machine:");
    for target in targets {
        screen::say(&format!("  {}", target.options.data_dir.display()));
    }
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err("nobody can be asked here: say --yes to uninstall without a question".into());
    }
    screen::say(&"Type yes to go on:");
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

async fn run(targets: &[Target], troubles: &mut Troubles) {
    // What containerd knows of pods goes with the data.
    let all: Vec<(&Target, BTreeSet<String>)> =
        targets.iter().map(|target| (target, pods(&target.options))).collect();
    for target in targets {
        stop(target, troubles).await;
    }
    traces::remove_shared(troubles).await;
    for (target, pods) in &all {
        if let Some(record) = &target.record {
            disable(record, troubles).await;
        }
        remove_logs(target, pods, troubles);
        remove_path(&target.options.data_dir, troubles);
        remove_path(&target.options.write_kubeconfig, troubles);
    }
    let records: Vec<&Record> = targets.iter().filter_map(|target| target.record.as_ref()).collect();
    for path in records.iter().flat_map(|record| &record.made) {
        if is_ours(path, targets) {
            remove_path(path, troubles);
            if path.file_name().is_some_and(|name| name == "knarr") {
                left_beside(path).iter().for_each(|file| remove_path(file, troubles));
            }
        }
    }
    // Only if nothing else is in it.
    _ = std::fs::remove_dir(SECOND_BIN_DIR);
    remove_path(Path::new(FOLDER), troubles);
    if records.iter().any(|record| record.init == Init::Systemd) {
        call("systemctl", &["daemon-reload"], troubles).await;
    }
}

/// A link may lead to another program by now.
fn is_ours(path: &Path, targets: &[Target]) -> bool {
    let Ok(leads_to) = std::fs::read_link(path) else { return true };
    leads_to.file_name().is_some_and(|name| name == "knarr")
        || targets.iter().any(|target| leads_to.starts_with(&target.options.data_dir))
}

/// The service does not start again with the machine.
async fn disable(record: &Record, troubles: &mut Troubles) {
    match record.init {
        Init::Systemd => {
            call("systemctl", &["disable", "--quiet", &record.service], troubles).await;
            call("systemctl", &["reset-failed", &record.service], &mut Troubles::default()).await;
        }
        Init::OpenRc => {
            call("rc-update", &["delete", &record.service, "default"], &mut Troubles::default()).await
        }
        Init::None => {}
    }
}

/// Pods' logs and volumes; those of another kubelet, which keeps its own in the same folders, stay.
fn remove_logs(target: &Target, pods: &BTreeSet<String>, troubles: &mut Troubles) {
    let (logs, kubelet) = (&target.options.log_dir, &target.options.kubelet_dir);
    if !others_run(&KUBELETS) {
        if is_bound(kubelet)
            && let Err(errno) = umount2(kubelet, MntFlags::MNT_DETACH)
        {
            troubles.note(format!("cannot unmount {}: {errno}", kubelet.display()));
        }
        for folder in [&logs.join("pods"), &logs.join("containers"), kubelet] {
            remove_path(folder, troubles);
        }
        return;
    }
    for entry in std::fs::read_dir(logs.join("pods")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.rsplit_once('_').is_some_and(|(_, uid)| pods.contains(uid)) {
            remove_path(&entry.path(), troubles);
        }
    }
    for uid in pods {
        remove_path(&kubelet.join("pods").join(uid), troubles);
    }
    // Links to logs that are gone.
    for entry in std::fs::read_dir(logs.join("containers")).into_iter().flatten().flatten() {
        if entry.path().is_symlink() && !entry.path().exists() {
            remove_path(&entry.path(), troubles);
        }
    }
}

/// Whether knarr has bound a folder to itself, as it does where the machine's mounts are not shared.
fn is_bound(folder: &Path) -> bool {
    mountinfo().split(|byte| *byte == b'\n').any(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        fields.get(4).is_some_and(|at| unescaped(at) == folder) && fields.get(3) != Some(&b"/".as_slice())
    })
}
