//! `kubectl api-resources` and `kubectl api-versions`.

use crate::discovery::Resource;
use crate::error::Error;
use crate::output::{json, kyaml, say, tabs};
use crate::session::Session;
use clap::Args;
use serde_json::json;
use std::collections::BTreeSet;

#[derive(Args)]
pub(crate) struct ApiResources {
    /// Only of this group
    #[arg(long)]
    api_group: Option<String>,
    /// Only in namespaces, or only outside
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    namespaced: Option<bool>,
    /// Only with these verbs
    #[arg(long, value_delimiter = ',')]
    verbs: Vec<String>,
    /// Only of these categories
    #[arg(long, value_delimiter = ',')]
    categories: Vec<String>,
    /// name or kind
    #[arg(long, default_value = "", hide_default_value = true)]
    sort_by: String,
    /// Believe what was found a while ago
    #[arg(long)]
    cached: bool,
    /// json, yaml, kyaml, wide or name
    #[arg(long, short, default_value = "", hide_default_value = true)]
    output: String,
    /// Leave out the header
    #[arg(long)]
    no_headers: bool,
    /// Keep managedFields in JSON and YAML, which resources have none of
    #[arg(long = "show-managed-fields")]
    _show_managed_fields: bool,
    #[arg(hide = true)]
    words: Vec<String>,
}

pub(crate) async fn run(session: &Session, args: &ApiResources) -> Result<(), Error> {
    check(args)?;
    let discovery = if args.cached { session.discovery().await? } else { session.current().await? };
    let has_all = |wanted: &[String], known: &[String]| wanted.iter().all(|one| known.contains(one));
    let fits = |resource: &&Resource| {
        resource.preferred
            && !resource.verbs.is_empty()
            && args.api_group.as_ref().is_none_or(|group| resource.group == *group)
            && args.namespaced.is_none_or(|namespaced| resource.namespaced == namespaced)
            && has_all(&args.verbs, &resource.verbs)
            && has_all(&args.categories, &resource.categories)
    };
    let mut resources: Vec<&Resource> = discovery.0.iter().filter(fits).collect();
    resources.sort_by_key(|resource| match args.sort_by.as_str() {
        "name" => (&resource.plural, &resource.plural),
        "kind" => (&resource.kind, &resource.plural),
        _ => (&resource.group, &resource.plural),
    });
    match args.output.as_str() {
        "name" => resources.iter().try_for_each(|resource| say(&format!("{}\n", resource.qualified()))),
        "json" => say(&format!("{}\n", json(&listed(&resources)))),
        "yaml" => say(&api::yaml::render(&listed(&resources))),
        "kyaml" => say(&kyaml(&listed(&resources))),
        form => say(&table(&resources, form == "wide", !args.no_headers)),
    }
}

fn check(args: &ApiResources) -> Result<(), Error> {
    if !args.words.is_empty() {
        let words = args.words.join(" ");
        return Err(Error::usage(format!("unexpected arguments: [{words}]"), "api-resources"));
    }
    if !matches!(args.sort_by.as_str(), "" | "name" | "kind") {
        return Err(Error::plain("--sort-by accepts only name or kind"));
    }
    match args.output.as_str() {
        "" | "json" | "kyaml" | "yaml" | "wide" | "name" => Ok(()),
        form => Err(Error::plain(format!(
            "unable to match a printer suitable for the output format {form:?}, allowed formats are: json,kyaml,name,wide,yaml"
        ))),
    }
}

/// As an APIResourceList.
fn listed(resources: &[&Resource]) -> serde_json::Value {
    let one = |resource: &&Resource| {
        let mut shown = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "version": resource.version, "kind": resource.kind, "verbs": resource.verbs,
        });
        if !resource.group.is_empty() {
            shown["group"] = json!(resource.group);
        }
        for (key, list) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
            if !list.is_empty() {
                shown[key] = json!(list);
            }
        }
        shown
    };
    let all: Vec<_> = resources.iter().map(one).collect();
    json!({"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": "", "resources": all})
}

fn table(resources: &[&Resource], wide: bool, headers: bool) -> String {
    let mut text = String::new();
    if headers {
        text.push_str("NAME\tSHORTNAMES\tAPIVERSION\tNAMESPACED\tKIND");
        text.push_str(if wide { "\tVERBS\tCATEGORIES\n" } else { "\n" });
    }
    for resource in resources {
        let mut cells = vec![
            resource.plural.clone(),
            resource.short_names.join(","),
            resource.api_version(),
            resource.namespaced.to_string(),
            resource.kind.clone(),
        ];
        if wide {
            cells.extend([resource.verbs.join(","), resource.categories.join(",")]);
        }
        text.push_str(&format!("{}\n", cells.join("\t")));
    }
    tabs::align(&text, 6, 3)
}

/// `api-versions`.
pub(crate) async fn versions(session: &Session) -> Result<(), Error> {
    let all: BTreeSet<String> = session.current().await?.0.iter().map(Resource::api_version).collect();
    all.iter().try_for_each(|version| say(&format!("{version}\n")))
}
