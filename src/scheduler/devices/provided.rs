//! Which resources classes of devices provide (KEP-5004).

use crate::intern::{PerText, Texts};
use crate::resources::Resource;
use api::Meta;
use api::devices;
use api::resource::DeviceClass;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

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
            for resource in devices::provided(name, class.spec.extended_resource_name.as_deref()) {
                self.by_resource.entry(texts.of(&resource)).or_insert_with(|| class.clone());
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
    devices::provides(class.metadata.name(), class.spec.extended_resource_name.as_deref(), resource.name())
}
