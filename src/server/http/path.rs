//! What a request is about, read from its method, path and query as Kubernetes' `RequestInfo` is.

use super::query::Query;
use api::selector::Fields;
use http::Method;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// An object, a collection or a subresource.
    Resource(ResourcePath),
    /// Anything else: health, version, documents.
    Other,
}

/// The parts of a resource's path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: Box<str>,
    pub(crate) resource: String,
    /// "" outside namespaces and for lists across them.
    pub(crate) namespace: String,
    /// "" for collections.
    pub(crate) name: String,
    /// The one object of a collection that a field selector leaves, or "".
    pub(crate) selected: Box<str>,
    /// The node whose objects of a collection a field selector leaves, or "".
    pub(crate) node: Box<str>,
    /// "" for the object itself.
    pub(crate) subresource: String,
    /// What follows the subresource, as `proxy` has it.
    pub(crate) rest: Box<str>,
    /// The verb that is authorized.
    pub(crate) verb: &'static str,
}

/// Takes a path apart.
pub(crate) fn target(method: &Method, path: &str, query: &Query) -> Target {
    let parts: Vec<String> =
        path.split('/').filter(|part| !part.is_empty()).map(base::query::unescape).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return Target::Other,
    };
    let mut found =
        ResourcePath { group: group.to_owned(), version: version.into(), ..ResourcePath::default() };
    // An older form of watches, which names the verb in the path.
    let (rest, watches) = match rest {
        ["watch", rest @ ..] if matches!(*method, Method::GET | Method::HEAD) => (rest, true),
        ["watch", ..] => return Target::Other,
        rest => (rest, false),
    };
    let own = match rest {
        // A namespace is an object of its own unless a resource of it follows.
        ["namespaces", name, resource, own @ ..] if !matches!(*resource, "status" | "finalize") => {
            (*name).clone_into(&mut found.namespace);
            (*resource).clone_into(&mut found.resource);
            own
        }
        [resource, own @ ..] => {
            (*resource).clone_into(&mut found.resource);
            own
        }
        [] => return Target::Other,
    };
    if let [name, subresource @ ..] = own {
        (*name).clone_into(&mut found.name);
        if let [subresource, rest @ ..] = subresource {
            (*subresource).clone_into(&mut found.subresource);
            found.rest = rest.join("/").into();
        }
    }
    if found.resource == "namespaces" {
        found.namespace.clone_from(&found.name);
    }
    found.verb = verb(method, &found, query);
    if watches {
        found.verb = "watch";
    }
    if matches!(found.verb, "list" | "watch" | "deletecollection") && found.name.is_empty() {
        let fields = Fields::parse(query.get("fieldSelector")).unwrap_or_default();
        found.selected = fixed(&fields, "metadata.name");
        found.node = fixed(&fields, "spec.nodeName");
    }
    Target::Resource(found)
}

fn verb(method: &Method, path: &ResourcePath, query: &Query) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if path.name.is_empty() => "deletecollection",
        "DELETE" => "delete",
        // Whoever may read may not therefore do what has no verb.
        method if !matches!(method, "GET" | "HEAD") => "",
        _ if path.name.is_empty() && query.flag("watch") => "watch",
        _ if path.name.is_empty() => "list",
        _ => "get",
    }
}

/// The name that a field selector fixes: who may read one object, or those of one node, may list or watch it.
fn fixed(fields: &Fields, field: &str) -> Box<str> {
    fields.required(field).filter(|name| is_segment(name)).unwrap_or_default().into()
}

/// Whether a text can be a part of a path.
fn is_segment(text: &str) -> bool {
    !matches!(text, "." | "..") && !text.contains(['/', '%'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(method: Method, uri: &str) -> ResourcePath {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        match target(&method, path, &Query::parse(query)) {
            Target::Resource(found) => found,
            Target::Other => panic!("{uri} is no resource"),
        }
    }

    #[test]
    fn paths_of_objects_collections_and_subresources() {
        let pod = parsed(Method::GET, "/api/v1/namespaces/web/pods/a/log");
        assert_eq!(
            (pod.namespace.as_str(), pod.resource.as_str(), pod.name.as_str(), pod.subresource.as_str()),
            ("web", "pods", "a", "log")
        );
        assert_eq!(parsed(Method::GET, "/api/v1/pods?watch=1").verb, "watch");
        let old = parsed(Method::GET, "/api/v1/watch/namespaces/web/pods/a");
        assert_eq!((old.verb, old.namespace.as_str(), old.name.as_str()), ("watch", "web", "a"));
        assert_eq!(parsed(Method::GET, "/api/v1/namespaces/web/pods/a?watch=1").verb, "get");
        assert_eq!(
            parsed(Method::DELETE, "/apis/apps/v1/namespaces/web/deployments").verb,
            "deletecollection"
        );
        assert_eq!(parsed(Method::GET, "/api/v1/namespaces/web/pods/a?watch=1").verb, "get");
        let one = parsed(Method::GET, "/api/v1/pods?watch&fieldSelector=metadata.name%3Da");
        assert_eq!((one.verb, one.name.as_str(), &*one.selected), ("watch", "", "a"));
        let of_node = parsed(Method::GET, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn");
        assert_eq!((&*of_node.node, &*of_node.selected), ("n", ""));
        let old = parsed(Method::GET, "/api/v1/watch/namespaces/web/pods/a");
        assert_eq!((old.verb, old.namespace.as_str(), old.name.as_str()), ("watch", "web", "a"));
        assert_eq!(parsed(Method::GET, "/apis/apps/v1/watch/deployments").resource, "deployments");
        let namespace = parsed(Method::PUT, "/api/v1/namespaces/web/finalize");
        assert_eq!(
            (namespace.resource.as_str(), namespace.name.as_str(), namespace.subresource.as_str()),
            ("namespaces", "web", "finalize")
        );
        assert_eq!(namespace.namespace, "web");
        let proxied = parsed(Method::POST, "/api/v1/namespaces/web/services/http:a:80/proxy/x/y");
        assert_eq!((proxied.name.as_str(), &*proxied.rest), ("http:a:80", "x/y"));
        assert_eq!(parsed(Method::OPTIONS, "/api/v1/namespaces/web/pods/a/proxy").verb, "");
        assert_eq!(target(&Method::GET, "/apis/apps/v1", &Query::parse("")), Target::Other);
    }
}
