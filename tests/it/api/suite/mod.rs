//! Every kind and version of discovery × every verb × what can happen to it, over HTTPS.
//!
//! `tests/data/objects.yaml` has a minimal object of every kind; all else follows from what the running
//! server says of itself. The cases are asked of a server on which nobody else acts. With
//! `KNARR_TEST_KUBECONFIG` they are asked of the server of that kubeconfig, as its administrator:
//! of Kubernetes' own, what they demand is so too, but for kinds that it writes to meanwhile (definitions,
//! API services, flow schemas) and, with an etcd that tells no progress, initial events.
//! `KNARR_TEST_KINDS` narrows them to resources whose `group/version/resource` contains it, and
//! `KNARR_TEST_TRANSCRIPT` names a file that takes all answers, to compare those of two servers.

mod create;
mod delete;
mod kinds;
mod patch;
mod read;
mod subresources;
mod update;
mod watch;

use crate::support::cluster::Cluster;
use crate::support::https::{Answer, Ask, Https, JSON};
use crate::support::process::wait_for;
use kinds::{Document, Kind};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How many kinds are asked about at a time.
const LANES: usize = 16;
/// Whom nothing was granted.
const NOBODY: &str = "nobody";

/// Enough for what the server does by itself.
const SETTLED: Duration = Duration::from_secs(30);

type Check = Result<(), String>;

struct Suite {
    https: Https,
    documents: Vec<Document>,
    names: AtomicUsize,
    failures: Mutex<Vec<String>>,
    cases: AtomicUsize,
    /// Answers by the case that they were given to.
    transcript: Option<Mutex<BTreeMap<String, String>>>,
    /// It is knarr's, alone.
    is_own: bool,
}

#[test]
fn every_kind_does_every_verb() {
    let own = std::env::var("KNARR_TEST_KUBECONFIG").is_err().then(Cluster::api_server);
    let https = match &own {
        Some(cluster) => Https::new(cluster),
        None => {
            let file = std::env::var("KNARR_TEST_KUBECONFIG").unwrap();
            Https::of_kubeconfig(&std::fs::read_to_string(file).unwrap(), None)
        }
    };
    let suite = Suite::new(https, own.is_some());
    let only = std::env::var("KNARR_TEST_KINDS").unwrap_or_default();
    let kinds = kinds::of_discovery(&suite.https);
    assert!(kinds.len() > 80, "discovery lists {} kinds", kinds.len());
    suite.prepare_namespaces();
    let queue = Mutex::new(kinds.iter().filter(|kind| kind.id().contains(&only)));
    let next = || queue.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| std::iter::from_fn(next).for_each(|kind| suite.kind(kind)));
        }
    });
    drop(own);
    suite.report();
}

impl Suite {
    fn new(https: Https, is_own: bool) -> Self {
        let transcript = std::env::var_os("KNARR_TEST_TRANSCRIPT").map(|_| Mutex::default());
        Self {
            https,
            documents: kinds::documents(),
            names: AtomicUsize::new(0),
            failures: Mutex::default(),
            cases: AtomicUsize::new(0),
            transcript,
            is_own,
        }
    }

    /// The namespace of all objects; pods are admitted only where there is the account they run as.
    fn prepare_namespaces(&self) {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": kinds::NAMESPACE}});
        self.https.ask("POST", "/api/v1/namespaces").object(JSON, &body).send();
        let path = format!("/api/v1/namespaces/{}/serviceaccounts", kinds::NAMESPACE);
        let body = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let made = self.https.ask("POST", &path).object(JSON, &body).send();
        assert!(matches!(made.code, 201 | 409), "{made:?}");
    }

    /// All cases of a kind.
    fn kind(&self, kind: &Kind) {
        let run = Run { suite: self, kind, verb: "", document: self.document(kind) };
        if kind.verbs.iter().any(|verb| verb == "watch") {
            create::cases(&run.of("create"));
            read::cases(&run.of("read"));
            update::cases(&run.of("update"));
            patch::cases(&run.of("patch"));
            delete::cases(&run.of("delete"));
            watch::cases(&run.of("watch"));
            subresources::cases(&run);
        } else if kind.verbs.iter().any(|verb| verb == "create") {
            create::of_answers(&run.of("create"));
        } else {
            read::of_nothing_stored(&run.of("read"));
        }
    }

    fn document(&self, kind: &Kind) -> Option<&Document> {
        let fits = |own: &&Document| own.group() == kind.group && own.object["kind"] == kind.kind;
        let exact = |own: &&Document| own.object["apiVersion"] == kind.api_version();
        self.documents.iter().filter(fits).find(exact).or_else(|| self.documents.iter().find(fits))
    }

    fn fail(&self, failure: String) {
        self.failures.lock().unwrap().push(failure);
    }

    fn report(&self) {
        if let (Some(file), Some(answers)) = (std::env::var_os("KNARR_TEST_TRANSCRIPT"), &self.transcript) {
            let lines: String =
                answers.lock().unwrap().iter().fold(String::new(), |mut text, (case, answer)| {
                    writeln!(text, "{case}\n{answer}").unwrap();
                    text
                });
            std::fs::write(file, lines).unwrap();
        }
        let mut failures = self.failures.lock().unwrap();
        failures.sort();
        let cases = self.cases.load(Ordering::Relaxed);
        eprintln!("{cases} cases, {} failed", failures.len());
        assert!(failures.is_empty(), "{} of {cases} cases failed:\n{}", failures.len(), failures.join("\n"));
    }
}

/// A kind while its cases are run.
#[derive(Clone, Copy)]
struct Run<'a> {
    suite: &'a Suite,
    kind: &'a Kind,
    verb: &'a str,
    document: Option<&'a Document>,
}

impl<'a> Run<'a> {
    fn of(self, verb: &'a str) -> Self {
        Self { verb, ..self }
    }

    /// Runs one case.
    fn case(&self, name: &str, check: impl FnOnce(Case<'_>) -> Check) {
        self.suite.cases.fetch_add(1, Ordering::Relaxed);
        let title = format!("{} × {} × {name}", self.kind.id(), self.verb);
        if self.document.is_none() {
            return self.suite.fail(format!("{title}: tests/data/objects.yaml has no object of this kind"));
        }
        if let Err(why) = check(Case { run: *self, title: &title }) {
            self.suite.fail(format!("{title}: {why}"));
        }
    }
}

/// A case while it is run.
#[derive(Clone, Copy)]
struct Case<'a> {
    run: Run<'a>,
    title: &'a str,
}

impl<'a> Case<'a> {
    fn kind(&self) -> &'a Kind {
        self.run.kind
    }

    fn document(&self) -> &'a Document {
        self.run.document.expect("cases are run where there is a document")
    }

    /// A new object, with a name that was never used.
    fn object(&self) -> Value {
        self.document().make(self.kind(), self.suite_number())
    }

    fn suite_number(&self) -> usize {
        self.run.suite.names.fetch_add(1, Ordering::Relaxed)
    }

    /// The object's form after the document's change, where it has one; else with another label.
    fn changed(&self, object: &Value) -> Value {
        let mut changed = object.clone();
        let label = json!({"metadata": {"labels": {"changed": "yes"}}});
        let change = self.document().change().unwrap_or(label);
        api::patch::merge(&mut changed, &change).unwrap();
        changed
    }

    fn ask(&self, method: &str, path: &str) -> Ask<'a> {
        self.run.suite.https.ask(method, path)
    }

    /// Sends a request and remembers the answer for the transcript.
    fn send(&self, what: &str, ask: Ask<'_>) -> Answer {
        let answer = ask.send();
        if let Some(answers) = &self.run.suite.transcript {
            let text = kinds::without_chance(&answer);
            answers.lock().unwrap().insert(format!("{} {what}", self.title), text);
        }
        answer
    }

    /// Creates a new object that a case begins with.
    fn made(&self) -> Result<Value, String> {
        self.made_of(&self.object())
    }

    fn made_of(&self, object: &Value) -> Result<Value, String> {
        let path = format!("{}?fieldManager=maker", self.kind().collection());
        let answer = self.ask("POST", &path).object(JSON, object).send();
        answer.is(201)?;
        Ok(self.settled(answer.value()))
    }

    /// Waits until the server has done with a new object what it does with every one.
    fn settled(&self, object: Value) -> Value {
        let (document, suite) = (self.document(), self.run.suite);
        let Some(pointer) = document.acted_on.as_ref().filter(|_| suite.is_own) else { return object };
        wait_for("the server to act on a new object", SETTLED, || {
            let read = self.read(&object);
            read.pointer(pointer).is_some_and(|value| !value.is_null()).then_some(read)
        })
    }

    /// Compares objects; tells the fields that differ. A null is as good as absent, and what the server
    /// does with objects of a kind on its own is left out.
    fn same_object(&self, what: &str, got: &Value, wanted: &Value) -> Check {
        if self.document().acted_on.is_none() {
            return same_object(what, got, wanted);
        }
        same_object(what, &kinds::without_acts(got), &kinds::without_acts(wanted))
    }

    /// Reads an object.
    fn read(&self, object: &Value) -> Value {
        self.ask("GET", &self.kind().path_of(object)).send().value()
    }

    /// The refusal that says that an object of this name is not there.
    fn is_missing(&self, answer: &Answer, name: &str) -> Check {
        let message = format!("{} {name:?} not found", self.kind().qualified());
        answer.refuses((404, "NotFound"), &message, self.kind().details(name))
    }

    /// The refusal of a user without rights; `name` is "" for collections.
    fn is_forbidden(&self, answer: &Answer, verb: &str, (name, subresource): (&str, &str)) -> Check {
        let kind = self.kind();
        let slash = if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
        let place = if kind.namespaced {
            format!("in the namespace {:?}", kinds::NAMESPACE)
        } else if kind.resource == "namespaces" && !name.is_empty() {
            format!("in the namespace {name:?}")
        } else {
            "at the cluster scope".to_owned()
        };
        let subject =
            if name.is_empty() { kind.qualified() } else { format!("{} {name:?}", kind.qualified()) };
        let message = format!(
            "{subject} is forbidden: User \"{NOBODY}\" cannot {verb} resource \"{}{slash}\" in API group {:?} {place}",
            kind.resource, kind.group
        );
        answer.refuses((403, "Forbidden"), &message, kind.details(name))
    }

    /// The refusal of a stale resourceVersion.
    fn is_stale(&self, answer: &Answer, name: &str) -> Check {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: the object has been modified; please apply your changes to the latest version and try again",
            self.kind().qualified()
        );
        answer.refuses((409, "Conflict"), &message, self.kind().details(name))
    }

    /// The refusal of an object with [`with_wrong_label`].
    fn is_invalid(&self, answer: &Answer, name: &str) -> Check {
        answer.is(422)?;
        let status = answer.value();
        same("reason", &status["reason"], "Invalid")?;
        let details = &status["details"];
        same("details.name", &details["name"], name)?;
        same("details.kind", &details["kind"], &*self.kind().kind)?;
        same("details.group", details["group"].as_str().unwrap_or_default(), self.kind().home())?;
        let detail = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
        let body = format!("Invalid value: \"not a label\": {detail}");
        let cause = json!({"reason": "FieldValueInvalid", "message": body, "field": "metadata.labels"});
        let causes = details["causes"].as_array().cloned().unwrap_or_default();
        holds("the cause", causes.contains(&cause), &status)?;
        let message = format!("metadata.labels: {body}");
        holds("the message", status["message"].as_str().unwrap_or_default().contains(&message), &status)
    }
}

/// The object with a label that no object may have.
fn with_wrong_label(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"]["labels"]["not a label"] = json!("x");
    object
}

fn with_label(object: &Value, name: &str, value: &str) -> Value {
    let mut object = object.clone();
    object["metadata"]["labels"][name] = json!(value);
    object
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Compares what was got with what was wanted.
fn same<T: PartialEq<W> + std::fmt::Debug + ?Sized, W: std::fmt::Debug + ?Sized>(
    what: &str,
    got: &T,
    wanted: &W,
) -> Check {
    if got == wanted { Ok(()) } else { Err(format!("{what} is {got:?} and not {wanted:?}")) }
}

/// Compares values; tells the fields that differ. A null is as good as absent.
fn same_object(what: &str, got: &Value, wanted: &Value) -> Check {
    let mut differences = Vec::new();
    kinds::differences("", (got, wanted), &mut differences);
    if differences.is_empty() { Ok(()) } else { Err(format!("{what} differs: {}", differences.join("; "))) }
}

fn holds(what: &str, true_or_not: bool, shown: &Value) -> Check {
    if true_or_not { Ok(()) } else { Err(format!("{what} is wrong: {shown}")) }
}

trait Answers {
    fn is(&self, code: u16) -> Check;
    fn refuses(&self, code: (u16, &str), message: &str, details: Value) -> Check;
    fn refuses_with(&self, code: (u16, &str), part: &str) -> Check;
}

impl Answers for Answer {
    fn is(&self, code: u16) -> Check {
        if self.code == code {
            Ok(())
        } else {
            Err(format!("{} and not {code}: {}", self.code, self.value()))
        }
    }

    /// Compares a whole refusal.
    fn refuses(&self, (code, reason): (u16, &str), message: &str, details: Value) -> Check {
        let mut wanted = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "details": details, "code": code});
        if details_are_empty(&wanted) {
            wanted.as_object_mut().unwrap().remove("details");
        }
        same("status code", &self.code, &code)?;
        same_object("the refusal", &self.value(), &wanted)
    }

    /// Compares a refusal of which a part of the message is certain.
    fn refuses_with(&self, (code, reason): (u16, &str), part: &str) -> Check {
        self.is(code)?;
        let status = self.value();
        same("kind", &status["kind"], "Status")?;
        same("reason", status["reason"].as_str().unwrap_or_default(), reason)?;
        same("code", &status["code"], &code)?;
        holds("the message", status["message"].as_str().unwrap_or_default().contains(part), &status)
    }
}

fn details_are_empty(status: &Value) -> bool {
    status["details"].is_null()
}
