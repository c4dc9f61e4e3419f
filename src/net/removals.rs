//! Notices that somebody removed what knarr has in nftables: firewalls that start begin with a flush of everything,
//! whose ever it is.

use crate::Error;
use crate::hearing::{next, of_nftables};
use crate::netfilter::{NFTABLES, attribute, messages};
use crate::nft::{TableName, own_tables};
use base::clock;
use rtnetlink::sys::TokioSocket;
use std::time::Duration;

/// `NFT_MSG_DELTABLE`, and the attribute of its name.
const DELETE_TABLE: u16 = NFTABLES << 8 | 2;
const NAME: u16 = 1;
/// Behind it stands netfilter's own header.
const HEADER: usize = 4;

/// knarr itself puts a table in place of the old one by removing that, in one transaction: what is missing is looked
/// at when that is over.
const SETTLED: Duration = Duration::from_millis(200);

/// Completes when one of these tables has been removed and nobody has put another in its place.
pub async fn removed(tables: &[TableName]) -> Result<(), Error> {
    let changes = of_nftables()?;
    loop {
        hear(&changes, tables).await?;
        clock::sleep(SETTLED).await;
        let there = own_tables().await?;
        let is_there =
            |(family, name): &TableName| there.iter().any(|own| (own.0, &*own.1) == (*family, *name));
        if !tables.iter().all(is_there) {
            return Ok(());
        }
    }
}

/// Waits until one of the tables is said to be removed, or may have been.
async fn hear(changes: &TokioSocket, tables: &[TableName]) -> Result<(), Error> {
    loop {
        let Some(bytes) = next(changes).await? else { return Ok(()) };
        if names(&bytes).any(|name| tables.iter().any(|own| own.1 == name)) {
            return Ok(());
        }
    }
}

/// The names of tables that a message says are removed.
fn names(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let removed = messages(bytes).filter(|(kind, ..)| *kind == DELETE_TABLE);
    removed.filter_map(|(_, _, body)| {
        std::str::from_utf8(attribute(body.get(HEADER..)?, NAME)?)
            .ok()
            .map(|name| name.trim_end_matches('\0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netfilter::Message;

    #[test]
    fn removed_tables_are_named() {
        let mut message = Message::default();
        for (kind, name) in [(DELETE_TABLE, "knarr-net"), (NFTABLES << 8, "made"), (DELETE_TABLE, "filter")] {
            message.message((kind, 0), 1, [2, 0, 0, 0], |message| message.text(NAME, name));
        }
        assert_eq!(names(&message.0).collect::<Vec<_>>(), ["knarr-net", "filter"]);
    }
}
