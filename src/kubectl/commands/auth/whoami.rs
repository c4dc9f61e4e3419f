//! `kubectl auth whoami`.

use super::can_i::list_of;
use crate::error::Error;
use crate::output::{say, tabs};
use crate::session::Session;
use crate::writing::Printing;
use clap::Args;
use http::Method;
use serde_json::{Value, json};

#[derive(Args)]
pub(crate) struct Whoami {
    #[command(flatten)]
    printing: Printing,
}

pub(super) async fn run(session: &Session, args: &Whoami) -> Result<(), Error> {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer =
        session.write(Method::POST, "/apis/authentication.k8s.io/v1/selfsubjectreviews", &body).await;
    let answer = answer.map_err(|error| match error.code() {
        Some(403) => Error::plain(
            "the selfsubjectreviews API is not enabled in the cluster or you do not have permission to call it",
        ),
        Some(404) => Error::plain("the selfsubjectreviews API is not enabled in the cluster"),
        _ => error,
    })?;
    if args.printing.output.is_some() || args.printing.template.is_some() {
        return args.printing.open()?.print(&answer, String::new);
    }
    say(&table(&answer["status"]["userInfo"]))
}

fn table(user: &Value) -> String {
    let words = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let mut text = "ATTRIBUTE\tVALUE\n".to_owned();
    for (field, shown) in [("username", "Username"), ("uid", "UID")] {
        if let Some(value) = user[field].as_str().filter(|value| !value.is_empty()) {
            text.push_str(&format!("{shown}\t{value}\n"));
        }
    }
    let groups = words(&user["groups"]);
    if !groups.is_empty() {
        text.push_str(&format!("Groups\t{}\n", list_of(&groups)));
    }
    for (key, values) in user["extra"].as_object().into_iter().flatten() {
        text.push_str(&format!("Extra: {key}\t{}\n", list_of(&words(values))));
    }
    tabs::align(&text, 6, 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_stand_in_a_table() {
        assert_eq!(
            table(&json!({"username": "u", "groups": ["a", "b"], "extra": {"k": ["v"]}})),
            "ATTRIBUTE   VALUE\nUsername    u\nGroups      [a b]\nExtra: k    [v]\n"
        );
    }
}
