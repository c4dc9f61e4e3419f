//! `kubectl create deployment`.

use super::{Made, Making, required};
use crate::error::Error;
use clap::Args;
use serde_json::{Value, json};

#[derive(Args)]
pub(super) struct Deployment {
    #[command(flatten)]
    making: Making,
    /// The images, a container each
    #[arg(long, value_delimiter = ',')]
    image: Vec<String>,
    /// The port that the first container serves
    #[arg(long, allow_negative_numbers = true)]
    port: Option<i32>,
    /// How many pods
    #[arg(long, short, default_value_t = 1, allow_negative_numbers = true)]
    replicas: i32,
    /// The command
    #[arg(last = true)]
    command: Vec<String>,
}

impl Deployment {
    pub(super) fn build(&self) -> Result<Made<'_>, Error> {
        required(&[("image", !self.image.is_empty())])?;
        let name = self.making.name("deployment")?;
        if self.image.len() > 1 && !self.command.is_empty() {
            return Err(Error::plain("cannot specify multiple --image options and command"));
        }
        let mut containers: Vec<Value> = self
            .image
            .iter()
            .filter(|image| !image.is_empty())
            .map(|image| json!({"name": container_name(image), "image": image, "resources": {}}))
            .collect();
        let first = containers.first_mut();
        if let (Some(port), Some(first)) = (self.port.filter(|port| *port >= 0), first) {
            first["ports"] = json!([{"containerPort": port}]);
        }
        if let Some(first) = containers.first_mut().filter(|_| !self.command.is_empty()) {
            first["command"] = json!(self.command);
        }
        let labels = json!({"app": name});
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "labels": labels},
            "spec": {"replicas": self.replicas, "selector": {"matchLabels": labels}, "strategy": {},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}}},
            "status": {}});
        Ok(Made::new(&self.making, object, "failed to create deployment: "))
    }
}

/// What an image is called, without its registry, tag and digest.
fn container_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    let name = last.split([':', '@']).next().unwrap_or(last);
    name.replace(['_', '.'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_called_after_their_images() {
        let names = ["nginx", "reg.example.org:5000/a/web_app:1.2", "x@sha256:abc"].map(container_name);
        assert_eq!(names, ["nginx", "web-app", "x"]);
    }
}
