//! `/checkpoint/`: freezes a container into an archive, where the runtime can (KEP-2008).

use super::read::json_answer;
use super::route::Of;
use super::{Refusal, Service};
use crate::files;
use crate::protocols::runtime::v1 as cri;
use api::Object;
use base::{Body, clock};
use http::{Response, StatusCode};
use serde_json::json;

fn missing(text: String) -> Refusal {
    (StatusCode::NOT_FOUND, text)
}

/// Makes an archive of a container; the answer says where it is.
pub(super) async fn checkpoint(
    service: &Service,
    of: &Of,
    timeout: Option<&str>,
) -> Result<Response<Body>, Refusal> {
    let pod = service.pods.find(&of.namespace, &of.pod);
    let pod = pod.ok_or_else(|| missing("pod does not exist".to_owned()))?;
    if crate::pods::spec::container(&pod, &of.container).is_none() {
        return Err(missing(format!("container {} does not exist", of.container)));
    }
    let timeout = timeout.map_or(Ok(0), str::parse::<i64>);
    let timeout = timeout.map_err(|_| missing("cannot parse value of timeout parameter".to_owned()))?;
    let failed = |why: String| {
        let text = format!("checkpointing of {}/{}/{} failed ({why})", of.namespace, of.pod, of.container);
        (StatusCode::INTERNAL_SERVER_ERROR, text)
    };
    let observed = super::backend::observe(service, &of.namespace, &of.pod).await?;
    let container = observed.latest(&of.container);
    let container = container.ok_or_else(|| failed(format!("container {} not found", of.container)))?;
    let folder = service.context.config.kubelet_dir.join("checkpoints");
    files::make_folder(&folder, 0o700).map_err(|error| failed(error.to_string()))?;
    let name = format!(
        "checkpoint-{}_{}-{}-{}.tar",
        pod.name(),
        pod.namespace(),
        of.container,
        clock::now().strftime("%Y-%m-%dT%H:%M:%SZ")
    );
    let location = folder.join(name).display().to_string();
    let request = cri::CheckpointContainerRequest { container_id: container.id.clone(), location, timeout };
    let location = request.location.clone();
    service.context.runtime.checkpoint_container(request).await.map_err(|error| failed(error.to_string()))?;
    Ok(json_answer(&json!({"items": [location]})))
}
