//! The control plane under load, one row a figure, beside the same asked of etcd and of upstream's API server.

use crate::Failure;
use crate::etcd::Etcd;
use crate::knarr::Knarr;
use crate::load::{self, Creates, Fanout};
use crate::subject::Subject;
use crate::table::{Row, Table, mib};
use crate::upstream::Upstream;
use std::path::Path;

const NO_UPSTREAM: &str = "kube-apiserver is not installed";

/// What is measured without pods.
struct Load {
    one: Creates,
    many: Creates,
    fanout: Fanout,
}

impl Load {
    async fn of(subject: &Subject) -> Result<Self, Failure> {
        let one = load::creates(subject, 1, &load::CONFIG_MAPS).await?;
        let many = load::creates(subject, 64, &load::CONFIG_MAPS).await?;
        Ok(Self { one, many, fanout: load::fanout(subject).await? })
    }
}

/// Creates and watch fan-out.
pub(crate) async fn load(executable: &Path, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    let mut server = control_plane(executable, folder).await?;
    let own = Load::of(&server.subject()?).await?;
    server.stop().await?;
    let etcd = Etcd::start(&folder.join("etcd")).await?;
    for (clients, creates, budget) in [(1, &own.one, "1,000/s"), (64, &own.many, "5,000/s")] {
        let what = format!("durable creates, {clients} clients (HTTP/2, TLS)");
        let row = Row::new(&what, creates.to_string()).budget(budget);
        table.add(row.peer(match &etcd {
            None => "etcd is not installed".to_owned(),
            Some(_) => {
                let rate = load::etcd_puts(clients).await?;
                format!("etcd puts {rate:.0}/s: {:.2} of it", creates.rate / rate)
            }
        }));
    }
    if let Some(etcd) = etcd {
        etcd.stop().await?;
    }
    let row = Row::new("one event to 1,000 watchers", own.fanout.to_string());
    table.add(row.budget("p50 5 ms, 5 ms CPU"));
    let Some(upstream) = Upstream::start(&server, &folder.join("upstream")).await? else {
        table.add(Row::new("… of kube-apiserver and etcd", NO_UPSTREAM.to_owned()));
        return Ok(());
    };
    let peer = Load::of(&upstream.subject()?).await?;
    for (what, own, peer) in [("1 client", &own.one, &peer.one), ("64 clients", &own.many, &peer.many)] {
        let times = own.rate / peer.rate;
        beside(table, &format!("durable creates, {what}"), peer.to_string(), times);
    }
    beside(table, "one event to 1,000 watchers", peer.fanout.to_string(), peer.fanout.cpu / own.fanout.cpu);
    Ok(())
}

/// Memory and LISTs with many pods.
pub(crate) async fn many(executable: &Path, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    let mut server = control_plane(executable, folder).await?;
    let own = load::many_pods(&server.subject()?).await?;
    server.stop().await?;
    let row = Row::new("memory with 10,000 pods (PSS, no node)", mib(own.memory));
    table.add(row.budget("150 MiB"));
    table.add(Row::new("LIST of 10,000 pods", own.list()).budget("30 ms CPU"));
    table.add(Row::new("memory after the LISTs (PSS)", mib(own.memory_after)));
    let Some(upstream) = Upstream::start(&server, &folder.join("upstream")).await? else {
        table.add(Row::new("… of kube-apiserver and etcd", NO_UPSTREAM.to_owned()));
        return Ok(());
    };
    let peer = load::many_pods(&upstream.subject()?).await?;
    let share = |own: u64, peer: u64| peer as f64 / own as f64;
    beside(table, "memory with 10,000 pods", mib(peer.memory), share(own.memory, peer.memory));
    beside(table, "LIST of 10,000 pods", peer.list(), peer.list_cpu / own.list_cpu);
    beside(
        table,
        "memory after the LISTs",
        mib(peer.memory_after),
        share(own.memory_after, peer.memory_after),
    );
    Ok(())
}

/// A row of upstream's, and how many times knarr is better.
fn beside(table: &mut Table, what: &str, measured: String, times: f64) {
    let row = Row::new(&format!("… kube-apiserver and etcd: {what}"), measured);
    table.add(row.peer(format!("knarr {times:.1} times better")));
}

async fn control_plane(executable: &Path, folder: &Path) -> Result<Knarr, Failure> {
    Ok(Knarr::start(executable, folder, &["--disable-agent"])?.ready().await?.0)
}
