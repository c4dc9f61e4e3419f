//! nftables: a small model rendered as text and applied as one transaction.

pub use crate::elements::{Element, Field, Value, remember_v6};
pub use crate::netfilter::Channel;

use crate::netfilter::{self, DUMP, Message, NFTABLES, REQUEST};
use crate::{Error, elements, hearing};
use std::borrow::Cow;
use std::time::Duration;

/// How long one transaction may take: ten thousand services load in half a second.
const LIMIT: Duration = Duration::from_secs(60);

/// From so many bytes on a transaction is a large one (see `hearing`).
const LARGE_BYTES: usize = 256 << 10;

/// So many elements go into one command, to keep its line within the program's buffers.
const ELEMENTS_A_COMMAND: usize = 1_000;

/// A table: everything in it belongs to knarr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// `ip` or `ip6`.
    pub family: &'static str,
    /// Its name, which begins with `knarr`.
    pub name: &'static str,
    /// Its sets and maps.
    pub sets: Vec<Set>,
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// A set or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// `set` or `map`.
    pub kind: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its type, flags and size, a statement each.
    pub declaration: Vec<String>,
    /// What is in it at first.
    pub elements: Vec<String>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// For a base chain what it hooks into: `type nat hook prerouting priority -100`.
    pub hook: Option<&'static str>,
    /// Its rules.
    pub rules: Vec<String>,
}

impl Chain {
    /// A chain that a hook of the kernel's calls.
    pub fn base<R: Into<String>>(name: &str, hook: &'static str, rules: impl IntoIterator<Item = R>) -> Self {
        let rules = rules.into_iter().map(Into::into).collect();
        Self { name: name.to_owned(), hook: Some(hook), rules }
    }

    /// A chain that other chains jump to.
    pub fn plain<R: Into<String>>(name: &str, rules: impl IntoIterator<Item = R>) -> Self {
        Self { name: name.to_owned(), hook: None, rules: rules.into_iter().map(Into::into).collect() }
    }

    /// As a block inside its table. Every statement stands on a line of its own: a `;` before a `}`
    /// is a syntax error to nft.
    fn render(&self, text: &mut String) {
        write_line(text, 1, &format!("chain {} {{", self.name));
        if let Some(hook) = self.hook {
            write_line(text, 2, &format!("{hook}; policy accept;"));
        }
        self.rules.iter().for_each(|rule| write_line(text, 2, rule));
        write_line(text, 1, "}");
    }
}

impl Set {
    fn render(&self, text: &mut String) {
        write_line(text, 1, &format!("{} {} {{", self.kind, self.name));
        self.declaration.iter().for_each(|line| write_line(text, 2, line));
        write_line(text, 1, "}");
    }
}

fn write_line(text: &mut String, depth: usize, line: &str) {
    text.extend(std::iter::repeat_n('\t', depth));
    text.push_str(line);
    text.push('\n');
}

/// Commands that are applied together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction(String);

impl Transaction {
    /// Puts a table in place of the one of its name, if there is one.
    pub fn replace_table(&mut self, table: &Table) {
        let mut text = String::new();
        write_line(&mut text, 0, &format!("table {} {} {{", table.family, table.name));
        table.sets.iter().for_each(|set| set.render(&mut text));
        table.chains.iter().for_each(|chain| chain.render(&mut text));
        write_line(&mut text, 0, "}");
        self.remove_table(table.family, table.name);
        self.0.push_str(&text);
        for set in &table.sets {
            self.elements("add", (table.family, table.name), set.name, set.elements.iter().cloned());
        }
    }

    /// Removes a table, also one that is not there: adding it first makes that no error.
    pub fn remove_table(&mut self, family: &str, name: &str) {
        write_line(&mut self.0, 0, &format!("add table {family} {name}"));
        write_line(&mut self.0, 0, &format!("delete table {family} {name}"));
    }

    fn elements(&mut self, verb: &str, table: TableName, set: &str, elements: impl Iterator<Item = String>) {
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            let some: Vec<String> = elements.by_ref().take(ELEMENTS_A_COMMAND).collect();
            let line = format!("{verb} element {} {} {set} {{ {} }}", table.0, table.1, some.join(", "));
            write_line(&mut self.0, 0, &line);
        }
    }

    /// Adds a chain that is not there yet.
    pub fn add_chain(&mut self, (family, name): TableName, chain: &Chain) {
        write_line(&mut self.0, 0, &format!("table {family} {name} {{"));
        chain.render(&mut self.0);
        write_line(&mut self.0, 0, "}");
    }

    /// Adds a set or map that is not there yet, by its kind and name, with its declaration and content.
    pub fn add_set(
        &mut self,
        (family, table): TableName,
        (kind, name): (&str, &str),
        declaration: &[String],
        elements: &[String],
    ) {
        let text = &mut self.0;
        write_line(text, 0, &format!("table {family} {table} {{"));
        write_line(text, 1, &format!("{kind} {name} {{"));
        declaration.iter().for_each(|line| write_line(text, 2, line));
        write_line(text, 1, "}");
        write_line(text, 0, "}");
        self.elements("add", (family, table), name, elements.iter().cloned());
    }

    /// Removes a chain to which nothing leads any more.
    pub fn remove_chain(&mut self, (family, table): TableName, chain: &str) {
        write_line(&mut self.0, 0, &format!("flush chain {family} {table} {chain}"));
        write_line(&mut self.0, 0, &format!("delete chain {family} {table} {chain}"));
    }

    /// Removes a set that no rule names any more.
    pub fn remove_set(&mut self, (family, table): TableName, set: &str) {
        write_line(&mut self.0, 0, &format!("delete set {family} {table} {set}"));
    }

    /// The commands as text, which is what tests read.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Elements that are deleted from and added to sets, in this order, together or not at all: what can be
/// done without starting `nft`, which alone takes longer than a service's endpoint may take to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Table, name of the set, and whether the elements are added; in the order in which it is done.
    pub steps: Vec<(TableName, Cow<'static, str>, Verb, Vec<Element>)>,
}

/// Family (`ip`, `ip6` or `inet`) and name of a table.
pub type TableName = (&'static str, &'static str);

/// What is done with elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// They have to be there.
    Delete,
    /// They must not be there with another value.
    Add,
}

impl Changes {
    /// Notes an element; elements of one set are done together.
    pub fn push(
        &mut self,
        table: TableName,
        set: impl Into<Cow<'static, str>>,
        verb: Verb,
        element: Element,
    ) {
        let set = set.into();
        // One of many sets is found soon: what belongs together comes together.
        match self.steps.iter_mut().rev().find(|step| step.2 == verb && step.1 == set && step.0 == table) {
            Some((.., elements)) => elements.push(element),
            None => self.steps.push((table, set, verb, vec![element])),
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The same as text, after what the transaction has already.
    pub fn write(&self, transaction: &mut Transaction) {
        for (table, set, verb, elements) in &self.steps {
            let verb = if *verb == Verb::Add { "add" } else { "delete" };
            transaction.elements(verb, *table, set, elements.iter().map(Element::to_string));
        }
    }

    /// Has the kernel do it.
    pub async fn apply(self, channel: &Channel) -> Result<(), Error> {
        elements::apply(self, channel).await
    }
}

/// Elements that are put into sets which are made in the same transaction. They are written at once as they
/// come: of a whole table there are many.
#[derive(Clone, Debug, Default)]
pub struct Filling(Vec<(TableName, &'static str, usize, String)>);

impl Filling {
    /// Notes an element; elements of one set are done together.
    pub fn push(&mut self, table: TableName, set: &'static str, element: &Element) {
        let known = self.0.iter().position(|step| step.1 == set && step.0 == table);
        let at = known.unwrap_or_else(|| {
            self.0.push((table, set, 0, String::new()));
            self.0.len() - 1
        });
        let (.., count, text) = &mut self.0[at];
        if count.is_multiple_of(ELEMENTS_A_COMMAND) {
            let end = if *count > 0 { " }\n" } else { "" };
            text.push_str(&format!("{end}add element {} {} {set} {{ ", table.0, table.1));
        } else {
            text.push_str(", ");
        }
        text.push_str(&element.to_string());
        *count += 1;
    }

    /// Puts it after what the transaction has already.
    pub fn write(self, transaction: &mut Transaction) {
        for (.., text) in self.0 {
            transaction.0.push_str(&text);
            transaction.0.push_str(" }\n");
        }
    }
}

/// Applies a transaction, whole or not at all.
pub async fn apply(transaction: &Transaction) -> Result<(), Error> {
    if transaction.is_empty() {
        return Ok(());
    }
    let _silence = match transaction.text().len() {
        LARGE_BYTES.. => Some(hearing::silence().await),
        _ => None,
    };
    let mut command = base::process::command("nft");
    command.args(["-f", "-"]);
    base::process::check(command, transaction.text().as_bytes(), LIMIT).await?;
    Ok(())
}

/// What a map holds now, as `nft --json` tells it; for maps that packets write to.
pub async fn list_map((family, table): TableName, map: &str) -> Result<serde_json::Value, Error> {
    let mut command = base::process::command("nft");
    command.args(["--json", "--numeric", "list", "map", family, table, map]);
    let output = base::process::check(command, b"", LIMIT).await?;
    Ok(serde_json::from_slice(&output).unwrap_or_default())
}

/// Has these rules of knarr's at the beginning of somebody else's chain, and no others of knarr's.
pub(crate) async fn own_chain_rules(
    (family, table): (&str, &str),
    chain: &str,
    wanted: &[String],
) -> Result<(), Error> {
    let mut command = base::process::command("nft");
    command.args(["--handle", "list", "chain", family, table, chain]);
    let listing = base::process::check(command, b"", LIMIT).await?;
    let mut transaction = Transaction::default();
    let there = own_rules(&String::from_utf8_lossy(&listing));
    for (_, handle) in there.iter().filter(|(rule, _)| !wanted.contains(rule)) {
        write_line(&mut transaction.0, 0, &format!("delete rule {family} {table} {chain} handle {handle}"));
    }
    for rule in wanted.iter().filter(|rule| !there.iter().any(|(own, _)| own == *rule)) {
        write_line(&mut transaction.0, 0, &format!("insert rule {family} {table} {chain} {rule}"));
    }
    apply(&transaction).await
}

/// The rules that carry knarr's name, with their handles.
fn own_rules(listing: &str) -> Vec<(String, u64)> {
    let rule = |line: &str| {
        let (rule, handle) = line.trim().rsplit_once(" # handle ")?;
        let own = rule.ends_with("comment \"knarr\"");
        own.then(|| Some((rule.to_owned(), handle.parse().ok()?))).flatten()
    };
    listing.lines().filter_map(rule).collect()
}

/// `NFT_MSG_GETTABLE`, and the attribute of a table's name.
const GET_TABLE: u16 = NFTABLES << 8 | 1;
const TABLE_NAME: u16 = 1;
/// Netfilter's own header before the attributes of an answer: its first byte is the family.
const HEADER: usize = 4;

/// The tables of knarr's that exist: family and name. `nft list tables` reads all that is in them before it
/// answers, which takes seconds where there are ten thousand services.
pub(crate) async fn own_tables() -> Result<Vec<(&'static str, String)>, Error> {
    const WHAT: &str = "listing the tables of nftables";
    let mut message = Message::default();
    message.message((GET_TABLE, REQUEST | DUMP), 1, [0; 4], |_| {});
    netfilter::run(WHAT, move || {
        let mut tables = Vec::new();
        let hear = |(_, _, body): netfilter::Answer<'_>| tables.extend(own_table(body));
        netfilter::talk(&message.0, 1, hear).map_err(|refused| refused.about(WHAT))?;
        Ok(tables)
    })
    .await
}

/// The family and name in an answer, if it is a table of knarr's.
fn own_table(body: &[u8]) -> Option<(&'static str, String)> {
    let family = elements::family_name(*body.first()?)?;
    let name = std::str::from_utf8(netfilter::attribute(body.get(HEADER..)?, TABLE_NAME)?).ok()?;
    let name = name.trim_end_matches('\0');
    (name == "knarr" || name.starts_with("knarr-")).then(|| (family, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            family: "ip",
            name: "knarr-test",
            sets: vec![Set {
                kind: "set",
                name: "blocks",
                declaration: vec!["type ipv4_addr".into(), "flags interval".into()],
                elements: vec!["10.42.0.0/16".into(), "10.43.0.0/16".into()],
            }],
            chains: vec![
                Chain::base("post", "type nat hook postrouting priority 100", ["masquerade"]),
                Chain::plain("other", ["accept"]),
            ],
        }
    }

    #[test]
    fn a_table_renders_as_one_transaction() {
        let mut transaction = Transaction::default();
        transaction.replace_table(&table());
        let expected = "add table ip knarr-test\ndelete table ip knarr-test\ntable ip knarr-test {\n\
            \tset blocks {\n\t\ttype ipv4_addr\n\t\tflags interval\n\t}\n\
            \tchain post {\n\t\ttype nat hook postrouting priority 100; policy accept;\n\t\tmasquerade\n\t}\n\
            \tchain other {\n\t\taccept\n\t}\n}\n\
            add element ip knarr-test blocks { 10.42.0.0/16, 10.43.0.0/16 }\n";
        assert_eq!(transaction.text(), expected);
    }

    #[test]
    fn deltas_are_cut_into_commands_of_bounded_length() {
        let mut changes = Changes::default();
        for number in 0..1_001 {
            let element = Element::of([Field::Number(number)]);
            changes.push(("ip", "knarr-test"), "blocks", Verb::Delete, element);
        }
        let mut transaction = Transaction::default();
        changes.write(&mut transaction);
        assert_eq!(transaction.text().lines().count(), 2);
        assert!(transaction.text().ends_with("delete element ip knarr-test blocks { 1000 }\n"));
    }

    #[test]
    fn only_own_rules_are_found() {
        let listing = "table ip filter {\n\tchain DOCKER-USER { # handle 1\n\t\tip saddr 10.42.0.0/16 accept comment \"knarr\" # handle 7\n\t\taccept # handle 8\n\t}\n}\n";
        let wanted = ("ip saddr 10.42.0.0/16 accept comment \"knarr\"".to_owned(), 7);
        assert_eq!(own_rules(listing), [wanted]);
    }

    #[test]
    fn only_own_tables_are_found() {
        let answers = [(2, "nat"), (2, "knarr-net"), (1, "knarrel"), (10, "knarr-proxy"), (99, "knarr-net")];
        let own = answers.into_iter().filter_map(|(family, name)| {
            let mut body = Message(vec![family, 0, 0, 0]);
            body.text(TABLE_NAME, name);
            own_table(&body.0)
        });
        let own: Vec<_> = own.collect();
        assert_eq!(own, [("ip", "knarr-net".to_owned()), ("ip6", "knarr-proxy".to_owned())]);
    }
}
