//! Any bytes as protobuf: what is read can be written, and is read again as the same.
#![no_main]

use api::schema::protobuf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let body = [protobuf::MAGIC, input].concat();
    let Ok(object) = protobuf::decode(&body) else { return };
    let Ok(bytes) = protobuf::encode(&object) else { return };
    let again = protobuf::decode(&bytes).expect("what was written can be read");
    let twice = protobuf::encode(&again).expect("what was read can be written");
    assert_eq!(bytes, twice, "writing settles after one round");
});
