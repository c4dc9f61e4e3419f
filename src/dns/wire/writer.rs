//! Answers that are made here.

use super::{Answer, CLASS_IN, HEADER, Section, kind, turning};
use crate::name::Name;
use std::net::IpAddr;

/// Makes an answer of records, one after the other. It is used again for the next one.
pub(crate) struct Writer {
    answer: Answer,
    /// The question's name, into which names may point.
    question: Name,
}

/// Whose record it is.
#[derive(Clone, Copy)]
pub(crate) enum Owner<'a> {
    /// The name that was asked for.
    Question,
    Name(&'a Name),
    /// A name that was written at this place of the message.
    At(&'a Name, usize),
}

/// Pointers have 14 bits.
const FURTHEST: usize = 0x3fff;

impl Writer {
    pub(crate) fn new() -> Self {
        Self { answer: Answer::default(), question: Name::ROOT }
    }

    /// Begins an answer to a question about `name`.
    pub(crate) fn begin(&mut self, name: &Name, authoritative: bool) {
        let Answer { mut records, mut ttls, .. } = std::mem::take(&mut self.answer);
        records.clear();
        ttls.clear();
        self.answer = Answer { authoritative, records, ttls, ..Answer::default() };
        self.question = *name;
    }

    pub(crate) fn fail(&mut self, code: u16) {
        self.answer.code = code;
    }

    /// The answer so far; addresses among its records may change places from here on.
    pub(crate) fn finish(&mut self) -> &Answer {
        self.answer.turning = turning(&self.answer);
        &self.answer
    }

    /// Where the next byte will stand in the message.
    fn place(&self) -> usize {
        HEADER + self.question.len() + 4 + self.answer.records.len()
    }

    /// A record whose data `data` writes.
    pub(crate) fn record(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        (kind, ttl_s): (u16, u32),
        data: impl FnOnce(&mut Self),
    ) {
        let before = self.answer.records.len();
        match owner {
            Owner::Question => self.point(HEADER),
            Owner::Name(name) => self.name(name),
            Owner::At(_, at) if at <= FURTHEST => self.point(at),
            Owner::At(name, _) => self.name(name),
        }
        self.number(kind);
        self.number(CLASS_IN);
        let ttl_at = self.answer.records.len();
        self.answer.records.extend(ttl_s.to_be_bytes());
        self.number(0);
        let start = self.answer.records.len();
        data(self);
        let length = u16::try_from(self.answer.records.len() - start);
        // A message has 64 KiB: what is beyond is left out, as if there was less of it.
        if let (Ok(length), true, Ok(ttl_at)) =
            (length, self.place() < usize::from(u16::MAX), u16::try_from(ttl_at))
        {
            self.answer.records[start - 2..start].copy_from_slice(&length.to_be_bytes());
            self.answer.ttls.push(ttl_at);
            self.answer.counts[section as usize] += 1;
        } else {
            self.answer.records.truncate(before);
        }
    }

    pub(crate) fn number(&mut self, number: u16) {
        self.answer.records.extend(number.to_be_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.answer.records.extend(bytes);
    }

    fn point(&mut self, at: usize) {
        self.number(0xc000 | u16::try_from(at).unwrap_or_default());
    }

    /// A name, its end pointing into the question where that has it too.
    pub(crate) fn name(&mut self, name: &Name) {
        for at in name.starts() {
            let rest = &name.as_bytes()[at..];
            if rest == [0] {
                break;
            }
            let found = self.question.starts().find(|start| self.question.as_bytes()[*start..] == *rest);
            if let Some(start) = found {
                self.bytes(&name.as_bytes()[..at]);
                return self.point(HEADER + start);
            }
        }
        self.whole_name(name);
    }

    /// A name that must not point anywhere (RFC 2782), and where it stands.
    pub(crate) fn whole_name(&mut self, name: &Name) -> usize {
        let at = self.place();
        self.bytes(name.as_bytes());
        at
    }

    pub(crate) fn address(&mut self, section: Section, owner: Owner<'_>, address: IpAddr, ttl_s: u32) {
        match address {
            IpAddr::V4(v4) => self.record(section, owner, (kind::A, ttl_s), |out| out.bytes(&v4.octets())),
            IpAddr::V6(v6) => self.record(section, owner, (kind::AAAA, ttl_s), |out| out.bytes(&v6.octets())),
        }
    }
}
