//! Custom resources: as fast as the kinds of the table, and what hundreds of definitions cost.

use crate::api::Api;
use crate::knarr::Knarr;
use crate::load::{self, Kind};
use crate::table::{Row, Table, mib};
use crate::{Failure, SETTLE};
use base::clock;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// As many as some dozens of operators bring.
const DEFINITIONS: usize = 500;
/// Fields of a definition: with their descriptions, 30 KiB, which is what operators' have on average.
const FIELDS: usize = 150;
const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// How long a definition may take to be served.
const SERVED: Duration = Duration::from_secs(30);

/// Creates of both kinds, and 500 definitions.
pub(crate) async fn custom(executable: &Path, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    let (mut server, started) = start(executable, folder).await?;
    let subject = server.subject()?;
    define(&subject.api()?, 0).await?;
    let custom = Kind {
        path: "/apis/bench0.example.com/v1/namespaces/default/things",
        api: "bench0.example.com/v1",
        name: "Thing",
    };
    let maps = load::creates(&subject, 64, &load::CONFIG_MAPS).await?;
    let things = load::creates(&subject, 64, &custom).await?;
    let row = Row::new("durable creates of custom resources, 64 clients", things.to_string());
    let share = things.rate / maps.rate;
    table.add(row.peer(format!("ConfigMaps of the same size {maps}: {share:.2} of it")));
    server.stop().await?;
    std::fs::remove_dir_all(folder)?;
    let (mut server, _) = start(executable, folder).await?;
    clock::sleep(SETTLE).await;
    let subject = server.subject()?;
    let before = subject.usage()?.pss_bytes;
    let api = subject.api()?;
    let began = clock::instant();
    for number in 0..DEFINITIONS {
        define(&api, number).await?;
    }
    let took = began.elapsed().as_secs_f64();
    clock::sleep(SETTLE).await;
    let cost = subject.usage()?.pss_bytes.saturating_sub(before);
    table.add(Row::new("500 definitions, made and served", format!("{took:.1} s")));
    table.add(Row::new("… memory more than without (PSS)", mib(cost)).budget("40 MiB"));
    server.stop().await?;
    let (mut server, again) = start(executable, folder).await?;
    let more = again.saturating_sub(started).as_secs_f64();
    let measured = format!("{:.2} s, {more:.2} s more than without", again.as_secs_f64());
    table.add(Row::new("… start with them", measured).budget("1 s more"));
    clock::sleep(SETTLE).await;
    let after = server.subject()?.usage()?.pss_bytes.saturating_sub(before);
    table.add(Row::new("… memory after that start, more than without (PSS)", mib(after)).budget("40 MiB"));
    server.stop().await
}

async fn start(executable: &Path, folder: &Path) -> Result<(Knarr, Duration), Failure> {
    Knarr::start(executable, folder, &["--disable-agent"])?.ready().await
}

/// Makes a definition and waits until its objects are served.
async fn define(api: &Api, number: usize) -> Result<(), Failure> {
    api.create(PATH, &definition(number)).await?;
    let path = format!("/apis/bench{number}.example.com/v1/things?limit=1");
    let began = clock::instant();
    while let Err(failure) = api.get(&path).await {
        if began.elapsed() > SERVED {
            return Err(failure);
        }
        clock::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

fn definition(number: usize) -> Value {
    let description = "What this field is for, told at the length that the fields of operators have: some eighty letters or a few more.";
    let field = |index: usize| {
        let schema = match index % 3 {
            0 => json!({"type": "string", "maxLength": 2000, "description": description}),
            1 => json!({"type": "integer", "minimum": 0, "description": description}),
            _ => json!({"type": "array", "items": {"type": "string"}, "description": description}),
        };
        (format!("field{index}"), schema)
    };
    let fields: serde_json::Map<String, Value> = (0..FIELDS).map(field).collect();
    let data = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let group = format!("bench{number}.example.com");
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("things.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object",
                    "properties": {"data": data, "spec": {"type": "object", "properties": fields}}}}}]}})
}
