//! OCI archives made of Debian's static busybox, whose httpd serves /www, and of the machine's curl: a
//! static glibc cannot resolve names.

use super::process::{command, run};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

const BUSYBOX: &str = "/bin/busybox";
const CURL: &str = "/usr/bin/curl";

/// Says its own name and its arguments.
const TOLD: &str = r#"#!/bin/sh
printf '[%s]' "$0" "$@"
"#;

/// The health service of gRPC on its standard streams, for one call: reads frames of HTTP/2 until the one that ends
/// the request, then says SERVING.
const GRPC_HEALTH: &str = r#"#!/bin/sh
take() { dd bs=1 count="$1" 2>/dev/null; }
take 24 > /dev/null
printf '\000\000\000\004\000\000\000\000\000'
kind=
while :; do
    set -- $(take 9 | od -An -v -tu1)
    [ $# = 9 ] || exit 0
    take $(($1 * 65536 + $2 * 256 + $3)) > /dev/null
    [ "$4$(($5 & 1))" = 01 ] && break
done
echo asked >> /tmp/asked
printf '\000\000\000\004\001\000\000\000\000'
printf '\000\000\040\001\004\000\000\000\001\210\000\014content-type\020application/grpc'
printf '\000\000\007\000\000\000\000\000\001\000\000\000\000\002\010\001'
printf '\000\000\017\001\005\000\000\000\001\000\013grpc-status\0010'
cat > /dev/null
"#;

/// An image in the making.
pub(crate) struct Image<'a> {
    pub(crate) name: &'a str,
    /// What /www/index.html says.
    pub(crate) page: &'a str,
    pub(crate) architecture: &'a str,
    /// How it runs where a pod does not say: Entrypoint, Cmd, User and such.
    pub(crate) config: Value,
    /// One more program, which is found in /bin.
    pub(crate) program: Option<&'a Path>,
}

/// Writes an image whose /www/index.html is `page`.
pub(crate) fn write(path: &Path, name: &str, page: &str) {
    Image::new(name, page).write(path);
}

impl<'a> Image<'a> {
    /// One for this machine, which runs a shell.
    pub(crate) fn new(name: &'a str, page: &'a str) -> Self {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({"Env": ["PATH=/bin:/usr/bin"], "Cmd": ["/bin/sh"]});
        Self { name, page, architecture, config, program: None }
    }

    /// What it is made of.
    pub(crate) fn parts(&self) -> Parts {
        let layer = self.layer();
        let config = json!({
            "architecture": self.architecture, "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        });
        Parts { layer, config, manifest: manifest.to_string().into_bytes() }
    }

    fn layer(&self) -> Vec<u8> {
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
        let mut libraries = libraries(Path::new(CURL));
        tar.file(&CURL[1..], 0o755, &fs::read(CURL).unwrap());
        if let Some(program) = self.program {
            libraries.extend(self::libraries(program));
            let name = program.file_name().unwrap().to_str().unwrap();
            tar.file(&format!("bin/{name}"), 0o755, &fs::read(program).unwrap());
        }
        for path in libraries {
            tar.file(path.trim_start_matches('/'), 0o755, &fs::read(&path).unwrap());
        }
        tar.file("bin/told", 0o755, TOLD.as_bytes());
        tar.entry("bin/told-otherwise", 0o777, Entry::Link("told"));
        tar.file("bin/grpc-health", 0o755, GRPC_HEALTH.as_bytes());
        tar.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
        tar.file("www/index.html", 0o644, self.page.as_bytes());
        tar.end()
    }

    /// Writes it as an OCI archive.
    pub(crate) fn write(&self, path: &Path) {
        fs::write(path, archive(self.name, &self.parts())).unwrap();
    }
}

/// The parts of an image.
pub(crate) struct Parts {
    pub(crate) layer: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

fn archive(name: &str, parts: &Parts) -> Vec<u8> {
    let Parts { layer, config, manifest } = parts;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", manifest);
    entry["annotations"] = json!({"io.containerd.image.name": name});
    let mut archive = Tar::default();
    archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    archive.file("index.json", 0o644, index.as_bytes());
    for blob in [layer, config, manifest] {
        archive.file(&format!("blobs/sha256/{}", &digest(blob)["sha256:".len()..]), 0o644, blob);
    }
    archive.end()
}

/// What a program loads.
fn libraries(program: &Path) -> BTreeSet<String> {
    let mut ldd = command("ldd");
    ldd.arg(program);
    let listed = run(ldd, "").ok();
    let libraries =
        listed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    libraries.map(str::to_owned).collect()
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
