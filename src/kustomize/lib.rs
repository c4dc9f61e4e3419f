//! Kustomizations: folders that say which objects there are and how they are changed, made into documents.
//!
//! Pure but for the files that are read: no network, no process, no cluster. What is not done is refused
//! with a sentence: repositories and web pages as resources, Helm charts, functions in containers, plugins
//! that are not built in. Behaves as kustomize 5.8, which kubectl 1.36 has. Start reading at [`build`]; then
//! `target` goes through a folder, `transform` changes what it found, and `set` and `resource` hold that.

mod config;
mod crds;
mod defaults;
mod error;
mod fields;
mod generate;
mod hash;
mod images;
mod kustomization;
mod labels;
mod merge;
mod names;
mod namespace;
mod order;
mod origin;
mod patches;
mod paths;
mod plugins;
mod read;
mod references;
mod replace;
mod resource;
mod schema;
mod selector;
mod set;
mod target;
#[cfg(test)]
mod tests;
mod transform;
mod value_add;
mod vars;

pub use error::Error;
pub use hash::suffix;

use kustomization::Order;
use read::{Budget, Root};
use resource::{Id, Resource};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use target::Target;

/// How to build.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Files outside of the folder of the kustomization that names them are refused.
    pub root_only: bool,
    /// In what order the objects come unless the kustomization says it: sorted by kind, or as they were read.
    pub sorted: bool,
    /// Label all objects as managed by kustomize.
    pub managed_by: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { root_only: true, sorted: true, managed_by: false }
    }
}

/// The version of kustomize that this behaves as.
pub const VERSION: &str = "v5.8.1";

/// Objects as YAML documents.
pub fn render(objects: &[Value]) -> String {
    let documents: Vec<String> = objects.iter().map(api::yaml::render).collect();
    documents.join("---\n")
}

/// Each object with the name of a file for it: of its kind and name, and of its namespace if there are several.
pub fn files(objects: &[Value]) -> Vec<(String, &Value)> {
    let ids: Vec<Id> = objects.iter().map(|object| Resource::new(object.clone()).id()).collect();
    let namespaces: BTreeSet<&str> =
        ids.iter().filter(|id| !id.gvk.is_cluster_scoped()).map(Id::effective_namespace).collect();
    let name = |id: &Id| {
        let several = namespaces.len() > 1 && !id.gvk.is_cluster_scoped();
        let namespace = if several { id.effective_namespace() } else { "" };
        let parts = [namespace, &id.gvk.group, &id.gvk.version, &id.gvk.kind, &id.name];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        // No name leads out of the folder.
        format!("{}.yaml", parts.join("_").to_lowercase().replace('/', "_"))
    };
    ids.iter().map(name).zip(objects).collect()
}

/// Builds the kustomization of a folder: its objects, in order. What there is to tell of deprecated fields and
/// the like is added to `warnings`, a line each, also where it cannot be built.
///
/// # Errors
/// Tells what is wrong, and in which file or with which object.
pub fn build(folder: &Path, options: &Options, warnings: &mut Vec<String>) -> Result<Vec<Value>, Error> {
    let budget = Budget::new(options.root_only);
    let built = objects(folder, options, &budget);
    warnings.extend(budget.into_warnings());
    built
}

fn objects(folder: &Path, options: &Options, budget: &Budget) -> Result<Vec<Value>, Error> {
    let root = Root::first(folder, budget)?;
    let target = Target::load(root)?;
    let settings = target.settings();
    let mut set = target.make()?;
    match settings.sort {
        Some(sort) => order::apply(&mut set, &sort)?,
        None if options.sorted => order::legacy(&mut set),
        None => {}
    }
    if options.managed_by || settings.managed_by {
        labels::managed_by(&mut set)?;
    }
    let shown = origin::Shown { origins: settings.origins, transformations: settings.transformations };
    Ok(set.into_objects(shown))
}

/// What of a kustomization counts once all objects are there.
struct Settings {
    sort: Option<Order>,
    managed_by: bool,
    origins: bool,
    transformations: bool,
}
