//! The peer for the API: etcd and `kube-apiserver`, where the machine has both, asked just as knarr is.

use crate::Failure;
use crate::etcd::{self, Etcd};
use crate::knarr::Knarr;
use crate::subject::Subject;
use base::clock;
use std::path::Path;
use std::time::Duration;
use tokio::process::Child;

const PORT: &str = "16443";
/// It makes its default objects before it is ready.
const START_LIMIT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(200);

/// A running pair; both end with this value.
pub(crate) struct Upstream {
    etcd: Etcd,
    server: Child,
    kubeconfig: String,
}

impl Upstream {
    /// Starts the pair with a stopped knarr's certificates, so that its administrator is known there too.
    /// `None` where either is not installed.
    pub(crate) async fn start(knarr: &Knarr, folder: &Path) -> Result<Option<Self>, Failure> {
        let Some(etcd) = Etcd::start(&folder.join("etcd")).await? else { return Ok(None) };
        let log = std::fs::File::create(folder.join("log"))?;
        let mut command = base::process::command("kube-apiserver");
        let tls = knarr.certificates();
        let files = [
            ("client-ca-file", "client-ca.crt"),
            ("tls-cert-file", "serving-kube-apiserver.crt"),
            ("tls-private-key-file", "serving-kube-apiserver.key"),
            // Nobody asks for tokens, but it does not start without keys for them.
            ("service-account-key-file", "serving-kube-apiserver.crt"),
            ("service-account-signing-key-file", "serving-kube-apiserver.key"),
        ];
        for (flag, file) in files {
            command.arg(format!("--{flag}={}", tls.join(file).display()));
        }
        command.args([
            "--secure-port",
            PORT,
            "--etcd-servers",
            etcd::ADDRESS,
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-cluster-ip-range=10.43.0.0/16",
            "--authorization-mode=Node,RBAC",
            // No controller makes the accounts that its pods would need.
            "--disable-admission-plugins=ServiceAccount",
        ]);
        command.stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let Ok(server) = command.spawn() else { return Ok(None) };
        let upstream = Self { etcd, server, kubeconfig: knarr.kubeconfig_for_port(PORT)? };
        match upstream.ready().await {
            Ok(()) => Ok(Some(upstream)),
            Err(failure) => Err(crate::knarr::with_last_words(failure, &folder.join("log"))),
        }
    }

    async fn ready(&self) -> Result<(), Failure> {
        let deadline = clock::instant() + START_LIMIT;
        let api = self.subject()?.api()?;
        while let Err(failure) = api.get("/api/v1/namespaces/default").await {
            if clock::instant() > deadline {
                return Err(format!("kube-apiserver: {failure}").into());
            }
            clock::sleep(POLL).await;
        }
        Ok(())
    }

    pub(crate) fn subject(&self) -> Result<Subject, Failure> {
        let server = self.server.id().ok_or("kube-apiserver ended by itself")?;
        Ok(Subject { kubeconfig: self.kubeconfig.clone(), processes: vec![server, self.etcd.process()?] })
    }
}
