//! What single processes use: this one, and the runtime's.

use std::path::Path;

/// The kernel tells programs of processor time in hundredths of a second.
pub(super) const TICK_NS: u64 = 10_000_000;
/// Pages are told of in the machine's own size.
const PAGE: nix::unistd::SysconfVar = nix::unistd::SysconfVar::PAGE_SIZE;

/// A process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) cpu_ns: u64,
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) page_faults: u64,
    pub(crate) major_page_faults: u64,
    /// Since the machine started.
    pub(crate) started_ns: u64,
}

/// Reads `/proc/<pid>/stat`: after the name, which may hold anything, numbers by place.
fn parse(stat: &str, page_bytes: u64) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    // The first word is the third field of proc(5).
    let field = |number: usize| words.get(number - 3)?.parse::<u64>().ok();
    Some(Process {
        cpu_ns: (field(14)? + field(15)?) * TICK_NS,
        resident_bytes: field(24)? * page_bytes,
        virtual_bytes: field(23)?,
        page_faults: field(10)?,
        major_page_faults: field(12)?,
        started_ns: field(22)? * TICK_NS,
    })
}

impl Process {
    /// The process of this id, or `self`.
    pub(crate) fn of(pid: &str) -> Option<Self> {
        let page = nix::unistd::sysconf(PAGE).ok().flatten().and_then(|size| u64::try_from(size).ok());
        parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, page.unwrap_or(4096))
    }
}

/// Files that this process has open, and may have.
pub(crate) fn open_files() -> (u64, u64) {
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let most = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    (open, most.map_or(0, |(soft, _)| soft))
}

/// The process id in a file, where there is one.
pub(crate) fn pid_in(file: &Path) -> Option<String> {
    Some(std::fs::read_to_string(file).ok()?.trim().to_owned()).filter(|pid| !pid.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_parentheses() {
        let stat =
            "7 (a) b) S 1 7 7 0 -1 4194560 11 0 12 0 100 50 0 0 20 0 9 0 500 4096 3 18446744073709551615 1";
        let process = parse(stat, 4096).unwrap();
        assert_eq!((process.cpu_ns, process.resident_bytes), (1_500_000_000, 12_288));
        assert_eq!((process.page_faults, process.major_page_faults), (11, 12));
        assert_eq!((process.virtual_bytes, process.started_ns), (4096, 5_000_000_000));
    }
}
