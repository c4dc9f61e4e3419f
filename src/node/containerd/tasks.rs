//! Signals to containers, for what CRI of older runtimes has no words for.

use super::content::in_namespace;
use crate::Error;
use crate::cri::Runtime;
use crate::protocols::containerd::services::tasks::v1 as tasks;
use tasks::tasks_client::TasksClient;

/// Sends a signal to the first process of a container.
pub(crate) async fn signal(runtime: &Runtime, id: &str, signal: u32) -> Result<(), Error> {
    let request = tasks::KillRequest { container_id: id.to_owned(), signal, ..Default::default() };
    let sent = TasksClient::new(runtime.wire()).kill(in_namespace(request, None)).await;
    sent.map(drop).map_err(|status| Error::runtime("kill", &status))
}
