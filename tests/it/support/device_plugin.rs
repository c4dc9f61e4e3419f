//! A device plugin as vendors write them: it serves `deviceplugin/v1beta1` on a socket of its own, registers at the
//! kubelet's, and keeps what it was asked.

use super::grpc;
use base::{Phase, Supervisor};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

#[derive(Clone, PartialEq, Message)]
struct Options {
    #[prost(bool, tag = "1")]
    pre_start_required: bool,
    #[prost(bool, tag = "2")]
    preferred_allocation: bool,
}

#[derive(Clone, PartialEq, Message)]
struct RegisterRequest {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    endpoint: String,
    #[prost(string, tag = "3")]
    resource_name: String,
    #[prost(message, tag = "4")]
    options: Option<Options>,
}

#[derive(Clone, PartialEq, Message)]
struct Device {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    health: String,
    #[prost(message, optional, tag = "3")]
    topology: Option<Topology>,
}

#[derive(Clone, PartialEq, Message)]
struct Topology {
    #[prost(message, repeated, tag = "1")]
    nodes: Vec<Node>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(int64, tag = "1")]
    id: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Devices {
    #[prost(message, repeated, tag = "1")]
    devices: Vec<Device>,
}

/// Of several messages that carry ids in their first field, alone or in a list of requests.
#[derive(Clone, PartialEq, Message)]
struct Ids {
    #[prost(string, repeated, tag = "1")]
    ids: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ListOfIds {
    #[prost(message, repeated, tag = "1")]
    all: Vec<Ids>,
}

#[derive(Clone, PartialEq, Message)]
struct Mount {
    #[prost(string, tag = "1")]
    container_path: String,
    #[prost(string, tag = "2")]
    host_path: String,
    #[prost(bool, tag = "3")]
    read_only: bool,
}

#[derive(Clone, PartialEq, Message)]
struct DeviceSpec {
    #[prost(string, tag = "1")]
    container_path: String,
    #[prost(string, tag = "2")]
    host_path: String,
    #[prost(string, tag = "3")]
    permissions: String,
}

#[derive(Clone, PartialEq, Message)]
struct Allocated {
    #[prost(map = "string, string", tag = "1")]
    envs: HashMap<String, String>,
    #[prost(message, repeated, tag = "2")]
    mounts: Vec<Mount>,
    #[prost(message, repeated, tag = "3")]
    devices: Vec<DeviceSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct ListOfAllocated {
    #[prost(message, repeated, tag = "1")]
    all: Vec<Allocated>,
}

/// A device: its id, whether it is healthy, and the NUMA node that it is near.
type Told = (String, bool, Option<i64>);

struct Shared {
    told: watch::Sender<Vec<Told>>,
    asked: Mutex<Vec<String>>,
}

/// See the module's comment.
pub(crate) struct DevicePlugin {
    shared: Arc<Shared>,
    folder: PathBuf,
    runtime: Runtime,
    _supervisor: Supervisor,
}

impl DevicePlugin {
    /// Serves these healthy devices; it has yet to register.
    pub(crate) fn start(folder: &Path, ids: &[&str]) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let told = watch::channel(ids.iter().map(|id| ((*id).to_owned(), true, None)).collect()).0;
        let shared = Arc::new(Shared { told, asked: Mutex::default() });
        let (own, socket, supervisor) = (shared.clone(), folder.join("test.sock"), Supervisor::new());
        let connections = supervisor.clone();
        let listener = runtime.block_on(async { UnixListener::bind(&socket) }).unwrap();
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let own = own.clone();
                connections.detached("plugin", Phase::Front, async move {
                    let service = service_fn(move |request| answer(request, own.clone()));
                    let http = http2::Builder::new(TokioExecutor::new());
                    drop(http.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { shared, folder: folder.to_owned(), runtime, _supervisor: supervisor }
    }

    /// Registers; the error is the kubelet's.
    pub(crate) fn register(&self, resource: &str, version: &str) -> Result<(), String> {
        let request = RegisterRequest {
            version: version.to_owned(),
            endpoint: "test.sock".to_owned(),
            resource_name: resource.to_owned(),
            options: Some(Options { pre_start_required: true, preferred_allocation: true }),
        };
        let socket = self.folder.join("kubelet.sock");
        self.runtime.block_on(grpc::ask::<_, ()>(&socket, "/v1beta1.Registration/Register", request))
    }

    /// Says how its devices are.
    pub(crate) fn tell(&self, devices: &[(&str, bool)]) {
        let devices = devices.iter().map(|(id, healthy)| ((*id).to_owned(), *healthy, None));
        self.shared.told.send_replace(devices.collect());
    }

    /// Says that it has one device, which is near a NUMA node.
    pub(crate) fn tell_near(&self, id: &str, node: i64) {
        self.shared.told.send_replace(vec![(id.to_owned(), true, Some(node))]);
    }

    /// What it was asked so far, verb and ids.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }
}

fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

type Frames = std::pin::Pin<Box<dyn futures_util::Stream<Item = Bytes> + Send>>;
type Answer =
    StreamBody<std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Answer>, Infallible> {
    let verb = request.uri().path().rsplit('/').next().unwrap().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body = body.slice(5..);
    let note = |ids: &[String]| shared.asked.lock().unwrap().push(format!("{verb} {}", ids.join(",")));
    let one = |message: Bytes| -> Frames { Box::pin(stream::iter([message])) };
    let messages = match verb.as_str() {
        "ListAndWatch" => watched(&shared),
        "GetPreferredAllocation" => {
            // It prefers what comes last.
            let available = ListOfIds::decode(body).unwrap().all.remove(0).ids;
            note(&available);
            one(framed(&ListOfIds { all: vec![Ids { ids: available.into_iter().rev().collect() }] }))
        }
        "Allocate" => {
            let ids = ListOfIds::decode(body).unwrap().all.remove(0).ids;
            note(&ids);
            one(framed(&ListOfAllocated { all: vec![allocated(&ids)] }))
        }
        _ => {
            note(&Ids::decode(body).unwrap().ids);
            one(framed(&Ids::default()))
        }
    };
    let well = HeaderMap::from_iter([(
        header::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let frames =
        messages.map(Frame::data).chain(stream::iter([Frame::trailers(well)])).map(Ok::<_, Infallible>);
    let mut response = Response::new(StreamBody::new(Box::pin(frames) as _));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

fn watched(shared: &Shared) -> Frames {
    let mut told = shared.told.subscribe();
    told.mark_changed();
    Box::pin(stream::unfold(told, |mut told| async {
        told.changed().await.ok()?;
        let device = |(id, healthy, near): &Told| Device {
            topology: near.map(|id| Topology { nodes: vec![Node { id }] }),
            id: id.clone(),
            health: if *healthy { "Healthy" } else { "Unhealthy" }.to_owned(),
        };
        let devices = told.borrow_and_update().iter().map(device).collect();
        Some((framed(&Devices { devices }), told))
    }))
}

fn allocated(ids: &[String]) -> Allocated {
    let mount = Mount { container_path: "/vendor".to_owned(), host_path: "/etc".to_owned(), read_only: true };
    let device = DeviceSpec {
        container_path: "/dev/vendor0".to_owned(),
        host_path: "/dev/null".to_owned(),
        permissions: "rw".to_owned(),
    };
    Allocated {
        envs: HashMap::from([("VENDOR_IDS".to_owned(), ids.join(","))]),
        mounts: vec![mount],
        devices: vec![device],
    }
}
