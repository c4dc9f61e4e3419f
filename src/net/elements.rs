//! Elements of nftables' sets and maps over netlink: one message, one system call, no process.
//!
//! What is written stands in the kernel's `linux/netfilter/nf_tables.h`. A key that is a concatenation
//! has each part in registers of 4 bytes of its own.

use crate::netfilter::{
    self, ACKNOWLEDGE, ALIGNMENT, APPEND, CREATE, Channel, Message, NFTABLES, REQUEST, Refused,
};
use crate::nft::{Changes, TableName, Verb};
use crate::{Cidr, Error};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// One part of a key or of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// An address.
    Address(IpAddr),
    /// All addresses of a block; in sets of intervals alone.
    Block(Cidr),
    /// A protocol's number.
    Protocol(u8),
    /// A port.
    Port(u16),
    /// All ports from one to another, both included; in sets of intervals alone.
    Ports(u16, u16),
    /// A number in the machine's own byte order, such as what `numgen` gives or a mark.
    Number(u32),
}

/// What a map has under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Data.
    Fields(Vec<Field>),
    /// The verdict `goto CHAIN`.
    Goto(String),
    /// The verdict `jump CHAIN`.
    Jump(String),
    /// The verdict `accept`.
    Accept,
    /// The verdict `drop`.
    Drop,
}

/// An element of a set or, with a value, of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    key: Vec<Field>,
    value: Option<Value>,
}

impl Element {
    /// A set's element, or the key of a map's.
    pub fn of(key: impl Into<Vec<Field>>) -> Self {
        Self { key: key.into(), value: None }
    }

    /// A map's element.
    pub fn to(key: impl Into<Vec<Field>>, value: Value) -> Self {
        Self { key: key.into(), value: Some(value) }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Block(block) => block.fmt(f),
            Self::Protocol(6) => f.write_str("tcp"),
            Self::Protocol(17) => f.write_str("udp"),
            Self::Protocol(132) => f.write_str("sctp"),
            Self::Protocol(number) => number.fmt(f),
            Self::Port(port) => port.fmt(f),
            Self::Ports(first, last) => write!(f, "{first}-{last}"),
            Self::Number(number) => number.fmt(f),
        }
    }
}

fn write_fields(fields: &[Field], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            f.write_str(" . ")?;
        }
        fmt::Display::fmt(field, f)?;
    }
    Ok(())
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_fields(&self.key, f)?;
        let Some(value) = &self.value else { return Ok(()) };
        f.write_str(" : ")?;
        match value {
            Value::Fields(fields) => write_fields(fields, f),
            Value::Goto(chain) => write!(f, "goto {chain}"),
            Value::Jump(chain) => write!(f, "jump {chain}"),
            Value::Accept => f.write_str("accept"),
            Value::Drop => f.write_str("drop"),
        }
    }
}

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_ELEMENTS: u16 = NFTABLES << 8 | 12;
const DELETE_ELEMENTS: u16 = NFTABLES << 8 | 14;

/// The kernel's verdicts.
const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const JUMP: i32 = -3;
const GOTO: i32 = -4;

/// An attribute's length has 16 bits: so many elements of the longest kind fit into one.
const ELEMENTS_A_MESSAGE: usize = 256;

/// So many bytes go at once; more is a matter for `nft`'s text, where milliseconds do not count.
const MOST_BYTES: usize = 8 << 20;

/// The kernel's numbers of the families that tables of knarr's have.
const FAMILIES: [(&str, u8); 4] = [("inet", 1), ("ip", 2), ("arp", 3), ("ip6", 10)];

fn family(name: &str) -> u8 {
    FAMILIES.iter().find(|(own, _)| *own == name).map_or(1, |(_, number)| *number)
}

pub(crate) fn family_name(number: u8) -> Option<&'static str> {
    FAMILIES.iter().find(|(_, own)| *own == number).map(|(name, _)| *name)
}

fn field_bytes(field: Field, last: bool, into: &mut Vec<u8>) {
    match field {
        Field::Address(IpAddr::V4(address)) => into.extend(address.octets()),
        Field::Address(IpAddr::V6(address)) => into.extend(address.octets()),
        Field::Block(block) => {
            let address = if last { block.last() } else { block.address() };
            field_bytes(Field::Address(address), last, into);
        }
        Field::Protocol(number) => into.push(number),
        Field::Port(port) => into.extend(port.to_be_bytes()),
        Field::Ports(first, end) => into.extend(if last { end } else { first }.to_be_bytes()),
        Field::Number(number) => into.extend(number.to_ne_bytes()),
    }
}

/// Each part of a concatenation begins a register; what stands alone is as long as it is.
fn fields_bytes(fields: &[Field], last: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        field_bytes(*field, last, &mut bytes);
        if fields.len() > 1 {
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        }
    }
    bytes
}

fn write_value(message: &mut Message, value: &Value) {
    let (code, chain) = match value {
        Value::Fields(fields) => return message.attribute(1, &fields_bytes(fields, false)),
        Value::Goto(chain) => (GOTO, Some(chain)),
        Value::Jump(chain) => (JUMP, Some(chain)),
        Value::Accept => (ACCEPT, None),
        Value::Drop => (DROP, None),
    };
    message.nest(2, |verdict| {
        verdict.attribute(1, &code.to_be_bytes());
        if let Some(chain) = chain {
            verdict.text(2, chain);
        }
    });
}

fn write_element(message: &mut Message, element: &Element) {
    message.nest(1, |message| {
        message.nest(1, |key| key.attribute(1, &fields_bytes(&element.key, false)));
        if let Some(value) = &element.value {
            message.nest(2, |data| write_value(data, value));
        }
        if element.key.iter().any(|field| matches!(field, Field::Block(_) | Field::Ports(..))) {
            message.nest(10, |end| end.attribute(1, &fields_bytes(&element.key, true)));
        }
    });
}

/// The whole batch. The last message of it is acknowledged when all of it was done; each that was refused
/// is answered with an error.
fn batch(changes: &Changes) -> Vec<u8> {
    let mut message = Message::default();
    let subsystem = NFTABLES.to_be_bytes();
    let frame = [0, 0, subsystem[0], subsystem[1]];
    message.message((BATCH_BEGIN, REQUEST), 0, frame, |_| {});
    let steps = changes.steps.iter().flat_map(|(table, set, verb, elements)| {
        elements.chunks(ELEMENTS_A_MESSAGE).map(move |some| (*table, &**set, *verb, some))
    });
    let steps: Vec<(TableName, &str, Verb, &[Element])> = steps.collect();
    for (index, ((family_name, table), set, verb, elements)) in (1_u32..).zip(&steps) {
        let last = index as usize == steps.len();
        let kind = if *verb == Verb::Add { NEW_ELEMENTS } else { DELETE_ELEMENTS };
        let flags =
            REQUEST | if *verb == Verb::Add { CREATE } else { 0 } | if last { ACKNOWLEDGE } else { 0 };
        message.message((kind, flags), index, [family(family_name), 0, 0, 0], |message| {
            message.text(1, table);
            message.text(2, set);
            message.nest(3, |list| elements.iter().for_each(|element| write_element(list, element)));
        });
    }
    message.message((BATCH_END, REQUEST), 0, frame, |_| {});
    message.0
}

const NEW_RULE: u16 = NFTABLES << 8 | 6;
/// The first of the sixteen registers of 4 bytes.
const REGISTER: u32 = 8;

fn expression(list: &mut Message, name: &str, numbers: &[(u16, u32)], more: impl FnOnce(&mut Message)) {
    list.nest(1, |expression| {
        expression.text(1, name);
        expression.nest(2, |data| {
            numbers.iter().for_each(|(kind, number)| data.attribute(*kind, &number.to_be_bytes()));
            more(data);
        });
    });
}

/// What the connection's first packet had: the kernel's number for it, and where it goes.
fn original(list: &mut Message, what: u32, register: u32) {
    expression(list, "ct", &[(1, REGISTER + register), (2, what)], |data| data.attribute(3, &[0]));
}

/// Appends to a chain the rule that remembers which endpoint a client has been sent to over IPv6:
/// `update @MAP { CLIENT . FRONT . PROTOCOL . PORT timeout … : ENDPOINT . PORT }`. Key and value take 15
/// of the 16 registers there are, and nft, which gives each address a whole one of the old wide ones,
/// needs 20.
pub async fn remember_v6(
    table: &'static str,
    chain: String,
    map: &'static str,
    timeout: Duration,
) -> Result<(), Error> {
    const CLIENT: u32 = 21;
    const FRONT: u32 = 22;
    const FRONT_PORT: u32 = 12;
    const PROTOCOL: u32 = 16;
    const UPDATE: u32 = 1;
    let mut message = Message::default();
    let subsystem = NFTABLES.to_be_bytes();
    let frame = [0, 0, subsystem[0], subsystem[1]];
    message.message((BATCH_BEGIN, REQUEST), 0, frame, |_| {});
    let flags = REQUEST | CREATE | APPEND | ACKNOWLEDGE;
    message.message((NEW_RULE, flags), 1, [family("ip6"), 0, 0, 0], |message| {
        message.text(1, table);
        message.text(2, &chain);
        message.nest(4, |list| {
            original(list, CLIENT, 0);
            original(list, FRONT, 4);
            expression(list, "meta", &[(1, REGISTER + 8), (2, PROTOCOL)], |_| {});
            original(list, FRONT_PORT, 9);
            // The address in the network's header and the port in the transport's: base, offset, length.
            expression(list, "payload", &[(1, REGISTER + 10), (2, 1), (3, 24), (4, 16)], |_| {});
            expression(list, "payload", &[(1, REGISTER + 14), (2, 2), (3, 2), (4, 2)], |_| {});
            expression(list, "dynset", &[(3, UPDATE), (4, REGISTER), (5, REGISTER + 10)], |data| {
                data.text(1, map);
                let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                data.attribute(6, &milliseconds.to_be_bytes());
            });
        });
    });
    message.message((BATCH_END, REQUEST), 0, frame, |_| {});
    let refused = move |refused: Refused| refused.about(&format!("remembering clients in {chain}"));
    netfilter::run("remembering clients", move || netfilter::talk(&message.0, 1, |_| {}).map_err(refused))
        .await
}

/// Applies changes, whole or not at all.
pub(crate) async fn apply(changes: Changes, channel: &Channel) -> Result<(), Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let bytes = batch(&changes);
    if bytes.len() > MOST_BYTES {
        let mut transaction = crate::nft::Transaction::default();
        changes.write(&mut transaction);
        return crate::nft::apply(&transaction).await;
    }
    let messages = changes.steps.iter().map(|step| step.3.len().div_ceil(ELEMENTS_A_MESSAGE)).sum::<usize>();
    let last = u32::try_from(messages).unwrap_or(u32::MAX);
    let refused = |refused: Refused| {
        refused.about(&format!("changing elements of nftables ({})", step_of(&changes, refused.message)))
    };
    let channel = channel.clone();
    netfilter::run("changing elements of nftables", move || Ok(channel.talk(&bytes, last)))
        .await?
        .map_err(refused)
}

/// The set that a message was about.
fn step_of(changes: &Changes, sequence: u32) -> String {
    let mut before = 0;
    for ((family, table), set, verb, elements) in &changes.steps {
        before += elements.len().div_ceil(ELEMENTS_A_MESSAGE);
        if (1..=before).contains(&(sequence as usize)) {
            return format!("{verb:?} {family} {table} {set}");
        }
    }
    "all of them".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Field {
        Field::Address(text.parse().unwrap())
    }

    #[test]
    fn elements_read_as_nft_writes_them() {
        let key = [address("10.43.0.1"), Field::Protocol(6), Field::Port(80), Field::Number(2)];
        let to = Value::Fields(vec![address("10.42.0.1"), Field::Port(8080)]);
        assert_eq!(Element::to(key, to).to_string(), "10.43.0.1 . tcp . 80 . 2 : 10.42.0.1 . 8080");
        let block = Element::of([Field::Block("10.0.0.0/8".parse().unwrap()), Field::Ports(1, 9)]);
        assert_eq!(block.to_string(), "10.0.0.0/8 . 1-9");
        let verdict = Element::to([Field::Protocol(132)], Value::Goto("refuse".to_owned()));
        assert_eq!(verdict.to_string(), "sctp : goto refuse");
    }

    /// The registers that `nft --debug=netlink` shows for the same elements.
    #[test]
    fn keys_lie_in_registers() {
        let key = [address("10.43.0.1"), Field::Protocol(6), Field::Port(80), Field::Number(2)];
        let number = 2_u32.to_ne_bytes();
        let wanted = [&[10, 43, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0], &number[..]].concat();
        assert_eq!(fields_bytes(&key, false), wanted);
        let block = [Field::Block("10.0.0.0/8".parse().unwrap()), Field::Ports(80, 81)];
        assert_eq!(fields_bytes(&block, true), [10, 255, 255, 255, 0, 81, 0, 0]);
        assert_eq!(fields_bytes(&[Field::Port(80)], false), [0, 80]);
    }

    #[test]
    fn a_batch_is_framed_and_its_last_message_acknowledged() {
        let mut changes = Changes::default();
        for number in 0..300 {
            changes.push(("ip", "t"), "s", Verb::Add, Element::of([Field::Number(number)]));
        }
        let bytes = batch(&changes);
        let mut rest = &bytes[..];
        let mut seen = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            let half = |at: usize| u16::from_ne_bytes(rest[at..at + 2].try_into().unwrap());
            seen.push((half(4), half(6)));
            rest = &rest[length.next_multiple_of(4)..];
        }
        let (first, last) = (REQUEST | CREATE, REQUEST | CREATE | ACKNOWLEDGE);
        let wanted =
            [(BATCH_BEGIN, REQUEST), (NEW_ELEMENTS, first), (NEW_ELEMENTS, last), (BATCH_END, REQUEST)];
        assert_eq!(seen, wanted);
    }
}
