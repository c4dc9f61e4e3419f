//! Objects follow their definition when they are written, also by a write that changes nothing: so people
//! bring all of them into a new storage version.

use super::created;
use crate::support::cluster::SOON;
use crate::support::definition::{DEFINITIONS, defined, definition};
use crate::support::https::{Https, JSON};
use crate::support::process::wait_for;
use serde_json::{Value, json};

const CRATES: &str = "/apis/cargo.example.com/v1/namespaces/default/crates";
const MIGRATIONS: &str = "/apis/storagemigration.k8s.io/v1beta1/storageversionmigrations";
const NAME: &str = "crates.cargo.example.com";

pub(super) fn all(https: &Https) {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
        "properties": {"weight": {"type": "integer"}}}}});
    defined(https, &definition("cargo.example.com", "crates", "Crate", &schema));
    let made = json!({"apiVersion": "cargo.example.com/v1", "kind": "Crate", "metadata": {"name": "a"},
        "spec": {"weight": 1}});
    let made = created(https, CRATES, &made);
    let same = rewritten(https);
    assert_eq!(same["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"], "nothing to write");

    redefine(https, |versions| {
        versions[0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["sealed"] =
            json!({"type": "boolean", "default": true});
    });
    let (_, shown) = https.call("GET", &format!("{CRATES}/a"));
    assert_eq!(shown["spec"], json!({"weight": 1, "sealed": true}));
    assert_eq!(shown["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    followed(https, &shown);

    redefine(https, |versions| {
        let mut next = versions[0].clone();
        next["name"] = json!("v2");
        versions[0]["storage"] = json!(false);
        versions.as_array_mut().unwrap().push(next);
    });
    let (_, shown) = https.call("GET", &format!("{CRATES}/a"));
    followed(https, &shown);
    migrated(https);
    unknown_resources_are_told(https);
}

/// A migration writes what is stored in an old version, and says which versions there are left.
fn migrated(https: &Https) {
    created(
        https,
        CRATES,
        &json!({"apiVersion": "cargo.example.com/v1", "kind": "Crate", "metadata": {"name": "b"}}),
    );
    redefine(https, |versions| {
        let mut next = versions[1].clone();
        next["name"] = json!("v3");
        versions[1]["storage"] = json!(false);
        versions.as_array_mut().unwrap().push(next);
    });
    let definition = format!("{DEFINITIONS}/{NAME}");
    assert_eq!(https.call("GET", &definition).1["status"]["storedVersions"], json!(["v1", "v2", "v3"]));
    let before = ["a", "b"].map(|name| https.call("GET", &format!("{CRATES}/{name}")).1);
    let done = migration(https, "first", "crates", "Succeeded");
    assert_eq!((&done["reason"], &done["message"]), (&json!("StorageVersionMigrationSucceeded"), &json!("")));
    for old in before {
        let path = format!("{CRATES}/{}", old["metadata"]["name"].as_str().unwrap());
        let mut new = https.call("GET", &path).1;
        assert_ne!(new["metadata"]["resourceVersion"], old["metadata"]["resourceVersion"]);
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        assert_eq!(new, old);
    }
    let ended = wait_for("the end of the migration", SOON, || {
        let definition = https.call("GET", &definition).1;
        let conditions = definition["status"]["conditions"].as_array()?;
        let told = conditions.iter().find(|condition| condition["type"] == "StorageMigrating")?;
        (told["status"] == "False").then(|| (told.clone(), definition["status"]["storedVersions"].clone()))
    });
    let message = "The migration has succeeded and the stored versions have been updated";
    assert_eq!((&ended.0["reason"], &ended.0["message"]), (&json!("MigrationSucceeded"), &json!(message)));
    assert_eq!(ended.1, json!(["v3"]));
    wait_for("a migration that runs no more", SOON, || {
        let told = conditions(https, "first").into_iter().find(|told| told["type"] == "Running")?;
        (told["status"] == "False" && told["reason"] == "MigrationCompleted").then_some(())
    });
    // A second migration finds nothing to write, and versions that nothing is stored in may go.
    let path = format!("{CRATES}/a");
    let before = https.call("GET", &path).1;
    migration(https, "second", "crates", "Succeeded");
    assert_eq!(https.call("GET", &path).1, before);
    redefine(https, |versions| drop(versions.as_array_mut().unwrap().drain(..2)));
}

fn unknown_resources_are_told(https: &Https) {
    let reviews = json!({"group": "authentication.k8s.io", "resource": "tokenreviews"});
    let made = json!({"apiVersion": "storagemigration.k8s.io/v1beta1", "kind": "StorageVersionMigration",
        "metadata": {"name": "reviews"}, "spec": {"resource": reviews}});
    created(https, MIGRATIONS, &made);
    assert_eq!(
        ended(https, "reviews", "Failed")["message"],
        "resource \"authentication.k8s.io/v1, Resource=tokenreviews\" does not support discovery operations: [update patch list]"
    );
}

/// Waits for a condition of a migration that is made.
fn migration(https: &Https, name: &str, plural: &str, kind: &str) -> Value {
    let resource = json!({"group": "cargo.example.com", "resource": plural});
    let made = json!({"apiVersion": "storagemigration.k8s.io/v1beta1", "kind": "StorageVersionMigration",
        "metadata": {"name": name}, "spec": {"resource": resource}});
    created(https, MIGRATIONS, &made);
    ended(https, name, kind)
}

fn conditions(https: &Https, name: &str) -> Vec<Value> {
    let migration = https.call("GET", &format!("{MIGRATIONS}/{name}")).1;
    migration["status"]["conditions"].as_array().cloned().unwrap_or_default()
}

fn ended(https: &Https, name: &str, kind: &str) -> Value {
    wait_for(&format!("the end of the migration {name}"), SOON, || {
        conditions(https, name).into_iter().find(|told| told["type"] == kind && told["status"] == "True")
    })
}

/// A write of what is shown stores it once as it is stored now.
fn followed(https: &Https, shown: &Value) {
    let written = rewritten(https);
    assert_eq!(written["spec"], shown["spec"]);
    assert_ne!(written["metadata"]["resourceVersion"], shown["metadata"]["resourceVersion"], "{written}");
    assert_eq!(written["metadata"]["generation"], shown["metadata"]["generation"]);
    let again = rewritten(https);
    assert_eq!(again, written);
}

/// Writes an object as it is shown.
fn rewritten(https: &Https) -> Value {
    let path = format!("{CRATES}/a");
    let (_, shown) = https.call("GET", &path);
    let (code, written) = https.send("PUT", &path, JSON, &shown);
    assert_eq!(code, 200, "{written}");
    written
}

fn redefine(https: &Https, change: impl FnOnce(&mut Value)) {
    let path = format!("{DEFINITIONS}/{NAME}");
    let (_, mut definition) = https.call("GET", &path);
    change(&mut definition["spec"]["versions"]);
    let (code, answer) = https.send("PUT", &path, JSON, &definition);
    assert_eq!(code, 200, "{answer}");
}
