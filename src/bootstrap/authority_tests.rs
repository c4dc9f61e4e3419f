//! Authorities of one's own, and others in their place.

use super::*;
use crate::rotation::{Authorities, Change, Files};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::server::danger::ClientCertVerifier;

type Own = CertifiedIssuer<'static, KeyPair>;

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn root(name: &str) -> Own {
    CertifiedIssuer::self_signed(params(name), KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key of an authority that a root signed, without the root.
fn below(root: &Own, params: CertificateParams) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let issuer: &Issuer<'_, KeyPair> = root;
    (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}

fn now() -> SystemTime {
    certificates::wall_clock()
}

fn read(certificate: &str, key: &str) -> Result<Authority, String> {
    Authority::read(certificate, key, &[], now())
}

fn refused(certificate: &str, key: &str) -> String {
    let read = read(certificate, key).and_then(|authority| authority.check_now(now()));
    read.expect_err("it is refused")
}

#[test]
fn what_is_wrong_with_an_authority_is_told() {
    let root = root("root");
    let (certificate, key) = below(&root, params("servers"));
    let whole = format!("{certificate}{}", root.pem());
    read(&whole, &key).unwrap().check_now(now()).unwrap();
    assert!(refused(&certificate, &key).contains("the whole chain, up to the root"));
    assert!(refused(&whole, &root.key().serialize_pem()).contains("not that of \"CN=servers\""));
    assert!(refused("nothing", &key).contains("no certificate in it"));
    let mut leaf = params("leaf");
    leaf.is_ca = IsCa::ExplicitNoCa;
    let (certificate, key) = below(&root, leaf);
    assert!(refused(&format!("{certificate}{}", root.pem()), &key).contains("lacks CA:TRUE"));
    let mut useless = params("useless");
    useless.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let (certificate, key) = below(&root, useless);
    assert!(refused(&format!("{certificate}{}", root.pem()), &key).contains("lacks keyCertSign"));
    let mut old = params("old");
    old.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let (certificate, key) = below(&root, old);
    assert!(refused(&format!("{certificate}{}", root.pem()), &key).contains("has expired on"));
    // What the certificates forbid among themselves.
    let mut narrow = params("narrow");
    narrow.name_constraints = Some(rcgen::NameConstraints {
        permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("example.org".to_owned())],
        excluded_subtrees: Vec::new(),
    });
    let (certificate, key) = below(&root, narrow);
    assert!(refused(&format!("{certificate}{}", root.pem()), &key).contains("would not be trusted"));
}

#[test]
fn tokens_name_the_root_and_go_on_over_a_rotation() {
    let root = root("root");
    let (certificate, key) = below(&root, params("servers"));
    let whole = format!("{certificate}{}", root.pem());
    let own = read(&whole, &key).unwrap();
    assert_eq!(digest(&own.bundle()), hex::sha256(root.der()));
    assert_eq!(Cert::all(&vouched(&whole, &hex::sha256(root.der())).unwrap()).unwrap()[0].der, *root.der());
    assert_eq!(vouched(&whole, &hex::sha256(b"another")), None);
    // Also where authorities of knarr's own making come in its place.
    let mut files = made();
    files.extend([("server-ca.crt".to_owned(), whole), ("server-ca.key".to_owned(), key)]);
    let next = of(&changed(&files, &Change::default())).server;
    let by_token = vouched(&next.bundle(), &hex::sha256(root.der())).unwrap();
    let by_token = Cert::all(&by_token).unwrap().into_iter().map(|one| one.der).collect::<Vec<_>>();
    assert!(is_believed(&by_token, &next));
}

/// Files of a cluster of knarr's own making.
fn made() -> Files {
    let mut files = Files::new();
    for name in crate::rotation::AUTHORITIES {
        let made = certificates::issue_authority(&format!("knarr-{name}")).unwrap();
        files.insert(format!("{name}.crt"), made.certificate);
        files.insert(format!("{name}.key"), made.key);
    }
    let key = KeyPair::generate().unwrap();
    files.insert("service.key".to_owned(), key.serialize_pem());
    files
}

fn of(files: &Files) -> Authorities {
    Authorities::of(files.clone()).unwrap_or_else(|(name, why)| panic!("{name}: {why}"))
}

fn changed(files: &Files, change: &Change) -> Files {
    of(files).changed(change).unwrap()
}

/// Whether who trusts the bundle of one believes what another signs and shows.
fn believes(old: &Authority, new: &Authority) -> bool {
    let anchors: Vec<_> = Cert::all(&old.bundle()).unwrap().into_iter().map(|one| one.der).collect();
    is_believed(&anchors, new)
}

fn is_believed(anchors: &[CertificateDer<'static>], new: &Authority) -> bool {
    let subject = Subject { name: "a".to_owned(), alternatives: vec!["a".to_owned()], ..Subject::default() };
    let issued = certificates::issue(&subject, &new.issuer).unwrap().certificate + &new.chain();
    let chain: Vec<_> = Cert::all(&issued).unwrap().into_iter().map(|one| one.der).collect();
    let since = now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let name = ServerName::try_from("a").unwrap();
    Trust::new(anchors)
        .unwrap()
        .verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::since_unix_epoch(since))
        .is_ok()
}

#[test]
fn others_are_believed_by_who_knows_the_former_ones() {
    let first = made();
    let second = changed(&first, &Change::default());
    let third = changed(&second, &Change::default());
    let all = [&first, &second, &third].map(of);
    for (old, new) in [(0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1)] {
        assert!(believes(&all[old].server, &all[new].server), "{old} believes {new}");
    }
    assert_eq!(all.each_ref().map(|one| one.service_keys.len()), [1, 2, 3]);
    assert_eq!(all[2].service_keys[2], all[0].service_keys[0]);
    assert!(all[1].comes_after(&all[0]) && all[2].comes_after(&all[0]) && !all[0].comes_after(&all[1]));
    // The key by which servers seal what is theirs stays.
    assert_eq!(crate::rotation::sealing(&third), first["server-ca.key"]);
    // Tokens of each are good for the authority that they name.
    let (old, new) = (digest(&all[0].server.bundle()), digest(&all[1].server.bundle()));
    let bundle = all[1].server.bundle();
    assert_eq!(vouched(&bundle, &old), Some(first["server-ca.crt"].clone()));
    assert_eq!(vouched(&bundle, &new), Some(second["server-ca.crt"].clone()));
    assert_eq!(new, hex::sha256(second["server-ca.crt"].as_bytes()));
    let forgotten = of(&changed(&third, &Change { forget: true, ..Change::default() }));
    assert_eq!((forgotten.service_keys.len(), forgotten.server.anchors().len()), (1, 1));
    assert!(!believes(&forgotten.server, &all[1].server) && believes(&forgotten.server, &all[2].server));
    assert!(forgotten.comes_after(&all[0]));
}

#[test]
fn own_ones_are_taken_if_they_lead_on() {
    let files = made();
    let root = root("root");
    let (certificate, key) = below(&root, params("servers"));
    let whole = format!("{certificate}{}", root.pem());
    let of_server = |certificate: &str, key: &str| {
        Files::from([
            ("server-ca.crt".to_owned(), certificate.to_owned()),
            ("server-ca.key".to_owned(), key.to_owned()),
        ])
    };
    let strange = Change { files: of_server(&whole, &key), ..Change::default() };
    let refused = of(&files).changed(&strange).unwrap_err();
    assert!(refused.contains("neither the present authority nor its root vouches"), "{refused}");
    let forced = changed(&files, &Change { force: true, ..strange });
    assert!(believes(&of(&files).server, &of(&forced).server));
    assert_eq!(forced["client-ca.crt"], files["client-ca.crt"]);
    // Another one below the same root needs no force, nor one that the present one signed.
    let (certificate, key) = below(&root, params("others"));
    let whole = format!("{certificate}{}", root.pem());
    let next = changed(&forced, &Change { files: of_server(&whole, &key), ..Change::default() });
    assert_eq!(digest(&of(&next).server.bundle()), hex::sha256(root.der()));
    // Of a root that signs more than this cluster's clients, only what is below the cluster's own is believed.
    let clients = Files::from([("client-ca.crt".to_owned(), whole), ("client-ca.key".to_owned(), key)]);
    let mixed = of(&changed(&files, &Change { files: clients, force: true, forget: false }));
    let key = KeyPair::generate().unwrap();
    let mut person = CertificateParams::default();
    person.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let issuer: &Issuer<'_, KeyPair> = &root;
    let person = person.signed_by(&key, issuer).unwrap();
    let since = UnixTime::since_unix_epoch(now().duration_since(SystemTime::UNIX_EPOCH).unwrap());
    let trust = Trust::new(&mixed.client.anchors()).unwrap();
    assert!(trust.verify_client_cert(person.der(), &[], since).is_err());
    let lost = Files::from([("service.key".to_owned(), KeyPair::generate().unwrap().serialize_pem())]);
    let lost = Change { files: lost, ..Change::default() };
    assert!(of(&files).changed(&lost).unwrap_err().contains("it has not the present key"));
    let half = Files::from([("server-ca.crt".to_owned(), String::new())]);
    let half = Change { files: half, ..Change::default() };
    assert!(of(&files).changed(&half).unwrap_err().contains("without server-ca.key"));
    let unknown = Change { files: Files::from([("../x".to_owned(), String::new())]), ..Change::default() };
    assert!(of(&files).changed(&unknown).unwrap_err().contains("no file of authorities"));
}
