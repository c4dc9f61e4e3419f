//! A copy of a pod with other images, another command or a container more.

use super::Plan;
use super::profile::{self, Style};
use crate::error::Error;
use crate::pods;
use crate::session::Session;
use http::Method;
use serde_json::{Value, json};

impl Plan<'_> {
    /// Makes the copy; with `--replace` the pod goes.
    pub(super) async fn copied(&self, session: &Session, pod: &Value) -> Result<(Value, String), Error> {
        let (copy, name) = self.copy(pod)?;
        if let Some(container) = pods::find(&copy, &name) {
            profile::warn_of_user(&copy, container);
        }
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let made =
            session.write(Method::POST, &format!("/api/v1/namespaces/{namespace}/pods"), &copy).await?;
        if self.args.replace {
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
            session.write(Method::DELETE, &pods::path(pod, ""), &options).await?;
        }
        Ok((made, name))
    }

    /// The copy, and the name of the container that debugs; "" where only images change.
    pub(super) fn copy(&self, pod: &Value) -> Result<(Value, String), Error> {
        let args = self.args;
        let mut copy = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": args.copy_to, "namespace": pod["metadata"]["namespace"]}, "spec": pod["spec"]});
        for field in ["labels", "annotations"] {
            if pod["metadata"][field].is_object() {
                copy["metadata"][field] = pod["metadata"][field].clone();
            }
        }
        if let Some(spec) = copy["spec"].as_object_mut() {
            spec.remove("ephemeralContainers");
            if !args.same_node {
                spec.remove("nodeName");
            }
        }
        if let Some(share) = args.share_processes {
            copy["spec"]["shareProcessNamespace"] = json!(share);
        }
        for container in copy["spec"]["containers"].as_array_mut().into_iter().flatten() {
            let image = |name: &str| self.images.iter().rev().find(|(own, _)| own == name);
            let own = image(container["name"].as_str().unwrap_or_default()).or(image("*"));
            if let Some((_, image)) = own {
                container["image"] = json!(image);
            }
        }
        let mut name = args.container.clone();
        let is_new = profile::find(&mut copy, &name).is_none();
        if is_new {
            if args.image.is_empty() {
                return match self.images.is_empty() {
                    false => Ok((copy, String::new())),
                    true => Err(Error::plain("you must specify image when creating new container")),
                };
            }
            name = self.name(&copy)?;
            if let Some(containers) = copy["spec"]["containers"].as_array_mut() {
                containers.push(json!({"name": name, "terminationMessagePolicy": "File"}));
            }
        }
        if let Some(container) = profile::find(&mut copy, &name) {
            self.change(container);
        }
        self.profile.apply(&mut copy, &name, Style::Copy, args.keep);
        let is_regular = pods::containers(&copy, &["containers"]).any(|one| one["name"] == name.as_str());
        if self.custom.is_some() && !is_regular {
            let pod = &args.copy_to;
            return Err(Error::plain(format!("unable to find the {name} container in the pod {pod}")));
        }
        self.customized(&mut copy, "containers", &name)?;
        Ok((copy, name))
    }

    fn change(&self, container: &mut Value) {
        let args = self.args;
        if !args.command.is_empty() {
            if args.arguments_only {
                container["args"] = json!(args.command);
            } else {
                container["command"] = json!(args.command);
                container.as_object_mut().and_then(|fields| fields.remove("args"));
            }
        }
        if !args.image.is_empty() {
            container["image"] = json!(args.image);
        }
        self.streams(container);
    }
}
