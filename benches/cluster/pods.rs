//! Pods that are really started.

use crate::Failure;
use crate::api::Api;
use crate::bare::Bare;
use crate::knarr::{Knarr, text};
use crate::table::{Row, Table, percentile};
use base::clock;
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

/// The image that every node has.
pub(crate) const PAUSE: &str = "knarr.local/pause:1";
const PODS: &str = "/api/v1/namespaces/default/pods";
const COUNT: usize = 40;
const LIMIT: Duration = Duration::from_secs(600);

/// Starts pods one after the other, and each time one by the runtime alone.
pub(crate) async fn starts(server: &Knarr, table: &mut Table) -> Result<(), Failure> {
    wait_for_service_account(&server.api()?).await?;
    let bare = Bare::connect(server).await?;
    let (mut own, mut alone) = (Vec::new(), Vec::new());
    for number in 0..COUNT {
        own.extend(start(server, [format!("bench-{number}")], &Value::Null).await?);
        alone.extend(bare.starts(1).await?);
    }
    own.sort_by(f64::total_cmp);
    alone.sort_by(f64::total_cmp);
    compare("one pod at a time", &own, &alone, table);
    Ok(())
}

/// What starts took, beside the runtime's own, and what lies between.
pub(crate) fn compare(what: &str, own: &[f64], bare: &[f64], table: &mut Table) {
    let of = |sorted: &[f64]| [0.5, 0.99].map(|share| percentile(sorted, share));
    let say = |[p50, p99]: [f64; 2]| format!("p50 {p50:.0} ms, p99 {p99:.0} ms");
    let (own, bare) = (of(own), of(bare));
    let peer = format!("containerd alone: {}", say(bare));
    table.add(Row::new(&format!("{what}: create to Running"), say(own)).peer(peer));
    let beyond = say([own[0] - bare[0], own[1] - bare[1]]);
    table.add(Row::new("… beyond the runtime's own", beyond).budget("p50 50 ms, p99 100 ms"));
}

pub(crate) async fn wait_for_service_account(api: &Api) -> Result<(), Failure> {
    let deadline = clock::instant() + Duration::from_secs(20);
    while let Err(failure) = api.get("/api/v1/namespaces/default/serviceaccounts/default").await {
        if clock::instant() > deadline {
            return Err(failure);
        }
        clock::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn pod(name: &str, probe: &Value) -> Value {
    let container = json!({
        "name": "main", "image": PAUSE, "imagePullPolicy": "IfNotPresent", "readinessProbe": probe,
    });
    json!({"metadata": {"name": name}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}})
}

/// Creates pods as fast as they are taken; from the create of each until a watch shows it Running: milliseconds,
/// sorted.
pub(crate) async fn start(
    server: &Knarr,
    names: impl IntoIterator<Item = String>,
    probe: &Value,
) -> Result<Vec<f64>, Failure> {
    let api = server.api()?;
    let mut body = api.send(Method::GET, &format!("{PODS}?watch=1"), Bytes::new()).await?.into_body();
    let mut created = HashMap::new();
    for name in names {
        let sent = clock::instant();
        api.create(PODS, &pod(&name, probe)).await?;
        created.insert(name, sent);
    }
    let (mut took, mut pending) = (Vec::new(), Vec::new());
    while !created.is_empty() {
        let frame = tokio::time::timeout(LIMIT, body.frame()).await?.ok_or("the watch ended")??;
        pending.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let pod = &serde_json::from_slice::<Value>(&line)?["object"];
            if pod["status"]["phase"] == "Failed" {
                return Err(format!("{}: {}", pod["metadata"]["name"], pod["status"]).into());
            }
            if pod["status"]["phase"] == "Running"
                && let Some(sent) = created.remove(text(&pod["metadata"]["name"]))
            {
                took.push(sent.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    took.sort_by(f64::total_cmp);
    Ok(took)
}

/// What a restart of knarr did to the pods.
pub(crate) struct Adopted {
    pub(crate) pods: usize,
    pub(crate) restarts: i64,
}

pub(crate) async fn restarts(server: &Knarr) -> Result<Adopted, Failure> {
    let list = server.api()?.get(PODS).await?;
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    let count = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_i64();
    Ok(Adopted { pods: pods.len(), restarts: pods.iter().filter_map(count).sum() })
}

/// Removes the pods, with their cgroups, which no namespace would take away, and waits until the node is rid of
/// them too.
pub(crate) async fn remove(server: &Knarr) -> Result<(), Failure> {
    let api = server.api()?;
    api.call(Method::DELETE, &format!("{PODS}?gracePeriodSeconds=0"), Bytes::new()).await?;
    let deadline = clock::instant() + Duration::from_secs(120);
    while (restarts(server).await?.pods > 0 || server.holds_pods()?) && clock::instant() < deadline {
        clock::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
