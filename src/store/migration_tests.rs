//! Databases of other versions: older ones are brought forward with all that is in them, newer ones are left alone.

use crate::log::{MIGRATIONS, migrate};
use crate::tests::{Folder, delete, open, put};
use crate::{Config, Durability, Error, Expect, Store};
use base::Supervisor;
use rusqlite::Connection;
use std::path::Path;

/// What a later version might do: a column that old rows get a value in, and a number that is kept.
const NEXT: &str = "ALTER TABLE log ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
UPDATE log SET size = length(value);
INSERT INTO meta (name, value) VALUES ('sized', 1);";

/// A database as the first version laid it out, with what it held.
const FIRST: &str = "INSERT INTO log VALUES (5, 'p/a', 0, 5, 0, CAST('one' AS BLOB)), (6, 'p/b', 0, 6, 0, CAST('two' AS BLOB)),
    (7, 'p/a', 5, 5, 0, CAST('three' AS BLOB)), (9, 'p/b', 6, 6, 1, CAST('' AS BLOB)), (10, 'p/c', 0, 10, 0, CAST('four' AS BLOB));
UPDATE meta SET value = 20 WHERE name = 'reserved';
PRAGMA application_id = 0x6b6e7272;
PRAGMA user_version = 1;";

fn everything(store: &Store<usize>) -> Vec<(String, Vec<u8>, u64, u64)> {
    let row = |record: &std::sync::Arc<crate::Record<usize>>| {
        (record.key.to_string(), record.value.to_vec(), record.revision, record.create_revision)
    };
    store.snapshot().range("", None).map(row).collect()
}

fn version(path: &Path) -> u32 {
    Connection::open(path).unwrap().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_database_of_the_first_version_keeps_all_that_it_held() {
    let folder = Folder::new("first");
    std::fs::create_dir_all(folder.path()).unwrap();
    let first = Connection::open(folder.db()).unwrap();
    first.execute_batch(include_str!("../../migrations/0001_log.sql")).unwrap();
    first.execute_batch(FIRST).unwrap();
    drop(first);
    let (store, supervisor) = open(&folder.db()).await;
    let row = |key: &str, value: &str, revision, created| {
        (key.to_owned(), value.as_bytes().to_vec(), revision, created)
    };
    assert_eq!(everything(&store), [row("p/a", "three", 7, 5), row("p/c", "four", 10, 10)]);
    let past = store.snapshot_at(6).await.unwrap();
    let past: Vec<&[u8]> = past.range("", None).map(|record| &*record.value).collect();
    assert_eq!(past, [b"one", b"two"]);
    // Revisions that were handed out without a row are not handed out again.
    let next = store.write(put("p/d", Expect::Absent, "x", Durability::Durable)).await.unwrap();
    assert!(next.record.revision >= 20, "{}", next.record.revision);
    supervisor.drain().await;
    assert_eq!(version(&folder.db()), u32::try_from(MIGRATIONS.len()).unwrap());
}

#[tokio::test]
async fn an_older_database_is_brought_forward_and_a_newer_one_left_as_it_is() {
    let folder = Folder::new("forward");
    let (store, supervisor) = open(&folder.db()).await;
    let written = store.write(put("p/a", Expect::Absent, "x", Durability::Durable)).await.unwrap();
    store.write(put("p/b", Expect::Absent, "y", Durability::Durable)).await.unwrap();
    store.write(delete("p/a", written.record.revision, Durability::Durable)).await.unwrap();
    let before = everything(&store);
    supervisor.drain().await;
    let (known, path) = (MIGRATIONS.len(), folder.db());
    let all = [MIGRATIONS, &[NEXT]].concat();
    let mut connection = Connection::open(&path).unwrap();
    migrate(&mut connection, &path, &all).unwrap();
    // Once and no more: another time the column would be there already.
    migrate(&mut connection, &path, &all).unwrap();
    let sized = "SELECT count(*) FROM log WHERE size = length(value)";
    let [sized, rows] = [sized, "SELECT count(*) FROM log"]
        .map(|sql| connection.query_one(sql, [], |row| row.get::<_, u32>(0)).unwrap());
    assert_eq!((sized, rows), (3, 3));
    drop(connection);
    let newer = std::fs::read(&path).unwrap();
    let opened =
        Store::<usize>::open(Config::new(&path), crate::tests::index, Box::new(|_| {}), &Supervisor::new())
            .await;
    let Err(Error::Newer { found, known: own, .. }) = opened else {
        panic!("it opens what it does not know")
    };
    assert_eq!((found as usize, own as usize), (known + 1, known));
    assert!(std::fs::read(&path).unwrap() == newer, "it is written to");
    // The knarr that wrote it has all of it still.
    let mut connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("ALTER TABLE log DROP COLUMN size; DELETE FROM meta WHERE name = 'sized'")
        .unwrap();
    connection.pragma_update(None, "user_version", known).unwrap();
    migrate(&mut connection, &path, MIGRATIONS).unwrap();
    drop(connection);
    let (store, supervisor) = open(&path).await;
    assert_eq!(everything(&store), before);
    supervisor.drain().await;
}

#[tokio::test]
async fn a_migration_that_fails_changes_nothing() {
    let folder = Folder::new("halfway");
    let (store, supervisor) = open(&folder.db()).await;
    store.write(put("p/a", Expect::Absent, "x", Durability::Durable)).await.unwrap();
    let before = everything(&store);
    supervisor.drain().await;
    let (known, path) = (version(&folder.db()), folder.db());
    let wrong =
        [MIGRATIONS, &["DELETE FROM log; CREATE TABLE more (a) STRICT; INSERT INTO nowhere VALUES (1)"]];
    let mut connection = Connection::open(&path).unwrap();
    let failed = migrate(&mut connection, &path, &wrong.concat()).unwrap_err().to_string();
    assert!(failed.starts_with("the database ") && failed.contains("cannot be used: "), "{failed}");
    drop(connection);
    assert_eq!(version(&path), known);
    let (store, supervisor) = open(&path).await;
    assert_eq!(everything(&store), before);
    supervisor.drain().await;
}
