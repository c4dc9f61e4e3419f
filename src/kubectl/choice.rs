//! The objects that a command is about, read from the server: of words, labels, fields or files.

use crate::args::{Files, Selection};
use crate::discovery::Resource;
use crate::error::Error;
use crate::manifests::{self, Document};
use crate::session::Session;
use crate::target::{self, Target};
use clap::Args;
use serde_json::Value;

/// How objects are chosen that a command changes.
#[derive(Args, Clone, Default)]
pub(crate) struct Choice {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// All objects of the kind
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) files: Files,
}

/// How objects are chosen by a command that knows neither other namespaces nor fields.
#[derive(Args, Clone, Default)]
pub(crate) struct Naming {
    /// KIND NAME… or KIND/NAME…
    pub(crate) words: Vec<String>,
    /// Only objects with these labels
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub(crate) selector: String,
    #[command(flatten)]
    pub(crate) files: Files,
}

impl Naming {
    /// The words before `split` only; with `all`, kinds stand for all their objects.
    pub(crate) fn choice(&self, split: usize, all: bool) -> Choice {
        let choice = Choice::of(self.words[..split].to_vec(), &self.selector);
        Choice { all, files: self.files.clone(), ..choice }
    }
}

/// How objects are chosen by a command that is told of each by its name.
#[derive(Args, Clone, Default)]
pub(crate) struct Each {
    /// KIND NAME… or KIND/NAME…
    pub(crate) words: Vec<String>,
    #[command(flatten)]
    pub(crate) files: Files,
}

impl Each {
    pub(crate) fn choice(&self) -> Choice {
        Choice { files: self.files.clone(), ..Choice::of(self.words.clone(), "") }
    }
}

/// An object as the server has it, or as a file says.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) resource: Resource,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) object: Value,
}

impl Found {
    pub(crate) fn path(&self) -> String {
        self.resource.object(&self.namespace, &self.name)
    }
}

/// What was asked for and could not be read is beside what was.
pub(crate) type Findings = Vec<Result<Found, Error>>;

/// What is said where nobody may be asked of the objects.
pub(crate) const LOCAL: &str = "error: you must specify resources by --filename when --local is set.\nExample resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'";

/// What is said when nothing was named.
pub(crate) const NOTHING: &str = "You must provide one or more resources by argument or filename.\nExample resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   '<resource> <name>'\n   '<resource>'";

impl Choice {
    /// Of words and a label selector alone.
    pub(crate) fn of(words: Vec<String>, selector: &str) -> Self {
        let selection = Selection { words, selector: selector.to_owned(), ..Selection::default() };
        Self { selection, ..Self::default() }
    }

    /// The words before `split` only.
    pub(crate) fn first_words(&self, split: usize) -> Self {
        let words = self.selection.words[..split].to_vec();
        Self { selection: Selection { words, ..self.selection.clone() }, ..self.clone() }
    }

    /// Objects are chosen by what they have in common.
    pub(crate) fn selects(&self) -> bool {
        let Selection { selector, field_selector, .. } = &self.selection;
        self.all || !selector.is_empty() || !field_selector.is_empty()
    }

    /// It names one object and no more, as far as words tell.
    pub(crate) fn is_single(&self) -> bool {
        let words = &self.selection.words;
        let named = if words.iter().any(|word| word.contains('/')) { 1 } else { 2 };
        let files = self.files.filename.len() + usize::from(self.files.kustomize.is_some());
        !self.selects() && words.len() <= named && files <= 1 && !words.iter().any(|word| word.contains(','))
    }

    /// What the words and files name; kinds without names only where objects are selected.
    pub(crate) async fn targets(&self, session: &Session) -> Result<Vec<Target>, Error> {
        if self.selection.words.is_empty() && self.files.is_empty() {
            return Err(Error::plain(NOTHING));
        }
        let targets = target::resolve(session, &self.selection, &self.files).await?;
        if !self.selects() && targets.iter().any(|target| target.name.is_none()) {
            return Err(Error::plain("resource(s) were provided, but no name was specified"));
        }
        Ok(targets)
    }

    /// Reads them all. With `local` nothing is asked, and files say what there is.
    pub(crate) async fn read(&self, session: &Session, local: bool) -> Result<Findings, Error> {
        if !self.files.is_empty() {
            if !self.selection.words.is_empty() {
                return Err(target::files_and_words(&self.selection.words));
            }
            return self.of_files(session, local).await;
        }
        if local {
            return Err(Error::plain(LOCAL));
        }
        let mut found = Vec::new();
        for target in self.targets(session).await? {
            match (session.get(&target.path(&self.selection)).await, &target.name) {
                (Err(error), _) => found.push(Err(error)),
                (Ok(object), Some(_)) => found.push(Ok(one(&target, object))),
                (Ok(list), None) => found.extend(members(&target, &list).into_iter().map(Ok)),
            }
        }
        Ok(found)
    }

    async fn of_files(&self, session: &Session, local: bool) -> Result<Findings, Error> {
        let (documents, unread) = manifests::each(&self.files)?;
        let mut found = Vec::new();
        for document in documents {
            found.push(of_document(session, document, local).await);
        }
        found.extend(unread.into_iter().map(Err));
        Ok(found)
    }
}

/// What the server has of an object in a file; with `local` what the file says.
async fn of_document(session: &Session, document: Document, local: bool) -> Result<Found, Error> {
    let (resource, object) = if local {
        (manifests::unasked(&document.object), document.object)
    } else {
        manifests::locate(session, &document).await?
    };
    let target = Target::named(resource, &object)?;
    let live = if local { object } else { session.get(&target.path(&Selection::default())).await? };
    Ok(one(&target, live))
}

fn one(target: &Target, object: Value) -> Found {
    Found {
        resource: target.resource.clone(),
        namespace: target.namespace.clone(),
        name: target.name.clone().unwrap_or_default(),
        object,
    }
}

/// The objects of a list, each with the kind that the list has for all.
pub(crate) fn members(target: &Target, list: &Value) -> Vec<Found> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let whole = |item: &Value| {
        let mut object = item.clone();
        object["kind"] = target.resource.kind.clone().into();
        object["apiVersion"] = target.resource.api_version().into();
        Found {
            resource: target.resource.clone(),
            namespace: text(&item["metadata"]["namespace"]),
            name: text(&item["metadata"]["name"]),
            object,
        }
    };
    list["items"].as_array().into_iter().flatten().map(whole).collect()
}

/// One failure is the command's; several are said one a line.
pub(crate) fn failed(mut failures: Vec<Error>) -> Result<(), Error> {
    match failures.len() {
        0 => Ok(()),
        1 => Err(match failures.remove(0) {
            Error::Plain(text) => Error::Plain(text.trim_end().to_owned()),
            other => other,
        }),
        _ => {
            for failure in failures {
                match failure {
                    Error::Plain(text) => eprintln!("{text}"),
                    other => eprintln!("{}", other.among_others()),
                }
            }
            Err(Error::Said(1))
        }
    }
}

/// Does something to each, such as [`Findings`], and goes on where one fails; failures are said at the end.
pub(crate) async fn each<T>(
    all: impl IntoIterator<Item = Result<T, Error>>,
    mut work: impl AsyncFnMut(T) -> Result<(), Error>,
) -> Result<(), Error> {
    let (mut failures, mut said) = (Vec::new(), Ok(()));
    for one in all {
        let ended = match one {
            Ok(one) => work(one).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => {}
            Err(Error::Said(code)) => said = Err(Error::Said(code)),
            Err(error) => failures.push(error),
        }
    }
    failed(failures).and(said)
}
