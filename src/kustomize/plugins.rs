//! Generators and transformers that are configured by objects of their own: those that are built in.

use crate::config;
use crate::error::{Error, Result};
use crate::generate::{self, Kind};
use crate::kustomization::{
    Generator, GeneratorOptions, Image, Patch as Entry, Replacement, Replica, Selector, typed,
};
use crate::names::End;
use crate::namespace::{Namespace, Subjects};
use crate::patches::{self, Patch};
use crate::read::{self, Root};
use crate::replace;
use crate::resource::{Resource, text_of};
use crate::transform::Transformer;
use crate::value_add;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A function or program that would have to be run.
const FUNCTIONS: [&str; 2] = ["config.kubernetes.io/function", "config.k8s.io/function"];

/// The fields of generators.
const GENERATOR: [&str; 9] =
    ["name", "namespace", "behavior", "literals", "files", "envs", "env", "options", "type"];

/// What there is of transformers.
const TRANSFORMERS: [&str; 14] = [
    "AnnotationsTransformer",
    "HashTransformer",
    "ImageTagTransformer",
    "LabelTransformer",
    "NamespaceTransformer",
    "PatchJson6902Transformer",
    "PatchStrategicMergeTransformer",
    "PatchTransformer",
    "PrefixSuffixTransformer",
    "PrefixTransformer",
    "ReplacementTransformer",
    "ReplicaCountTransformer",
    "SuffixTransformer",
    "ValueAddTransformer",
];

/// Refuses what is not built in.
fn check(resource: &Resource) -> Result<()> {
    let id = resource.original_id();
    if resource.texts("annotations").any(|(key, _)| FUNCTIONS.contains(&key)) {
        return Err(Error::new(format!(
            "{id} is a function in a container, and such are not run: only built-in generators and transformers are"
        )));
    }
    if resource.text("/apiVersion") != "builtin" {
        return Err(Error::new(format!(
            "external plugins disabled; unable to load external plugin '{}'",
            resource.kind()
        )));
    }
    Ok(())
}

/// The fields of a configuration, beside who it is.
struct Fields(Map<String, Value>);

impl Fields {
    fn of(resource: &Resource) -> Self {
        let mut fields = resource.object.as_object().cloned().unwrap_or_default();
        for name in ["apiVersion", "kind", "metadata"] {
            fields.remove(name);
        }
        Self(fields)
    }

    fn take<T: serde::de::DeserializeOwned + Default>(&mut self, name: &str) -> Result<T> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(T::default()),
            Some(value) => typed(value),
        }
    }

    fn places(&mut self) -> Result<Vec<crate::kustomization::Place>> {
        config::places(self.0.remove("fieldSpecs"))
    }
}

/// What a generator makes.
pub(crate) fn generate(root: &Root<'_>, resource: &Resource) -> Result<Vec<Resource>> {
    check(resource)?;
    let kind = match resource.kind() {
        "ConfigMapGenerator" => Kind::ConfigMap,
        "SecretGenerator" => Kind::Secret,
        "IAMPolicyGenerator" => return iam(Fields::of(resource)).map(|made| vec![made]),
        "HelmChartInflationGenerator" => return Err(no_charts()),
        other => {
            return Err(Error::new(format!(
                "unable to load builtin {other}.builtin.[noGrp]: it is no generator"
            )));
        }
    };
    let mut fields = Fields::of(resource);
    // Of configurations in objects of their own, kustomize passes over what it does not know.
    fields.0.retain(|field, _| GENERATOR.contains(&field.as_str()));
    let mut generator: Generator = typed(Value::Object(fields.0))
        .map_err(|error| error.within(format!("plugin {} fails configuration", resource.original_id())))?;
    generator.envs.extend(Some(std::mem::take(&mut generator.env)).filter(|env| !env.is_empty()));
    for (own, named) in
        [(&mut generator.name, resource.name()), (&mut generator.namespace, resource.namespace())]
    {
        if own.is_empty() {
            named.clone_into(own);
        }
    }
    Ok(vec![generate::make(root, kind, &generator)?])
}

/// Charts are not rendered here.
pub(crate) fn no_charts() -> Error {
    Error::new(
        "helmCharts are not rendered by kubectl: render the chart with helm template into a file and name that in resources",
    )
}

/// The service account that a policy of a cloud is for.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Iam {
    cloud: String,
    kubernetes_service: Account,
    service_account: CloudAccount,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Account {
    name: String,
    namespace: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct CloudAccount {
    name: String,
    project_id: String,
}

fn iam(fields: Fields) -> Result<Resource> {
    let policy: Iam = typed(Value::Object(fields.0))?;
    if policy.cloud != "gke" {
        return Err(Error::new(format!("cloud provider {} not supported yet", policy.cloud)));
    }
    let account = policy.service_account;
    let mut metadata = serde_json::json!({
        "name": policy.kubernetes_service.name,
        "annotations": {
            "iam.gke.io/gcp-service-account":
                format!("{}@{}.iam.gserviceaccount.com", account.name, account.project_id),
        },
    });
    if !policy.kubernetes_service.namespace.is_empty() {
        metadata["namespace"] = Value::from(policy.kubernetes_service.namespace);
    }
    Ok(Resource::new(serde_json::json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})))
}

/// The transformer that an object configures.
pub(crate) fn transformer(root: &Root<'_>, resource: &Resource) -> Result<Transformer> {
    check(resource)?;
    let mut fields = Fields::of(resource);
    if !TRANSFORMERS.contains(&resource.kind()) {
        return Err(Error::new(format!("unable to load builtin {}.builtin.[noGrp]", resource.kind())));
    }
    make(root, resource, &mut fields)
        .map_err(|error| error.within(format!("plugin {} fails configuration", resource.original_id())))
}

fn make(root: &Root<'_>, resource: &Resource, fields: &mut Fields) -> Result<Transformer> {
    Ok(match resource.kind() {
        "AnnotationsTransformer" => Transformer::Annotations(fields.take("annotations")?, fields.places()?),
        "LabelTransformer" => Transformer::Labels(fields.take("labels")?, fields.places()?),
        "NamespaceTransformer" => Transformer::Namespace(Namespace {
            name: resource.namespace().to_owned(),
            places: fields.places()?,
            unset_only: fields.take("unsetOnly")?,
            subjects: Subjects::read(&fields.take::<String>("setRoleBindingSubjects")?)?,
        }),
        "PrefixTransformer" => Transformer::Name(End::Prefix, fields.take("prefix")?, named(fields)?),
        "SuffixTransformer" => Transformer::Name(End::Suffix, fields.take("suffix")?, named(fields)?),
        "PrefixSuffixTransformer" => {
            let (prefix, suffix, places) = (fields.take("prefix")?, fields.take("suffix")?, named(fields)?);
            Transformer::Both(vec![
                Transformer::Name(End::Prefix, prefix, places.clone()),
                Transformer::Name(End::Suffix, suffix, places),
            ])
        }
        "ImageTagTransformer" => {
            let image: Image = fields.take("imageTag")?;
            Transformer::Images(image, fields.places()?)
        }
        "ReplicaCountTransformer" => {
            let replica: Replica = fields.take("replica")?;
            Transformer::Replicas(replica, fields.places()?)
        }
        "ReplacementTransformer" => {
            let entries: Vec<Replacement> = fields.take("replacements")?;
            Transformer::Replacements(replace::load(root, &entries)?)
        }
        "PatchTransformer" => Transformer::Patch(Patch::load(root, &entry(fields, "patch")?)?),
        "PatchJson6902Transformer" => Transformer::Json(Patch::load_json(root, &entry(fields, "jsonOp")?)?),
        "PatchStrategicMergeTransformer" => {
            let mut all = Vec::new();
            for path in fields.take::<Vec<String>>("paths")? {
                all.extend(patches::load_strategic(root, &path)?);
            }
            all.extend(read::objects(fields.take::<String>("patches")?.as_bytes())?);
            if all.is_empty() {
                return Err(Error::new("empty file path and empty patch content"));
            }
            Transformer::StrategicMerge(all)
        }
        "ValueAddTransformer" => value_add(root, fields)?,
        "HashTransformer" => Transformer::Hash,
        other => {
            return Err(Error::new(format!("unable to load builtin {other}.builtin.[noGrp]")));
        }
    })
}

fn named(fields: &mut Fields) -> Result<Vec<crate::kustomization::Place>> {
    let places = fields.places()?;
    if places.is_empty() { Err(Error::new("fieldSpecs is not expected to be nil")) } else { Ok(places) }
}

fn entry(fields: &mut Fields, text: &str) -> Result<Entry> {
    Ok(Entry {
        path: fields.take("path")?,
        patch: fields.take(text)?,
        target: fields.take::<Option<Selector>>("target")?,
        options: fields.take("options")?,
    })
}

fn value_add(root: &Root<'_>, fields: &mut Fields) -> Result<Transformer> {
    let mut value = fields.take::<Value>("value").map(|value| text_of(&value).trim().to_owned())?;
    if value.is_empty() {
        value = root.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    }
    let mut targets: Vec<value_add::Target> = fields.take("targets")?;
    let file: String = fields.take("targetFilePath")?;
    if !file.is_empty() {
        let document = api::yaml::first(&root.load(&file)?).map_err(|error| Error::new(error.to_string()))?;
        let mut more: BTreeMap<String, Vec<value_add::Target>> = typed(document.value)?;
        targets.extend(more.remove("targets").unwrap_or_default());
    }
    if targets.is_empty() {
        return Err(Error::new("must specify at least one target"));
    }
    Ok(Transformer::ValueAdd(value, targets))
}

/// Options of all generators do not count for those that are configured elsewhere.
pub(crate) fn for_all(options: Option<&GeneratorOptions>, generator: &Generator) -> Generator {
    Generator { options: generate::options(generator.options.clone(), options), ..generator.clone() }
}
