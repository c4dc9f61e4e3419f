//! The kernel's table of connections: which flows there are and where they were translated to.

use crate::Error;
use crate::netfilter::{self, ACKNOWLEDGE, DUMP, Message, REQUEST, attribute};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address with a port.
pub type Place = (IpAddr, u16);

/// A flow, as its client sees it and as it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// From where it was sent.
    pub from: Place,
    /// To where it was sent.
    pub to: Place,
    /// Who answers: another than `to` where it was translated.
    pub answered_by: Place,
    /// Its first tuple as the kernel writes it, by which it is deleted.
    tuple: Vec<u8>,
}

/// The number of connection tracking among netfilter's subsystems.
const CONNTRACK: u16 = 1 << 8;
const GET: u16 = CONNTRACK | 1;
const DELETE: u16 = CONNTRACK | 2;

/// So many flows are looked at; a table that is larger belongs to a machine that does other work.
const MOST_FLOWS: usize = 1 << 20;

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// Source, destination and protocol of a tuple.
fn tuple(bytes: &[u8]) -> Option<(Place, Place, u8)> {
    let (ip, proto) = (attribute(bytes, 1)?, attribute(bytes, 2)?);
    let either = |v4, v6| address(attribute(ip, v4).or_else(|| attribute(ip, v6))?);
    let port = |kind| Some(u16::from_be_bytes(attribute(proto, kind)?.try_into().ok()?));
    let protocol = *attribute(proto, 1)?.first()?;
    Some(((either(1, 3)?, port(2)?), (either(2, 4)?, port(3)?), protocol))
}

fn flow(body: &[u8], wanted: u8) -> Option<Flow> {
    let attributes = body.get(4..)?;
    let original = attribute(attributes, 1)?;
    let (from, to, protocol) = tuple(original)?;
    let (answered_by, ..) = tuple(attribute(attributes, 2)?)?;
    (protocol == wanted).then(|| Flow { from, to, answered_by, tuple: original.to_vec() })
}

fn family(is_v4: bool) -> u8 {
    if is_v4 { 2 } else { 10 }
}

/// All flows of a protocol, by its number, and of a family of addresses.
pub async fn flows(protocol: u8, is_v4: bool) -> Result<Vec<Flow>, Error> {
    netfilter::run("listing connections", move || {
        let mut message = Message::default();
        message.message((GET, REQUEST | DUMP), 1, [family(is_v4), 0, 0, 0], |_| {});
        let mut found = Vec::new();
        let hear = |(_, _, body): netfilter::Answer<'_>| {
            if found.len() < MOST_FLOWS {
                found.extend(flow(body, protocol));
            }
        };
        netfilter::talk(&message.0, 1, hear).map_err(|refused| refused.about("listing connections"))?;
        Ok(found)
    })
    .await
}

/// Deletes flows: their next packets are translated anew. One that is gone by now is no error.
pub async fn forget(flows: Vec<Flow>) -> Result<(), Error> {
    netfilter::run("deleting connections", move || {
        for flow in flows {
            let mut message = Message::default();
            let header = [family(flow.to.0.is_ipv4()), 0, 0, 0];
            message.message((DELETE, REQUEST | ACKNOWLEDGE), 1, header, |message| {
                message.nest(1, |tuple| tuple.0.extend(&flow.tuple));
            });
            match netfilter::talk(&message.0, 1, |_| {}) {
                Err(refused) if refused.errno != nix::errno::Errno::ENOENT => {
                    return Err(refused.about("deleting a connection"));
                }
                _ => {}
            }
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_read_from_their_tuples() {
        let mut message = Message::default();
        let tuple = |message: &mut Message, kind: u16, [from, to]: [[u8; 4]; 2], ports: [u16; 2]| {
            message.nest(kind, |tuple| {
                tuple.nest(1, |ip| {
                    ip.attribute(1, &from);
                    ip.attribute(2, &to);
                });
                tuple.nest(2, |proto| {
                    proto.attribute(1, &[17]);
                    proto.attribute(2, &ports[0].to_be_bytes());
                    proto.attribute(3, &ports[1].to_be_bytes());
                });
            });
        };
        message.0.extend([2, 0, 0, 0]);
        tuple(&mut message, 1, [[10, 42, 0, 2], [10, 43, 0, 10]], [40_000, 53]);
        tuple(&mut message, 2, [[10, 42, 0, 9], [10, 42, 0, 2]], [5353, 40_000]);
        let read = flow(&message.0, 17).unwrap();
        assert_eq!(read.from, ("10.42.0.2".parse().unwrap(), 40_000));
        assert_eq!(read.to, ("10.43.0.10".parse().unwrap(), 53));
        assert_eq!(read.answered_by, ("10.42.0.9".parse().unwrap(), 5353));
        assert_eq!(flow(&message.0, 6), None);
        assert_eq!(flow(&message.0[..20], 17), None);
    }
}
