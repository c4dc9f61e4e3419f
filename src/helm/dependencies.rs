//! Which of the charts in a chart are used, under which names, and what they hand up (`condition`, `tags`, `alias`,
//! `import-values`).

use crate::chart::{Chart, Dependency};
use crate::semver::{Range, Version};
use crate::values;
use serde_json::{Map, Value, json};

type Fields = Map<String, Value>;

/// Leaves the charts that are used with these values, and brings their exports into their parents' defaults.
pub(crate) fn process(chart: &mut Chart, given: &Fields) -> Result<(), String> {
    choose(chart, given, "")?;
    import(chart)
}

fn fits(range: &str, version: &str) -> bool {
    match (Range::parse(range), Version::parse(version)) {
        (Ok(range), Some(version)) => range.holds(&version),
        _ => range.is_empty(),
    }
}

fn choose(chart: &mut Chart, given: &Fields, path: &str) -> Result<(), String> {
    if chart.metadata.dependencies.is_empty() {
        return Ok(());
    }
    rename(chart);
    for dependency in &mut chart.metadata.dependencies {
        dependency.enabled = true;
    }
    let all = values::coalesce(chart, given)?;
    let tags = values::table(&all, "tags").cloned().unwrap_or_default();
    for dependency in &mut chart.metadata.dependencies {
        dependency.enabled = by_tags(dependency, &tags);
        if let Some(enabled) = by_conditions(dependency, &all, path) {
            dependency.enabled = enabled;
        }
    }
    let unused: Vec<String> = chart
        .metadata
        .dependencies
        .iter()
        .filter(|dependency| !dependency.enabled)
        .map(|dependency| dependency.name.clone())
        .collect();
    chart.dependencies.retain(|inner| !unused.iter().any(|name| name == inner.name()));
    chart.metadata.dependencies.retain(|dependency| !unused.contains(&dependency.name));
    for inner in &mut chart.dependencies {
        let path = format!("{path}{}.", inner.name());
        choose(inner, &all, &path)?;
    }
    Ok(())
}

/// Takes each chart as often as it is listed, by the name it is to have; those that are not listed stay.
fn rename(chart: &mut Chart) {
    let listed = &chart.metadata.dependencies;
    let is_listed = |inner: &&Chart| {
        listed.iter().any(|one| one.name == inner.name() && fits(&one.version, &inner.metadata.version))
    };
    let mut kept: Vec<Chart> = chart.dependencies.iter().filter(|inner| !is_listed(inner)).cloned().collect();
    for one in listed {
        let found = chart
            .dependencies
            .iter()
            .find(|inner| inner.name() == one.name && fits(&one.version, &inner.metadata.version));
        if let Some(found) = found {
            let mut found = found.clone();
            if !one.alias.is_empty() {
                found.metadata.name.clone_from(&one.alias);
            }
            kept.push(found);
        }
    }
    chart.dependencies = kept;
    for one in &mut chart.metadata.dependencies {
        if !one.alias.is_empty() {
            one.name.clone_from(&one.alias);
        }
    }
}

/// One tag that is on outweighs all that are off.
fn by_tags(dependency: &Dependency, tags: &Fields) -> bool {
    let said: Vec<bool> = dependency.tags.iter().filter_map(|tag| tags.get(tag)?.as_bool()).collect();
    said.is_empty() || said.contains(&true)
}

/// The first condition that there is a truth for decides.
fn by_conditions(dependency: &Dependency, all: &Fields, path: &str) -> Option<bool> {
    let conditions = dependency.condition.trim().split(',').filter(|condition| !condition.is_empty());
    conditions.filter_map(|condition| values::at(all, &format!("{path}{condition}"))?.as_bool()).next()
}

fn import(chart: &mut Chart) -> Result<(), String> {
    chart.dependencies.iter_mut().try_for_each(import)?;
    if chart.metadata.dependencies.is_empty() {
        return Ok(());
    }
    let mut all = values::merge(chart, &Fields::new())?;
    let mut imported = Fields::new();
    for dependency in &mut chart.metadata.dependencies {
        let mut shown = Vec::new();
        for import in &dependency.import_values {
            let (child, parent) = match import {
                Value::String(name) => (format!("exports.{name}"), ".".to_owned()),
                Value::Object(both) => (text(both.get("child")), text(both.get("parent"))),
                _ => continue,
            };
            shown.push(json!({"child": child, "parent": parent}));
            if let Some(found) = values::table(&all, &format!("{}.{child}", dependency.name)) {
                values::tables(&mut imported, nested(&parent, found.clone()), true);
            }
        }
        dependency.import_values = shown;
    }
    values::tables(&mut all, imported, true);
    chart.values = all;
    Ok(())
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn nested(path: &str, fields: Fields) -> Fields {
    if path == "." {
        return fields;
    }
    path.rsplit('.').fold(fields, |inner, key| Map::from_iter([(key.to_owned(), Value::Object(inner))]))
}
