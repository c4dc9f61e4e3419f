//! The program that holds a pod's namespaces open, as an image made here: knarr has no registry to
//! take one from, and the program is a dozen system calls.
//!
//! It blocks SIGINT, SIGTERM and SIGCHLD and waits for them: the first two end it with code 0, the
//! third makes it reap every dead child, because with a shared process namespace it is process 1.

use super::archive::{Blob, tar_with_file};
use serde_json::json;

/// The image's name in the runtime's store.
pub(crate) const IMAGE: &str = "knarr.local/pause:1";

/// Bits of the signals waited for: SIGINT 2, SIGTERM 15, SIGCHLD 17.
const MASK: u64 = 1 << 1 | 1 << 14 | 1 << 16;
/// Where the file is mapped, whole.
const BASE: u64 = 0x40_0000;
/// Sizes of the ELF header and of the one program header.
const HEADERS: u64 = 64 + 56;

/// ELF machine numbers.
const X86_64: u16 = 62;
const AARCH64: u16 = 183;

/// x86-64: `rt_sigprocmask`, then a loop of `rt_sigtimedwait`, `wait4` or `exit`. Ends with the mask.
fn x86_64() -> Vec<u8> {
    let mut code: Vec<u8> = vec![
        0xb8, 14, 0, 0, 0, 0x31, 0xff, // mov eax, rt_sigprocmask; xor edi, edi (SIG_BLOCK)
        0x48, 0x8d, 0x35, 82, 0, 0, 0, // lea rsi, [rip + mask]
        0x31, 0xd2, 0x41, 0xba, 8, 0, 0, 0, 0x0f, 0x05, // xor edx, edx; mov r10d, 8; syscall
        0xb8, 128, 0, 0, 0, // wait: mov eax, rt_sigtimedwait
        0x48, 0x8d, 0x3d, 60, 0, 0, 0, // lea rdi, [rip + mask]
        0x31, 0xf6, 0x31, 0xd2, 0x41, 0xba, 8, 0, 0, 0, 0x0f, 0x05, // …, NULL, NULL, 8; syscall
        0x83, 0xf8, 17, 0x74, 13, // cmp eax, SIGCHLD; je reap
        0x85, 0xc0, 0x78, 0xdf, // test eax, eax; js wait (interrupted)
        0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05, // exit(0)
        0xb8, 61, 0, 0, 0, 0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, // reap: wait4(-1,
        0x31, 0xf6, 0xba, 1, 0, 0, 0, 0x45, 0x31, 0xd2, 0x0f, 0x05, //  NULL, WNOHANG, NULL)
        0x85, 0xc0, 0x7f, 0xe4, // test eax, eax; jg reap
        0xeb, 0xb8, // jmp wait
    ];
    code.extend(MASK.to_le_bytes());
    code
}

/// AArch64: the same, in words.
fn aarch64() -> Vec<u8> {
    let mov = |register: u32, value: u32| 0xd280_0000 | value << 5 | register;
    // The mask follows 27 instructions and, to be aligned, one word of nothing.
    let adr = |register: u32, at: u32| 0x1000_0000 | (28 - at) << 5 | register;
    let jump = |base: u32, shift: u32, width: u32, words: i32| {
        base | (words.cast_unsigned() & ((1 << width) - 1)) << shift
    };
    const SVC: u32 = 0xd400_0001;
    const CMP_W0: u32 = 0x7100_001f;
    let words = [
        [mov(8, 135), mov(0, 0), adr(1, 2), mov(2, 0), mov(3, 8), SVC].as_slice(), // rt_sigprocmask
        &[mov(8, 137), adr(0, 7), mov(1, 0), mov(2, 0), mov(3, 8), SVC],           // wait: rt_sigtimedwait
        &[CMP_W0 | 17 << 10, jump(0x5400_0000, 5, 19, 5)],                         // SIGCHLD: b.eq reap
        &[jump(0x37f8_0000, 5, 14, -8)],                                           // tbnz w0, #31, wait
        &[mov(8, 93), mov(0, 0), SVC],                                             // exit(0)
        &[mov(8, 260), 0x9280_0000, mov(1, 0), mov(2, 1), mov(3, 0), SVC], // reap: wait4(-1, 0, WNOHANG, 0)
        &[CMP_W0, jump(0x5400_000c, 5, 19, -7)],                           // b.gt reap
        &[jump(0x1400_0000, 0, 26, -20)],                                  // b wait
    ]
    .concat();
    let mut code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    code.resize(28 * 4, 0);
    code.extend(MASK.to_le_bytes());
    code
}

/// The executable for this machine: one read-and-execute segment, entered right after the headers.
fn program(machine: u16, code: &[u8]) -> Vec<u8> {
    let size = HEADERS + code.len() as u64;
    let mut elf: Vec<u8> = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut put = |bytes: &[u8]| elf.extend_from_slice(bytes);
    put(&2u16.to_le_bytes()); // an executable
    put(&machine.to_le_bytes());
    put(&1u32.to_le_bytes());
    put(&(BASE + HEADERS).to_le_bytes()); // entry
    put(&64u64.to_le_bytes()); // program headers follow
    put(&0u64.to_le_bytes()); // no sections
    put(&0u32.to_le_bytes());
    [64u16, 56, 1, 64, 0, 0].iter().for_each(|half| put(&half.to_le_bytes()));
    put(&1u32.to_le_bytes()); // PT_LOAD
    put(&5u32.to_le_bytes()); // readable, executable
    [0, BASE, BASE, size, size, 0x1000].iter().for_each(|word| put(&word.to_le_bytes()));
    put(code);
    elf
}

/// The image's blobs, children before parents; the last is the manifest.
pub(crate) fn image() -> Vec<Blob> {
    let (architecture, elf) = match std::env::consts::ARCH {
        "aarch64" => ("arm64", program(AARCH64, &aarch64())),
        _ => ("amd64", program(X86_64, &x86_64())),
    };
    let layer = Blob::new("application/vnd.oci.image.layer.v1.tar", tar_with_file("pause", 0o755, &elf));
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    });
    let config = Blob::new("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor(), "layers": [layer.descriptor()],
    });
    let mut manifest =
        Blob::new("application/vnd.oci.image.manifest.v1+json", manifest.to_string().into_bytes());
    manifest.children = vec![config.digest.clone(), layer.digest.clone()];
    vec![layer, config, manifest]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offset in `code` where the 64-bit mask lies and where relative references must arrive.
    #[test]
    fn references_arrive_at_the_mask_and_the_loops() {
        let code = x86_64();
        let mask = i32::try_from(code.len()).unwrap() - 8;
        let at32 = |at: usize| i32::try_from(at).unwrap();
        let rel32 = |at: usize| at32(at) + 4 + i32::from_le_bytes(code[at..at + 4].try_into().unwrap());
        let rel8 = |at: usize| at32(at) + 1 + i32::from(code[at].cast_signed());
        assert_eq!((rel32(10), rel32(32)), (mask, mask));
        let (wait, reap) = (24, 66);
        assert_eq!((rel8(52), rel8(56), rel8(93), rel8(95)), (reap, wait, reap, wait));
        let code = aarch64();
        let word = |at: usize| u32::from_le_bytes(code[at * 4..at * 4 + 4].try_into().unwrap());
        assert_eq!((code.len(), (word(2) >> 5 & 0xffff) + 2, (word(7) >> 5 & 0xffff) + 7), (120, 28, 28));
    }
}
