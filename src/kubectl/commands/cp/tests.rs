use super::super::pack::pack;
use super::*;
use std::os::unix::fs::symlink;
use tokio::io::AsyncReadExt;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("knarr-cp-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

async fn packed(from: &Path, name: &str) -> Vec<u8> {
    let (near, mut far) = tokio::io::duplex(4096);
    let mut bytes = Vec::new();
    let (packed, read) = tokio::join!(pack(from, name, near), far.read_to_end(&mut bytes));
    packed.unwrap();
    read.unwrap();
    bytes
}

fn unpack(prefix: &str, to: &Path) -> Unpack {
    let from = Remote { namespace: String::new(), pod: "p".to_owned(), path: format!("/{prefix}") };
    Unpack::new(&from, &to.to_string_lossy(), "default")
}

#[tokio::test]
async fn what_is_packed_is_unpacked_in_any_pieces() {
    let folder = Folder::new("round");
    let from = folder.0.join("from");
    let long = "n".repeat(120);
    fs::create_dir_all(from.join("deep/er").join(&long)).unwrap();
    fs::create_dir_all(from.join("empty")).unwrap();
    fs::write(from.join("deep/er").join(&long).join("file"), vec![7; 1500]).unwrap();
    fs::write(from.join("nothing"), "").unwrap();
    fs::write(from.join("block"), vec![1; 512]).unwrap();
    symlink("/etc/passwd", from.join("link")).unwrap();
    let archive = packed(&from, "src").await;
    for size in [1, 511, 4096, archive.len()] {
        let to = folder.0.join(format!("to{size}"));
        let mut unpack = unpack("src", &to);
        archive.chunks(size).for_each(|piece| unpack.feed(piece).unwrap());
        assert!(unpack.is_whole());
        assert_eq!(unpack.bytes(), archive.len() as u64);
        assert_eq!(fs::read(to.join("deep/er").join(&long).join("file")).unwrap(), vec![7; 1500]);
        assert_eq!(fs::read(to.join("block")).unwrap(), vec![1; 512]);
        assert_eq!(fs::read(to.join("nothing")).unwrap(), b"");
        assert!(to.join("empty").is_dir());
        assert!(to.join("link").symlink_metadata().is_err(), "links are not made");
    }
}

#[tokio::test]
async fn nothing_leaves_the_destination() {
    let folder = Folder::new("leaves");
    let file = folder.0.join("file");
    fs::write(&file, "bad").unwrap();
    for name in ["src/../../evil", "src/x/../../../evil"] {
        let archive = packed(&file, name).await;
        let to = folder.0.join("in/to");
        let mut unpack = unpack("src", &to);
        unpack.feed(&archive).unwrap();
        assert!(!folder.0.join("in/evil").exists() && !folder.0.join("evil").exists());
    }
    for name in ["other", "srcx/y", "/src"] {
        let archive = packed(&file, name).await;
        let mut unpack = unpack("src", &folder.0.join("to"));
        let said = unpack.feed(&archive).unwrap_err().to_string();
        assert_eq!(said, "error: tar contents corrupted", "{name}");
        assert!(unpack.failed());
    }
}

#[tokio::test]
async fn one_file_is_the_destination_itself() {
    let folder = Folder::new("one");
    fs::write(folder.0.join("a"), "text").unwrap();
    let archive = packed(&folder.0.join("a"), "etc/name").await;
    let to = folder.0.join("b");
    let mut unpack = unpack("etc/name", &to);
    unpack.feed(&archive).unwrap();
    assert_eq!(fs::read_to_string(to).unwrap(), "text");
}

#[test]
fn what_is_no_archive_is_refused() {
    let mut unpack = unpack("src", Path::new("/nonexistent"));
    assert!(unpack.feed(&[b'x'; 512]).unwrap_err().to_string().contains("invalid tar header"));
    assert!(!unpack.is_whole());
}
