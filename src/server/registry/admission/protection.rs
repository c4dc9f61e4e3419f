//! StorageObjectInUseProtection: what holds data is not removed while it is used.

use super::{CREATE, STEP as PLAIN, Step, items, push};
use serde_json::Value;

pub(super) const STEP: Step = Step {
    name: "StorageObjectInUseProtection",
    targets: &["persistentvolumeclaims", "persistentvolumes", "volumeattributesclasses.storage.k8s.io"],
    operations: CREATE,
    admit: |request, object| {
        let finalizer = match request.kind.kind {
            "PersistentVolumeClaim" => "kubernetes.io/pvc-protection",
            "PersistentVolume" => "kubernetes.io/pv-protection",
            _ => "kubernetes.io/vac-protection",
        };
        let meta = &mut object["metadata"];
        if !items(meta, "finalizers").iter().any(|own| own == finalizer) {
            push(meta, "finalizers", Value::from(finalizer));
        }
        Ok(())
    },
    ..PLAIN
};
