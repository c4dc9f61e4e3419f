//! TLS that is passed on by name, beside HTTPS on the same port: real handshakes with servers behind.

use super::gateways::{defined, object, said};
use super::{ADDRESS, Edge, ingress, path, secret};
use crate::support::cluster::SOON;
use crate::support::process::wait_for;
use base::{Phase, Supervisor};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const SECURE: u16 = 9443;
const PLAIN: u16 = 9444;

/// Says the number of bytes that came until the other side had no more, after a word.
async fn count<S: AsyncRead + AsyncWrite + Unpin>(word: &str, mut stream: S) -> io::Result<()> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    stream.write_all(format!("{word} {}", bytes.len()).as_bytes()).await?;
    stream.shutdown().await
}

/// Two servers: one that ends TLS with a certificate of its own, which is given, and one that has none.
fn serve(edge: &Edge, supervisor: &Supervisor) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed(vec!["own.example".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    let certificate = made.cert.der().clone();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.clone()], key).unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    let own = supervisor.clone();
    edge.https.run(async move {
        let (secure, plain) = (
            TcpListener::bind((ADDRESS, SECURE)).await.unwrap(),
            TcpListener::bind((ADDRESS, PLAIN)).await.unwrap(),
        );
        let inner = own.clone();
        own.detached("secure server", Phase::Front, async move {
            while let Ok((stream, _)) = secure.accept().await {
                let tls = tls.clone();
                inner.detached("secure stream", Phase::Front, async move {
                    let shaken = tls.accept(stream).await.unwrap();
                    let name = shaken.get_ref().1.server_name().unwrap().to_owned();
                    count(&name, shaken).await.unwrap();
                });
            }
        });
        let inner = own.clone();
        own.detached("plain server", Phase::Front, async move {
            while let Ok((stream, _)) = plain.accept().await {
                inner.detached("plain stream", Phase::Front, async move {
                    count("plain", stream).await.unwrap();
                });
            }
        });
    });
    certificate.to_vec()
}

/// What a client hears that sends so many bytes for a name, and the certificate that it is shown.
fn send(edge: &Edge, name: &'static str, bytes: usize) -> Result<(String, Vec<u8>), io::Error> {
    let (sender, receiver) = std::sync::mpsc::channel();
    edge.https.run(async move {
        let connector = TlsConnector::from(base::tls::unverified());
        let heard = async {
            let stream = TcpStream::connect((ADDRESS, 443)).await?;
            let mut shaken = connector.connect(ServerName::try_from(name).unwrap(), stream).await?;
            let shown = shaken.get_ref().1.peer_certificates().unwrap()[0].to_vec();
            shaken.write_all(&vec![7; bytes]).await?;
            shaken.shutdown().await?;
            let mut heard = String::new();
            shaken.read_to_string(&mut heard).await?;
            Ok((heard, shown))
        };
        sender.send(heard.await).unwrap();
    });
    receiver.recv().unwrap()
}

fn route(name: &str, hosts: &[&str], to: &str) -> Value {
    object(
        "TLSRoute",
        name,
        &json!({"parentRefs": [{"name": "tls"}], "hostnames": hosts,
            "rules": [{"backendRefs": [{"name": to, "port": 80}]}]}),
    )
}

#[test]
fn tls_is_passed_on_by_name() {
    let edge = Edge::new();
    let _definitions = [
        defined(&edge, "gatewayclasses", "GatewayClass", "Cluster", "v1"),
        defined(&edge, "gateways", "Gateway", "Namespaced", "v1"),
        defined(&edge, "tlsroutes", "TLSRoute", "Namespaced", "v1"),
    ];
    let supervisor = Supervisor::new();
    let own = serve(&edge, &supervisor);
    edge.service("secure", "https", &[SECURE]);
    // Nobody listens on the first.
    edge.service("plain", "http", &[9009, PLAIN]);
    let listeners = json!([
        {"name": "passed", "port": 443, "protocol": "TLS", "hostname": "*.p.example", "tls": {"mode": "Passthrough"}},
        {"name": "ended", "port": 443, "protocol": "TLS", "hostname": "e.example",
            "tls": {"certificateRefs": [{"name": "cert"}]}},
    ]);
    let spec = json!({"tls": [{"hosts": ["s.example"], "secretName": "cert"}],
        "rules": [{"host": "s.example", "http": {"paths": [path("/", "Prefix", "one")]}}]});
    edge.apply(&[
        secret("cert", "shown.example"),
        object("GatewayClass", "own", &json!({"controllerName": "knarr.io/gateway"})),
        object("Gateway", "tls", &json!({"gatewayClassName": "own", "listeners": listeners})),
        route("passed", &["a.p.example", "*.b.p.example"], "secure"),
        route("ended", &["e.example"], "plain"),
        ingress("shared", &json!({}), &spec),
    ]);
    wait_for("a route", SOON, || send(&edge, "a.p.example", 1).ok());
    let (heard, shown) = send(&edge, "x.b.p.example", 1_000_000).unwrap();
    assert_eq!((heard.as_str(), shown == own), ("x.b.p.example 1000000", true));
    let (heard, shown) = send(&edge, "e.example", 1_000_000).unwrap();
    assert_eq!((heard.as_str(), shown == own), ("plain 1000000", false));
    assert!(edge.certificate("e.example").contains("shown.example"));
    let refused = send(&edge, "c.p.example", 1).unwrap_err().to_string();
    assert!(refused.contains("UnrecognizedName") || refused.contains("UnrecognisedName"), "{refused}");
    // HTTPS goes on as if nothing were beside it.
    assert!(edge.certificate("s.example").contains("shown.example"));
    assert!(edge.certificate("unknown.example").contains("ingress.knarr.local"));
    let secure = ["-k", "--resolve", "s.example:443:10.99.0.2", "https://s.example/"];
    assert!(edge.curl(&secure).1.contains(r#""name":"one""#));
    statuses(&edge);
    edge.cluster.kubectl("delete tlsroute passed");
    wait_for("a name that nobody has", SOON, || send(&edge, "a.p.example", 1).err());
}

fn statuses(edge: &Edge) {
    edge.apply(&[route("missing", &["m.p.example"], "missing")]);
    for (name, wanted) in [
        ("passed", "Accepted=True Accepted ResolvedRefs=True ResolvedRefs "),
        ("missing", "Accepted=True Accepted ResolvedRefs=False BackendNotFound "),
    ] {
        edge.cluster.wait(&format!("tlsroute {name}"), |route| {
            (said(&route["status"]["parents"][0]["conditions"]) == wanted).then_some(())
        });
    }
    let refused = send(edge, "m.p.example", 1).unwrap_err().to_string();
    assert!(refused.contains("InternalError"), "{refused}");
    edge.cluster.wait("gateway tls", |gateway| {
        let listeners = &gateway["status"]["listeners"];
        let kinds = json!([{"group": "gateway.networking.k8s.io", "kind": "TLSRoute"}]);
        (listeners[0]["attachedRoutes"] == 2
            && listeners[1]["attachedRoutes"] == 1
            && listeners[0]["supportedKinds"] == kinds)
            .then_some(())
    });
}
