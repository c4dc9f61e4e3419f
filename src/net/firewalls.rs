//! Firewalls of others that drop what is forwarded. An `accept` in knarr's tables is no `accept` in theirs: each
//! table of nftables has its own say.
//!
//! Docker leaves a chain of its filter to others (`DOCKER-USER`): there pods' packets are let through, by rules with
//! knarr's name. Into other firewalls nothing is put; what drops there is told.

use crate::hearing::Ears;
use crate::netfilter::{self, Answer, DUMP, Message, NFTABLES, REQUEST, attribute, messages};
use crate::nft::own_chain_rules;
use crate::{Cidr, Error, Family, elements};
use std::time::Duration;

/// Docker's chain for rules of others, in the table `filter` of both families.
const DOCKER: &str = "DOCKER-USER";
const DOCKER_TABLE: &str = "filter";

/// `NFT_MSG_GETCHAIN`.
const GET_CHAIN: u16 = NFTABLES << 8 | 4;
/// Attributes of a chain; the first is the table's name in messages of all kinds.
const TABLE: u16 = 1;
const NAME: u16 = 3;
const HOOK: u16 = 4;
const POLICY: u16 = 5;
/// Within a hook: its number, of which these are what arrives and what is forwarded.
const NUMBER: u16 = 1;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
/// Behind it stands netfilter's own header.
const HEADER: usize = 4;
/// `NFT_MSG_NEWTABLE`, `NFT_MSG_NEWCHAIN` and `NFT_MSG_DELRULE`: what may change what is found here.
const NEWS: [u16; 3] = [NFTABLES << 8, NFTABLES << 8 | 3, NFTABLES << 8 | 8];

/// A firewall that starts changes much at once.
const SETTLED: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    family: &'static str,
    table: String,
    name: String,
    /// The hook that calls it and whether what no rule is about is dropped.
    base: Option<(u32, bool)>,
}

/// A chain of somebody's that drops what is sent to or by pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Obstacle {
    /// `FAMILY TABLE CHAIN`.
    pub chain: String,
    /// What whoever runs the machine has to do.
    pub hint: String,
}

fn text(bytes: &[u8]) -> Option<String> {
    Some(std::str::from_utf8(bytes).ok()?.trim_end_matches('\0').to_owned())
}

fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn chain(body: &[u8]) -> Option<Chain> {
    // Hooks of ARP have other numbers.
    let family = elements::family_name(*body.first()?).filter(|family| *family != "arp")?;
    let attributes = body.get(HEADER..)?;
    let base = attribute(attributes, HOOK).and_then(|hook| word(attribute(hook, NUMBER)?));
    let drops = attribute(attributes, POLICY).and_then(word) == Some(0);
    Some(Chain {
        family,
        table: text(attribute(attributes, TABLE)?)?,
        name: text(attribute(attributes, NAME)?)?,
        base: base.map(|hook| (hook, drops)),
    })
}

/// All chains but knarr's.
async fn chains() -> Result<Vec<Chain>, Error> {
    const WHAT: &str = "listing the chains of nftables";
    let mut message = Message::default();
    message.message((GET_CHAIN, REQUEST | DUMP), 1, [0; 4], |_| {});
    netfilter::run(WHAT, move || {
        let mut chains = Vec::new();
        let hear = |(_, _, body): Answer<'_>| chains.extend(chain(body));
        netfilter::talk(&message.0, 1, hear).map_err(|refused| refused.about(WHAT))?;
        Ok(chains)
    })
    .await
    .map(|all: Vec<Chain>| all.into_iter().filter(|chain| !chain.table.starts_with("knarr")).collect())
}

fn is_docker(chain: &Chain) -> bool {
    chain.name == DOCKER && chain.table == DOCKER_TABLE
}

/// What lets pods of these blocks through, as nft writes it back.
fn rules(family: &str, blocks: &[Cidr]) -> Vec<String> {
    let own = blocks.iter().filter(|block| Family::of(block.address()).name() == family);
    own.flat_map(|block| {
        ["saddr", "daddr"].map(|side| format!("{family} {side} {block} accept comment \"knarr\""))
    })
    .collect()
}

/// Lets what is sent to and by these blocks through where others say how, and gives what else drops it.
pub async fn pass(blocks: &[Cidr]) -> Result<Vec<Obstacle>, Error> {
    let all = chains().await?;
    for docker in all.iter().filter(|chain| is_docker(chain)) {
        own_chain_rules((docker.family, DOCKER_TABLE), DOCKER, &rules(docker.family, blocks)).await?;
    }
    Ok(obstacles_in(&all, blocks))
}

/// What drops what is sent to and by these blocks now; nothing is changed.
pub async fn obstacles(blocks: &[Cidr]) -> Result<Vec<Obstacle>, Error> {
    Ok(obstacles_in(&chains().await?, blocks))
}

fn obstacles_in(all: &[Chain], blocks: &[Cidr]) -> Vec<Obstacle> {
    let mut obstacles: Vec<Obstacle> = all.iter().filter_map(|chain| obstacle(chain, all, blocks)).collect();
    obstacles.sort();
    obstacles.dedup_by(|one, other| one.hint == other.hint);
    obstacles
}

/// Takes away what was put into others' chains.
pub(crate) async fn withdraw() -> Result<(), Error> {
    for docker in chains().await?.iter().filter(|chain| is_docker(chain)) {
        own_chain_rules((docker.family, DOCKER_TABLE), DOCKER, &[]).await?;
    }
    Ok(())
}

fn obstacle(chain: &Chain, all: &[Chain], blocks: &[Cidr]) -> Option<Obstacle> {
    let (hook, drops) = chain.base?;
    let beside = |fits: &dyn Fn(&Chain) -> bool| {
        all.iter().any(|other| other.family == chain.family && other.table == chain.table && fits(other))
    };
    let listed = |separator: &str, each: &dyn Fn(&Cidr) -> String| {
        blocks.iter().map(each).collect::<Vec<_>>().join(separator)
    };
    let hint = if chain.table == "firewalld" && [INPUT, FORWARD].contains(&hook) {
        let sources = listed(" ", &|block| format!("--add-source={block}"));
        format!("firewall-cmd --permanent --zone=trusted {sources} && firewall-cmd --reload")
    } else if !drops || ![INPUT, FORWARD].contains(&hook) {
        return None;
    } else if beside(&|other| other.name.starts_with("ufw-")) {
        listed(" && ", &|block| {
            format!("ufw allow from {block} && ufw route allow from {block} && ufw route allow to {block}")
        })
    } else if hook == FORWARD && beside(&is_docker) {
        return None;
    } else {
        let own = listed(" ", &|block| block.to_string());
        format!("accept there what is sent to and by {own}")
    };
    Some(Obstacle { chain: format!("{} {} {}", chain.family, chain.table, chain.name), hint })
}

/// Hears of what others change.
pub struct News(Ears);

impl News {
    /// From now on.
    pub fn listen() -> Result<Self, Error> {
        Ears::open().map(Self)
    }

    /// Completes when others may have changed what [`pass`] finds.
    pub async fn changed(&mut self) -> Result<(), Error> {
        while self.0.next().await?.is_some_and(|bytes| !is_news(&bytes)) {}
        self.0.quiet(SETTLED).await
    }
}

fn is_news(bytes: &[u8]) -> bool {
    let others = |body: &[u8]| {
        let name = body.get(HEADER..).and_then(|attributes| text(attribute(attributes, TABLE)?));
        name.is_some_and(|name| !name.starts_with("knarr"))
    };
    messages(bytes).any(|(kind, _, body)| NEWS.contains(&kind) && others(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(table: &str, name: &str, base: Option<(u32, bool)>) -> Chain {
        Chain { family: "ip", table: table.to_owned(), name: name.to_owned(), base }
    }

    #[test]
    fn who_drops_is_told_with_what_to_do() {
        let blocks = ["10.42.0.0/16".parse().unwrap()];
        let hints = |all: &[Chain]| {
            let found = all.iter().filter_map(|chain| obstacle(chain, all, &blocks));
            found.map(|one| one.hint).collect::<Vec<_>>()
        };
        let forward = |table| made(table, "FORWARD", Some((FORWARD, true)));
        assert_eq!(hints(&[forward("filter"), made("filter", "DOCKER-USER", None)]), [""; 0]);
        let ufw = "ufw allow from 10.42.0.0/16 && ufw route allow from 10.42.0.0/16 && ufw route allow to 10.42.0.0/16";
        assert_eq!(hints(&[forward("filter"), made("filter", "ufw-user-forward", None)]), [ufw]);
        assert!(
            hints(&[made("firewalld", "filter_FORWARD", Some((FORWARD, false)))])[0]
                .contains("--zone=trusted --add-source=10.42.0.0/16")
        );
        assert!(hints(&[forward("own")])[0].contains("10.42.0.0/16"));
        assert_eq!(
            hints(&[made("own", "out", Some((3, true))), made("own", "open", Some((FORWARD, false)))]),
            [""; 0]
        );
    }

    #[test]
    fn chains_are_read() {
        let mut body = Message(vec![2, 0, 0, 0]);
        body.text(TABLE, "filter");
        body.text(NAME, "FORWARD");
        body.nest(HOOK, |hook| hook.attribute(NUMBER, &FORWARD.to_be_bytes()));
        body.attribute(POLICY, &0_u32.to_be_bytes());
        assert_eq!(chain(&body.0), Some(made("filter", "FORWARD", Some((FORWARD, true)))));
        let mut message = Message::default();
        message.message((NEWS[1], 0), 1, [2, 0, 0, 0], |message| message.text(TABLE, "filter"));
        assert!(is_news(&message.0));
    }
}
