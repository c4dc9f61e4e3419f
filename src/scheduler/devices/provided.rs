//! Which resources classes of devices provide (KEP-5004).

use crate::intern::{PerText, Texts};
use crate::resources::Resource;
use api::Meta;
use api::resource::DeviceClass;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What comes before a class' name in the name of the resource that it provides in any case.
const IMPLICIT: &str = "deviceclass.resource.kubernetes.io/";

/// All classes, and which of them stands for a resource.
#[derive(Debug, Default)]
pub(crate) struct Provided {
    classes: BTreeMap<String, Arc<DeviceClass>>,
    by_resource: PerText<Arc<DeviceClass>>,
}

impl Provided {
    /// A class came or changed, or went.
    pub(crate) fn put(&mut self, name: &str, class: Option<Arc<DeviceClass>>, texts: &mut Texts) {
        match class {
            Some(class) => self.classes.insert(name.to_owned(), class),
            None => self.classes.remove(name),
        };
        self.by_resource.clear();
        // Of several for one resource the newest counts.
        let mut classes: Vec<_> = self.classes.iter().collect();
        classes.sort_by_key(|(_, class)| Reverse(class.metadata.created().map(|time| time.0)));
        for (name, class) in classes {
            let implicit = format!("{IMPLICIT}{name}");
            for resource in
                [Some(&implicit), class.spec.extended_resource_name.as_ref()].into_iter().flatten()
            {
                self.by_resource.entry(texts.of(resource)).or_insert_with(|| class.clone());
            }
        }
    }

    /// The class that provides a resource, were there one.
    pub(crate) fn class(&self, resource: &Resource) -> Option<&Arc<DeviceClass>> {
        match resource {
            Resource::Other(name) => self.by_resource.get(name),
            Resource::Cpu | Resource::Memory | Resource::Storage => None,
        }
    }
}

/// Whether a class provides a resource of this name.
pub(crate) fn provides(class: &DeviceClass, resource: &Resource) -> bool {
    let name = resource.name();
    name.strip_prefix(IMPLICIT) == Some(class.metadata.name())
        || class.spec.extended_resource_name.as_deref() == Some(name)
}
