//! What went through the interfaces of a network namespace.

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) received: Flow,
    pub(crate) sent: Flow,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) errors: u64,
    pub(crate) dropped: u64,
}

/// Interfaces that only carry what others count: loopback, and the machine's ends of pods' links.
const UNCOUNTED: [&str; 5] = ["lo", "veth", "docker", "nerdctl", "knarr"];

/// Reads `/proc/<pid>/net/dev`.
pub(crate) fn parse(text: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let name = name.trim();
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let flow = |at: usize| {
            let [bytes, packets, errors, dropped] = *numbers.get(at..at + 4)? else { return None };
            Some(Flow { bytes, packets, errors, dropped })
        };
        let counted = !UNCOUNTED.iter().any(|prefix| name.starts_with(prefix));
        counted.then_some(Interface { name: name.to_owned(), received: flow(0)?, sent: flow(8)? })
    };
    text.lines().filter_map(interface).collect()
}

/// The interfaces that a process sees.
pub(crate) fn of_process(pid: &str) -> Vec<Interface> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_the_kernels() {
        let text = "Inter-|   Receive                 |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop\n    \
            lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n  \
            eth0: 2000      20    3    4    0     0          0         0     5000      50    6    7    0     0       0          0\n";
        let found = parse(text);
        let received = Flow { bytes: 2000, packets: 20, errors: 3, dropped: 4 };
        let sent = Flow { bytes: 5000, packets: 50, errors: 6, dropped: 7 };
        assert_eq!(found, [Interface { name: "eth0".to_owned(), received, sent }]);
    }
}
