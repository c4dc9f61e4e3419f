//! Which versions of servers and nodes go together (Kubernetes' version skew policy).

/// How many minor versions a node may be behind its server.
const BEHIND: u32 = 3;

/// The minor version of `v1.36.2+knarr0.1`.
fn minor(version: &str) -> Option<u32> {
    let numbers = version.trim_start_matches('v');
    let mut parts = numbers.split('.');
    (parts.next()? == "1").then_some(())?;
    parts.next()?.parse().ok()
}

/// Why a node of a version cannot be one of a server's.
pub(super) fn check(node: &str, server: &str) -> Result<(), String> {
    let (Some(own), Some(wanted)) = (minor(node), minor(server)) else {
        return Err(format!(
            "the versions {node:?} of the machine and {server:?} of the server cannot be compared"
        ));
    };
    if own > wanted {
        return Err(format!(
            "this machine's knarr {node} is newer than the server's {server}: upgrade the server first"
        ));
    }
    if wanted - own > BEHIND {
        return Err(format!(
            "this machine's knarr {node} is more than {BEHIND} minor versions older than the server's {server}: upgrade it"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_may_be_three_versions_behind() {
        let server = "v1.36.2+knarr0.1";
        for fine in ["v1.36.9", "1.36.2+knarr0.1", "v1.33.0"] {
            assert_eq!(check(fine, server), Ok(()));
        }
        assert!(check("v1.37.0", server).unwrap_err().contains("upgrade the server first"));
        assert!(check("v1.32.9", server).unwrap_err().contains("older"));
        assert!(check("v2.0.0", server).unwrap_err().contains("cannot be compared"));
    }
}
