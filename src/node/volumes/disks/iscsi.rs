//! iSCSI by the machine's own client, open-iscsi: its program `iscsiadm` finds targets and logs in, the kernel does the
//! rest. Secrets are written into the client's records and never given as arguments, which every process could read.

use super::{Way, others, scsi};
use crate::turns::Key;
use crate::{Context, Error, files};
use api::core::{ISCSIPersistentVolumeSource, ISCSIVolumeSource, Secret};
use base::{clock, process};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the client may take; a portal that is away takes long.
const LIMIT: Duration = Duration::from_secs(120);
/// How often is looked for a device after a login, and for what joins several of them, a second apart.
const LOOKS: u32 = 30;
const JOINED_LOOKS: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);
const BY_PATH: &str = "/dev/disk/by-path";
const SESSIONS: &str = "/sys/class/iscsi_session";
/// Where the client keeps its records, by distribution.
const RECORDS: [&str; 2] = ["/etc/iscsi", "/var/lib/iscsi"];
/// The client's codes: there is no such session; there is one already; there is no such record.
const NO_SESSION: i32 = 2;
const SESSION_EXISTS: i32 = 15;
const NO_RECORD: i32 = 21;
const PORT: &str = "3260";

/// Settings of the client, by its names for them.
pub(super) type Secrets = BTreeMap<String, String>;

/// A unit of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Target {
    /// With their ports.
    portals: Vec<String>,
    iqn: String,
    lun: i32,
    /// Of the client.
    interface: String,
    /// Another initiator's name, by which it logs in; then the interface is a copy of this one.
    initiator: Option<(String, String)>,
    discovery_chap: bool,
    session_chap: bool,
}

/// What a claimed volume says, as a pod's own would; only their Secrets are named otherwise.
pub(super) fn as_of_pod(claimed: &ISCSIPersistentVolumeSource) -> ISCSIVolumeSource {
    let ISCSIPersistentVolumeSource {
        chap_auth_discovery,
        chap_auth_session,
        fs_type,
        initiator_name,
        iqn,
        iscsi_interface,
        lun,
        portals,
        read_only,
        secret_ref: _,
        target_portal,
    } = claimed.clone();
    ISCSIVolumeSource {
        chap_auth_discovery,
        chap_auth_session,
        fs_type,
        initiator_name,
        iqn,
        iscsi_interface,
        lun,
        portals,
        read_only,
        secret_ref: None,
        target_portal,
    }
}

fn with_port(portal: &str) -> String {
    let has_port = portal.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
    if has_port { portal.to_owned() } else { format!("{portal}:{PORT}") }
}

impl Target {
    pub(super) fn of(source: &ISCSIVolumeSource, volume: &str) -> Result<Self, Error> {
        let mut portals: Vec<String> = Vec::new();
        for portal in [&source.target_portal].into_iter().chain(source.portals.iter().flatten()) {
            let portal = with_port(portal);
            if !portals.contains(&portal) {
                portals.push(portal);
            }
        }
        let set = |text: Option<&String>| text.filter(|text| !text.is_empty()).cloned();
        let named = set(source.iscsi_interface.as_ref()).unwrap_or_else(|| "default".to_owned());
        let initiator = set(source.initiator_name.as_ref());
        let words = portals.iter().chain([&named]).chain(&initiator).map(String::as_str);
        // They become parts of paths, and lines of records.
        let is_odd = |word: &str| {
            word.is_empty() || word.contains(|it: char| it == '/' || it.is_control() || it.is_whitespace())
        };
        if let Some(odd) = words.chain([source.iqn.as_str()]).find(|word| is_odd(word)) {
            return Err(Error::Volume(format!("iscsi: {odd:?} is not a name")));
        }
        let copy = |_: &String| format!("{}:{volume}", portals[0]);
        Ok(Self {
            interface: initiator.as_ref().map_or_else(|| named.clone(), copy),
            initiator: initiator.map(|initiator| (named, initiator)),
            portals,
            iqn: source.iqn.clone(),
            lun: source.lun,
            discovery_chap: source.chap_auth_discovery == Some(true),
            session_chap: source.chap_auth_session == Some(true),
        })
    }

    /// Whose turn it is at the target: several disks may have one.
    fn key(&self) -> Key {
        ("iscsi target".to_owned(), self.iqn.clone())
    }

    pub(super) fn name(&self) -> String {
        format!("iface-{}-{}-{}-lun-{}", self.interface, self.portals[0], self.iqn, self.lun)
    }

    /// Where its device appears by one of its portals; over other transports than TCP only the end is known.
    fn link(&self, portal: &str) -> String {
        let address = portal.replace(['[', ']'], "");
        format!("ip-{address}-iscsi-{}-lun-{}", self.iqn, self.lun)
    }

    fn find(&self, portal: &str) -> Option<PathBuf> {
        let (own, folder) = (self.link(portal), Path::new(BY_PATH));
        if folder.join(&own).exists() {
            return Some(folder.join(own));
        }
        let mut entries = std::fs::read_dir(folder).ok()?.flatten();
        let is_own = |link: &str| link.starts_with("pci-") && link.ends_with(&format!("-{own}"));
        entries.find(|entry| is_own(&entry.file_name().to_string_lossy())).map(|entry| entry.path())
    }

    /// Brings it to this machine by as many portals as there are; gives its device.
    pub(super) async fn attach(&self, context: &Context, secrets: &Secrets) -> Result<PathBuf, Error> {
        let _turn = context.volumes.disks.take(&self.key()).await;
        self.copy_interface().await?;
        let (mut devices, mut wrong) = (Vec::new(), None);
        for portal in &self.portals {
            match self.log_in(portal, secrets).await {
                Ok(device) => devices.push(device),
                Err(error) => wrong = Some(error),
            }
        }
        if devices.is_empty() {
            let why = wrong.map(|error| error.to_string()).unwrap_or_default();
            return Err(Error::Volume(format!(
                "failed to get any path for iscsi disk, last err seen:\n{why}"
            )));
        }
        // A disk with several portals is waited for until its paths are joined.
        let looks = if self.portals.len() > 1 { JOINED_LOOKS } else { 1 };
        for look in 0..looks {
            if look > 0 {
                clock::sleep(SECOND).await;
            }
            if let Some(joined) = devices.iter().find_map(|device| scsi::joined(device)) {
                return Ok(joined);
            }
        }
        Ok(devices.swap_remove(0))
    }

    async fn log_in(&self, portal: &str, secrets: &Secrets) -> Result<PathBuf, Error> {
        if let Some(device) = self.find(portal) {
            return Ok(device);
        }
        let discovery = ["-m", "discoverydb", "-t", "sendtargets", "-p", portal, "-I", &self.interface];
        client(&discovery, &["-o", "new"], &[]).await?;
        if self.discovery_chap {
            set(&sought(portal), "discovery.sendtargets.auth.", secrets)?;
        }
        client(&discovery, &["--discover"], &[]).await.map_err(|error| {
            Error::Volume(format!("iscsi: failed to sendtargets to portal {portal} output: {error}"))
        })?;
        let node = ["-m", "node", "-p", portal, "-T", &self.iqn, "-I", &self.interface];
        // Not every unit of the target is looked for, and none at the next start of the machine.
        for (name, value) in [("node.session.scan", "manual"), ("node.startup", "manual")] {
            if let Err(error) = client(&node, &["-o", "update", "-n", name, "-v", value], &[]).await {
                tracing::debug!(%error, "the client does not know a setting");
            }
        }
        if self.session_chap {
            set(&self.records(portal), "node.session.auth.", secrets)?;
        }
        client(&node, &["--login"], &[SESSION_EXISTS])
            .await
            .map_err(|error| Error::Volume(format!("iscsi: failed to attach disk: Error: {error}")))?;
        for host in self.hosts() {
            scsi::scan(&host, &format!("0 0 {}", self.lun)).await?;
        }
        for _ in 0..LOOKS {
            if let Some(device) = self.find(portal) {
                return Ok(device);
            }
            clock::sleep(SECOND).await;
        }
        let at = Path::new(BY_PATH).join(self.link(portal));
        Err(Error::Volume(format!("Timed out waiting for device at path {} after {LOOKS}s", at.display())))
    }

    /// The hosts of its sessions, as `host3`.
    fn hosts(&self) -> Vec<String> {
        let sessions = std::fs::read_dir(SESSIONS).into_iter().flatten().flatten();
        let own = sessions.filter(|session| {
            let name = std::fs::read_to_string(session.path().join("targetname")).unwrap_or_default();
            name.trim() == self.iqn
        });
        let host = |path: PathBuf| {
            let real = path.canonicalize().ok()?;
            let mut parts = real.iter().map(|part| part.to_string_lossy().into_owned());
            parts.find(|part| part.strip_prefix("host").is_some_and(|rest| rest.parse::<u32>().is_ok()))
        };
        own.filter_map(|session| host(session.path())).collect()
    }

    /// The client's records of the target, of which there is one for every portal and interface.
    fn records(&self, portal: &str) -> Vec<PathBuf> {
        let (address, port) = parts(portal);
        let of_target =
            RECORDS.iter().flat_map(|root| files::list(&Path::new(root).join("nodes").join(&self.iqn)));
        let of_portal = of_target.filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name == format!("{address},{port}") || name.starts_with(&format!("{address},{port},"))
        });
        of_portal.map(|path| if path.is_dir() { path.join(&self.interface) } else { path }).collect()
    }

    /// Makes the interface that has the volume's own name of the initiator.
    async fn copy_interface(&self) -> Result<(), Error> {
        let Some((original, initiator)) = &self.initiator else { return Ok(()) };
        let shown = client(&["-m", "iface", "-I", original], &["-o", "show"], &[]).await?;
        let mut settings = settings(&shown);
        settings.insert("iface.initiatorname".to_owned(), initiator.clone());
        let own = ["-m", "iface", "-I", &self.interface];
        client(&own, &["-o", "new"], &[SESSION_EXISTS]).await?;
        for (name, value) in &settings {
            client(&own, &["-o", "update", "-n", name, "-v", value], &[SESSION_EXISTS]).await?;
        }
        Ok(())
    }

    /// Takes it off this machine; the last unit of a target logs out.
    pub(super) async fn detach(&self, context: &Context, folder: &Path) -> Result<(), Error> {
        let _turn = context.volumes.disks.take(&self.key()).await;
        for device in self.portals.iter().filter_map(|portal| self.find(portal)) {
            scsi::remove(&device).await;
        }
        let shares = |other: &Way| match other {
            Way::Iscsi(other) => other.iqn == self.iqn && other.interface == self.interface,
            _ => false,
        };
        // In the target's turn: none of them logs in between this look and the end.
        if others(context, "iscsi", folder).iter().any(shares) {
            return Ok(());
        }
        for portal in &self.portals {
            let node = ["-m", "node", "-p", portal, "-T", &self.iqn, "-I", &self.interface];
            client(&node, &["--logout"], &[NO_RECORD, NO_SESSION]).await?;
            client(&node, &["-o", "delete"], &[NO_RECORD, NO_SESSION]).await?;
        }
        if self.initiator.is_some() {
            client(&["-m", "iface", "-I", &self.interface], &["-o", "delete"], &[NO_RECORD, NO_SESSION])
                .await?;
        }
        Ok(())
    }
}

/// A portal's address, without brackets, and its port.
fn parts(portal: &str) -> (String, &str) {
    let (address, port) = portal.rsplit_once(':').unwrap_or((portal, PORT));
    (address.trim_matches(['[', ']']).to_owned(), port)
}

/// The client's records of looking for targets at a portal.
fn sought(portal: &str) -> Vec<PathBuf> {
    let (address, port) = parts(portal);
    let file = |root: &&str| {
        Path::new(root).join("send_targets").join(format!("{address},{port}")).join("st_config")
    };
    RECORDS.iter().map(file).filter(|path| path.exists()).collect()
}

/// What `iscsiadm -o show` says: names and values, without what is empty and the interface's own name.
fn settings(shown: &str) -> BTreeMap<String, String> {
    let pairs = shown.lines().filter_map(|line| line.split_once(" = "));
    let kept = pairs.filter(|(name, value)| {
        name.starts_with("iface.") && *name != "iface.iscsi_ifacename" && *value != "<empty>"
    });
    kept.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Writes secrets into the client's records, and that they are asked for. Another process that looks at the arguments of
/// the client would see them there.
fn set(records: &[PathBuf], prefix: &str, secrets: &Secrets) -> Result<(), Error> {
    if records.is_empty() {
        let places = RECORDS.join(" and ");
        return Err(Error::Volume(format!(
            "iscsi: open-iscsi has no record to write a secret into in {places}"
        )));
    }
    let mut values: Vec<(String, &str)> = vec![(format!("{prefix}authmethod"), "CHAP")];
    for name in ["username", "password", "username_in", "password_in"] {
        let name = format!("{prefix}{name}");
        if let Some(value) = secrets.get(&name).filter(|value| !value.is_empty()) {
            values.push((name, value));
        }
    }
    for path in records {
        let text = std::fs::read_to_string(path).map_err(files::at(path))?;
        files::write(path, with(&text, &values).as_bytes(), 0o600)?;
    }
    Ok(())
}

/// A record with other values.
fn with(record: &str, values: &[(String, &str)]) -> String {
    let is_replaced = |line: &str| {
        let name = line.split(" = ").next().unwrap_or_default();
        values.iter().any(|(own, _)| own == name)
    };
    let (mut text, mut added) = (String::new(), false);
    let mut add = |text: &mut String| {
        if !std::mem::replace(&mut added, true) {
            values.iter().for_each(|(name, value)| text.push_str(&format!("{name} = {value}\n")));
        }
    };
    for line in record.lines().filter(|line| !is_replaced(line)) {
        if line.starts_with("# END RECORD") {
            add(&mut text);
        }
        text.push_str(line);
        text.push('\n');
    }
    add(&mut text);
    text
}

/// The settings in a Secret.
pub(super) async fn secrets(context: &Context, named: Option<&(String, String)>) -> Result<Secrets, Error> {
    let Some((namespace, name)) = named else { return Ok(Secrets::new()) };
    let found = context.client.get::<Secret>(namespace, name).await;
    let secret = found.map_err(|error| {
        Error::Volume(format!("couldn't get secret {namespace}/{name} for iscsi volume: {error}"))
    })?;
    let text = |(key, value): (String, api::ByteString)| {
        let value = String::from_utf8_lossy(&value.0).trim_end_matches('\n').to_owned();
        if value.chars().any(char::is_control) {
            return Err(Error::Volume(format!(
                "iscsi: the value of {key} in secret {namespace}/{name} is not a line"
            )));
        }
        Ok((key, value))
    };
    secret.data.unwrap_or_default().into_iter().map(text).collect()
}

/// Runs the client; gives what it said. Some of its codes are no errors.
async fn client(what: &[&str], then: &[&str], fine: &[i32]) -> Result<String, Error> {
    let mut command = process::command("iscsiadm");
    command.args(what).args(then);
    let output = process::run(command, b"", LIMIT).await.map_err(|error| match error {
        process::Error::Start { .. } => Error::Volume(
            "iscsi: iscsiadm is not installed on this node (its package is open-iscsi or iscsi-initiator-utils)"
                .to_owned(),
        ),
        other => Error::Volume(other.to_string()),
    })?;
    if output.status.success() || output.status.code().is_some_and(|code| fine.contains(&code)) {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(Error::Volume(format!("{} ({})", String::from_utf8_lossy(&said).trim(), output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn target(more: serde_json::Value) -> Result<Target, String> {
        let mut source = json!({"targetPortal": "10.0.0.1", "iqn": "iqn.2001-04.com.example:disk", "lun": 3});
        source.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Target::of(&serde_json::from_value(source).unwrap(), "v").map_err(|error| error.to_string())
    }

    #[test]
    fn targets_are_named_and_lead_nowhere_else() {
        let plain = target(json!({"portals": ["10.0.0.1:3260", "[fd00::1]"]})).unwrap();
        assert_eq!(plain.portals, ["10.0.0.1:3260", "[fd00::1]:3260"]);
        assert_eq!(plain.name(), "iface-default-10.0.0.1:3260-iqn.2001-04.com.example:disk-lun-3");
        assert_eq!(plain.link("[fd00::1]:3260"), "ip-fd00::1:3260-iscsi-iqn.2001-04.com.example:disk-lun-3");
        assert_eq!(parts("[fd00::1]:3261"), ("fd00::1".to_owned(), "3261"));
        let own = target(json!({"initiatorName": "iqn.mine", "iscsiInterface": "iface0"})).unwrap();
        assert_eq!(own.interface, "10.0.0.1:3260:v");
        assert_eq!(own.initiator, Some(("iface0".to_owned(), "iqn.mine".to_owned())));
        for odd in [json!({"iqn": "iqn.2001-04.com.example:../../sda"}), json!({"targetPortal": "a\nb"})] {
            assert!(target(odd).unwrap_err().ends_with("is not a name"));
        }
    }

    #[test]
    fn secrets_become_lines_of_records() {
        let record =
            "# BEGIN RECORD 2.1.8\nnode.name = x\nnode.session.auth.authmethod = None\n# END RECORD\n";
        let values = [
            ("node.session.auth.authmethod".to_owned(), "CHAP"),
            ("node.session.auth.password".to_owned(), "s = t"),
        ];
        let written = "# BEGIN RECORD 2.1.8\nnode.name = x\nnode.session.auth.authmethod = CHAP\n\
                       node.session.auth.password = s = t\n# END RECORD\n";
        assert_eq!(with(record, &values), written);
        assert_eq!(with(written, &values), written);
        let shown = "# BEGIN RECORD\niface.iscsi_ifacename = default\niface.net_ifacename = <empty>\niface.transport_name = tcp\n";
        assert_eq!(settings(shown), BTreeMap::from([("iface.transport_name".to_owned(), "tcp".to_owned())]));
    }
}
