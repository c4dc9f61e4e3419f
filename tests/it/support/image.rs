//! OCI archives made of Debian's static busybox, whose httpd serves /www, and of the machine's curl: a
//! static glibc cannot resolve names.

use super::process::{command, run};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

const BUSYBOX: &str = "/bin/busybox";
const CURL: &str = "/usr/bin/curl";

/// The parts of an image.
pub(crate) struct Parts {
    pub(crate) layer: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

/// An image whose /www/index.html is `page`.
pub(crate) fn parts(page: &str) -> Parts {
    let layer = layer(page);
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": ["PATH=/bin:/usr/bin"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    Parts { layer, config, manifest }
}

/// Writes an image whose /www/index.html is `page`.
pub(crate) fn write(path: &Path, name: &str, page: &str) {
    let Parts { layer, config, manifest } = parts(page);
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({"io.containerd.image.name": name});
    let mut archive = Tar::default();
    archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    archive.file("index.json", 0o644, index.as_bytes());
    for blob in [&layer, &config, &manifest] {
        archive.file(&format!("blobs/sha256/{}", &digest(blob)["sha256:".len()..]), 0o644, blob);
    }
    fs::write(path, archive.end()).unwrap();
}

fn layer(page: &str) -> Vec<u8> {
    let mut tar = Tar::default();
    for folder in ["bin", "etc", "www", "dev", "proc", "sys", "root"] {
        tar.entry(folder, 0o755, Entry::Folder);
    }
    tar.entry("tmp", 0o1777, Entry::Folder);
    tar.file("bin/busybox", 0o755, &fs::read(BUSYBOX).unwrap());
    let mut list = command(BUSYBOX);
    list.arg("--list");
    for applet in run(list, "").ok().split_whitespace().filter(|name| *name != "busybox") {
        tar.entry(&format!("bin/{applet}"), 0o777, Entry::Link("busybox"));
    }
    for path in curl() {
        tar.file(path.trim_start_matches('/'), 0o755, &fs::read(&path).unwrap());
    }
    tar.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
    tar.file("www/index.html", 0o644, page.as_bytes());
    tar.end()
}

/// curl and what it loads.
fn curl() -> Vec<String> {
    let mut ldd = command("ldd");
    ldd.arg(CURL);
    let listed = run(ldd, "").ok();
    let libraries =
        listed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    libraries.map(str::to_owned).chain([CURL.to_owned()]).collect()
}

fn descriptor(kind: &str, blob: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(blob), "size": blob.len()})
}

pub(crate) fn digest(blob: &[u8]) -> String {
    let mut sum = command("sha256sum");
    let mut child = sum.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().expect("it is piped").write_all(blob).unwrap();
    let output = child.wait_with_output().unwrap();
    format!("sha256:{}", &String::from_utf8(output.stdout).unwrap()[..64])
}

/// What a tar archive holds under a name.
enum Entry<'a> {
    File(&'a [u8]),
    Folder,
    Link(&'a str),
}

/// A tar archive (POSIX ustar) in the making.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entry(name, mode, Entry::File(content));
    }

    fn entry(&mut self, name: &str, mode: u32, entry: Entry) {
        let (kind, link, content) = match entry {
            Entry::File(content) => (b'0', "", content),
            Entry::Link(to) => (b'2', to, &[][..]),
            Entry::Folder => (b'5', "", &[][..]),
        };
        let mut head = [0u8; 512];
        let mut put = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", content.len()));
        put(136, "00000000000");
        put(148, "        ");
        put(157, link);
        put(257, "ustar");
        put(263, "00");
        head[156] = kind;
        let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
        head[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend_from_slice(&head);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
