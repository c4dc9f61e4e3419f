//! The socket at which plugins register: gRPC with one verb.

use super::register;
use crate::grpc::reply;
use crate::{Context, Error, files};
use base::{Phase, Shutdown};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::net::{UnixListener, UnixStream};
use tonic::Status;
use tonic::body::Body;

/// Makes the socket anew, which tells plugins to register again, and answers until asked to stop.
pub(crate) async fn run(context: Arc<Context>, shutdown: Shutdown) -> Result<(), Error> {
    let folder = &context.devices.folder;
    files::make_folder(folder, 0o750)?;
    context.devices.restore();
    let socket = folder.join("kubelet.sock");
    files::remove(&socket)?;
    let listener = UnixListener::bind(&socket).map_err(files::at(&socket))?;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.requested() => return Ok(()),
        };
        let (stream, _) = accepted.map_err(files::at(&socket))?;
        let of = context.clone();
        context.supervisor.detached("device registration", Phase::Work, async move {
            if let Err(error) = serve(of, stream).await {
                tracing::debug!(%error, "device registration");
            }
        });
    }
}

async fn serve(context: Arc<Context>, stream: UnixStream) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let context = context.clone();
        async move { Ok::<_, Infallible>(answer(&context, request).await) }
    });
    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await
}

async fn answer(context: &Arc<Context>, request: Request<Incoming>) -> Response<Body> {
    if request.uri().path() != "/v1beta1.Registration/Register" {
        return Status::unimplemented("plugins register here").into_http();
    }
    let body = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Status::invalid_argument(error.to_string()).into_http(),
    };
    let registered = reply(&body, |asked| register(context, asked).map_err(Status::unknown));
    registered.unwrap_or_else(Status::into_http)
}
