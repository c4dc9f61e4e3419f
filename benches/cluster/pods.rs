//! Pods that are really started.

use crate::Failure;
use crate::api::Api;
use crate::knarr::{Knarr, text};
use crate::table::{Row, Table, percentile};
use base::clock;
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::time::Duration;

/// The image that every node has.
pub(crate) const PAUSE: &str = "knarr.local/pause:1";
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
const COUNT: usize = 40;
/// The runtime's part of a start, by the calls that knarr logs when it is to log what it decides.
const CALLS: [&str; 3] = ["run_pod_sandbox", "create_container", "start_container"];

/// Starts pods one after the other. A start's own time is from before the create is sent until a watch
/// shows Running, less what the three calls took that the runtime was asked with.
pub(crate) async fn starts(server: &Knarr, table: &mut Table) -> Result<(), Failure> {
    let api = server.api()?;
    wait_for_service_account(&api).await?;
    let mut whole = Vec::new();
    for number in 0..COUNT {
        whole.push(start(&api, &format!("bench-{number}")).await?);
    }
    let runtime = runtime_times(&std::fs::read_to_string(server.log())?, whole.len())?;
    let mut beyond: Vec<f64> = whole.iter().zip(&runtime).map(|(whole, runtime)| whole - runtime).collect();
    for list in [&mut whole, &mut beyond] {
        list.sort_by(f64::total_cmp);
    }
    let of = |list: &[f64]| {
        let [p50, p99] = [0.5, 0.99].map(|share| percentile(list, share));
        format!("p50 {p50:.0} ms, p99 {p99:.0} ms")
    };
    table.add(Row::new("pod create to Running", of(&whole)));
    table.add(Row::new("… of it beyond the runtime's own", of(&beyond)).budget("p99 100 ms"));
    Ok(())
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

/// Milliseconds from the create to Running.
async fn start(api: &Api, name: &str) -> Result<f64, Failure> {
    let path = format!("{PODS}?watch=1&fieldSelector=metadata.name%3D{name}&timeoutSeconds=60");
    let mut body = api.send(Method::GET, &path, Bytes::new()).await?.into_body();
    let container = json!({"name": "main", "image": PAUSE, "imagePullPolicy": "IfNotPresent"});
    let pod = json!({"metadata": {"name": name}, "spec": {"containers": [container]}});
    let sent = clock::instant();
    api.create(PODS, &pod).await?;
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        pending.extend_from_slice(frame?.data_ref().map_or(&[], |data| data));
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line)?;
            if event["object"]["status"]["phase"] == "Running" {
                return Ok(sent.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    Err(format!("pod {name} was not Running within a minute").into())
}

/// Milliseconds that the runtime's calls took for each pod; pods were started one after the other.
fn runtime_times(log: &str, pods: usize) -> Result<Vec<f64>, Failure> {
    let mut sums = vec![0.0; pods];
    let mut seen = [0; CALLS.len()];
    for line in log.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let fields = &event["fields"];
        let (verb, Some(took_ms)) = (text(&fields["verb"]), fields["took_ms"].as_f64()) else { continue };
        let Some(call) = CALLS.iter().position(|call| *call == verb) else { continue };
        if let Some(sum) = sums.get_mut(seen[call]) {
            *sum += took_ms;
        }
        seen[call] += 1;
    }
    if seen == [pods; CALLS.len()] {
        return Ok(sums);
    }
    Err(format!("knarr's log has {seen:?} of the runtime's calls for {pods} pods").into())
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
