//! `kubectl describe`: objects in detail, with their events.
//!
//! A page is made of an object, and of what was asked for around it ([`around`]) before it is written, so that
//! pages themselves are pure. Kinds without a page of their own are shown field by field.

mod access;
mod around;
mod autoscaler;
mod containers;
mod endpoints;
mod environment;
mod generic;
mod ingress;
mod jobs;
mod limits;
mod network;
mod node;
mod page;
mod plain;
mod pod;
mod service;
mod signing;
mod small;
mod sources;
mod storage;
mod volumes;
mod words;
mod workloads;

use crate::args::{Files, Selection};
use crate::choice::{Found, failed};
use crate::discovery::Resource;
use crate::error::Error;
use crate::output::{none_found, say, word};
use crate::session::Session;
use crate::target::{self, Target};
use api::selector::Labels;
use clap::Args;
use page::Page;
use serde_json::Value;

/// What is described, and with what.
#[derive(Args)]
pub(crate) struct Describe {
    /// KIND[,KIND…] [NAME or its beginning…] or KIND/NAME…
    words: Vec<String>,
    /// Only objects with these labels
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
    /// In all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    #[command(flatten)]
    files: Files,
    /// Show events too, as is done of one object anyway
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    show_events: Option<bool>,
    /// How many objects to ask for at once; 0 for all
    #[arg(long, default_value_t = 500)]
    chunk_size: u64,
}

impl Describe {
    fn selection(&self) -> Selection {
        Selection {
            words: self.words.clone(),
            selector: self.selector.clone(),
            all_namespaces: self.all_namespaces,
            ..Selection::default()
        }
    }
}

pub(crate) async fn run(session: &Session, args: &Describe) -> Result<(), Error> {
    if args.words.is_empty() && args.files.is_empty() {
        return Err(Error::plain(
            "You must specify the type of resource to describe. Use \"kubectl api-resources\" for a complete list of supported resources.",
        ));
    }
    let selection = args.selection();
    let (targets, unread) = target::resolve_each(session, &selection, &args.files).await?;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for target in &targets {
        match around::objects(session, target, &selection, args.chunk_size).await {
            Ok(objects) => found.extend(objects),
            Err(error) => failures.push(target.unlisted(&selection, error)),
        }
    }
    // kubectl would take the second of two objects for a beginning.
    if let ([error], [kind, beginning]) = (&failures[..], &args.words[..])
        && error.is_not_found()
        && !kind.contains('/')
    {
        return by_beginning(session, args, &targets, beginning, failures).await;
    }
    if !args.files.is_empty() && !args.selector.is_empty() {
        let labels = Labels::parse(&args.selector).map_err(|error| Error::plain(error.to_string()))?;
        found.retain(|one| labels.matches_with(|key| one.object["metadata"]["labels"][key].as_str()));
    }
    let is_one = found.len() <= 1 && failures.is_empty() && unread.is_empty();
    let around = around::Around::new(session, args.chunk_size, args.show_events.unwrap_or(is_one));
    let mut gap = "";
    for one in &found {
        match describe(&around, one).await {
            Ok(text) => {
                say(&format!("{gap}{text}"))?;
                gap = "\n\n";
            }
            // What is refused is so for all objects of a kind.
            Err(error) if failures.iter().any(|known| known.message() == error.message()) => {}
            Err(error) => failures.push(error),
        }
    }
    failures.extend(unread.into_iter().map(|error| Error::Bare(error.message())));
    if found.is_empty() && failures.is_empty() {
        none_found((!args.all_namespaces).then_some(session.namespace.as_str()));
    }
    failed(failures)
}

/// All objects whose names begin so, where none has that name.
async fn by_beginning(
    session: &Session,
    args: &Describe,
    targets: &[Target],
    beginning: &str,
    failures: Vec<Error>,
) -> Result<(), Error> {
    let [target] = targets else {
        let is_one = targets.iter().all(|target| target.resource == targets[0].resource);
        return Err(Error::plain(match is_one {
            true => "arguments must consist of a single resource or resource type",
            false => "you may only specify a single resource type",
        }));
    };
    let all = Target { name: None, ..target.clone() };
    let found = around::objects(session, &all, &Selection::default(), args.chunk_size).await;
    let found = found.map_err(|error| all.unlisted(&Selection::default(), error))?;
    let around = around::Around::new(session, args.chunk_size, args.show_events.unwrap_or(false));
    let mut is_found = false;
    for one in found.iter().filter(|one| one.name.starts_with(beginning)) {
        say(&format!("{}\n", describe(&around, one).await?))?;
        is_found = true;
    }
    if is_found { Ok(()) } else { failed(failures) }
}

/// One object's page.
async fn describe(around: &around::Around<'_>, found: &Found) -> Result<String, Error> {
    let mut page = Page::default();
    let kind = kind(&found.resource);
    let of_object = PAGES.iter().find(|(name, _)| *name == kind).map(|(_, page)| page);
    let is_of_more = around::KINDS.contains(&kind.as_str());
    let other = match is_of_more || of_object.is_some() {
        true => around.versioned(found).await,
        false => None,
    };
    let found = other.as_ref().unwrap_or(found);
    match of_object {
        Some(of_object) => of_object(&mut page, &found.object),
        None if is_of_more => around.write(&mut page, found).await?,
        None => generic::write(&mut page, &found.object),
    }
    if around.shows_events && !QUIET.contains(&kind.as_str()) {
        page.events(&around.events(found).await?);
    }
    Ok(page.render())
}

/// Group and kind, by which pages are known.
fn kind(resource: &Resource) -> String {
    match resource.group.as_str() {
        "" => resource.kind.clone(),
        group => format!("{}.{group}", resource.kind),
    }
}

/// Pages that are made of the object alone.
type PageOf = fn(&mut Page, &Value);
const PAGES: &[(&str, PageOf)] = &[
    ("ConfigMap", plain::config_map),
    ("Endpoints", endpoints::endpoints),
    ("LimitRange", limits::limit_range),
    ("PersistentVolume", storage::volume),
    ("Pod", pod::write),
    ("ResourceQuota", limits::quota),
    ("Secret", plain::secret),
    ("ServiceAccount", plain::service_account),
    ("HorizontalPodAutoscaler.autoscaling", autoscaler::write),
    ("CronJob.batch", jobs::cron_job),
    ("Job.batch", jobs::job),
    ("EndpointSlice.discovery.k8s.io", endpoints::slice),
    ("IPAddress.networking.k8s.io", network::address),
    ("IngressClass.networking.k8s.io", ingress::class),
    ("NetworkPolicy.networking.k8s.io", network::policy),
    ("ServiceCIDR.networking.k8s.io", network::service_ranges),
    ("PodDisruptionBudget.policy", small::budget),
    ("ClusterRole.rbac.authorization.k8s.io", access::role),
    ("ClusterRoleBinding.rbac.authorization.k8s.io", access::binding),
    ("Role.rbac.authorization.k8s.io", access::role),
    ("RoleBinding.rbac.authorization.k8s.io", access::binding),
    ("PriorityClass.scheduling.k8s.io", small::priority_class),
    ("CSINode.storage.k8s.io", storage::csi_node),
    ("StorageClass.storage.k8s.io", storage::storage_class),
    ("VolumeAttributesClass.storage.k8s.io", storage::attributes_class),
];

/// Kinds of whose objects kubectl shows no events.
const QUIET: &[&str] = &[
    "LimitRange",
    "Namespace",
    "ResourceQuota",
    "Secret",
    "NetworkPolicy.networking.k8s.io",
    "ClusterRole.rbac.authorization.k8s.io",
    "ClusterRoleBinding.rbac.authorization.k8s.io",
    "Role.rbac.authorization.k8s.io",
    "RoleBinding.rbac.authorization.k8s.io",
];

/// A pod template on its own, for a rollout's history, which kubectl does not align.
pub(crate) fn template(template: &Value) -> String {
    let mut page = Page::default();
    pod::template(&mut page, template);
    page.unaligned()
}

/// A text in an object, or "".
fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).map(word).unwrap_or_default()
}

#[cfg(test)]
mod tests;
