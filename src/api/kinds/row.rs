//! A row of the table of kinds, and the few words it is written in.

use super::columns::{self, Column};

/// A subresource: a door into an object beside the object itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Subresource {
    /// The path segment.
    pub name: &'static str,
    /// What is read and written through it; empty where that is the object's own kind.
    pub kind: &'static str,
    /// The group of that kind, where it is another one than the object's.
    pub group: &'static str,
    /// The version of that kind, likewise.
    pub version: &'static str,
    /// What can be done with it.
    pub verbs: &'static [&'static str],
}

impl Subresource {
    /// The kind that is read and written through it, of objects of this kind.
    pub fn kind_of(&self, kind: &Kind) -> String {
        match self.kind {
            "" => kind.kind.to_owned(),
            pattern => pattern.replace('*', kind.kind),
        }
    }

    /// The group and version of that kind.
    pub fn version_of(&self, kind: &Kind) -> (&'static str, &'static str) {
        if self.version.is_empty() { (kind.group, kind.version) } else { (self.group, self.version) }
    }
}

const READ_WRITE: &[&str] = &["get", "patch", "update"];
const ALL_METHODS: &[&str] = &["create", "delete", "get", "patch", "update"];
const OPENED: &[&str] = &["create", "get"];
const CREATED: &[&str] = &["create"];

const fn sub(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, kind, group: "", version: "", verbs }
}

const fn foreign(
    name: &'static str,
    group: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> Subresource {
    Subresource { name, kind, group, version: "v1", verbs }
}

pub(super) const APPROVAL: Subresource = sub("approval", "", READ_WRITE);
pub(super) const ATTACH: Subresource = sub("attach", "PodAttachOptions", OPENED);
pub(super) const BINDING: Subresource = sub("binding", "Binding", CREATED);
pub(super) const EPHEMERAL_CONTAINERS: Subresource = sub("ephemeralcontainers", "", READ_WRITE);
pub(super) const EVICTION: Subresource = foreign("eviction", "policy", "Eviction", CREATED);
pub(super) const EXEC: Subresource = sub("exec", "PodExecOptions", OPENED);
pub(super) const FINALIZE: Subresource = sub("finalize", "", &["update"]);
pub(super) const LOG: Subresource = sub("log", "", &["get"]);
pub(super) const PORT_FORWARD: Subresource = sub("portforward", "PodPortForwardOptions", OPENED);
/// The kind is the options' of the object's own kind, such as `PodProxyOptions`.
pub(super) const PROXY: Subresource = sub("proxy", "*ProxyOptions", ALL_METHODS);
pub(super) const RESIZE: Subresource = sub("resize", "", READ_WRITE);
pub(super) const SCALE: Subresource = foreign("scale", "autoscaling", "Scale", READ_WRITE);
pub(super) const STATUS: Subresource = sub("status", "", READ_WRITE);
pub(super) const TOKEN: Subresource = foreign("token", "authentication.k8s.io", "TokenRequest", CREATED);

/// All verbs of a stored kind, in discovery's order.
pub(super) const FULL: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Kinds of a group and version, all of them where there are none, and since when they are deprecated.
pub(super) type Deprecated = (&'static str, &'static str, &'static [&'static str], &'static str);

/// One row of the table: everything that other implementations write out per kind.
#[derive(Clone, Debug)]
pub struct Kind {
    /// The API group, "" for the core group.
    pub group: &'static str,
    /// The version served.
    pub version: &'static str,
    /// Such as `Pod`.
    pub kind: &'static str,
    /// Such as `pods`: the resource in paths.
    pub plural: &'static str,
    /// `singularName` where it is not the kind in lower case.
    singular: &'static str,
    /// What people type instead, such as `po`.
    pub short_names: &'static [&'static str],
    /// What lists of it are, where that is not the kind with `List` behind it.
    list: &'static str,
    /// Groups of kinds people ask for at once, such as `all`.
    pub categories: &'static [&'static str],
    /// Objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with objects.
    pub verbs: &'static [&'static str],
    /// Doors beside the object.
    pub subresources: &'static [Subresource],
    /// What `kubectl get` prints.
    pub columns: &'static [Column],
    /// Fields a field selector may name, besides `metadata.name` and `metadata.namespace`.
    pub selectable_fields: &'static [&'static str],
    /// A deletion that takes effect at once answers with the object instead of a `Status`.
    pub returns_deleted: bool,
    /// The group under which objects are stored: two groups may serve one store of objects.
    pub storage_group: &'static str,
    /// An update has to name the version that it changes.
    pub versioned: bool,
    /// An update makes the object where there is none.
    pub made_by_update: bool,
    /// The row as which objects are stored, if this is another version of it.
    pub(super) hub: Option<&'static Kind>,
    /// A definition says what its objects are, rather than the table.
    pub custom: bool,
    /// What users of a custom kind's version are warned of, if that is deprecated.
    pub(super) warning: &'static str,
    /// The names of a custom kind's types in OpenAPI: of its objects, and of lists of them.
    pub types: [&'static str; 2],
}

pub(super) const fn kind(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> Kind {
    Kind {
        group,
        version,
        kind,
        plural,
        singular: "",
        short_names: &[],
        list: "",
        categories: &[],
        namespaced: false,
        verbs: FULL,
        subresources: &[],
        columns: columns::DEFAULT,
        selectable_fields: &[],
        returns_deleted: false,
        storage_group: group,
        versioned: false,
        made_by_update: false,
        hub: None,
        custom: false,
        warning: "",
        types: [""; 2],
    }
}

impl Kind {
    pub(super) const fn namespaced(mut self) -> Self {
        self.namespaced = true;
        self
    }

    pub(super) const fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short_names = names;
        self
    }

    pub(super) const fn categories(mut self, categories: &'static [&'static str]) -> Self {
        self.categories = categories;
        self
    }

    pub(super) const fn singular_name(mut self, singular: &'static str) -> Self {
        self.singular = singular;
        self
    }

    pub(super) const fn lists(mut self, list: &'static str) -> Self {
        self.list = list;
        self
    }

    pub(super) const fn create_only(mut self) -> Self {
        self.verbs = CREATED;
        self
    }

    pub(super) const fn read_only(mut self) -> Self {
        self.verbs = &["get", "list"];
        self
    }

    pub(super) const fn verbs(mut self, verbs: &'static [&'static str]) -> Self {
        self.verbs = verbs;
        self
    }

    pub(super) const fn subresources(mut self, subresources: &'static [Subresource]) -> Self {
        self.subresources = subresources;
        self
    }

    pub(super) const fn columns(mut self, columns: &'static [Column]) -> Self {
        self.columns = columns;
        self
    }

    pub(super) const fn versioned(mut self) -> Self {
        self.versioned = true;
        self
    }

    pub(super) const fn made_by_update(mut self) -> Self {
        self.made_by_update = true;
        self
    }

    pub(super) const fn fields(mut self, fields: &'static [&'static str]) -> Self {
        self.selectable_fields = fields;
        self
    }

    pub(super) const fn returns_deleted(mut self) -> Self {
        self.returns_deleted = true;
        self
    }

    pub(super) const fn shares_storage_of(mut self, group: &'static str) -> Self {
        self.storage_group = group;
        self
    }

    /// The same kind in another version.
    pub(super) fn in_version(&'static self, version: &'static str) -> Self {
        Self { version, hub: Some(self), ..self.clone() }
    }

    /// The kind in whose form objects are stored, where that is not this one's.
    pub fn stored_as(&self) -> Option<&'static Kind> {
        match self.hub {
            None if self.group != self.storage_group => {
                super::by_resource(self.storage_group, self.version, self.plural)
            }
            hub => hub,
        }
    }

    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `singularName`.
    pub fn singular(&self) -> String {
        if self.singular.is_empty() { self.kind.to_ascii_lowercase() } else { self.singular.to_owned() }
    }

    /// What its users are warned of, where this version is on its way out.
    pub fn deprecation(&self) -> Option<String> {
        if !self.warning.is_empty() {
            return Some(self.warning.to_owned());
        }
        let is_this = |(group, version, kinds, _): &&Deprecated| {
            (*group, *version) == (self.group, self.version)
                && (kinds.is_empty() || kinds.contains(&self.kind))
        };
        let (.., when) = super::table::DEPRECATED.iter().find(is_this)?;
        Some(format!("{} {} is deprecated in {when}", self.api_version(), self.kind))
    }

    /// `kind` of its lists.
    pub fn list_kind(&self) -> String {
        if self.list.is_empty() { format!("{}List", self.kind) } else { self.list.to_owned() }
    }

    /// The resource as people and error messages name it: `pods`, `deployments.apps`.
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Objects are kept in the store, rather than made up for each request.
    pub fn stored(&self) -> bool {
        self.verbs.contains(&"watch")
    }

    /// One of its subresources.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// The store's prefix of its objects: `plural.group/`.
    pub fn storage_prefix(&self) -> String {
        match self.storage_group {
            "" => format!("{}/", self.plural),
            group => format!("{}.{group}/", self.plural),
        }
    }

    /// The store's key of one object; `namespace` is "" for kinds outside namespaces.
    pub fn storage_key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("{}{namespace}/{name}", self.storage_prefix())
        } else {
            format!("{}{name}", self.storage_prefix())
        }
    }

    /// The path of its collection, in one namespace or (with "") in all.
    pub fn path(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let place = if namespace.is_empty() { String::new() } else { format!("namespaces/{namespace}/") };
        format!("{root}/{}/{place}{}", self.api_version(), self.plural)
    }
}
