//! `kubectl auth reconcile`: roles get the permissions that files say, and bindings the subjects.

use super::rules::Rule;
use crate::args::Files;
use crate::choice::each;
use crate::deleting::delete;
use crate::discovery::Resource;
use crate::error::Error;
use crate::manifests::{self, Document};
use crate::session::Session;
use crate::writing::{Dry, Trying, Writer};
use clap::Args;
use http::Method;
use serde_json::{Map, Value, json};

/// How often an object is read anew that changed meanwhile.
const TRIES: u32 = 3;
const GROUP: &str = "rbac.authorization.k8s.io";

#[derive(Args)]
pub(crate) struct Reconcile {
    /// None: files are given by -f
    #[arg(hide = true)]
    words: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    trying: Trying,
    /// Take away permissions that the files do not say
    #[arg(long)]
    remove_extra_permissions: bool,
    /// Take away subjects that the files do not say
    #[arg(long)]
    remove_extra_subjects: bool,
}

/// What has to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    None,
    Create,
    Update,
    Recreate,
}

/// What an object will be and how it comes to be that; the lines that are said about it.
struct Plan {
    object: Value,
    operation: Operation,
    /// Somebody said that it stays as it is.
    protected: bool,
    lines: Vec<String>,
}

pub(super) async fn run(session: &Session, args: &Reconcile) -> Result<(), Error> {
    if args.files.is_empty() {
        return Err(Error::plain("must specify one of -f and -k"));
    }
    if !args.words.is_empty() {
        return Err(Error::plain("no arguments are allowed"));
    }
    let writer = args.trying.open("kubectl")?;
    if writer.dry == Dry::Server {
        return Err(Error::plain("--dry-run=server for command reconcile is not supported yet"));
    }
    let (documents, unread) = manifests::each(&args.files)?;
    let all = documents.iter().map(Ok).chain(unread.into_iter().map(Err));
    each(all, async |document| one(session, args, &writer, document).await).await
}

async fn one(session: &Session, args: &Reconcile, writer: &Writer, document: &Document) -> Result<(), Error> {
    let text = |field: &str| document.object[field].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if !matches!(kind, "Role" | "ClusterRole" | "RoleBinding" | "ClusterRoleBinding")
        || !api_version.starts_with(GROUP)
    {
        return Ok(());
    }
    if api_version != "rbac.authorization.k8s.io/v1" {
        let version = api_version.rsplit('/').next().unwrap_or_default();
        return Err(Error::plain(format!(
            "only rbac.authorization.k8s.io/v1 is supported: not *{version}.{kind}"
        )));
    }
    let (resource, wanted) = manifests::locate(session, document).await?;
    let mut tries = 0;
    let plan = loop {
        tries += 1;
        match reconcile(session, args, writer, (&resource, &wanted)).await {
            Ok(plan) => break plan,
            Err(error) if tries < TRIES && (error.is_conflict() || error.is_not_found()) => {}
            Err(error) => return Err(error),
        }
    };
    writer.done(&resource, &plan.object, "reconciled")?;
    let caveat = if plan.protected {
        ", but object opted out (rbac.authorization.kubernetes.io/autoupdate: false)"
    } else {
        ""
    };
    let operation = match plan.operation {
        Operation::None => return Ok(()),
        Operation::Create => "create",
        Operation::Update => "update",
        Operation::Recreate => "recreate",
    };
    eprintln!("\treconciliation required {operation}{caveat}");
    plan.lines.iter().for_each(|line| eprintln!("{line}"));
    Ok(())
}

/// Plans and does it, unless nothing is to be done.
async fn reconcile(
    session: &Session,
    args: &Reconcile,
    writer: &Writer,
    (resource, wanted): (&Resource, &Value),
) -> Result<Plan, Error> {
    let name = manifests::name(wanted)?;
    let namespace = wanted["metadata"]["namespace"].as_str().unwrap_or_default();
    let path = resource.object(namespace, &name);
    let existing = match session.get(&path).await {
        Ok(existing) => Some(existing),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    let is_role = resource.kind.ends_with("Role");
    let mut plan = match &existing {
        None => new(wanted, is_role),
        Some(existing) if is_role => role(existing, wanted, args.remove_extra_permissions),
        Some(existing) => binding(existing, wanted, args.remove_extra_subjects),
    };
    if plan.protected || writer.is_client() {
        return Ok(plan);
    }
    let collection = writer.path(&resource.path(namespace));
    match plan.operation {
        Operation::None => {}
        Operation::Update => {
            plan.object = session.write(Method::PUT, &writer.path(&path), &plan.object).await?
        }
        Operation::Recreate => {
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions",
                "preconditions": {"uid": existing.as_ref().map(|one| one["metadata"]["uid"].clone())}});
            delete(session, (resource, namespace, &name), &options).await?;
            plan.object = session.write(Method::POST, &collection, &plan.object).await?;
        }
        Operation::Create => {
            if resource.namespaced {
                ensure(session, namespace).await?;
            }
            plan.object = session.write(Method::POST, &collection, &plan.object).await?;
        }
    }
    Ok(plan)
}

/// Makes the namespace, if there is none and one may.
async fn ensure(session: &Session, namespace: &str) -> Result<(), Error> {
    match session.get(&format!("/api/v1/namespaces/{namespace}")).await {
        Ok(_) => return Ok(()),
        Err(error) if matches!(error.code(), Some(403 | 404)) => {}
        Err(error) => return Err(error),
    }
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    match session.write(Method::POST, "/api/v1/namespaces", &object).await {
        Err(error) if !matches!(error.code(), Some(403 | 409)) => Err(error),
        _ => Ok(()),
    }
}

fn rules(object: &Value) -> Vec<Rule> {
    object["rules"].as_array().into_iter().flatten().map(Rule::read).collect()
}

fn subjects(object: &Value) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for subject in object["subjects"].as_array().into_iter().flatten() {
        let mut subject = subject.clone();
        // The server gives users and groups their API group.
        if subject["apiGroup"].is_null() && subject["kind"] != "ServiceAccount" {
            subject["apiGroup"] = json!(GROUP);
        }
        if !all.contains(&subject) {
            all.push(subject);
        }
    }
    all
}

fn rule_lines(title: &str, rules: &[Rule]) -> Vec<String> {
    lines(title, rules.iter().map(Rule::shown))
}

fn subject_lines(title: &str, subjects: &[Value]) -> Vec<String> {
    let shown = |subject: &Value| {
        let text = |field: &str| subject[field].as_str().unwrap_or_default().to_owned();
        let [kind, group, name, namespace] = ["kind", "apiGroup", "name", "namespace"].map(text);
        format!("{{Kind:{kind} APIGroup:{group} Name:{name} Namespace:{namespace}}}")
    };
    lines(title, subjects.iter().map(shown))
}

fn lines(title: &str, items: impl Iterator<Item = String>) -> Vec<String> {
    let items: Vec<String> = items.map(|item| format!("\t\t{item}")).collect();
    if items.is_empty() { items } else { [vec![format!("\t{title}:")], items].concat() }
}

fn new(wanted: &Value, is_role: bool) -> Plan {
    let lines = if is_role {
        rule_lines("missing rules added", &rules(wanted))
    } else {
        subject_lines("missing subjects added", &subjects(wanted))
    };
    Plan { object: wanted.clone(), operation: Operation::Create, protected: false, lines }
}

/// The object with labels and annotations that it lacks; what it has of its own stays.
fn marked(existing: &Value, wanted: &Value) -> Plan {
    let mut object = existing.clone();
    for field in ["labels", "annotations"] {
        let mut map: Map<String, Value> = wanted["metadata"][field].as_object().cloned().unwrap_or_default();
        map.extend(existing["metadata"][field].as_object().cloned().unwrap_or_default());
        if !map.is_empty() {
            object["metadata"][field] = Value::Object(map);
        }
    }
    let operation = if object == *existing { Operation::None } else { Operation::Update };
    let protected =
        existing["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] == "false";
    Plan { object, operation, protected, lines: Vec::new() }
}

fn role(existing: &Value, wanted: &Value, remove: bool) -> Plan {
    let mut plan = marked(existing, wanted);
    let (has, wants) = (rules(existing), rules(wanted));
    let missing = Rule::uncovered(&wants, &has);
    let aggregates = !existing["aggregationRule"].is_null() && !wanted["aggregationRule"].is_null();
    // Rules of a role that aggregates others are the controller's.
    let extra = if aggregates { Vec::new() } else { Rule::uncovered(&has, &wants) };
    if remove && !(missing.is_empty() && extra.is_empty()) {
        plan.object["rules"] = wanted["rules"].clone();
        plan.operation = Operation::Update;
    } else if !remove && !missing.is_empty() {
        let mut all = existing["rules"].as_array().cloned().unwrap_or_default();
        all.extend(missing.iter().map(Rule::json));
        plan.object["rules"] = json!(all);
        plan.operation = Operation::Update;
    }
    if let Some(aggregation) = aggregation(existing, wanted, remove) {
        plan.object["aggregationRule"] = aggregation;
        plan.operation = Operation::Update;
    }
    plan.lines = rule_lines("missing rules added", &missing);
    if remove {
        plan.lines.extend(rule_lines("extra rules removed", &extra));
    }
    plan
}

/// The new aggregation rule, if it changes.
fn aggregation(existing: &Value, wanted: &Value, remove: bool) -> Option<Value> {
    let (has, wants) = (&existing["aggregationRule"], &wanted["aggregationRule"]);
    if wants.is_null() {
        return (!has.is_null()).then_some(Value::Null);
    }
    let list = |rule: &Value| rule["clusterRoleSelectors"].as_array().cloned().unwrap_or_default();
    let (known, asked) = (list(has), list(wants));
    let missing: Vec<Value> = asked.iter().filter(|one| !known.contains(one)).cloned().collect();
    let extra = known.iter().any(|one| !asked.contains(one));
    if remove && (extra || !missing.is_empty()) {
        return Some(wants.clone());
    }
    if remove || missing.is_empty() {
        return None;
    }
    let all = [known, missing].concat();
    Some(json!({"clusterRoleSelectors": all}))
}

fn binding(existing: &Value, wanted: &Value, remove: bool) -> Plan {
    let mut plan = marked(existing, wanted);
    let role = |object: &Value| {
        let text = |field: &str| object["roleRef"][field].as_str().unwrap_or_default().to_owned();
        let group = match text("apiGroup") {
            group if group.is_empty() => GROUP.to_owned(),
            group => group,
        };
        (group, text("kind"), text("name"))
    };
    if role(existing) != role(wanted) {
        // What a binding binds to cannot be changed.
        return Plan { object: wanted.clone(), operation: Operation::Recreate, ..plan };
    }
    let (has, wants) = (subjects(existing), subjects(wanted));
    let missing: Vec<Value> = wants.iter().filter(|one| !has.contains(one)).cloned().collect();
    let extra: Vec<Value> = has.iter().filter(|one| !wants.contains(one)).cloned().collect();
    if remove && !(missing.is_empty() && extra.is_empty()) {
        plan.object["subjects"] = wanted["subjects"].clone();
        plan.operation = Operation::Update;
    } else if !remove && !missing.is_empty() {
        plan.object["subjects"] = Value::Array([has, missing.clone()].concat());
        plan.operation = Operation::Update;
    }
    plan.lines = subject_lines("missing subjects added", &missing);
    if remove {
        plan.lines.extend(subject_lines("extra subjects removed", &extra));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(verbs: &[&str]) -> Value {
        json!({"rules": [{"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}]})
    }

    #[test]
    fn permissions_are_added_and_with_a_flag_removed() {
        let plan = role(&of(&["get"]), &of(&["list"]), false);
        assert_eq!(plan.operation, Operation::Update);
        assert_eq!(plan.object["rules"].as_array().unwrap().len(), 2);
        assert_eq!(plan.lines[0], "\tmissing rules added:");
        let plan = role(&of(&["get"]), &of(&["list"]), true);
        assert_eq!(plan.object["rules"], of(&["list"])["rules"]);
        assert_eq!(plan.lines.len(), 4);
        assert_eq!(role(&of(&["get", "list"]), &of(&["list"]), false).operation, Operation::None);
    }

    #[test]
    fn a_binding_to_another_role_is_made_anew() {
        let to = |name: &str, subjects: Value| json!({"roleRef": {"kind": "Role", "name": name}, "subjects": subjects});
        let user = |name: &str| json!({"kind": "User", "name": name});
        let plan = binding(&to("a", json!([user("x")])), &to("b", json!([user("x")])), false);
        assert_eq!(plan.operation, Operation::Recreate);
        let plan = binding(&to("a", json!([user("x")])), &to("a", json!([user("y")])), false);
        assert_eq!(
            (plan.operation, plan.object["subjects"].as_array().unwrap().len()),
            (Operation::Update, 2)
        );
        assert_eq!(
            binding(&to("a", json!([user("x")])), &to("a", json!([user("x")])), true).operation,
            Operation::None
        );
    }
}
