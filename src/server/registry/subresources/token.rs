//! Making a token for a service account (authentication.k8s.io/v1 TokenRequest).

use super::super::{Context, Place, Registry, decoded};
use super::conflict;
use crate::auth::{BoundObject, TokenRequest};
use api::kinds::by_kind;
use api::status::Refusal;
use api::validate::{Error, Path};
use serde_json::{Value, json};

/// Tokens live at least ten minutes (TokenRequest v1).
const SHORTEST_S: i64 = 600;
/// What is given to who does not say (the API's default).
const DEFAULT_S: i64 = 3600;
const LONGEST_S: i64 = 1 << 32;
/// What pods' volumes ask for: such tokens are good for a year, so that programs that never read them
/// again do not break, and say when they should have been renewed.
const RENEWED_S: i64 = 3607;
const GROUP: &str = "authentication.k8s.io";

/// What a token is bound to, and on which node that is.
#[derive(Default)]
struct Bound {
    object: Option<BoundObject>,
    /// Name and uid.
    node: Option<(String, String)>,
}

impl Registry {
    /// Makes a token for a service account.
    pub(crate) async fn issue_token(
        &self,
        place: Place<'_>,
        mut request: Value,
        context: &Context,
    ) -> Result<(u16, Value), Refusal> {
        let Place { kind: accounts, namespace, name } = place;
        let stated = |field: &str| request["metadata"][field].as_str().unwrap_or_default().to_owned();
        for (field, own) in [("name", name), ("namespace", namespace)] {
            let (said, path) = (stated(field), Path::new("metadata").child(field));
            if !said.is_empty() && said != own {
                let why = format!("must match the service account {field} if specified");
                return Err(invalid(name, &Error::invalid(&path, said, why)));
            }
        }
        let account = self.find(accounts, namespace, name)?;
        let (uid, said) = (account.index.uid.to_string(), stated("uid"));
        if !said.is_empty() && said != uid {
            let why = format!(
                "the UID in the token request ({said}) does not match the UID of the service account ({uid})"
            );
            return Err(conflict("TokenRequest", GROUP, name, &why));
        }
        if request["spec"]["expirationSeconds"].is_null() {
            request["spec"]["expirationSeconds"] = json!(DEFAULT_S);
        }
        self.admit_posted(place, "token", &mut request, context).await?;
        let expiration_s = request["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_S);
        lifetime(expiration_s)?;
        let spec = &request["spec"];
        let audiences: Vec<String> = serde_json::from_value(spec["audiences"].clone()).unwrap_or_default();
        let bound = self.bound_object(place, &spec["boundObjectRef"])?;
        let for_us = audiences.iter().all(|audience| audience == self.keys.issuer());
        let of_pod = bound.object.as_ref().is_some_and(|object| object.kind == "pod");
        let wanted = TokenRequest {
            namespace,
            name,
            uid: &uid,
            audiences: &audiences,
            expiration_s,
            extended: of_pod && for_us && expiration_s == RENEWED_S,
            bound: bound.object,
            node: bound.node,
        };
        let (token, expires) = self.keys.issue(&wanted).map_err(Refusal::internal)?;
        let expires = jiff::Timestamp::from_second(expires).map_err(Refusal::internal)?;
        if audiences.is_empty() {
            request["spec"]["audiences"] = json!([self.keys.issuer()]);
        }
        request["spec"]["expirationSeconds"] = json!(expiration_s);
        request["apiVersion"] = json!("authentication.k8s.io/v1");
        request["kind"] = json!("TokenRequest");
        request["metadata"] = json!({"name": name, "namespace": namespace, "uid": uid,
            "creationTimestamp": super::super::timestamp()});
        request["status"] = json!({"token": token, "expirationTimestamp": expires.to_string()});
        Ok((201, request))
    }

    /// The object that a token is to be bound to; of a pod also its node.
    fn bound_object(&self, place: Place<'_>, reference: &Value) -> Result<Bound, Refusal> {
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        if !reference.is_object() {
            return Ok(Bound::default());
        }
        let (claim, namespace) = match (text("apiVersion"), text("kind")) {
            ("" | "v1", "Pod") => ("pod", place.namespace),
            ("" | "v1", "Secret") => ("secret", place.namespace),
            ("" | "v1", "Node") => ("node", ""),
            (version, kind) => {
                let slash = if version.contains('/') { "" } else { "/" };
                let why = format!("cannot bind token to object of type {slash}{version}, Kind={kind}");
                return Err(Refusal::bad_request(why));
            }
        };
        let kind = by_kind("v1", text("kind")).ok_or_else(Refusal::no_such_resource)?;
        let record = self.find(kind, namespace, text("name"))?;
        if claim == "pod" && record.index.field("spec.serviceAccountName") != place.name {
            let why = format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                place.name
            );
            return Err(Refusal::bad_request(why));
        }
        let stated = text("uid");
        if !stated.is_empty() && stated != &*record.index.uid {
            let why = format!(
                "the UID in the bound object reference ({stated}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(conflict(kind.kind, "", text("name"), &why));
        }
        let uid = record.index.uid.to_string();
        let object = BoundObject { kind: claim, name: text("name").to_owned(), uid };
        let node = decoded(&record)?["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
        let node = (claim == "pod" && !node.is_empty()).then(|| {
            let snapshot = self.records.snapshot();
            let uid = snapshot.get(&format!("nodes/{node}")).map(|node| node.index.uid.to_string());
            (node, uid.unwrap_or_default())
        });
        Ok(Bound { object: Some(object), node })
    }
}

fn lifetime(expiration_s: i64) -> Result<(), Refusal> {
    let detail = match expiration_s {
        ..SHORTEST_S => "may not specify a duration less than 10 minutes",
        SHORTEST_S..=LONGEST_S => return Ok(()),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let path = Path::new("spec").child("expirationSeconds");
    Err(invalid("", &Error::invalid(&path, expiration_s, detail)))
}

fn invalid(name: &str, error: &Error) -> Refusal {
    let message = format!("TokenRequest.{GROUP} {name:?} is invalid: {error}");
    let mut refusal = Refusal::new(422, "Invalid", message);
    let cause = json!({"reason": error.cause(), "message": error.body(), "field": error.field()});
    refusal.details = json!({"group": GROUP, "kind": "TokenRequest", "causes": [cause]});
    if !name.is_empty() {
        refusal.details["name"] = Value::from(name);
    }
    refusal
}
