//! What is asked of a stream, as the object that admission sees (`PodExecOptions` and its like), and back.

use crate::http::query::Query;
use api::kinds::{Kind, Subresource};
use serde_json::{Value, json};

const FLAGS: [&str; 4] = ["stdin", "stdout", "stderr", "tty"];

/// The options of a request to one of the subresources that others answer; `rest` is the path behind it.
pub(super) fn of_query(kind: &Kind, door: &Subresource, query: &Query, rest: &str) -> Value {
    let mut options = json!({"kind": door.kind_of(kind), "apiVersion": "v1"});
    match door.name {
        "proxy" if rest.is_empty() => {}
        "proxy" => options["path"] = json!(rest),
        "portforward" => {
            let ports: Vec<i64> = query.values("ports").filter_map(|port| port.parse().ok()).collect();
            if !ports.is_empty() {
                options["ports"] = json!(ports);
            }
        }
        name => {
            FLAGS.iter().filter(|flag| query.flag(flag)).for_each(|flag| options[*flag] = json!(true));
            if query.has("container") {
                options["container"] = json!(query.get("container"));
            }
            if name == "exec" {
                options["command"] = query.values("command").collect();
            }
        }
    }
    options
}

/// The query of options that admission has changed.
pub(super) fn to_query(options: &Value) -> String {
    let fields = options.as_object().into_iter().flatten();
    let pairs = fields.filter(|(field, _)| !matches!(field.as_str(), "kind" | "apiVersion")).flat_map(
        |(field, value)| {
            let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            values.iter().map(move |value| {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                format!("{field}={}", escaped(&text))
            })
        },
    );
    pairs.collect::<Vec<_>>().join("&")
}

fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::kinds::by_resource;

    #[test]
    fn options_are_queries_as_objects() {
        let options = |resource: &str, door: &str, query: &str, rest: &str| {
            let kind = by_resource("", "v1", resource).unwrap();
            of_query(kind, kind.subresource(door).unwrap(), &Query::parse(query), rest)
        };
        let query = "command=sh&command=a%20%26b&container=c&stdin=true&tty=false";
        let exec = options("pods", "exec", query, "");
        assert_eq!(
            exec,
            json!({"kind": "PodExecOptions", "apiVersion": "v1", "command": ["sh", "a &b"], "container": "c", "stdin": true})
        );
        assert_eq!(to_query(&exec), "command=sh&command=a%20%26b&container=c&stdin=true");
        let ports = options("pods", "portforward", "ports=80&ports=x", "");
        assert_eq!((&ports["kind"], &ports["ports"]), (&json!("PodPortForwardOptions"), &json!([80])));
        let proxy = options("services", "proxy", "a=b", "/x/");
        assert_eq!(proxy, json!({"kind": "ServiceProxyOptions", "apiVersion": "v1", "path": "/x/"}));
    }
}
