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

use kustomization::Order;
use read::{Budget, Root};
use serde_json::Value;
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
        Self { root_only: true, sorted: false, managed_by: false }
    }
}

/// Objects as YAML documents.
pub fn render(objects: &[Value]) -> String {
    let documents: Vec<String> = objects.iter().map(api::yaml::render).collect();
    documents.join("---\n")
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
