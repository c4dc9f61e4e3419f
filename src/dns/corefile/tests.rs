//! Corefiles as people have them, and what is refused of them.

use super::block::{Place, Settings, Stale};
use super::{Block, CacheRule, Policy, Problem, Sources, To, default_corefile, parse};
use crate::corefile::{Page, Pods};
use crate::name::Name;
use proptest::prelude::*;
use std::time::Duration;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn read(main: &[(&str, &str)], custom: &[(&str, &str)]) -> Result<Settings, Problem> {
    let map =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let sources = Sources { main: map(main), custom: map(custom) };
    let listen = ["10.43.0.10:53".parse().unwrap()];
    Settings::read(&Place { sources: &sources, domain: &name("cluster.local"), listen: &listen })
}

fn block(directives: &str) -> Result<Block, Problem> {
    read(&[("Corefile", &format!(".:53 {{\n{directives}\n}}"))], &[]).map(|mut settings| settings.0.remove(0))
}

fn refused(directives: &str) -> String {
    block(directives).unwrap_err().to_string()
}

/// As kubeadm writes it.
const KUBEADM: &str = "errors
health {
   lameduck 5s
}
ready
kubernetes cluster.local in-addr.arpa ip6.arpa {
   pods insecure
   fallthrough in-addr.arpa ip6.arpa
   ttl 30
}
prometheus :9153
forward . /etc/resolv.conf {
   max_concurrent 1000
}
cache 30 {
   disable success cluster.local
   disable denial cluster.local
}
loop
reload
loadbalance";

#[test]
fn kubeadms_corefile_is_taken() {
    let block = block(KUBEADM).unwrap();
    let kubernetes = block.kubernetes.unwrap();
    assert_eq!((kubernetes.ttl_s, kubernetes.pods), (30, Pods::Insecure));
    assert_eq!(kubernetes.through, [name("in-addr.arpa"), name("ip6.arpa")]);
    assert_eq!(block.pages, [(8080, Page::Health), (8181, Page::Ready), (9153, Page::Metrics)]);
    assert_eq!(block.lameduck, Duration::from_secs(5));
    let [forward] = &block.forwards[..] else { panic!("{:?}", block.forwards) };
    assert_eq!(
        (&forward.to, forward.policy, forward.max_concurrent),
        (&vec![To::Machine], Policy::Random, 1000)
    );
    let cache = block.cache.unwrap();
    assert_eq!((cache.success.most_s, cache.denial.most_s), (30, 30));
    assert_eq!(cache.no_success, [name("cluster.local")]);
}

#[test]
fn without_a_corefile_the_default_is_in_force() {
    let settings = read(&[], &[]).unwrap();
    let [block] = &settings.0[..] else { panic!("{settings:?}") };
    assert!(block.errors && block.rotate && block.kubernetes.is_some());
    let Some(CacheRule { stale: Some(stale), .. }) = block.cache else { panic!("no stale answers") };
    assert_eq!(stale, Stale { limit: Duration::from_secs(3_600), verify: true });
    assert!(default_corefile("cluster.example").contains("kubernetes cluster.example in-addr.arpa"));
}

#[test]
fn custom_files_are_imported_as_k3s_does() {
    let custom = [
        (
            "a.server",
            "example.com:53, example.net {\n  forward . 192.0.2.1:5353 dns://[fd00::1] {\n policy round_robin\n except no.example.com\n }\n}",
        ),
        ("b.override", "log example.org # some\nhosts {\n 192.0.2.7 printer\n fallthrough\n}"),
        ("note.txt", "}"),
    ];
    let settings = read(&[], &custom).unwrap();
    let [main, own] = &settings.0[..] else { panic!("{settings:?}") };
    assert_eq!(main.log, [name("example.org")]);
    assert_eq!(main.hosts.len(), 2);
    assert_eq!(own.zones, [name("example.com"), name("example.net")]);
    let forward = &own.forwards[0];
    let to = ["192.0.2.1:5353", "[fd00::1]:53"].map(|text| To::Address(text.parse().unwrap()));
    assert_eq!((&forward.to[..], forward.policy), (&to[..], Policy::RoundRobin));
    assert!(forward.covers(&name("a.example.com")) && !forward.covers(&name("x.no.example.com")));
}

#[test]
fn hosts_come_from_the_map_and_from_the_block() {
    let text = ".:53 {\n hosts /etc/coredns/NodeHosts example.com {\n 192.0.2.9 c.example.com\n ttl 60\n no_reverse\n }\n}";
    let file = "192.0.2.7 a.example.com b.example.com # two\nnonsense\nfd00::7 a.example.com\n";
    let settings = read(&[("Corefile", text), ("NodeHosts", file)], &[]).unwrap();
    let hosts = &settings.0[0].hosts[0];
    let of = |text: &str| hosts.addresses.get(name(text).as_bytes()).map_or(0, Vec::len);
    assert_eq!((of("a.example.com"), of("b.example.com"), of("c.example.com")), (2, 1, 1));
    assert_eq!((hosts.ttl_s, hosts.names.len(), &hosts.zones[..]), (60, 0, &[name("example.com")][..]));
}

#[test]
fn names_are_rewritten_in_every_way() {
    let rewritten = |rule: &str, from: &str| {
        let block = block(rule).unwrap();
        block.rewrites[0].apply(&name(from)).map_or_else(|| "-".to_owned(), |name| name.to_string())
    };
    for (rule, from, to) in [
        (
            "rewrite name a.example web.default.svc.cluster.local",
            "a.example",
            "web.default.svc.cluster.local.",
        ),
        ("rewrite name exact A.example b.example", "x.a.example", "-"),
        (
            "rewrite stop name suffix .example.com .default.svc.cluster.local",
            "web.example.com",
            "web.default.svc.cluster.local.",
        ),
        ("rewrite name prefix old- new-", "old-web.x", "new-web.x."),
        ("rewrite name substring .dev. .prod.", "a.dev.x", "a.prod.x."),
        (r"rewrite name regex (.*)-(us|eu)\.example {2}.{1}.test answer auto", "a-eu.example", "eu.a.test."),
        ("rewrite name suffix example.com .", "example.com", "."),
    ] {
        assert_eq!(rewritten(rule, from), to, "{rule}");
    }
}

#[test]
fn what_is_not_supported_is_refused_with_its_line() {
    for (directives, problem) in [
        ("errors\nautopath @kubernetes", "Corefile line 3: the directive \"autopath\" is not supported"),
        ("cache 30 {\n  keepttl\n}", "Corefile line 3: \"keepttl\" is not supported"),
        (
            "forward . tls://dns.example",
            "Corefile line 2: \"tls://dns.example\" is no upstream: an address is, or /etc/resolv.conf",
        ),
        (
            "forward . 192.0.2.1 {\n tls_servername dns.example\n}",
            "Corefile line 3: no upstream is a tls:// one",
        ),
        (
            "forward . tls://192.0.2.1 {\n tls /etc/coredns/none.crt\n}",
            "Corefile line 2: \"/etc/coredns/none.crt\" is no key of the ConfigMap, /etc/coredns/KEY",
        ),
        (
            "forward . tls://192.0.2.1 {\n tls /etc/coredns/Corefile\n}",
            "Corefile line 2: no authority is trusted",
        ),
        ("forward . tls://192.0.2.1%- {\n}", "Corefile line 2: \"-\" is no name of a server"),
        (
            "forward . tls://192.0.2.1 {\n tls cert key ca\n}",
            "Corefile line 3: \"tls cert key ca\" is not supported",
        ),
        ("forward . 10.43.0.10", "Corefile line 2: 10.43.0.10 is this name server itself"),
        (
            "kubernetes other.local",
            "Corefile line 2: the cluster's domain is cluster.local. (--cluster-domain), not other.local.",
        ),
        (
            "hosts /etc/hosts",
            "Corefile line 2: the file of hosts has to be one of the ConfigMap, /etc/coredns/KEY",
        ),
        ("health {\n lameduck 1m\n}", "Corefile line 3: lameduck can be 5s at the most"),
        ("cache\ncache", "Corefile line 3: \"cache\" stands twice in its server block"),
        ("rewrite name regex ( x", "Corefile line 2: \"(\": "),
        ("errors {\n stacktrace\n}", "Corefile line 3: \"stacktrace\" is not supported"),
        ("prometheus localhost:9153", "Corefile line 2: \"localhost:9153\" has to be a port such as :9153"),
        ("import /etc/other/*", "Corefile line 2: the directive \"import\" is not supported"),
        ("cache 99999999999", "Corefile line 2: \"99999999999\" is no number that fits"),
        ("template IN A x.y {\n answer \"x\"\n}", "Corefile line 3: \"answer x\" is not supported"),
        (
            "forward . 192.0.2.1 {\n health_check 5y\n}",
            "Corefile line 3: \"5y\" is no duration up to a day, such as 10s",
        ),
    ] {
        let told = refused(directives);
        assert!(told.starts_with(problem), "{directives}: {told}");
    }
    let custom = read(&[], &[("x.server", "example.com {\n bind 127.0.0.1\n}")]).unwrap_err();
    assert_eq!(custom.to_string(), "x.server line 2: the directive \"bind\" is not supported");
    let twice = read(&[("Corefile", "a {\n}\na {\n}")], &[]).unwrap_err();
    assert_eq!(twice.to_string(), "Corefile line 3: the zone a. has a server block already");
    let port = read(&[("Corefile", ".:1053 {\n}")], &[]).unwrap_err();
    assert_eq!(port.to_string(), "Corefile line 1: \".:1053\" is no zone that can be served at port 53");
}

#[test]
fn braces_and_quotes_have_to_match() {
    for (text, problem) in [
        (". {\nerrors", "a brace is not closed"),
        ("}", "a brace is closed that was not opened"),
        (". { errors }", "a brace has to be the last of its line, or to stand alone when it closes"),
        ("{\n}", "a block without a name"),
        (". {\n a \"b\n}", "a quote is not closed"),
        ("a {\nb {\nc {\nd {\n}\n}\n}\n}", "too many blocks in each other"),
    ] {
        assert_eq!(parse("Corefile", text).unwrap_err().what, problem, "{text}");
    }
    let lines = parse("Corefile", "a \"b c\\\"\" # d\n\n# e {\nf#g").unwrap();
    assert_eq!(lines.iter().map(|line| &line.words[..]).collect::<Vec<_>>(), [&["a", "b c\""][..], &["f#g"]]);
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "(?s).{0,400}") {
        drop(read(&[("Corefile", &text)], &[("x.server", &text), ("y.override", &text)]));
    }

    /// Words that mean something, in any order.
    #[test]
    fn no_words_make_the_directives_panic(
        words in proptest::collection::vec(
            proptest::sample::select(vec![
                "{", "}", "\n", "\n", ".", ".:53", "cache", "30", "success", "denial", "prefetch", "10%", "forward",
                "/etc/resolv.conf", "[::1]:53", "policy", "random", "hosts", "192.0.2.1", "fallthrough", "ttl",
                "rewrite", "name", "regex", "(.*)", "{1}", "template", "IN", "ANY", "rcode", "NXDOMAIN", "log",
                "kubernetes", "pods", "insecure", "health", "lameduck", "5s", "1h30m", "\"", "#", "import",
                "serve_stale", "verify", "prometheus", ":9153", "éé", "\\",
            ]),
            0..60,
        ),
    ) {
        let text = words.join(" ");
        drop(read(&[("Corefile", &text)], &[]));
        drop(block(&text));
    }
}

#[test]
fn upstreams_of_tls_have_names() {
    let made = rcgen::generate_simple_self_signed(vec!["dns.example".to_owned()]).unwrap();
    let corefile = ".:53 {\n forward . tls://192.0.2.1 tls://[fd00::1]:8853%own.example 192.0.2.2 {\n  \
                    tls_servername dns.example\n  tls /etc/coredns/ca.crt\n  expire 1m\n }\n}";
    let read = read(&[("Corefile", corefile), ("ca.crt", &made.cert.pem())], &[]).unwrap();
    let forward = &read.0[0].forwards[0];
    let secure =
        |address: &str, name: &str| To::Secure(address.parse().unwrap(), name.to_owned().try_into().unwrap());
    let wanted = [
        secure("192.0.2.1:853", "dns.example"),
        secure("[fd00::1]:8853", "own.example"),
        To::Address("192.0.2.2:53".parse().unwrap()),
    ];
    assert_eq!((forward.to.as_slice(), forward.expire.as_secs()), (&wanted[..], 60));
    assert!(forward.tls.0.is_some());
}
