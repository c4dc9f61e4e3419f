use super::*;
use crate::containerd::events::Events;
use crate::cri::Runtime;

fn hollow() -> (Runtime, Arc<Hollow>) {
    let hollow = Hollow::new("100.64.0.0/25".parse().unwrap(), Supervisor::new());
    (Runtime::hollow(hollow.clone()), hollow)
}

async fn sandbox(runtime: &Runtime, uid: &str) -> String {
    let config = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata { uid: uid.to_owned(), ..Default::default() }),
        labels: HashMap::from([(names::UID.to_owned(), uid.to_owned())]),
        ..Default::default()
    };
    let asked = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    runtime.run_pod_sandbox(asked).await.unwrap().pod_sandbox_id
}

async fn address(runtime: &Runtime, id: &str) -> String {
    let asked = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    runtime.pod_sandbox_status(asked).await.unwrap().status.unwrap().network.unwrap().ip
}

async fn started(runtime: &Runtime, sandbox: &str, command: &[&str]) -> String {
    let config = cri::ContainerConfig {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        ..Default::default()
    };
    let asked = cri::CreateContainerRequest {
        pod_sandbox_id: sandbox.to_owned(),
        config: Some(config),
        ..Default::default()
    };
    let id = runtime.create_container(asked).await.unwrap().container_id;
    runtime.start_container(cri::StartContainerRequest { container_id: id.clone() }).await.unwrap();
    id
}

async fn state(runtime: &Runtime, id: &str) -> (ContainerState, i32) {
    let asked = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    let status = runtime.container_status(asked).await.unwrap().status.unwrap();
    (status.state(), status.exit_code)
}

#[tokio::test]
async fn pods_have_addresses_of_the_nodes_block_and_of_its_own_without_one() {
    let (runtime, hollow) = hollow();
    let spare = sandbox(&runtime, "a").await;
    assert_eq!(address(&runtime, &spare).await, "100.64.0.2");
    hollow.lock().blocks = vec!["10.128.7.0/24".parse().unwrap(), "fd00:7::/64".parse().unwrap()];
    let (first, second) = (sandbox(&runtime, "b").await, sandbox(&runtime, "c").await);
    assert_eq!(
        [address(&runtime, &first).await, address(&runtime, &second).await],
        ["10.128.7.2", "10.128.7.3"]
    );
    runtime.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: first }).await.unwrap();
    let third = sandbox(&runtime, "d").await;
    assert_eq!(address(&runtime, &third).await, "10.128.7.2", "an address comes back");
    let filter = cri::PodSandboxFilter {
        label_selector: HashMap::from([(names::UID.to_owned(), "c".to_owned())]),
        ..Default::default()
    };
    let listed = runtime.list_pod_sandbox(cri::ListPodSandboxRequest { filter: Some(filter) }).await.unwrap();
    assert_eq!(listed.items.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), [second]);
}

#[tokio::test(start_paused = true)]
async fn containers_run_until_they_are_stopped_or_have_slept() {
    let (runtime, _) = hollow();
    let mut events = Events::subscribe(&runtime).await.unwrap();
    let sandbox = sandbox(&runtime, "a").await;
    let sleeps = started(&runtime, &sandbox, &["sh", "-c", "echo hello; sleep 7; true"]).await;
    let stays = started(&runtime, &sandbox, &["/bin/sleep", "infinity"]).await;
    assert_eq!(events.next().await.unwrap().id, sleeps);
    assert_eq!(state(&runtime, &sleeps).await, (ContainerState::ContainerExited, 0));
    assert_eq!(state(&runtime, &stays).await, (ContainerState::ContainerRunning, 0));
    runtime.stop_container(&stays, Duration::from_secs(30)).await.unwrap();
    assert_eq!(events.next().await.unwrap().id, stays);
    assert_eq!(state(&runtime, &stays).await, (ContainerState::ContainerExited, STOPPED));
    runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await.unwrap();
    let asked = cri::ContainerStatusRequest { container_id: stays, verbose: false };
    assert!(runtime.container_status(asked).await.unwrap_err().is_gone());
}

#[tokio::test]
async fn who_is_too_slow_with_events_has_to_look_at_everything_again() {
    let (runtime, _) = hollow();
    let mut events = Events::subscribe(&runtime).await.unwrap();
    let sandbox = sandbox(&runtime, "a").await;
    for _ in 0..=EVENTS {
        let id = started(&runtime, &sandbox, &["pause"]).await;
        runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    }
    for _ in 0..EVENTS {
        events.next().await.unwrap();
    }
    assert!(events.next().await.is_err());
}
