//! The socket at which plugins register: gRPC with one verb.

use super::register;
use crate::{Context, Error, files, grpc};
use base::Shutdown;
use std::sync::Arc;
use tonic::Status;

/// Makes the socket anew, which tells plugins to register again, and answers until asked to stop.
pub(crate) async fn run(context: Arc<Context>, shutdown: Shutdown) -> Result<(), Error> {
    let folder = &context.devices.folder;
    files::make_folder(folder, 0o750)?;
    let of = context.clone();
    let verbs = move |verb: &str, body: &[u8]| match verb {
        "/v1beta1.Registration/Register" => {
            grpc::reply(body, |asked| register(&of, asked).map_err(Status::unknown))
        }
        _ => Err(Status::unimplemented("plugins register here")),
    };
    let socket = folder.join("kubelet.sock");
    grpc::serve((&context.supervisor, "device registration"), &socket, verbs, shutdown).await
}
