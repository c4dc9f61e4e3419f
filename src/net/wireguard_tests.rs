use super::*;

fn own(peers: &[(u8, Peer)]) -> Wireguard {
    let peers = peers.iter().map(|(key, peer)| (PublicKey([*key; KEY_BYTES]), peer.clone()));
    Wireguard { port: 51_820, key: PrivateKey::new([0xff; KEY_BYTES]), peers: peers.collect() }
}

fn peer(endpoint: &str, blocks: &[&str]) -> Peer {
    let blocks = blocks.iter().map(|block| block.parse().unwrap()).collect();
    Peer { endpoint: Some(endpoint.parse().unwrap()), keepalive_s: None, blocks }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn keys_are_clamped_and_never_shown() {
    let key = PrivateKey::new([0xff; KEY_BYTES]);
    assert_eq!((key.secret()[0], key.secret()[31]), (0xf8, 0x7f));
    assert_eq!(PrivateKey::new([0; KEY_BYTES]).secret()[31], 0x40);
    assert_eq!(format!("{key:?}"), "PrivateKey(…)");
}

/// Written out by hand from `linux/wireguard.h`, for machines whose low bytes come first.
#[test]
#[cfg(target_endian = "little")]
fn a_device_and_a_peer_are_written_as_the_kernel_reads_them() {
    let own = own(&[]);
    let there = peer("192.0.2.7:51820", &["10.42.1.0/24"]);
    let steps = [Step::Set(PublicKey([7; KEY_BYTES]), there), Step::Remove(PublicKey([8; KEY_BYTES]))];
    let requests = set_requests(0x1c, "knarr-wg", Some(&own), &steps);
    let name = "0d0002006b6e6172722d776700000000";
    let head = "1c000500010000000000000001010000";
    let key = format!("24000300f8{}7f", "ff".repeat(30));
    assert_eq!(hex(&requests[0]), format!("50000000{head}{name}{key}060006006cca0000"));
    let set = format!(
        "6c00008024000100{}080003000200000014000400{}060005000000000020000980{}",
        "07".repeat(32),
        "0200ca6cc00002070000000000000000",
        "1c0000800600010002000000080002000a2a01000500030018000000",
    );
    let removed = format!("3000008024000100{}0800030001000000", "08".repeat(32));
    let length = 4 + 4 + (set.len() + removed.len()) / 2;
    let peers = format!("{:02x}000880", length - 4);
    let whole = 20 + 16 + length - 4;
    assert_eq!(hex(&requests[1])[..8], format!("{whole:02x}000000"));
    assert_eq!(hex(&requests[1])[8..], format!("{head}{name}{peers}{set}{removed}"));
}

#[test]
fn a_dump_is_read_back_also_in_pieces() {
    let there = peer("[2001:db8::7]:51820", &["10.42.1.0/24", "fd42:0:0:1::/64"]);
    let own = own(&[(7, there.clone())]);
    let mut device = Device::default();
    let more = Peer { endpoint: None, ..peer("192.0.2.1:1", &["10.42.9.0/24"]) };
    for steps in [
        vec![Step::Set(PublicKey([7; KEY_BYTES]), there.clone())],
        vec![Step::Set(PublicKey([7; KEY_BYTES]), more)],
    ] {
        for request in set_requests(0x1c, "knarr-wg", Some(&own), &steps) {
            device.read(&request[16 + HEADER..]);
        }
    }
    let mut all = there;
    all.blocks.insert("10.42.9.0/24".parse().unwrap());
    assert_eq!(device.peers, BTreeMap::from([(PublicKey([7; KEY_BYTES]), all)]));
    assert_eq!((device.private, device.port), (Some(own.key), 51_820));
}

#[test]
fn peers_that_moved_by_themselves_are_left_where_they_are() {
    let told = peer("192.0.2.7:51820", &["10.42.1.0/24"]);
    let roamed = Peer { endpoint: Some("198.51.100.9:4444".parse().unwrap()), ..told.clone() };
    let held = Device { peers: own(&[(7, roamed)]).peers, ..Device::default() };
    let wanted = own(&[(7, told.clone())]);
    assert_eq!(steps(&wanted, &held, Some(&wanted)), []);
    let set = |peer: &Peer| vec![Step::Set(PublicKey([7; KEY_BYTES]), peer.clone())];
    assert_eq!(steps(&wanted, &held, None), set(&told), "a start tells it");
    let moved = peer("192.0.2.8:51820", &["10.42.1.0/24"]);
    assert_eq!(steps(&own(&[(7, moved.clone())]), &held, Some(&wanted)), set(&moved));
    let more = peer("192.0.2.7:51820", &["10.42.1.0/24", "10.42.2.0/24"]);
    let blocks_alone = Peer { endpoint: None, ..more.clone() };
    assert_eq!(steps(&own(&[(7, more)]), &held, Some(&wanted)), set(&blocks_alone));
    assert_eq!(steps(&wanted, &Device::default(), None), set(&told));
    let greeted = Peer { keepalive_s: Some(GREETING_S), ..told.clone() };
    let both = [set(&greeted), set(&told)].concat();
    assert_eq!(
        steps(&wanted, &Device::default(), Some(&own(&[]))),
        both,
        "who is new while it runs is greeted"
    );
    assert_eq!(steps(&own(&[]), &held, None), [Step::Remove(PublicKey([7; KEY_BYTES]))]);
}
