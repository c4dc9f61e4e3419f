//! Names, tags and digests of images.

use crate::error::{Error, Result};
use crate::fields::{self, Made};
use crate::kustomization::{Image, Place};
use crate::set::Set;
use regex::Regex;
use serde_json::Value;

/// Changes images of a name wherever containers are, and at these places.
pub(crate) fn apply(set: &mut Set, image: &Image, places: &[Place]) -> Result<()> {
    // The name is put into an expression as it is, as kustomize does; what is none matches nothing.
    let pattern = format!(
        "^{}(:[a-zA-Z0-9_.{{}}-]*)?(@[a-zA-Z0-9]+([.+_-][a-zA-Z0-9]+)*:[a-zA-Z0-9_.{{}}-]*)?$",
        image.name
    );
    let pattern = Regex::new(&pattern).ok();
    let change = |value: &mut Value| -> Result<()> {
        let Some(text) = value.as_str() else {
            return if value.is_object() || value.is_array() {
                Err(Error::new("an image has to be a text"))
            } else {
                Ok(())
            };
        };
        if pattern.as_ref().is_some_and(|pattern| pattern.is_match(text)) {
            *value = Value::from(changed(text, image));
        }
        Ok(())
    };
    for resource in &mut set.all {
        if resource.kind() != "CustomResourceDefinition" {
            in_containers(&mut resource.object, &change)?;
        }
        for place in places {
            fields::at(resource, place, Made::Nothing, &mut |value| change(value))?;
        }
    }
    Ok(())
}

/// Looks for lists of containers at any depth.
fn in_containers(value: &mut Value, change: &impl Fn(&mut Value) -> Result<()>) -> Result<()> {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                in_containers(value, change)?;
                if let ("containers" | "initContainers", Value::Array(items)) = (key.as_str(), value) {
                    items.iter_mut().filter_map(|item| item.get_mut("image")).try_for_each(change)?;
                }
            }
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| in_containers(item, change)),
        _ => Ok(()),
    }
}

fn changed(text: &str, image: &Image) -> String {
    let (name, mut tag, mut digest) = split(text);
    let name = if image.new_name.is_empty() { name } else { &image.new_name };
    let tagged;
    match (image.new_tag.as_str(), image.digest.as_str(), image.tag_suffix.as_str()) {
        ("", "", "") => {}
        ("", "", suffix) => {
            tagged = format!("{tag}{suffix}");
            (tag, digest) = (&tagged, "");
        }
        (new_tag, new_digest, _) => (tag, digest) = (new_tag, new_digest),
    }
    let mut out = name.to_owned();
    for (sign, part) in [(':', tag), ('@', digest)] {
        if !part.is_empty() {
            out.push(sign);
            out.push_str(part);
        }
    }
    out
}

/// Name, tag and digest; a colon before the first slash belongs to a port.
fn split(text: &str) -> (&str, &str, &str) {
    let from = text.find('/').unwrap_or(0);
    let (rest, digest) = match text[from..].find('@') {
        Some(at) => (&text[..from + at], &text[from + at + 1..]),
        None => (text, ""),
    };
    match rest[from..].find(':') {
        Some(at) => (&rest[..from + at], &rest[from + at + 1..], digest),
        None => (rest, "", digest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_images() {
        assert_eq!(split("a"), ("a", "", ""));
        assert_eq!(split("h:5000/a/b:1@sha256:ab"), ("h:5000/a/b", "1", "sha256:ab"));
        assert_eq!(split("a@sha256:ab"), ("a", "", "sha256:ab"));
        assert_eq!(split("h:5000/a"), ("h:5000/a", "", ""));
    }

    #[test]
    fn new_parts_take_the_place_of_both() {
        let image = |new_name: &str, new_tag: &str, digest: &str, tag_suffix: &str| Image {
            name: "a".to_owned(),
            new_name: new_name.to_owned(),
            new_tag: new_tag.to_owned(),
            digest: digest.to_owned(),
            tag_suffix: tag_suffix.to_owned(),
        };
        assert_eq!(changed("a:1@sha256:x", &image("", "2", "", "")), "a:2");
        assert_eq!(changed("a:1", &image("b", "", "sha256:y", "")), "b@sha256:y");
        assert_eq!(changed("a:1", &image("", "2", "sha256:y", "")), "a:2@sha256:y");
        assert_eq!(changed("a:1@sha256:x", &image("", "", "", "-alpine")), "a:1-alpine");
        assert_eq!(changed("a:1@sha256:x", &image("b", "", "", "")), "b:1@sha256:x");
    }
}
