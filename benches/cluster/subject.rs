//! An API that load is put on, and what the kernel counts about the processes behind it.

use crate::Failure;
use crate::api::Api;
use std::path::{Path, PathBuf};

/// A running API: how to speak to it, and which processes together answer.
pub(crate) struct Subject {
    pub(crate) kubeconfig: String,
    pub(crate) processes: Vec<u32>,
}

impl Subject {
    /// A connection of its own.
    pub(crate) fn api(&self) -> Result<Api, Failure> {
        Api::new(&self.kubeconfig)
    }

    /// What its processes have used together.
    pub(crate) fn usage(&self) -> Result<Usage, Failure> {
        let each = self.processes.iter().map(|process| Usage::of(*process));
        each.reduce(|sum, one| Ok(sum?.and(one?))).unwrap_or_else(|| Err("nothing runs".into()))
    }
}

/// Counters of processes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// By the scheduler's clock: a minute of idling is less than the ticks of `stat` tell apart.
    pub(crate) cpu_ns: u64,
    pub(crate) pss_bytes: u64,
    pub(crate) rss_bytes: u64,
    pub(crate) write_bytes: u64,
    pub(crate) wchar: u64,
}

impl Usage {
    pub(crate) fn of(process: u32) -> Result<Self, Failure> {
        let process = PathBuf::from(format!("/proc/{process}"));
        let read = |name: &str| std::fs::read_to_string(process.join(name));
        let (io, smaps) = (read("io")?, read("smaps_rollup")?);
        Ok(Self {
            cpu_ns: cpu_ns(&process)?,
            pss_bytes: number_after(&smaps, "Pss:") * 1024,
            rss_bytes: number_after(&smaps, "Rss:") * 1024,
            write_bytes: number_after(&io, "write_bytes:"),
            wchar: number_after(&io, "wchar:"),
        })
    }

    fn and(self, other: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns + other.cpu_ns,
            pss_bytes: self.pss_bytes + other.pss_bytes,
            rss_bytes: self.rss_bytes + other.rss_bytes,
            write_bytes: self.write_bytes + other.write_bytes,
            wchar: self.wchar + other.wchar,
        }
    }
}

/// The scheduler's own count of what the threads there are now have used: finer than ticks.
fn cpu_ns(process: &Path) -> Result<u64, Failure> {
    let mut sum = 0;
    for thread in std::fs::read_dir(process.join("task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        sum += text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(sum)
}

fn number_after(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
