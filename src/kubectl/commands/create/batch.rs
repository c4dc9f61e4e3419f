//! `kubectl create job` and `cronjob`.

use super::{Made, Making, required};
use crate::error::Error;
use crate::session::Session;
use clap::Args;
use serde_json::{Value, json};

#[derive(Args)]
pub(super) struct Job {
    #[command(flatten)]
    making: Making,
    /// The image
    #[arg(long)]
    image: Option<String>,
    /// What it is made of: cronjob/NAME
    #[arg(long)]
    from: Option<String>,
    /// The command
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(Args)]
pub(super) struct CronJob {
    #[command(flatten)]
    making: Making,
    /// The image
    #[arg(long)]
    image: Option<String>,
    /// When, in cron's words
    #[arg(long)]
    schedule: Option<String>,
    /// OnFailure or Never
    #[arg(long, default_value = "OnFailure")]
    restart: String,
    /// The command
    #[arg(last = true)]
    command: Vec<String>,
}

impl Job {
    pub(super) async fn build(&self, session: &Session) -> Result<Made<'_>, Error> {
        let name = self.making.name("job")?;
        let mut object =
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "status": {}});
        match (&self.image, &self.from) {
            (None, None) => return Err(Error::plain("either --image or --from must be specified")),
            (Some(_), Some(_)) => return Err(Error::plain("either --image or --from must be specified")),
            (Some(image), None) => object["spec"] = spec(name, image, &self.command, "Never"),
            (None, Some(_)) if !self.command.is_empty() => {
                return Err(Error::plain("cannot specify --from and command"));
            }
            (None, Some(from)) => of_cron_job(&mut object, &cron_job(session, from).await?),
        }
        Ok(Made::new(&self.making, object, "failed to create job: "))
    }
}

async fn cron_job(session: &Session, word: &str) -> Result<Value, Error> {
    let (kind, name) = word.split_once('/').unwrap_or((word, ""));
    let resource = session.resource(kind).await?.clone();
    if name.is_empty() {
        return Err(Error::plain("from must be an existing cronjob: cronjob/NAME"));
    }
    if resource.qualified() != "cronjobs.batch" {
        session.get(&resource.object(&session.namespace, name)).await?;
        return Err(Error::plain(format!("unknown object type *{}.{}", resource.version, resource.kind)));
    }
    session.get(&resource.object(&session.namespace, name)).await
}

/// A run of a CronJob beside its schedule, as its controller would begin it.
fn of_cron_job(job: &mut Value, cron_job: &Value) {
    let template = &cron_job["spec"]["jobTemplate"];
    let mut annotations = json!({"cronjob.kubernetes.io/instantiate": "manual"});
    if let (Some(all), Some(more)) =
        (annotations.as_object_mut(), template["metadata"]["annotations"].as_object())
    {
        all.extend(more.clone());
    }
    job["metadata"]["annotations"] = annotations;
    if template["metadata"]["labels"].is_object() {
        job["metadata"]["labels"] = template["metadata"]["labels"].clone();
    }
    job["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "CronJob",
        "name": cron_job["metadata"]["name"], "uid": cron_job["metadata"]["uid"], "controller": true}]);
    job["spec"] = template["spec"].clone();
    if job["spec"]["template"]["metadata"].is_null() {
        job["spec"]["template"]["metadata"] = json!({});
    }
}

impl CronJob {
    pub(super) fn build(&self) -> Result<Made<'_>, Error> {
        required(&[("image", self.image.is_some()), ("schedule", self.schedule.is_some())])?;
        let name = self.making.name("cronjob")?;
        let image = self.image.as_deref().unwrap_or_default();
        let object = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name},
            "spec": {"schedule": self.schedule, "jobTemplate": {"metadata": {"name": name},
                "spec": spec(name, image, &self.command, &self.restart)}},
            "status": {}});
        Ok(Made::new(&self.making, object, "failed to create cronjob: "))
    }
}

fn spec(name: &str, image: &str, command: &[String], restart: &str) -> Value {
    let mut container = json!({"name": name, "image": image, "resources": {}});
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    json!({"template": {"metadata": {}, "spec": {"containers": [container], "restartPolicy": restart}}})
}
