//! Measures durable creates; called by the project's benchmark.

use crate::{Beside, Change, Config, Durability, Error, Expect, Store, Template, Write};
use base::{Phase, Supervisor, clock};
use std::path::Path;
use tokio::sync::mpsc;

impl Beside for () {}

/// Makes `creates` durable records of `bytes` bytes with `writers` concurrent writers in a new database
/// at `path`, and returns how many were acknowledged per second.
pub async fn durable_creates(
    path: &Path,
    writers: usize,
    creates: usize,
    bytes: usize,
) -> Result<f64, Error> {
    let supervisor = Supervisor::new();
    let store = Store::<()>::open(Config::new(path), |_, _| (), Box::new(|_| {}), &supervisor).await?;
    let (done, mut all_done) = mpsc::channel::<usize>(1);
    let started = clock::instant();
    for writer in 0..writers {
        let (store, done) = (store.clone(), done.clone());
        supervisor.detached("bench writer", Phase::Front, async move {
            let mut acknowledged = 0;
            for n in (writer..creates).step_by(writers) {
                let template = Template { bytes: vec![b'x'; bytes], at: 0 };
                let write = Write {
                    key: format!("/registry/pods/default/bench-{n}"),
                    expect: Expect::Absent,
                    change: Change::Put(template, ()),
                    durability: Durability::Durable,
                };
                acknowledged += usize::from(store.write(write).await.is_ok());
            }
            if done.send(acknowledged).await.is_err() {
                tracing::debug!("the benchmark was given up");
            }
        });
    }
    drop(done);
    let mut acknowledged = 0;
    while let Some(some) = all_done.recv().await {
        acknowledged += some;
    }
    let elapsed = started.elapsed();
    supervisor.drain().await;
    Ok(acknowledged as f64 / elapsed.as_secs_f64())
}
