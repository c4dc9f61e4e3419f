//! Mounts by the machine's programs: file servers that the kernel is a client of, and devices that may
//! have to be formatted first. Each with a time limit: a server that is away holds only its pod.

use super::mount_table::is_mounted;
use crate::{Error, files};
use base::process;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a mount may take.
const MOUNT: Duration = Duration::from_secs(120);
/// How long it may take to format or check a device.
const FORMAT: Duration = Duration::from_secs(600);
/// blkid's code for a device that holds nothing it knows.
const NOTHING_FOUND: i32 = 2;
/// fsck's codes: errors were corrected; errors are left.
const CORRECTED: i32 = 1;
const UNCORRECTED: i32 = 4;
/// As much of a device as has to be readable before it is formatted.
const HEAD_BYTES: &str = "65536";
const PROGRAM_FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// A mount to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounting {
    pub(super) kind: String,
    pub(super) source: String,
    pub(super) target: PathBuf,
    pub(super) options: Vec<String>,
}

impl Mounting {
    fn words(&self) -> Vec<String> {
        let mut words = vec!["-t".to_owned(), self.kind.clone()];
        if !self.options.is_empty() {
            words.extend(["-o".to_owned(), self.options.join(",")]);
        }
        words.extend([self.source.clone(), self.target.display().to_string()]);
        words
    }
}

/// An NFS export as it is mounted.
pub(super) fn nfs(
    server: &str,
    path: &str,
    target: &Path,
    (read_only, options): (bool, &[String]),
) -> Mounting {
    let server = if server.contains(':') { format!("[{server}]") } else { server.to_owned() };
    let mut options = options.to_vec();
    if read_only {
        options.push("ro".to_owned());
    }
    let target = target.to_owned();
    Mounting { kind: "nfs".to_owned(), source: format!("{server}:{path}"), target, options }
}

fn is_installed(program: &str) -> bool {
    PROGRAM_FOLDERS.iter().any(|folder| Path::new(folder).join(program).exists())
}

/// Mounts where nothing is mounted yet.
pub(super) async fn mount(mounting: &Mounting) -> Result<(), Error> {
    if is_mounted(&mounting.target)? {
        return Ok(());
    }
    files::make_folder(&mounting.target, 0o750)?;
    if mounting.kind == "nfs" && !is_installed("mount.nfs") {
        let hint =
            "mount failed: mount.nfs is not installed on this node (its package is nfs-common or nfs-utils)";
        return Err(Error::Volume(hint.to_owned()));
    }
    let words = mounting.words();
    let mut command = process::command("mount");
    // What a pod names must not be taken for an option.
    let (options, named) = words.split_at(words.len() - 2);
    command.args(options).arg("--").args(named);
    match process::run(command, b"", MOUNT).await {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            Err(failed(&words, &output.status, &String::from_utf8_lossy(&said)))
        }
        Err(error) => Err(Error::Volume(format!("mount failed: {error}"))),
    }
}

fn failed(words: &[String], status: &std::process::ExitStatus, said: &str) -> Error {
    let status = status.code().map_or_else(|| status.to_string(), |code| format!("exit status {code}"));
    Error::Volume(format!(
        "mount failed: {status}\nMounting command: mount\nMounting arguments: {}\nOutput: {said}\n",
        words.join(" ")
    ))
}

/// What a device holds, by blkid.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Nothing,
    FileSystem(String),
    /// Partitions, which must not be overwritten.
    Partitions,
}

fn content(said: &str) -> Content {
    let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    match (value("TYPE"), value("PTTYPE")) {
        (Some(kind), _) => Content::FileSystem(kind.to_owned()),
        (None, Some(_)) => Content::Partitions,
        (None, None) => Content::Nothing,
    }
}

async fn look(device: &Path) -> Result<Content, Error> {
    let mut command = process::command("blkid");
    command.args(["-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export"]).arg(device);
    let output = process::run(command, b"", MOUNT).await.map_err(|error| Error::Volume(error.to_string()))?;
    match output.status.code() {
        Some(0) => Ok(content(&String::from_utf8_lossy(&output.stdout))),
        Some(NOTHING_FOUND) => Ok(Content::Nothing),
        _ => Err(Error::Volume(format!("could not look at {}: {}", device.display(), output.status))),
    }
}

/// The program and words that make a file system of a kind.
fn formatter(kind: &str, device: &Path) -> (String, Vec<String>) {
    let own: &[&str] = match kind {
        // Root's reserve is of no use to pods.
        "ext3" | "ext4" => &["-F", "-m0"],
        "xfs" | "btrfs" => &["-f"],
        _ => &[],
    };
    let words = own.iter().map(|word| (*word).to_owned()).chain([device.display().to_string()]);
    (format!("mkfs.{kind}"), words.collect())
}

/// Mounts a device; formats it before if it holds nothing, and checks what it holds otherwise.
pub(super) async fn mount_device(mounting: &Mounting) -> Result<(), Error> {
    if is_mounted(&mounting.target)? {
        return Ok(());
    }
    let device = Path::new(&mounting.source);
    let read_only = mounting.options.iter().any(|option| option == "ro");
    match look(device).await? {
        Content::Nothing if read_only => {
            return Err(Error::Volume(format!(
                "cannot mount unformatted disk {} as we are manipulating it in read-only mode",
                mounting.source
            )));
        }
        Content::Nothing => {
            // A device that cannot be read holds nothing that blkid knows, either.
            let mut command = process::command("head");
            command.args(["-c", HEAD_BYTES]).arg(device);
            let read = process::check(command, b"", MOUNT).await;
            read.map_err(|error| Error::Volume(error.to_string()))?;
            format(&mounting.kind, device).await?;
        }
        Content::Partitions => {
            return Err(Error::Volume(format!("{} holds partitions and is not formatted", mounting.source)));
        }
        Content::FileSystem(_) if read_only => {}
        Content::FileSystem(_) => check(device).await?,
    }
    mount(mounting).await
}

async fn format(kind: &str, device: &Path) -> Result<(), Error> {
    let (program, words) = formatter(kind, device);
    let mut command = process::command(program);
    command.args(words);
    let formatted = process::check(command, b"", FORMAT).await;
    formatted.map(drop).map_err(|error| Error::Volume(format!("format of disk {device:?} failed: {error}")))
}

async fn check(device: &Path) -> Result<(), Error> {
    let mut command = process::command("fsck");
    command.arg("-a").arg(device);
    match process::run(command, b"", FORMAT).await {
        Ok(output) if output.status.code() == Some(UNCORRECTED) => Err(Error::Volume(format!(
            "'fsck' found errors on device {} but could not correct them: {}",
            device.display(),
            String::from_utf8_lossy(&output.stdout)
        ))),
        Ok(output) => {
            if output.status.code() == Some(CORRECTED) {
                tracing::info!(device = %device.display(), "errors of a file system were corrected");
            }
            Ok(())
        }
        // Without the program nothing is checked, as everywhere.
        Err(error) => {
            tracing::debug!(%error, "a device is not checked");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn exports_are_mounted_by_name() {
        let options = ["nfsvers=4.2".to_owned()];
        let words = nfs("fd00::1", "/x", "/t".as_ref(), (true, &options)).words();
        assert_eq!(words, ["-t", "nfs", "-o", "nfsvers=4.2,ro", "[fd00::1]:/x", "/t"]);
        let words = nfs("10.0.0.1", "/", "/t".as_ref(), (false, &[])).words();
        let error = failed(&words, &std::process::ExitStatus::from_raw(32 << 8), "no such server");
        let told = "mount failed: exit status 32\nMounting command: mount\n\
                    Mounting arguments: -t nfs 10.0.0.1:/ /t\nOutput: no such server\n";
        assert_eq!(error.to_string(), told);
    }

    #[test]
    fn only_an_empty_device_is_formatted() {
        assert_eq!(content("DEVNAME=/dev/x\nTYPE=xfs\n"), Content::FileSystem("xfs".to_owned()));
        assert_eq!(content("DEVNAME=/dev/x\nPTTYPE=dos\n"), Content::Partitions);
        assert_eq!(content(""), Content::Nothing);
        let (program, words) = formatter("ext4", "/dev/x".as_ref());
        assert_eq!(
            (program.as_str(), words.as_slice()),
            ("mkfs.ext4", &["-F", "-m0", "/dev/x"].map(str::to_owned)[..])
        );
    }

    #[tokio::test]
    async fn a_missing_client_is_named() {
        if !is_installed("mount.nfs") {
            let target = std::env::temp_dir().join(format!("knarr-nfs-{}", std::process::id()));
            let error = mount(&nfs("10.0.0.1", "/", &target, (false, &[]))).await.unwrap_err();
            assert!(error.to_string().contains("mount.nfs is not installed on this node"), "{error}");
            files::remove_folder(&target).unwrap();
        }
    }
}
