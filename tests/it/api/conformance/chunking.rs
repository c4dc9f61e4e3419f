//! Lists in pages, also when the state of their first page is forgotten in between.

use super::{get, items, made, namespace, patched, version};
use crate::support::cluster::{Cluster, SOON};
use crate::support::https::{Answer, Https};
use crate::support::process::wait_for;
use serde_json::{Value, json};

const TEMPLATES: &str = "/api/v1/namespaces/conformance/podtemplates";
const COUNT: usize = 40;
const LIMIT: usize = 17;

fn name(index: usize) -> String {
    format!("template-{index:02}")
}

fn make_templates(https: &Https) {
    for index in 0..COUNT {
        let template = json!({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name(index)},
            "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}});
        made(https, TEMPLATES, &template);
    }
}

fn page(https: &Https, token: &str) -> Answer {
    https.ask("GET", &format!("{TEMPLATES}?limit={LIMIT}&continue={token}")).send()
}

/// Checks that a page has what follows the first `seen` objects, and says how many are seen with it.
#[track_caller]
fn follows(page: &Value, seen: usize) -> usize {
    let names: Vec<&str> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect();
    let count = LIMIT.min(COUNT - seen);
    assert_eq!(names, (seen..seen + count).map(name).collect::<Vec<_>>());
    let left = COUNT - seen - count;
    let told = page["metadata"]["remainingItemCount"].as_u64();
    assert_eq!((told, token(page).is_empty()), ((left > 0).then_some(left as u64), left == 0), "{page}");
    seen + count
}

fn token(page: &Value) -> String {
    page["metadata"]["continue"].as_str().unwrap_or_default().to_owned()
}

/// Reads a list on from a page to its end, all at one version.
#[track_caller]
fn read_on(https: &Https, mut last: Value, mut seen: usize) {
    let first = version(&last);
    while seen < COUNT {
        last = page(https, &token(&last)).value();
        seen = follows(&last, seen);
        assert_eq!(version(&last), first);
    }
}

pub(super) fn chunks(https: &Https) {
    make_templates(https);
    let first = page(https, "").value();
    let seen = follows(&first, 0);
    read_on(https, first, seen);
    assert_eq!(items(https, TEMPLATES).len(), COUNT);
}

#[test]
fn chunks_outlive_compaction() {
    let mut cluster = Cluster::prepared(&["--disable-agent", "--compaction-interval=1"]);
    cluster.start();
    let https = Https::new(&cluster);
    namespace(&https, "conformance");
    make_templates(&https);
    let first = page(&https, "").value();
    let seen = follows(&first, 0);
    let change = |text: &str| {
        patched(&https, &format!("{TEMPLATES}/{}", name(0)), &json!({"metadata": {"labels": {"now": text}}}))
    };
    let mut rounds = 0;
    let expired = wait_for("the end of the token", SOON, || {
        rounds += 1;
        change(&rounds.to_string());
        Some(page(&https, &token(&first))).filter(|answer| answer.code != 200)
    });
    let status = expired.value();
    assert_eq!((expired.code, &status["reason"]), (410, &json!("Expired")), "{status}");
    let exact = format!("{TEMPLATES}?resourceVersionMatch=Exact&resourceVersion={}", version(&first));
    let (code, refused) = get(&https, &exact);
    assert_eq!((code, &refused["reason"]), (410, &json!("Expired")));
    assert_eq!(refused["message"], "The resourceVersion for the provided list is too old.");
    let second = page(&https, &token(&status)).value();
    assert_ne!(version(&second), version(&first));
    let seen = follows(&second, seen);
    change("later");
    read_on(&https, second, seen);
}
