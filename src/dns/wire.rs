//! Messages as bytes: reads queries, reads and keeps answers, writes answers to queries.
//!
//! An answer is kept as the records that follow the question. Names in it may point into the question,
//! whose length is the same for every way to write the name, so that the client's own letters stand
//! in front of an answer that was made once (names are compared without case and answered with it).

mod writer;

pub(crate) use writer::{Owner, Writer};

use crate::name::Name;
use std::ops::Range;

/// What passes every link without fragments (DNS flag day 2020).
pub(crate) const UDP_PAYLOAD: u16 = 1_232;

/// What a client takes that does not say otherwise.
pub(crate) const PLAIN_UDP_PAYLOAD: u16 = 512;

/// The length of a message's head.
pub(crate) const HEADER: usize = 12;

/// So many records are looked at, in a query and in an answer; 64 KiB hold no more.
const RECORDS: usize = 6_000;

/// Numbers of record types that something here depends on.
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const HINFO: u16 = 13;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const ANY: u16 = 255;
}

/// Numbers of response codes.
pub(crate) mod code {
    pub(crate) const NO_ERROR: u16 = 0;
    pub(crate) const FORM_ERR: u16 = 1;
    pub(crate) const SERV_FAIL: u16 = 2;
    pub(crate) const NX_DOMAIN: u16 = 3;
    pub(crate) const NOT_IMP: u16 = 4;
    pub(crate) const REFUSED: u16 = 5;
    pub(crate) const BAD_VERS: u16 = 16;
}

const CLASS_IN: u16 = 1;

/// Bits of the head's second word.
const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;
const AUTHENTIC: u16 = 0x0020;
const UNCHECKED: u16 = 0x0010;

/// What a client says about itself beyond the plain protocol (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edns {
    payload: u16,
    version: u8,
    dnssec_ok: bool,
}

/// One question.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    id: u16,
    flags: u16,
    pub(crate) name: Name,
    /// The name in the client's letters.
    written: [u8; 255],
    pub(crate) kind: u16,
    class: u16,
    edns: Option<Edns>,
}

/// Why there is no query in a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Nobody asks: noise, or an answer.
    Noise,
    /// The head of an answer that says what is wrong.
    Wrong([u8; HEADER]),
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

impl Query {
    /// Asks for a name as a client would, for others than clients.
    pub(crate) fn of(name: Name, kind: u16) -> Self {
        let mut written = [0; 255];
        written[..name.len()].copy_from_slice(name.as_bytes());
        Self { id: 0, flags: RECURSION_DESIRED, name, written, kind, class: CLASS_IN, edns: None }
    }

    pub(crate) fn read(packet: &[u8]) -> Result<Self, Unreadable> {
        let head: &[u8; HEADER] = packet.first_chunk().ok_or(Unreadable::Noise)?;
        let number = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let (id, flags) = (number(0), number(2));
        if flags & RESPONSE != 0 {
            return Err(Unreadable::Noise);
        }
        let wrong = |code: u16| {
            let flags = RESPONSE | flags & (OPCODE | RECURSION_DESIRED) | RECURSION_AVAILABLE | code;
            let mut head = [0; HEADER];
            head[..2].copy_from_slice(&id.to_be_bytes());
            head[2..4].copy_from_slice(&flags.to_be_bytes());
            Unreadable::Wrong(head)
        };
        if flags & OPCODE != 0 {
            return Err(wrong(code::NOT_IMP));
        }
        let records = (6..HEADER).step_by(2).map(|at| usize::from(number(at))).sum();
        if number(4) != 1 {
            return Err(wrong(code::FORM_ERR));
        }
        Self::question(packet, (id, flags), records).ok_or_else(|| wrong(code::FORM_ERR))
    }

    fn question(packet: &[u8], (id, flags): (u16, u16), records: usize) -> Option<Self> {
        let name = Name::read(&packet[HEADER..])?;
        let end = HEADER + name.len();
        let mut written = [0; 255];
        written[..name.len()].copy_from_slice(&packet[HEADER..end]);
        let (kind, class) = (word(packet, end)?, word(packet, end + 2)?);
        let mut edns = None;
        for record in walk(packet, end + 4, records) {
            let record = record?;
            if record.kind == kind::OPT {
                let [_, version, high, _] = record.ttl.to_be_bytes();
                edns = Some(Edns { payload: record.class, version, dnssec_ok: high & 0x80 != 0 });
            }
        }
        Some(Self { id, flags, name, written, kind, class, edns })
    }

    /// The code that refuses the query, whatever the name.
    pub(crate) fn fault(&self) -> Option<u16> {
        if self.edns.is_some_and(|edns| edns.version > 0) {
            return Some(code::BAD_VERS);
        }
        // Transfers and questions about the question itself (RFC 6895: 128 to 254 but for those of data).
        let meta = matches!(self.kind, 249..=254 | kind::OPT | 0);
        (self.class != CLASS_IN || meta).then_some(code::REFUSED)
    }

    pub(crate) fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    fn is_unchecked(&self) -> bool {
        self.flags & UNCHECKED != 0
    }

    /// So much the client takes in one packet.
    pub(crate) fn udp_limit(&self) -> usize {
        let offered = self.edns.map_or(PLAIN_UDP_PAYLOAD, |edns| edns.payload.max(PLAIN_UDP_PAYLOAD));
        usize::from(offered.min(UDP_PAYLOAD))
    }

    /// The same question about another name.
    pub(crate) fn about(&self, name: Name) -> Self {
        let mut written = [0; 255];
        written[..name.len()].copy_from_slice(name.as_bytes());
        Self { name, written, ..self.clone() }
    }

    /// The question as it is written to a message.
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(&self.written[..self.name.len()]);
        out.extend(self.kind.to_be_bytes());
        out.extend(self.class.to_be_bytes());
    }

    /// What answers depend on.
    pub(crate) fn key(&self) -> Key {
        let mut key = Key { length: self.name.len(), bytes: [0; 258] };
        key.bytes[..key.length].copy_from_slice(self.name.as_bytes());
        let [high, low] = self.kind.to_be_bytes();
        let flags = u8::from(self.dnssec_ok()) | u8::from(self.is_unchecked()) << 1;
        key.bytes[key.length..][..3].copy_from_slice(&[high, low, flags]);
        key.length += 3;
        key
    }

    /// A message that asks an upstream, with a payload that needs no fragments unless `plain`.
    pub(crate) fn forwarded(&self, id: u16, plain: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.name.len() + 15);
        let flags = RECURSION_DESIRED | self.flags & (UNCHECKED | AUTHENTIC);
        for number in [id, flags, 1, 0, 0, u16::from(!plain)] {
            out.extend(number.to_be_bytes());
        }
        self.write(&mut out);
        if !plain {
            write_edns(&mut out, 0, self.dnssec_ok());
        }
        out
    }
}

/// A query's name, type and flags, as bytes that a map is asked with.
#[derive(Clone)]
pub(crate) struct Key {
    length: usize,
    bytes: [u8; 258],
}

impl Key {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// One record of a message.
struct Seen {
    start: usize,
    kind: u16,
    class: u16,
    ttl_at: usize,
    ttl: u32,
    data: Range<usize>,
}

/// The end of the name at `at`.
fn end_of_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return (at + 2 <= bytes.len()).then_some(at + 2),
            length if length < 64 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

fn record(bytes: &[u8], start: usize) -> Option<Seen> {
    let fixed = end_of_name(bytes, start)?;
    let ttl = u32::from_be_bytes(bytes.get(fixed + 4..fixed + 8)?.try_into().ok()?);
    let data = fixed + 10..fixed + 10 + usize::from(word(bytes, fixed + 8)?);
    bytes.get(data.clone())?;
    let (kind, class) = (word(bytes, fixed)?, word(bytes, fixed + 2)?);
    Some(Seen { start, kind, class, ttl_at: fixed + 4, ttl, data })
}

/// So many records from `at` on; None in place of the one that cannot be read.
fn walk(bytes: &[u8], mut at: usize, records: usize) -> impl Iterator<Item = Option<Seen>> {
    let mut broken = false;
    (0..records.min(RECORDS)).map_while(move |_| {
        if broken {
            return None;
        }
        let seen = record(bytes, at);
        match &seen {
            Some(seen) => at = seen.data.end,
            None => broken = true,
        }
        Some(seen)
    })
}

fn write_edns(out: &mut Vec<u8>, code: u16, dnssec_ok: bool) {
    let [_, high] = (code >> 4).to_be_bytes();
    out.push(0);
    out.extend(kind::OPT.to_be_bytes());
    out.extend(UDP_PAYLOAD.to_be_bytes());
    out.extend([high, 0, u8::from(dnssec_ok) << 7, 0]);
    out.extend(0_u16.to_be_bytes());
}

/// The three parts of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

/// What times to live an answer is given with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ttl {
    /// As much less as it was kept.
    Aged(u32),
    /// This for all, as what is kept has lived longer than it should.
    Fixed(u32),
}

/// How an answer is handed to one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    /// The longest message.
    pub(crate) limit: usize,
    pub(crate) ttl: Ttl,
    /// Clients take the first address: each answer begins with another one, this many further.
    pub(crate) turn: usize,
}

impl Delivery {
    /// As it was made just now.
    pub(crate) fn fresh(limit: usize) -> Self {
        Self { limit, ttl: Ttl::Aged(0), turn: 0 }
    }
}

/// An answer to a question of a certain length; see the module's comment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) authoritative: bool,
    pub(crate) authentic: bool,
    pub(crate) counts: [u16; 3],
    pub(crate) records: Vec<u8>,
    /// Where times to live stand in `records`.
    ttls: Vec<u16>,
    /// So many records of the same length stand in front and may change places.
    turning: Option<(u16, u16)>,
}

impl Answer {
    /// Nothing but a code.
    pub(crate) fn failure(code: u16) -> Self {
        Self { code, ..Self::default() }
    }

    /// So much it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.records.len() + 2 * self.ttls.len()
    }

    /// Writes the answer to this query. What does not fit is left out; where an answer lacks for it, it
    /// is marked, so that the client comes again over TCP.
    pub(crate) fn write(&self, query: &Query, how: Delivery, out: &mut Vec<u8>) {
        out.clear();
        let opt = if query.edns.is_some() { 11 } else { 0 };
        let room = how.limit.saturating_sub(HEADER + query.name.len() + 4 + opt);
        let (records, counts, cut) = self.fitting(room);
        let mut flags = RESPONSE | RECURSION_AVAILABLE | query.flags & (RECURSION_DESIRED | UNCHECKED);
        flags |= self.code & 15;
        flags |= if self.authoritative { AUTHORITATIVE } else { 0 };
        flags |= if cut { TRUNCATED } else { 0 };
        let understands = query.flags & AUTHENTIC != 0 || query.dnssec_ok();
        flags |= if self.authentic && understands { AUTHENTIC } else { 0 };
        let additional = counts[2] + u16::from(query.edns.is_some());
        for number in [query.id, flags, 1, counts[0], counts[1], additional] {
            out.extend(number.to_be_bytes());
        }
        query.write(out);
        let start = out.len();
        out.extend(&self.records[..records]);
        self.turn(&mut out[start..], how.turn);
        self.age(&mut out[start..], how.ttl);
        if query.edns.is_some() {
            write_edns(out, self.code, query.dnssec_ok());
        }
    }

    /// How many bytes of the records fit, how many records those are, and whether some are missed.
    fn fitting(&self, room: usize) -> (usize, [u16; 3], bool) {
        if self.records.len() <= room {
            return (self.records.len(), self.counts, false);
        }
        let total = self.counts.iter().map(|count| usize::from(*count)).sum();
        let fit = walk(&self.records, 0, total).map_while(|seen| seen.filter(|seen| seen.data.end <= room));
        let (mut end, mut left) = (0, 0);
        for seen in fit {
            (end, left) = (seen.data.end, left + 1);
        }
        let counts = self.counts.map(|count| {
            let taken = count.min(left);
            left -= taken;
            taken
        });
        (end, counts, counts[..2] != self.counts[..2])
    }

    fn turn(&self, records: &mut [u8], by: usize) {
        if let Some((count, length)) = self.turning {
            let (count, length) = (usize::from(count), usize::from(length));
            if let Some(front) = records.get_mut(..count * length) {
                front.rotate_left(by % count * length);
            }
        }
    }

    fn age(&self, records: &mut [u8], ttl: Ttl) {
        if ttl == Ttl::Aged(0) {
            return;
        }
        for at in &self.ttls {
            let Some(place) = records.get_mut(usize::from(*at)..usize::from(*at) + 4) else { return };
            let now = match ttl {
                Ttl::Aged(age_s) => {
                    let whole = u32::from_be_bytes([place[0], place[1], place[2], place[3]]);
                    whole.saturating_sub(age_s)
                }
                Ttl::Fixed(ttl_s) => ttl_s,
            };
            place.copy_from_slice(&now.to_be_bytes());
        }
    }

    /// Limits times to live from both sides.
    pub(crate) fn limit_ttls(&mut self, least_s: u32, most_s: u32) {
        for at in &self.ttls {
            let at = usize::from(*at);
            if let Some(place) = self.records.get_mut(at..at + 4) {
                let ttl_s = u32::from_be_bytes([place[0], place[1], place[2], place[3]]);
                place.copy_from_slice(&ttl_s.min(most_s).max(least_s).to_be_bytes());
            }
        }
    }

    /// Whether the answer says that something is not there.
    pub(crate) fn is_denial(&self) -> bool {
        self.code == code::NX_DOMAIN || (self.code == code::NO_ERROR && self.counts[0] == 0)
    }

    /// For how long it may be kept: its shortest time to live, for a denial also what its SOA says
    /// (RFC 2308). None for what failed or says nothing about it.
    pub(crate) fn lifetime_s(&self) -> Option<u32> {
        if !matches!(self.code, code::NO_ERROR | code::NX_DOMAIN) {
            return None;
        }
        let (answers, authorities) = (usize::from(self.counts[0]), usize::from(self.counts[1]));
        let all = walk(&self.records, 0, answers + authorities).flatten().enumerate();
        let lifetimes = all.filter_map(|(place, seen)| match (place < answers, seen.kind) {
            (true, _) => Some(seen.ttl),
            (false, kind::SOA) => {
                let minimum = self.records[seen.data].last_chunk()?;
                Some(seen.ttl.min(u32::from_be_bytes(*minimum)))
            }
            (false, _) => None,
        });
        lifetimes.min()
    }
}

/// What an upstream answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    pub(crate) truncated: bool,
}

impl Reply {
    /// Reads the answer to a query that was [forwarded](Query::forwarded) under an id. None for what
    /// is no answer to it.
    pub(crate) fn read(message: &[u8], id: u16, query: &Query) -> Option<Self> {
        let head: [u16; 6] = std::array::from_fn(|at| word(message, 2 * at).unwrap_or_default());
        let [own, flags, questions, counts @ ..] = head;
        let question = HEADER + query.name.len();
        let fits = message.len() >= HEADER && own == id && flags & RESPONSE != 0 && flags & OPCODE == 0;
        let same = questions == 1
            && Name::read(&message[HEADER.min(message.len())..])? == query.name
            && (word(message, question)?, word(message, question + 2)?) == (query.kind, query.class);
        if !fits || !same {
            return None;
        }
        let (mut answer, code) = Answer::of_message(message, question + 4, counts)?;
        answer.code = code | flags & 15;
        answer.authentic = flags & AUTHENTIC != 0;
        Some(Self { answer, truncated: flags & TRUNCATED != 0 })
    }
}

impl Answer {
    /// The records of a message, and the high bits of its code, which its OPT record has. From OPT on
    /// nothing is taken over, since what follows it may be pointed at.
    fn of_message(message: &[u8], start: usize, counts: [u16; 3]) -> Option<(Self, u16)> {
        let mut answer = Self::default();
        let (mut end, mut code) = (start, 0);
        let before = usize::from(counts[0]) + usize::from(counts[1]);
        for (place, seen) in walk(message, start, before + usize::from(counts[2])).enumerate() {
            let seen = seen?;
            if seen.kind == kind::OPT {
                code = u16::from(seen.ttl.to_be_bytes()[0]) << 4;
                break;
            }
            let section = usize::from(place >= usize::from(counts[0])) + usize::from(place >= before);
            answer.counts[section] += 1;
            answer.ttls.push(u16::try_from(seen.ttl_at - start).ok()?);
            end = seen.data.end;
        }
        if answer.counts[..2] != counts[..2] {
            return None;
        }
        answer.records = message[start..end].to_vec();
        answer.turning = turning(&answer);
        Some((answer, code))
    }

    /// Reads a message that was made here.
    pub(crate) fn own(message: &[u8], query: &Query) -> Option<Self> {
        Reply::read(message, word(message, 0)?, query).map(|reply| reply.answer)
    }
}

/// Addresses that all belong to the question's name may change places.
fn turning(answer: &Answer) -> Option<(u16, u16)> {
    let mut length = None;
    for seen in walk(&answer.records, 0, usize::from(answer.counts[0])) {
        let seen = seen?;
        let address = matches!(seen.kind, kind::A | kind::AAAA);
        let own = (seen.data.end - seen.start, &answer.records[seen.start..seen.ttl_at - 4]);
        if !address || *length.get_or_insert(own) != own {
            return None;
        }
    }
    let (length, _) = length?;
    (answer.counts[0] > 1).then_some((answer.counts[0], u16::try_from(length).ok()?))
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
