//! One function for each directive of a server block.

use super::block::{
    Block, CacheRule, Denied, ForwardRule, Kept, KubernetesRule, Page, Place, Pods, Policy, Prefetch, Stale,
    To, Trust,
};
use super::{Hosts, Line, Problem, Rewrite};
use crate::name::Name;
use crate::wire::{code, kind};
use rustls::pki_types::ServerName;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// CoreDNS' defaults.
const CACHE_ANSWERS: usize = 9_984;
const SUCCESS_S: u32 = 3_600;
const DENIAL_S: u32 = 1_800;
const SERVFAIL: Duration = Duration::from_secs(5);
const STALE: Duration = Duration::from_secs(3_600);
const TTL_S: u32 = 5;
const MAX_FAILS: u32 = 2;
const RETRY: Duration = Duration::from_millis(500);
const EXPIRE: Duration = Duration::from_secs(10);

/// Of DNS over TLS.
const TLS_PORT: u16 = 853;

/// CoreDNS has 15 upstreams, too.
const UPSTREAMS: usize = 15;

/// Queries that may wait for upstreams at once, if the Corefile says nothing or more.
pub(crate) const CONCURRENT: usize = 1_024;

/// A stop of knarr takes no longer for DNS.
const LONGEST_LAMEDUCK: Duration = Duration::from_secs(5);

const DAY: Duration = Duration::from_secs(86_400);

/// Adds what a directive says to its block.
pub(super) fn take(block: &mut Block, line: &Line, place: &Place<'_>) -> Result<(), Problem> {
    match line.name() {
        "errors" => bare(line).map(|()| block.errors = true),
        "loadbalance" => loadbalance(block, line),
        // Loops are looked for in any case, and changes are followed at once.
        "loop" | "reload" => line.plain(),
        "log" => log(block, line),
        "prometheus" => page(block, line, Page::Metrics, 9153),
        "ready" => page(block, line, Page::Ready, 8181),
        "health" => health(block, line),
        "cache" => once(&block.cache, line).and_then(|()| {
            block.cache = Some(cache(line)?);
            Ok(())
        }),
        "rewrite" => Rewrite::read(line).map(|rewrite| block.rewrites.push(rewrite)),
        "template" => denied(line, &block.zones).map(|denied| block.denied.push(denied)),
        "hosts" => Hosts::read(line, &block.zones, place.sources).map(|hosts| block.hosts.push(hosts)),
        "kubernetes" => once(&block.kubernetes, line).and_then(|()| {
            block.kubernetes = Some(kubernetes(line, place)?);
            Ok(())
        }),
        "forward" => forward(line, place).map(|rule| block.forwards.push(rule)),
        other => Err(line.problem(format!("the directive {other:?} is not supported"))),
    }
}

fn once<T>(known: &Option<T>, line: &Line) -> Result<(), Problem> {
    if known.is_some() {
        return Err(line.problem(format!("{:?} stands twice in its server block", line.name())));
    }
    Ok(())
}

/// A directive without anything more.
fn bare(line: &Line) -> Result<(), Problem> {
    line.plain()?;
    if line.arguments().is_empty() { Ok(()) } else { Err(line.unsupported()) }
}

fn number<T: FromStr>(line: &Line, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| line.problem(format!("{text:?} is no number that fits")))
}

/// `500ms`, `10s`, `5m`, `1h30m`; a plain number is seconds.
pub(super) fn duration(line: &Line, text: &str) -> Result<Duration, Problem> {
    let wrong = || line.problem(format!("{text:?} is no duration up to a day, such as 10s"));
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let count: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        let end = rest[digits..].find(|letter: char| letter.is_ascii_digit());
        let end = end.map_or(rest.len(), |end| digits + end);
        let unit = match &rest[digits..end] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "" if digits == text.len() => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3_600),
            _ => return Err(wrong()),
        };
        total = unit.checked_mul(count).and_then(|more| total.checked_add(more)).ok_or_else(wrong)?;
        rest = &rest[end..];
    }
    if text.is_empty() || total > DAY { Err(wrong()) } else { Ok(total) }
}

pub(super) fn names(line: &Line, texts: &[&str]) -> Result<Vec<Name>, Problem> {
    let named = |text: &&str| Name::parse(text).ok_or_else(|| line.problem(format!("{text:?} is no name")));
    texts.iter().map(named).collect()
}

/// The zones that are named, or the others.
pub(super) fn names_or(line: &Line, texts: &[&str], others: &[Name]) -> Result<Vec<Name>, Problem> {
    if texts.is_empty() { Ok(others.to_vec()) } else { names(line, texts) }
}

fn loadbalance(block: &mut Block, line: &Line) -> Result<(), Problem> {
    line.plain()?;
    match line.arguments().as_slice() {
        [] | ["round_robin"] => block.rotate = true,
        _ => return Err(line.unsupported()),
    }
    Ok(())
}

fn log(block: &mut Block, line: &Line) -> Result<(), Problem> {
    line.plain()?;
    let zones = names_or(line, &line.arguments(), &block.zones)?;
    block.log.extend(zones);
    Ok(())
}

/// A page over HTTP at a port of the DNS addresses.
fn page(block: &mut Block, line: &Line, page: Page, usual: u16) -> Result<(), Problem> {
    line.plain()?;
    let port = match line.arguments().as_slice() {
        [] => usual,
        [place] => {
            let port = place.strip_prefix(':').or_else(|| place.strip_prefix("0.0.0.0:"));
            let port =
                port.ok_or_else(|| line.problem(format!("{place:?} has to be a port such as :{usual}")))?;
            number(line, port)?
        }
        _ => return Err(line.unsupported()),
    };
    if port == 53 || port == 0 {
        return Err(line.problem("this port cannot be used"));
    }
    block.pages.push((port, page));
    Ok(())
}

fn health(block: &mut Block, line: &Line) -> Result<(), Problem> {
    for option in line.options() {
        match (option.name(), option.arguments().as_slice()) {
            ("lameduck", [text]) => block.lameduck = duration(option, text)?,
            _ => return Err(option.unsupported()),
        }
        if block.lameduck > LONGEST_LAMEDUCK {
            return Err(option.problem("lameduck can be 5s at the most"));
        }
    }
    page(block, &Line { block: None, ..line.clone() }, Page::Health, 8080)
}

fn cache(line: &Line) -> Result<CacheRule, Problem> {
    let kept = |most_s| Kept { answers: CACHE_ANSWERS, least_s: 0, most_s };
    let mut rule = CacheRule {
        success: kept(SUCCESS_S),
        denial: kept(DENIAL_S),
        servfail: SERVFAIL,
        prefetch: None,
        stale: None,
        no_success: Vec::new(),
        no_denial: Vec::new(),
    };
    match line.arguments().as_slice() {
        [] => {}
        [ttl_s] => {
            let ttl_s: u32 = number(line, ttl_s)?;
            (rule.success.most_s, rule.denial.most_s) = (ttl_s, ttl_s.min(DENIAL_S));
        }
        _ => return Err(line.unsupported()),
    }
    line.options().iter().try_for_each(|option| cache_option(&mut rule, option))?;
    Ok(rule)
}

fn cache_option(rule: &mut CacheRule, option: &Line) -> Result<(), Problem> {
    option.plain()?;
    match (option.name(), option.arguments().as_slice()) {
        ("success", words) => kept(&mut rule.success, option, words)?,
        ("denial", words) => kept(&mut rule.denial, option, words)?,
        ("servfail", [text]) => rule.servfail = duration(option, text)?,
        ("prefetch", [hits, words @ ..]) => rule.prefetch = Some(prefetch(option, hits, words)?),
        ("serve_stale", words) => rule.stale = Some(stale(option, words)?),
        ("disable", ["success", zones @ ..]) => rule.no_success = names_or(option, zones, &[Name::ROOT])?,
        ("disable", ["denial", zones @ ..]) => rule.no_denial = names_or(option, zones, &[Name::ROOT])?,
        _ => return Err(option.unsupported()),
    }
    Ok(())
}

fn kept(kept: &mut Kept, option: &Line, words: &[&str]) -> Result<(), Problem> {
    let (answers, rest) = words.split_first().ok_or_else(|| option.unsupported())?;
    kept.answers = number(option, answers)?;
    if !(1..=CACHE_ANSWERS * 10).contains(&kept.answers) {
        return Err(option.problem(format!("{answers} answers are too few or too many")));
    }
    match rest {
        [] => {}
        [most] => kept.most_s = number(option, most)?,
        [most, least] => (kept.most_s, kept.least_s) = (number(option, most)?, number(option, least)?),
        _ => return Err(option.unsupported()),
    }
    Ok(())
}

fn prefetch(option: &Line, hits: &str, words: &[&str]) -> Result<Prefetch, Problem> {
    let mut rule = Prefetch { hits: number(option, hits)?, pause: Duration::from_secs(60), percent: 10 };
    let percent = |text: &str| {
        let percent = text.strip_suffix('%').ok_or_else(|| option.unsupported())?;
        number(option, percent).and_then(|percent| {
            if percent > 90 { Err(option.problem("at most 90 % can be left")) } else { Ok(percent) }
        })
    };
    match words {
        [] => {}
        [pause] => rule.pause = duration(option, pause)?,
        [pause, left] => (rule.pause, rule.percent) = (duration(option, pause)?, percent(left)?),
        _ => return Err(option.unsupported()),
    }
    Ok(rule)
}

fn stale(option: &Line, words: &[&str]) -> Result<Stale, Problem> {
    let verify = |text: &str| match text {
        "verify" => Ok(true),
        "immediate" => Ok(false),
        _ => Err(option.unsupported()),
    };
    match words {
        [] => Ok(Stale { limit: STALE, verify: false }),
        [limit] => Ok(Stale { limit: duration(option, limit)?, verify: false }),
        [limit, mode] => Ok(Stale { limit: duration(option, limit)?, verify: verify(mode)? }),
        _ => Err(option.unsupported()),
    }
}

/// `template CLASS TYPE [ZONE...] { rcode CODE }`: what denies; answers made of templates are not
/// supported.
fn denied(line: &Line, zones: &[Name]) -> Result<Denied, Problem> {
    let words = line.arguments();
    let ["IN" | "ANY", asked, named @ ..] = words.as_slice() else { return Err(line.unsupported()) };
    let asked = match *asked {
        "ANY" => None,
        "A" => Some(kind::A),
        "AAAA" => Some(kind::AAAA),
        "CNAME" => Some(kind::CNAME),
        "HTTPS" => Some(65),
        "MX" => Some(15),
        "PTR" => Some(kind::PTR),
        "SRV" => Some(kind::SRV),
        "SVCB" => Some(64),
        "TXT" => Some(kind::TXT),
        _ => return Err(line.unsupported()),
    };
    let mut code = None;
    for option in line.options() {
        option.plain()?;
        code = Some(match (option.name(), option.arguments().as_slice()) {
            ("rcode", ["NOERROR"]) => code::NO_ERROR,
            ("rcode", ["NXDOMAIN"]) => code::NX_DOMAIN,
            ("rcode", ["SERVFAIL"]) => code::SERV_FAIL,
            ("rcode", ["REFUSED"]) => code::REFUSED,
            _ => return Err(option.unsupported()),
        });
    }
    let code = code.ok_or_else(|| line.problem("a template has to have an rcode"))?;
    Ok(Denied { kind: asked, zones: names_or(line, named, zones)?, code })
}

fn kubernetes(line: &Line, place: &Place<'_>) -> Result<KubernetesRule, Problem> {
    let zones = names_or(line, &line.arguments(), &[*place.domain])?;
    let reverse = ["in-addr.arpa", "ip6.arpa"].map(|zone| Name::parse(zone).unwrap_or(Name::ROOT));
    let foreign = |zone: &&Name| *zone != place.domain && !reverse.iter().any(|reverse| zone.is_in(reverse));
    if let Some(zone) = zones.iter().find(foreign) {
        let domain = place.domain;
        return Err(line.problem(format!("the cluster's domain is {domain} (--cluster-domain), not {zone}")));
    }
    let mut rule = KubernetesRule { zones, ttl_s: TTL_S, pods: Pods::Disabled, through: Vec::new() };
    for option in line.options() {
        option.plain()?;
        match (option.name(), option.arguments().as_slice()) {
            ("ttl", [text]) => rule.ttl_s = ttl_s(option, text)?,
            ("pods", ["insecure"]) => rule.pods = Pods::Insecure,
            ("pods", ["disabled"]) => rule.pods = Pods::Disabled,
            ("fallthrough", zones) => rule.through = names_or(option, zones, &[Name::ROOT])?,
            _ => return Err(option.unsupported()),
        }
    }
    Ok(rule)
}

/// CoreDNS takes an hour at the most, too.
pub(super) fn ttl_s(option: &Line, text: &str) -> Result<u32, Problem> {
    let ttl_s = number(option, text)?;
    if ttl_s > 3_600 { Err(option.problem("a ttl is 0 to 3600 s")) } else { Ok(ttl_s) }
}

fn forward(line: &Line, place: &Place<'_>) -> Result<ForwardRule, Problem> {
    let words = line.arguments();
    let [from, to @ ..] = words.as_slice() else { return Err(line.unsupported()) };
    if to.is_empty() || to.len() > UPSTREAMS {
        return Err(line.problem(format!("forward needs 1 to {UPSTREAMS} upstreams")));
    }
    let wishes = TlsWishes::read(line)?;
    let to: Vec<To> =
        to.iter().map(|text| upstream(line, text, (place, &wishes))).collect::<Result<_, _>>()?;
    let is_secure = to.iter().any(|to| matches!(to, To::Secure(..)));
    let mut rule = ForwardRule {
        from: names(line, &[from])?[0],
        to,
        except: Vec::new(),
        force_tcp: false,
        policy: Policy::Random,
        max_fails: MAX_FAILS,
        retry: RETRY,
        max_concurrent: CONCURRENT,
        expire: EXPIRE,
        tls: if is_secure { wishes.trust(line, place)? } else { Trust::default() },
    };
    line.options().iter().try_for_each(|option| forward_option(&mut rule, option))?;
    Ok(rule)
}

/// What a `forward` says of TLS, before its upstreams can be understood.
#[derive(Default)]
struct TlsWishes<'a> {
    name: Option<ServerName<'static>>,
    /// The file of authorities.
    authorities: Option<&'a str>,
}

impl<'a> TlsWishes<'a> {
    fn read(line: &'a Line) -> Result<Self, Problem> {
        let mut wishes = Self::default();
        for option in line.options() {
            match (option.name(), option.arguments().as_slice()) {
                ("tls_servername", [name]) => wishes.name = Some(server_name(option, name)?),
                ("tls", []) => {}
                ("tls", [file]) => wishes.authorities = Some(file),
                ("tls" | "tls_servername", _) => return Err(option.unsupported()),
                _ => {}
            }
        }
        Ok(wishes)
    }

    /// The authorities of a file of the ConfigMap, or the machine's.
    fn trust(&self, line: &Line, place: &Place<'_>) -> Result<Trust, Problem> {
        let bundle = match self.authorities {
            Some(file) => {
                let found = place.sources.file(file).ok_or_else(|| {
                    line.problem(format!("{file:?} is no key of the ConfigMap, /etc/coredns/KEY"))
                })?;
                found.as_bytes().to_vec()
            }
            None => base::tls::system_authorities(),
        };
        Trust::of(bundle).map_err(|why| line.problem(why))
    }
}

fn server_name(line: &Line, text: &str) -> Result<ServerName<'static>, Problem> {
    let name = ServerName::try_from(text.to_owned());
    name.map_err(|_| line.problem(format!("{text:?} is no name of a server")))
}

fn forward_option(rule: &mut ForwardRule, option: &Line) -> Result<(), Problem> {
    option.plain()?;
    match (option.name(), option.arguments().as_slice()) {
        ("except", zones) => rule.except.extend(names(option, zones)?),
        ("force_tcp", []) => rule.force_tcp = true,
        // Upstreams are asked over UDP in any case, unless force_tcp or tls:// says otherwise.
        ("prefer_udp", []) => {}
        ("max_fails", [text]) => rule.max_fails = number(option, text)?,
        ("health_check", [text]) => rule.retry = duration(option, text)?,
        ("expire", [text]) => rule.expire = duration(option, text)?,
        ("max_concurrent", [text]) => {
            rule.max_concurrent = number::<usize>(option, text)?.clamp(1, CONCURRENT)
        }
        ("policy", ["random"]) => rule.policy = Policy::Random,
        ("policy", ["round_robin"]) => rule.policy = Policy::RoundRobin,
        ("policy", ["sequential"]) => rule.policy = Policy::Sequential,
        // Read before, with the upstreams.
        ("tls" | "tls_servername", _) if rule.tls != Trust::default() => {}
        ("tls" | "tls_servername", _) => return Err(option.problem("no upstream is a tls:// one")),
        _ => return Err(option.unsupported()),
    }
    Ok(())
}

fn upstream(line: &Line, text: &str, (place, wishes): (&Place<'_>, &TlsWishes<'_>)) -> Result<To, Problem> {
    if text == "/etc/resolv.conf" {
        return Ok(To::Machine);
    }
    let (secure, own_name) = match text.strip_prefix("tls://") {
        Some(rest) => match rest.split_once('%') {
            Some((address, name)) => (Some(address), Some(server_name(line, name)?)),
            None => (Some(rest), None),
        },
        None => (None, None),
    };
    let plain = secure.unwrap_or_else(|| text.strip_prefix("dns://").unwrap_or(text));
    let port = if secure.is_some() { TLS_PORT } else { 53 };
    let address = plain.parse::<SocketAddr>().ok().or_else(|| {
        let address = plain.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok()?;
        Some(SocketAddr::new(address, port))
    });
    let address = address.ok_or_else(|| {
        line.problem(format!("{text:?} is no upstream: an address is, or /etc/resolv.conf"))
    })?;
    if place.listen.contains(&address) || address.ip().is_unspecified() {
        return Err(line.problem(format!("{text} is this name server itself")));
    }
    if secure.is_none() {
        return Ok(To::Address(address));
    }
    // Without a name, the certificate has to be for the address.
    let name = own_name.or_else(|| wishes.name.clone());
    Ok(To::Secure(address, name.unwrap_or_else(|| ServerName::IpAddress(address.ip().into()))))
}
