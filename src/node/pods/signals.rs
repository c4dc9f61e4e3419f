//! The signals that containers may ask to be stopped with (KEP-4960), as the API, CRI and Linux number them.

/// The API's names in CRI's order, which begins at 1, with Linux' numbers.
const NAMED: [(&str, u32); 34] = [
    ("SIGABRT", 6),
    ("SIGALRM", 14),
    ("SIGBUS", 7),
    ("SIGCHLD", 17),
    ("SIGCLD", 17),
    ("SIGCONT", 18),
    ("SIGFPE", 8),
    ("SIGHUP", 1),
    ("SIGILL", 4),
    ("SIGINT", 2),
    ("SIGIO", 29),
    ("SIGIOT", 6),
    ("SIGKILL", 9),
    ("SIGPIPE", 13),
    ("SIGPOLL", 29),
    ("SIGPROF", 27),
    ("SIGPWR", 30),
    ("SIGQUIT", 3),
    ("SIGSEGV", 11),
    ("SIGSTKFLT", 16),
    ("SIGSTOP", 19),
    ("SIGSYS", 31),
    ("SIGTERM", 15),
    ("SIGTRAP", 5),
    ("SIGTSTP", 20),
    ("SIGTTIN", 21),
    ("SIGTTOU", 22),
    ("SIGURG", 23),
    ("SIGUSR1", 10),
    ("SIGUSR2", 12),
    ("SIGVTALRM", 26),
    ("SIGWINCH", 28),
    ("SIGXCPU", 24),
    ("SIGXFSZ", 25),
];
/// The first and the last real-time signal, as C libraries have them.
const REAL_TIME: (u32, u32) = (34, 64);

/// The signal as Linux numbers it.
pub(crate) fn number(name: &str) -> Option<u32> {
    if let Some((_, number)) = NAMED.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let of = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign)?.parse::<u32>().ok(),
    };
    let from_first = name.strip_prefix("SIGRTMIN").and_then(|rest| Some(REAL_TIME.0 + of(rest, '+')?));
    let from_last = || REAL_TIME.1.checked_sub(of(name.strip_prefix("SIGRTMAX")?, '-')?);
    from_first.or_else(from_last).filter(|number| (REAL_TIME.0..=REAL_TIME.1).contains(number))
}

/// The signal as CRI numbers it; 0 leaves it to the runtime.
pub(crate) fn to_cri(name: &str) -> i32 {
    let named = NAMED.iter().position(|(known, _)| *known == name).and_then(|at| i32::try_from(at + 1).ok());
    let real_time = || i32::try_from(number(name)?).ok().map(|number| number + 1);
    named.or_else(real_time).unwrap_or(0)
}

/// The name of a signal that CRI tells; none where it tells none.
pub(crate) fn from_cri(number: i32) -> Option<String> {
    let at = usize::try_from(number).ok()?.checked_sub(1)?;
    if let Some((name, _)) = NAMED.get(at) {
        return Some((*name).to_owned());
    }
    match number - 35 {
        0 => Some("SIGRTMIN".to_owned()),
        plus @ 1..=15 => Some(format!("SIGRTMIN+{plus}")),
        30 => Some("SIGRTMAX".to_owned()),
        minus @ 16..=29 => Some(format!("SIGRTMAX-{}", 30 - minus)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbered_as_linux_and_as_cri_have_them() {
        let numbers = ["SIGUSR1", "SIGRTMIN", "SIGRTMIN+3", "SIGRTMAX", "SIGRTMAX-14", "SIGRTMAX-40", "USR1"];
        let linux = numbers.map(number);
        assert_eq!(linux, [Some(10), Some(34), Some(37), Some(64), Some(50), None, None]);
        assert_eq!(numbers.map(to_cri), [29, 35, 38, 65, 51, 0, 0]);
        for name in ["SIGABRT", "SIGXFSZ", "SIGRTMIN", "SIGRTMIN+15", "SIGRTMAX-14", "SIGRTMAX-1", "SIGRTMAX"]
        {
            assert_eq!(from_cri(to_cri(name)).as_deref(), Some(name));
        }
        assert_eq!(from_cri(0), None);
    }
}
