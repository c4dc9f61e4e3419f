//! Goes through a kustomization and those that it names, and brings their objects together.

use crate::Settings;
use crate::config::{self, Config};
use crate::crds;
use crate::error::{Error, Result, Within};
use crate::generate::{self, Kind};
use crate::kustomization::Kustomization;
use crate::origin::Origin;
use crate::plugins;
use crate::read::{self, Root};
use crate::references;
use crate::resource::Resource;
use crate::schema::Schemas;
use crate::set::Set;
use crate::transform::{self, Transformer};
use crate::vars::Vars;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Objects that say they are none of the cluster's.
const LOCAL: &str = "config.kubernetes.io/local-config";

/// What was brought together so far.
#[derive(Default)]
struct Gathered {
    set: Set,
    config: Option<Rc<Config>>,
    vars: Vars,
}

impl Gathered {
    fn configure(&mut self, more: &Rc<Config>) -> Result<()> {
        self.config = Some(config::merge_shared(self.config.as_ref(), more)?);
        Ok(())
    }

    fn take(&mut self, other: Self) -> Result<()> {
        self.set.append_all(other.set.all)?;
        if let Some(config) = &other.config {
            self.configure(config)?;
        }
        self.vars.merge(&other.vars)
    }
}

/// A kustomization with its folder.
pub(crate) struct Target<'b> {
    root: Root<'b>,
    said: Kustomization,
    file: &'static str,
    /// Where it is from the folder that is built, if that is noted.
    place: Option<PathBuf>,
    schemas: Schemas,
}

impl<'b> Target<'b> {
    /// Reads the kustomization of the folder that is built.
    pub(crate) fn load(root: Root<'b>) -> Result<Self> {
        let mut target = Self::read(root, Schemas::default())?;
        target.describe()?;
        target.place = (!target.said.build_metadata.is_empty()).then(PathBuf::new);
        Ok(target)
    }

    fn read(root: Root<'b>, schemas: Schemas) -> Result<Self> {
        let (bytes, file) = root.kustomization()?;
        let said = Kustomization::read(&bytes)?;
        for text in said.deprecated() {
            root.budget.warn(text);
        }
        let misnamed = said.misnamed();
        if !misnamed.is_empty() {
            return Err(Error::new(format!(
                "Failed to read kustomization file under {}:\n{}",
                root.path.display(),
                misnamed.join("\n")
            )));
        }
        if !said.helm_charts.is_empty()
            || !said.helm_chart_inflation_generator.is_empty()
            || said.helm_globals.is_some()
        {
            return Err(plugins::no_charts());
        }
        let known = ["originAnnotations", "transformerAnnotations", "managedByLabel"];
        if let Some(other) = said.build_metadata.iter().find(|one| !known.contains(&one.as_str())) {
            return Err(Error::new(format!(
                "buildMetadata has {other:?}, but can only have {}",
                known.join(", ")
            )));
        }
        Ok(Self { root, said, file, place: None, schemas })
    }

    /// Reads the schemas that it brings; without any, those that led here have them.
    fn describe(&mut self) -> Result<()> {
        if let Some(schemas) = own_schemas(&self.root, &self.said)? {
            self.schemas = schemas;
        }
        Ok(())
    }

    /// What it says about all objects of the build.
    pub(crate) fn settings(&self) -> Settings {
        let has = |option: &str| self.said.build_metadata.iter().any(|one| one == option);
        Settings {
            sort: self.said.sort_options.clone(),
            managed_by: has("managedByLabel"),
            origins: has("originAnnotations"),
            transformations: has("transformerAnnotations"),
        }
    }

    /// Makes all objects, with what can only be done at the end: hashes, references and variables.
    pub(crate) fn make(self) -> Result<Set> {
        let mut gathered = self.gather(Gathered::default())?;
        let config = gathered.config.take().unwrap_or_default();
        let set = &mut gathered.set;
        Transformer::Hash.apply(set, &self.schemas)?;
        references::follow(set, &config)?;
        let unused = gathered.vars.resolve(set, &config.var_reference)?;
        if !unused.is_empty() {
            let names = unused.join(",");
            self.root.budget.warn(format!("well-defined vars that were never replaced: {names}"));
        }
        set.all.retain(|one| !one.texts("annotations").any(|(key, value)| key == LOCAL && value != "false"));
        Ok(gathered.set)
    }

    /// Adds its objects to those that were gathered before, and changes all of them.
    fn gather(&self, mut gathered: Gathered) -> Result<Gathered> {
        let resources = self.said.resources.iter().chain(self.said.bases.iter().flatten());
        for path in resources {
            self.resource(&mut gathered, path).within(|| "accumulating resources")?;
        }
        gathered.configure(&Config::load(&self.root, &self.said.configurations)?)?;
        let custom = crds::load(&self.root, &self.said.crds);
        let custom = custom.within(|| format!("loading CRDs [{}]", self.said.crds.join(" ")))?;
        if !self.said.crds.is_empty() {
            gathered.configure(&Rc::new(custom))?;
        }
        self.generate(&mut gathered)?;
        for path in &self.said.components {
            gathered = self.component(gathered, path).within(|| "accumulating components")?;
        }
        self.transform(&mut gathered)?;
        self.validate(&mut gathered)?;
        let vars = self.said.vars.as_deref().unwrap_or_default();
        gathered.vars.add(vars, &mut gathered.set).within(|| "merging vars")?;
        Ok(gathered)
    }

    fn resource(&self, gathered: &mut Gathered, path: &str) -> Result<()> {
        let Err(no_file) = self.file(&mut gathered.set, path) else { return Ok(()) };
        let root = match self.root.below(path) {
            Ok(root) => root,
            Err(_) if no_file.malformed => return Err(no_file),
            Err(error) => return Err(error.within(format!("accumulation err='{no_file}'"))),
        };
        let built = self.kustomization(root, path, None).and_then(|other| gathered.take(other));
        built.map_err(|error| error.within(format!("accumulation err='{no_file}'")))
    }

    fn file(&self, set: &mut Set, path: &str) -> Result<()> {
        let objects = self.root.objects(path).and_then(|objects| {
            let mut alone = Set::default();
            alone.append_all(objects).map(|()| alone.all)
        });
        let mut objects = objects.within(|| format!("accumulating resources from '{path}'"))?;
        if let Some(place) = &self.place {
            for resource in &mut objects {
                resource.origin = Some(Origin { path: joined(place, path), ..Origin::default() });
            }
        }
        set.append_all(objects).within(|| format!("merging resources from '{path}'"))
    }

    fn component(&self, gathered: Gathered, path: &str) -> Result<Gathered> {
        let root = self
            .root
            .below(path)
            .map_err(|error| Error::new(format!("loader.New {:?}", error.to_string())))?;
        self.kustomization(root, path, Some(gathered))
            .map_err(|error| Error::new(format!("accumulateDirectory: {:?}", error.to_string())))
    }

    /// Builds another kustomization: one of its own, or a component that changes what there is.
    fn kustomization(&self, root: Root<'b>, path: &str, into: Option<Gathered>) -> Result<Gathered> {
        let shown = root.path.display().to_string();
        let read = Self::read(root, self.schemas.clone());
        let mut target = read.within(|| format!("couldn't make target for path '{shown}'"))?;
        target.describe()?;
        target.place = self.place.as_ref().map(|place| PathBuf::from(joined(place, path)));
        let kind = &target.said.kind;
        match (&into, kind.as_str()) {
            (Some(_), "Component") => {}
            (Some(_), _) => {
                return Err(Error::new(format!(
                    "expected kind 'Component' for path '{shown}' but got '{kind}'"
                )));
            }
            (None, "Component") => {
                return Err(Error::new(format!("expected kind != 'Component' for path '{shown}'")));
            }
            (None, _) => {}
        }
        target.gather(into.unwrap_or_default()).within(|| format!("recursed accumulation of path '{shown}'"))
    }

    fn configured_in(&self) -> Option<String> {
        self.place.as_ref().map(|place| joined(place, self.file))
    }

    fn generate(&self, gathered: &mut Gathered) -> Result<()> {
        let builtin = [
            (Kind::ConfigMap, "ConfigMapGenerator", &self.said.config_map_generator),
            (Kind::Secret, "SecretGenerator", &self.said.secret_generator),
        ];
        let mut made = Vec::new();
        for (kind, name, generators) in builtin {
            let origin = self.configured_in().map(|file| Origin::builtin(file, name));
            for generator in generators {
                let generator = plugins::for_all(self.said.generator_options.as_ref(), generator);
                let mut resource = generate::make(&self.root, kind, &generator)?;
                resource.origin.clone_from(&origin);
                made.push((name, resource));
            }
        }
        for config in self.configurations(&self.said.generators).within(|| "loading generator plugins")? {
            let origin = Origin::configured(&config);
            let generated = plugins::generate(&self.root, &config);
            let doing = || "loading generator plugins: failed to load generator";
            for mut resource in generated.within(doing)? {
                if resource.origin.is_none() {
                    resource.origin.clone_from(&origin);
                }
                made.push(("generator", resource));
            }
        }
        for (name, resource) in made {
            gathered.set.absorb(resource).within(|| format!("merging from generator {name}"))?;
        }
        Ok(())
    }

    fn transform(&self, gathered: &mut Gathered) -> Result<()> {
        let config = gathered.config.clone().unwrap_or_default();
        let builtin = transform::of(&self.root, &self.said, &config)?;
        let origin = |step: &Transformer| self.configured_in().map(|file| Origin::builtin(file, step.kind()));
        let mut steps: Vec<(Transformer, Option<Origin>)> = builtin
            .into_iter()
            .map(|step| {
                let origin = origin(&step);
                (step, origin)
            })
            .collect();
        for config in self.configurations(&self.said.transformers)? {
            steps.push((plugins::transformer(&self.root, &config)?, Origin::configured(&config)));
        }
        for (step, origin) in steps {
            step.apply(&mut gathered.set, &self.schemas)?;
            if let Some(origin) = origin {
                gathered.set.note(&origin);
            }
            gathered.set.drop_gone();
        }
        Ok(())
    }

    /// Validators are transformers that must not change anything.
    fn validate(&self, gathered: &mut Gathered) -> Result<()> {
        for config in self.configurations(&self.said.validators)? {
            let validator = plugins::transformer(&self.root, &config)?;
            let mut after = gathered.set.clone();
            validator.apply(&mut after, &self.schemas)?;
            let same = after.all.len() == gathered.set.all.len()
                && after.all.iter().zip(&gathered.set.all).all(|(one, other)| one.object == other.object);
            if !same {
                return Err(Error::new(format!(
                    "validator shouldn't modify the resource map: {} does",
                    config.original_id()
                )));
            }
        }
        Ok(())
    }

    /// The configurations of generators or transformers: given as they are, in files, or in folders.
    fn configurations(&self, entries: &[String]) -> Result<Vec<Resource>> {
        let mut gathered = Gathered::default();
        let (mut inline, mut paths) = (Vec::new(), Vec::new());
        for entry in entries {
            match read::objects(entry.as_bytes()) {
                Ok(objects) => inline.extend(objects),
                Err(_) => paths.push(entry),
            }
        }
        for resource in &mut inline {
            resource.origin = self.configured_in().map(|path| Origin { path, ..Origin::default() });
        }
        gathered.set.append_all(inline)?;
        for path in paths {
            self.resource(&mut gathered, path)?;
        }
        Ok(gathered.set.all)
    }
}

/// The schemas that a kustomization brings.
fn own_schemas(root: &Root<'_>, said: &Kustomization) -> Result<Option<Schemas>> {
    let other = said.openapi.keys().find(|key| !["path", "version"].contains(&key.as_str()));
    if let Some(other) = other {
        return Err(Error::new(format!("openapi has {other:?}, but can only have path or version")));
    }
    match (said.openapi.get("path"), said.openapi.get("version")) {
        (Some(_), Some(_)) => Err(Error::new("builtin version and custom schema provided, cannot use both")),
        (Some(path), None) => Schemas::read(&root.load(path)?).map(Some),
        // Any version that kustomize has is older than what is built in here, and says nothing else of merging.
        (None, Some(version)) if version.is_empty() || version == "v1.21.2" || version == "v1212" => Ok(None),
        (None, Some(version)) => {
            Err(Error::new(format!("the specified OpenAPI version is not built in: {version}")))
        }
        (None, None) => Ok(None),
    }
}

/// A path from the folder that is built, without `.` and `..`.
fn joined(place: &Path, path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    let place = place.to_string_lossy();
    for part in place.split('/').chain(path.split('/')).filter(|part| !part.is_empty() && *part != ".") {
        match out.last() {
            Some(last) if part == ".." && *last != ".." => {
                out.pop();
            }
            _ => out.push(part),
        }
    }
    out.join("/")
}
