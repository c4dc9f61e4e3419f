//! What API servers say of themselves in the Leases by which they know of each other (KEP-1965).

use crate::Object;
use crate::coordination::Lease;
use std::net::IpAddr;

/// The label of such Leases, and its value.
pub const IDENTITY: (&str, &str) = ("apiserver.kubernetes.io/identity", "kube-apiserver");
/// Where the server is reached: addresses, with commas between.
pub const ADDRESSES: &str = "knarr.io/api-addresses";
/// And the port there.
pub const PORT: &str = "knarr.io/api-port";

/// Whether a Lease is an API server's.
pub fn is_identity(lease: &Lease) -> bool {
    lease.labels().get(IDENTITY.0).is_some_and(|value| value == IDENTITY.1)
}

/// Where the server of a Lease is reached, if it says so.
pub fn place(lease: &Lease) -> Option<(Vec<IpAddr>, u16)> {
    let said = |name: &str| lease.annotations().get(name);
    let addresses = said(ADDRESSES)?.split(',').map(str::parse).collect::<Result<Vec<_>, _>>().ok()?;
    Some((addresses, said(PORT)?.parse().ok()?))
}

/// The annotations of a server that is reached there.
pub fn annotations(addresses: &[IpAddr], port: u16) -> [(&'static str, String); 2] {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    [(ADDRESSES, texts.join(",")), (PORT, port.to_string())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_said_is_understood() {
        let addresses = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        let said: std::collections::BTreeMap<_, _> = annotations(&addresses, 6443).into_iter().collect();
        let read = |annotations: serde_json::Value| {
            place(&serde_json::from_value(json!({"metadata": {"annotations": annotations}})).unwrap())
        };
        assert_eq!(read(json!(said)), Some((addresses.to_vec(), 6443)));
        assert_eq!(read(json!({})), None);
        assert_eq!(read(json!({ADDRESSES: "here", PORT: "6443"})), None);
    }
}
