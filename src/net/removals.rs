//! Notices that somebody removed what knarr has in nftables: firewalls that start begin with a flush of everything,
//! whose ever it is.

use crate::Error;
use crate::hearing::Ears;
use crate::netfilter::{NFTABLES, attribute, messages};
use crate::nft::{TableName, own_tables};
use base::clock;
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
    let mut changes = Ears::open()?;
    let mut were_there = are_there(tables).await?;
    loop {
        let is_named = hear(&mut changes, tables).await?;
        clock::sleep(SETTLED).await;
        let are_there = are_there(tables).await?;
        // Those that nobody has made yet are not missing.
        if !are_there && (is_named || were_there) {
            return Ok(());
        }
        were_there = are_there;
    }
}

async fn are_there(tables: &[TableName]) -> Result<bool, Error> {
    let there = own_tables().await?;
    let is_there = |(family, name): &TableName| there.iter().any(|own| (own.0, &*own.1) == (*family, *name));
    Ok(tables.iter().all(is_there))
}

/// Waits until one of the tables is said to be removed, or may have been; gives whether it was named.
async fn hear(changes: &mut Ears, tables: &[TableName]) -> Result<bool, Error> {
    loop {
        let Some(bytes) = changes.next().await? else { return Ok(false) };
        if names(&bytes).any(|name| tables.iter().any(|own| own.1 == name)) {
            return Ok(true);
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
