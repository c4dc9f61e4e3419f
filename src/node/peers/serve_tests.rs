//! What is given of a runtime's store, and to whom.

use super::*;
use crate::grpc;
use crate::protocols::containerd::services::content::v1 as store;
use crate::protocols::containerd::services::images::v1 as images;
use crate::protocols::containerd::types::Descriptor;
use base::Shutdown;
use std::collections::BTreeSet;
use std::collections::HashMap;
use tonic::Status;

/// A manifest that does not say its type.
const MANIFEST: &str = r#"{"schemaVersion":2,"layers":[]}"#;
const NODES: &str = "system:nodes";

/// Digests of what the store has: the manifest, what was imported, and what is of a registry that is not shared.
fn digest(letter: char) -> String {
    format!("sha256:{}", letter.to_string().repeat(64))
}

fn bytes(of: &str) -> Result<&'static str, Status> {
    let known = [('a', MANIFEST), ('b', "0123456789"), ('c', "private")];
    let found = known.iter().find(|(letter, _)| digest(*letter) == of);
    found.map(|(_, bytes)| *bytes).ok_or_else(|| Status::not_found("content not found"))
}

fn containerd(verb: &str, body: &[u8]) -> Result<Response<tonic::body::Body>, Status> {
    match verb {
        "/containerd.services.content.v1.Content/Info" => grpc::reply(body, |asked: store::InfoRequest| {
            let size = bytes(&asked.digest)?.len() as i64;
            let of = |registry: &str| HashMap::from([(format!("{SOURCE}{registry}"), "app".to_owned())]);
            let labels = match asked.digest.as_bytes()[7] {
                b'a' => of("a.io"),
                b'b' => HashMap::from([("containerd.io/gc.root".to_owned(), String::new())]),
                _ => of("private.io"),
            };
            Ok(store::InfoResponse { info: Some(store::Info { digest: asked.digest, size, labels }) })
        }),
        "/containerd.services.content.v1.Content/Read" => {
            grpc::reply(body, |asked: store::ReadContentRequest| {
                let from = usize::try_from(asked.offset).unwrap();
                let all = &bytes(&asked.digest)?.as_bytes()[from..];
                let length = if asked.size == 0 { all.len() } else { usize::try_from(asked.size).unwrap() };
                Ok(store::ReadContentResponse { offset: asked.offset, data: all[..length].to_vec() })
            })
        }
        "/containerd.services.images.v1.Images/Get" => grpc::reply(body, |asked: images::GetImageRequest| {
            let digest = match asked.name.as_str() {
                "a.io/app:1" | "a.io/v2/app:1" => digest('a'),
                "a.io/app:gone" => digest('d'),
                _ => return Err(Status::not_found("image not found")),
            };
            let media_type = "application/vnd.docker.distribution.manifest.v2+json".to_owned();
            let target = Descriptor { media_type, digest, size: MANIFEST.len() as i64 };
            let image = images::Image { name: asked.name, target: Some(target), ..images::Image::default() };
            Ok(images::ImageResponse { image: Some(image) })
        }),
        _ => Err(Status::unimplemented(verb)),
    }
}

/// Asks as somebody: the status, what is said of the answer, and the answer.
async fn ask(
    sharing: &Sharing,
    (user, group): (&str, &str),
    (method, path, range): (Method, &str, &str),
) -> (u16, String, String) {
    let request = Request::builder().method(method).uri(path).header(RANGE, range).body(()).unwrap();
    let groups = [group.to_owned()];
    let caller = Some((user, groups.as_slice())).filter(|(user, _)| !user.is_empty());
    let answer = sharing.answer(caller, &request).await;
    let names = [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_RANGE, DIGEST];
    let said = names.iter().filter_map(|name| answer.headers().get(name)?.to_str().ok());
    let (status, said) = (answer.status().as_u16(), said.collect::<Vec<_>>().join("|"));
    let body = base::collect(answer.into_body(), 1 << 20).await.unwrap();
    (status, said, String::from_utf8(body.to_vec()).unwrap())
}

async fn with_sharing<Fut: Future<Output = ()>>(work: impl FnOnce(Arc<Sharing>) -> Fut) {
    let socket = std::env::temp_dir().join(format!("knarr-sharing-{}.sock", base::random::uuid()));
    let (supervisor, shared) = (Supervisor::new(), Shared::of(BTreeSet::from(["a.io".to_owned()])));
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "b"}})).unwrap();
    let testing = async {
        let runtime = Runtime::new(&socket).unwrap();
        work(Arc::new(Sharing::new(runtime, Arc::new(shared), Cache::of([node]), supervisor.clone()))).await;
    };
    tokio::select! {
        // First, so that there is a socket.
        biased;
        served = grpc::serve((&supervisor, "runtime"), &socket, containerd, Shutdown::never()) => {
            panic!("nobody listens any more: {served:?}")
        }
        () = testing => {}
    }
    std::fs::remove_file(&socket).unwrap();
}

#[tokio::test]
async fn nodes_are_given_what_there_is() {
    with_sharing(async |sharing| {
        let node = ("system:node:b", NODES);
        let own = |kind: &str, of: char| format!("/v2/app/{kind}/{}?ns=a.io", digest(of));
        let docker = "application/vnd.docker.distribution.manifest.v2+json";
        let oci = "application/vnd.oci.image.manifest.v1+json";
        let (blob, (a, b)) = ("application/octet-stream", (digest('a'), digest('b')));
        let length = MANIFEST.len();
        for (asked, status, said, body) in [
            ((Method::GET, "/v2/", ""), 200, String::new(), "{}"),
            ((Method::HEAD, "/v2/app/manifests/1?ns=a.io", ""), 200, format!("{docker}|{length}|{a}"), ""),
            (
                (Method::GET, "/v2/app/manifests/1?ns=a.io", ""),
                200,
                format!("{docker}|{length}|{a}"),
                MANIFEST,
            ),
            ((Method::HEAD, "/v2/v2/app/manifests/1?ns=a.io", ""), 200, format!("{docker}|{length}|{a}"), ""),
            ((Method::GET, &own("manifests", 'a'), ""), 200, format!("{oci}|{length}|{a}"), MANIFEST),
            ((Method::HEAD, &own("blobs", 'b'), ""), 200, format!("{blob}|10|{b}"), ""),
            ((Method::GET, &own("blobs", 'b'), ""), 200, format!("{blob}|10|{b}"), "0123456789"),
            (
                (Method::GET, &own("blobs", 'b'), "bytes=4-6"),
                206,
                format!("{blob}|3|bytes 4-6/10|{b}"),
                "456",
            ),
        ] {
            assert_eq!(ask(&sharing, node, asked).await, (status, said, body.to_owned()));
        }
        let refused = ask(&sharing, node, (Method::GET, &own("blobs", 'b'), "bytes=10-")).await;
        assert_eq!((refused.0, refused.2.contains("it has 10 bytes")), (416, true));
    })
    .await;
}

#[tokio::test]
async fn others_are_given_nothing() {
    with_sharing(async |sharing| {
        let path = format!("/v2/app/blobs/{}?ns=a.io", digest('b'));
        let node = ("system:node:b", NODES);
        for (user, status, sentence) in [
            (("", ""), 401, "show the certificate of a node"),
            (("system:kube-apiserver", "system:masters"), 403, "is no node of this cluster"),
            (("system:node:b", "people"), 403, "is no node of this cluster"),
            // It was deleted.
            (("system:node:c", NODES), 403, "\\\"system:node:c\\\" is no node of this cluster"),
        ] {
            let answer = ask(&sharing, user, (Method::GET, &path, "")).await;
            assert_eq!(answer.0, status, "{user:?}: {answer:?}");
            assert!(answer.2.contains(sentence), "{user:?}: {answer:?}");
        }
        for path in [
            "/v2/v2/v2/app/manifests/1?ns=a.io".to_owned(),
            // Of a registry that is not shared, whatever is said, or not there.
            format!("/v2/app/blobs/{}?ns=a.io", digest('c')),
            format!("/v2/app/blobs/{}?ns=private.io", digest('b')),
            format!("/v2/app/blobs/{}?ns=a.io", digest('d')),
            "/v2/app/manifests/2?ns=a.io".to_owned(),
            "/v2/app/manifests/gone?ns=a.io".to_owned(),
            "/v2/_catalog?ns=a.io".to_owned(),
        ] {
            assert_eq!(ask(&sharing, node, (Method::GET, &path, "")).await.0, 404, "{path}");
        }
        assert_eq!(ask(&sharing, node, (Method::PUT, &path, "")).await.0, 405);
        // As much is given as may be.
        let all = sharing.slots.clone().acquire_many_owned(u32::try_from(AT_ONCE).unwrap()).await.unwrap();
        assert_eq!(ask(&sharing, node, (Method::GET, &path, "")).await.0, 503);
        drop(all);
        assert_eq!(ask(&sharing, node, (Method::GET, &path, "")).await.0, 200);
    })
    .await;
}
