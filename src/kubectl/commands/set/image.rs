//! `kubectl set image`.

use super::{Selected, changed, pod_spec};
use crate::choice::failed;
use crate::error::Error;
use crate::pairs;
use crate::session::Session;
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Args)]
pub(crate) struct Image {
    #[command(flatten)]
    selected: Selected,
}

pub(super) async fn run(session: &Session, args: &Image) -> Result<(), Error> {
    let Image { selected: Selected { setting, selector } } = args;
    let words = &setting.naming.words;
    let split = pairs::split(words, "image")?;
    let writer = setting.way.writing.open("kubectl-set")?;
    let images = images(&words[split..])?;
    let found = setting.read(session, split, selector).await?;
    validate(&images)?;
    setting.open()?;
    let mut missing = Vec::new();
    let (changes, failures) = changed(found, |_, object| {
        let spec = pod_spec(object)?;
        for (name, image) in &images {
            if !set(spec, name, image) {
                missing.push(Error::plain(format!("error: unable to find container named {name:?}")));
            }
        }
        Ok(())
    });
    let failures = missing.into_iter().chain(failures).collect();
    let words = ("image updated", "failed to patch image update to pod template: ");
    setting.send(session, &writer, words, (changes, failures)).await
}

/// `CONTAINER=IMAGE` words.
fn images(words: &[String]) -> Result<BTreeMap<&str, &str>, Error> {
    let (pairs, others): (Vec<_>, Vec<_>) =
        words.iter().map(|word| (word, word.split_once('='))).partition(|(_, pair)| pair.is_some());
    if !others.is_empty() {
        let others: Vec<&str> = others.iter().map(|(word, _)| word.as_str()).collect();
        return Err(Error::plain(format!("invalid image format: {}", others.join(", "))));
    }
    Ok(pairs.into_iter().filter_map(|(_, pair)| pair).collect())
}

fn validate(images: &BTreeMap<&str, &str>) -> Result<(), Error> {
    let mut wrong = Vec::new();
    if images.is_empty() {
        wrong.push(Error::plain("at least one image update is required"));
    } else if images.len() > 1 && images.contains_key("*") {
        wrong.push(Error::plain(
            "all containers are already specified by *, but saw more than one container_name=container_image pairs",
        ));
    }
    failed(wrong)
}

/// Gives containers of the name the image, or with `*` all; whether there was any.
fn set(spec: &mut Value, name: &str, image: &str) -> bool {
    let mut seen = false;
    for field in ["initContainers", "containers"] {
        let all = spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten();
        for container in all.filter(|one| name == "*" || one["name"] == name) {
            container["image"] = json!(image);
            seen = true;
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_given_by_container() {
        let mut spec =
            json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]});
        assert!(set(&mut spec, "a", "x:1") && !set(&mut spec, "z", "x:1"));
        assert_eq!(
            (spec["containers"][0]["image"].as_str(), spec["containers"][1]["image"].as_str()),
            (Some("x:1"), None)
        );
        assert!(set(&mut spec, "*", "y"));
        assert_eq!(
            (&spec["containers"][1]["image"], &spec["initContainers"][0]["image"]),
            (&json!("y"), &json!("y"))
        );
        assert_eq!(
            images(&["a=b".to_owned(), "c-".to_owned()]).unwrap_err().to_string(),
            "error: invalid image format: c-"
        );
    }
}
