//! Messages as bytes, against another library and against noise.

use super::*;
use hickory_proto::op::{Edns as LongEdns, Message, Query as Question};
use hickory_proto::rr::rdata::{A, CNAME, MX, SOA};
use hickory_proto::rr::{Name as LongName, RData, Record, RecordType};
use proptest::prelude::*;

fn long(text: &str) -> LongName {
    LongName::from_ascii(text).unwrap()
}

fn message(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Question::query(long(name), kind));
    message
}

fn read(message: &Message) -> Query {
    Query::read(&message.to_vec().unwrap()).unwrap()
}

fn addresses(name: &Name, count: u8) -> Answer {
    let mut out = Writer::new();
    out.begin(name, true);
    for last in 0..count {
        out.address(Section::Answer, Owner::Question, [10, 42, 0, last].into(), 30);
    }
    out.finish().clone()
}

fn told(answer: &Answer, query: &Query, how: Delivery) -> Message {
    let mut bytes = Vec::new();
    answer.write(query, how, &mut bytes);
    assert!(bytes.len() <= how.limit);
    Message::from_vec(&bytes).unwrap()
}

#[test]
fn an_answer_has_the_clients_letters_and_id() {
    let asked = message("WeB.Cluster.local.", RecordType::A);
    let query = read(&asked);
    assert_eq!(query.name.to_string(), "web.cluster.local.");
    let answer = told(&addresses(&query.name, 2), &query, Delivery::fresh(512));
    assert_eq!((answer.metadata.id, &answer.queries), (asked.metadata.id, &asked.queries));
    assert!(answer.answers.iter().all(|record| record.name.to_ascii() == "WeB.Cluster.local."));
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available && answer.edns.is_none());
}

#[test]
fn what_does_not_fit_is_cut_and_marked() {
    let query = read(&message("a.cluster.local.", RecordType::A));
    let long = addresses(&query.name, 100);
    let cut = told(&long, &query, Delivery::fresh(query.udp_limit()));
    assert!(cut.metadata.truncation && cut.answers.len() == 29, "{}", cut.answers.len());
    assert_eq!(told(&long, &query, Delivery::fresh(65_535)).answers.len(), 100);
    // Addresses that only help are left out without a mark.
    let mut out = Writer::new();
    out.begin(&query.name, true);
    for last in 0..40 {
        out.address(
            if last < 2 { Section::Answer } else { Section::Additional },
            Owner::Question,
            [10, 0, 0, last].into(),
            5,
        );
    }
    let cut = told(out.finish(), &query, Delivery::fresh(512));
    assert!(!cut.metadata.truncation && cut.answers.len() == 2 && !cut.additionals.is_empty());
}

#[test]
fn extended_queries_get_extended_answers() {
    let mut asked = message("a.", RecordType::A);
    let mut edns = LongEdns::new();
    edns.set_max_payload(4_096).set_dnssec_ok(true);
    asked.edns = Some(edns.clone());
    let query = read(&asked);
    assert_eq!(query.udp_limit(), usize::from(UDP_PAYLOAD));
    let answer = told(&addresses(&query.name, 1), &query, Delivery::fresh(512)).edns.unwrap();
    assert!(answer.max_payload() == UDP_PAYLOAD && answer.flags().dnssec_ok);
    edns.set_version(1);
    asked.edns = Some(edns);
    let newer = read(&asked);
    assert_eq!(newer.fault(), Some(code::BAD_VERS));
    let refused = told(&Answer::failure(code::BAD_VERS), &newer, Delivery::fresh(512));
    assert_eq!(u16::from(refused.metadata.response_code), code::BAD_VERS);
}

#[test]
fn only_queries_with_one_question_are_answered() {
    let mut two = message("a.", RecordType::A);
    two.add_query(two.queries[0].clone());
    let Err(Unreadable::Wrong(head)) = Query::read(&two.to_vec().unwrap()) else { panic!("it was read") };
    assert_eq!((head[..2].to_vec(), head[3] & 15), (two.metadata.id.to_be_bytes().to_vec(), 1));
    let answer = Message::response(1, hickory_proto::op::OpCode::Query).to_vec().unwrap();
    assert_eq!(Query::read(&answer).unwrap_err(), Unreadable::Noise);
    assert_eq!(Query::read(b"noise").unwrap_err(), Unreadable::Noise);
    assert_eq!(read(&message("a.", RecordType::AXFR)).fault(), Some(code::REFUSED));
}

/// An upstream's message, with names that point into each other.
fn reply(query: &Query, id: u16) -> Message {
    let mut asked = Message::from_vec(&query.forwarded(id, false)).unwrap();
    asked.metadata.message_type = hickory_proto::op::MessageType::Response;
    let own = asked.queries[0].name().clone();
    let target = long("mail.example.org.");
    asked.add_answers([
        Record::from_rdata(own, 300, RData::CNAME(CNAME(target.clone()))),
        Record::from_rdata(target.clone(), 20, RData::A(A::new(192, 0, 2, 1))),
        Record::from_rdata(target.clone(), 60, RData::MX(MX::new(10, target))),
    ]);
    asked
}

#[test]
fn what_an_upstream_says_is_kept_and_told_on() {
    let query = read(&message("Example.org.", RecordType::A));
    let theirs = reply(&query, 7);
    let Reply { answer, truncated } = Reply::read(&theirs.to_vec().unwrap(), 7, &query).unwrap();
    assert_eq!((answer.counts, truncated, answer.lifetime_s()), ([3, 0, 0], false, Some(20)));
    let ours = told(&answer, &query, Delivery { ttl: Ttl::Aged(5), ..Delivery::fresh(512) });
    assert_eq!(ours.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [295, 15, 55]);
    assert_eq!(
        ours.answers.iter().map(|r| &r.data).collect::<Vec<_>>(),
        theirs.answers.iter().map(|r| &r.data).collect::<Vec<_>>()
    );
    assert!(ours.edns.is_none() && !ours.metadata.authoritative);
    let stale = told(&answer, &query, Delivery { ttl: Ttl::Fixed(30), ..Delivery::fresh(512) });
    assert!(stale.answers.iter().all(|record| record.ttl == 30));
    // Another id, another question.
    assert_eq!(Reply::read(&theirs.to_vec().unwrap(), 8, &query), None);
    assert_eq!(
        Reply::read(&theirs.to_vec().unwrap(), 7, &read(&message("example.com.", RecordType::A))),
        None
    );
}

#[test]
fn denials_live_as_their_soa_says() {
    let query = read(&message("none.example.org.", RecordType::A));
    let mut theirs = reply(&query, 7);
    theirs.answers.clear();
    let without = Reply::read(&theirs.to_vec().unwrap(), 7, &query).unwrap().answer;
    assert_eq!((without.is_denial(), without.lifetime_s()), (true, None));
    let soa = SOA::new(long("a."), long("b."), 1, 1, 1, 1, 7);
    theirs.add_authority(Record::from_rdata(long("example.org."), 900, RData::SOA(soa)));
    let denial = Reply::read(&theirs.to_vec().unwrap(), 7, &query).unwrap().answer;
    assert_eq!(denial.lifetime_s(), Some(7));
}

#[test]
fn each_answer_begins_with_another_address() {
    let query = read(&message("a.", RecordType::A));
    let answer = addresses(&query.name, 3);
    let first =
        |turn| told(&answer, &query, Delivery { turn, ..Delivery::fresh(512) }).answers[0].data.to_string();
    assert_eq!([0, 1, 2, 3].map(first), ["10.42.0.0", "10.42.0.1", "10.42.0.2", "10.42.0.0"]);
}

proptest! {
    #[test]
    fn no_noise_makes_the_readers_panic(mut noise in proptest::collection::vec(any::<u8>(), 0..200), flip in any::<bool>()) {
        if flip && noise.len() > 12 {
            // What looks like one question goes further in.
            let answers = noise[2] & 3;
            noise[2..12].copy_from_slice(&[1, 0, 0, 1, 0, answers, 0, 1, 0, 1]);
        }
        if let Ok(query) = Query::read(&noise) {
            noise[2] = 0x81;
            let id = u16::from_be_bytes([noise[0], noise[1]]);
            if let Some(reply) = Reply::read(&noise, id, &query) {
                let mut out = Vec::new();
                reply.answer.write(&query, Delivery { ttl: Ttl::Aged(1), turn: 1, ..Delivery::fresh(64) }, &mut out);
                reply.answer.lifetime_s();
            }
        }
    }

    /// Bytes that were changed or lost on their way.
    #[test]
    fn no_broken_reply_makes_the_reader_panic(at in 0_usize..200, byte in any::<u8>(), length in 0_usize..200) {
        let query = read(&message("example.org.", RecordType::A));
        let mut bytes = reply(&query, 7).to_vec().unwrap();
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        bytes.truncate(length);
        if let Some(reply) = Reply::read(&bytes, 7, &query) {
            let mut out = Vec::new();
            reply.answer.write(&query, Delivery { ttl: Ttl::Aged(1), turn: 1, ..Delivery::fresh(64) }, &mut out);
            prop_assert!(out.len() <= 64);
        }
    }
}
