//! `kubectl port-forward`: ports of this machine that lead to those of a pod.

mod ports;

use crate::error::Error;
use crate::output::say;
use crate::pods;
use crate::remote::forward::{self, Forwarder};
use crate::session::Session;
use base::Phase;
use base::https::host_port;
use clap::Args;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Args)]
pub(crate) struct PortForward {
    /// POD or KIND/NAME, then ports: [LOCAL:]REMOTE
    words: Vec<String>,
    /// Addresses to listen on; localhost is 127.0.0.1 and ::1
    #[arg(long, value_delimiter = ',', default_value = "localhost")]
    address: Vec<String>,
    /// How long to wait for a pod of what is named, such as 20s
    #[arg(long, value_name = "TIME", default_value = "1m0s", allow_hyphen_values = true)]
    pod_running_timeout: String,
}

/// Where is listened.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// As it was given.
    text: String,
    address: IpAddr,
    /// One of the addresses of `localhost`, of which either will do.
    is_localhost: bool,
}

pub(crate) async fn run(session: &Session, args: &PortForward) -> Result<(), Error> {
    let [word, wanted @ ..] = args.words.as_slice() else { return Err(usage()) };
    if wanted.is_empty() {
        return Err(usage());
    }
    let timeout = pods::timeout(&args.pod_running_timeout, "port-forward")?;
    let subject = pods::named(session, word).await?;
    let pod = subject.attachable(session, timeout).await?;
    let pairs = if subject.resource.qualified() == "services" {
        ports::of_service(wanted, &subject.object, &pod)?
    } else {
        ports::of_pod(wanted, &pod)?
    };
    let pod = session.get(&pods::path(&pod, "")).await?;
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if phase != "Running" {
        return Err(Error::plain(format!(
            "unable to forward port because pod is not running. Current status={phase}"
        )));
    }
    let pairs = ports::parse(&pairs)?;
    let places = places(&args.address)?;
    let (forwarder, lost) = forward::open(session, &pods::path(&pod, "/portforward")).await?;
    let mut listens = false;
    for (local, remote) in &pairs {
        match listen(*local, *remote, &places).await {
            Ok(listeners) => {
                listens = true;
                for listener in listeners {
                    serve(session, listener, *remote, forwarder.clone());
                }
            }
            Err(error) => eprintln!("Unable to listen on port {local}: {error}"),
        }
    }
    if !listens {
        let all: Vec<String> = pairs.iter().map(|(local, remote)| format!("{{{local} {remote}}}")).collect();
        return Err(Error::plain(format!(
            "unable to listen on any of the requested ports: [{}]",
            all.join(" ")
        )));
    }
    let mut interrupted = signal(SignalKind::interrupt()).map_err(|error| Error::plain(error.to_string()))?;
    tokio::select! {
        _ = lost => Err(Error::plain("lost connection to pod")),
        _ = interrupted.recv() => Ok(()),
    }
}

fn usage() -> Error {
    Error::usage("TYPE/NAME and list of ports are required for port-forward", "port-forward")
}

fn places(given: &[String]) -> Result<Vec<Place>, Error> {
    let mut places = Vec::new();
    for text in given {
        let all: &[&str] = if text == "localhost" { &["127.0.0.1", "::1"] } else { &[text] };
        for one in all {
            let address = one.parse().map_err(|_| Error::plain(format!("{text} is not a valid IP")))?;
            let is_localhost = text == "localhost";
            places.push(Place { text: (*one).to_owned(), address, is_localhost });
        }
    }
    places.sort();
    places.dedup_by(|a, b| a.address == b.address);
    Ok(places)
}

/// Listens on a port at all places: at one of localhost's, and all others. Port 0 is the same everywhere once it is
/// known.
async fn listen(local: u16, remote: u16, places: &[Place]) -> Result<Vec<TcpListener>, String> {
    let (mut port, mut listeners, mut errors) = (local, Vec::new(), Vec::new());
    let (mut localhost, mut refused) = (None, false);
    for place in places {
        match TcpListener::bind((place.address, port)).await {
            Ok(listener) => {
                port = listener.local_addr().map_err(|error| error.to_string())?.port();
                let at = host_port(&place.text, port);
                say(&format!("Forwarding from {at} -> {remote}\n")).map_err(|error| error.to_string())?;
                listeners.push(listener);
                if place.is_localhost {
                    localhost = Some(true);
                }
            }
            Err(error) => {
                let at = host_port(&place.text, port);
                let family = if place.address.is_ipv4() { "tcp4" } else { "tcp6" };
                let why = system(&error);
                errors.push(format!("unable to create listener: Error listen {family} {at}: bind: {why}"));
                if place.is_localhost {
                    localhost.get_or_insert(false);
                } else {
                    refused = true;
                }
            }
        }
    }
    if refused || localhost == Some(false) {
        return Err(format!("Listeners failed to create with the following errors: [{}]", errors.join(" ")));
    }
    Ok(listeners)
}

/// An error of the system in Go's words.
fn system(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "address already in use".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::AddrNotAvailable => "cannot assign requested address".to_owned(),
        _ => error.to_string(),
    }
}

/// Takes connections as long as the command runs, each a task of its own.
fn serve(session: &Session, listener: TcpListener, remote: u16, forwarder: Arc<Forwarder>) {
    let supervisor = session.supervisor.clone();
    let tasks = supervisor.clone();
    supervisor.detached("listener", Phase::Front, async move {
        let local = listener.local_addr().map_or(0, |address| address.port());
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    eprintln!("error accepting connection on port {local}: {error}");
                    base::clock::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            if say(&format!("Handling connection for {local}\n")).is_err() {
                return;
            }
            let forwarder = forwarder.clone();
            tasks.detached("forwarded connection", Phase::Front, async move {
                if let Err(complaint) = forwarder.carry(stream, remote).await {
                    eprintln!("error: an error occurred forwarding {local} -> {remote}: {complaint}");
                    forwarder.close();
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_localhost_or_given() {
        let texts = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
            places(&given)
                .map(|places| places.into_iter().map(|place| place.text).collect::<Vec<_>>())
                .map_err(|error| error.to_string())
        };
        assert_eq!(texts(&["localhost", "127.0.0.1"]), Ok(vec!["127.0.0.1".to_owned(), "::1".to_owned()]));
        assert_eq!(texts(&["example.org"]), Err("error: example.org is not a valid IP".to_owned()));
    }
}
