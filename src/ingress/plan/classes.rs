//! Which Ingresses are knarr's.

use crate::CONTROLLER;
use api::Object;
use api::networking::{Ingress, IngressClass};

/// How a class was named before there was `spec.ingressClassName`.
const LEGACY: &str = "kubernetes.io/ingress.class";
/// Makes a class the one of Ingresses that name none.
const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

/// `spec.ingressClassName`, else the old annotation, else the default class. Only an IngressClass makes a name
/// of the field mean something; the annotation was there before those and may be `knarr` without one.
pub(super) fn is_ours(ingress: &Ingress, classes: &[&IngressClass]) -> bool {
    let controlled = |class: &&IngressClass| {
        class.spec.as_ref().and_then(|spec| spec.controller.as_deref()) == Some(CONTROLLER)
    };
    let named = |name: &str| classes.iter().find(|class| class.name() == name);
    let field = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    let legacy = ingress.annotations().get(LEGACY).map(String::as_str);
    match (field, legacy) {
        (Some(name), _) => named(name).is_some_and(controlled),
        (None, Some(name)) => named(name).map_or(name == crate::CLASS, controlled),
        (None, None) => {
            let default = |class: &&&IngressClass| {
                class.annotations().get(DEFAULT).is_some_and(|value| value == "true")
            };
            classes.iter().filter(default).any(controlled)
        }
    }
}
