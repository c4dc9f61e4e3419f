use super::*;

fn key(balance: Balance) -> BackendKey {
    BackendKey {
        namespace: "n".to_owned(),
        service: "s".to_owned(),
        port: String::new(),
        protocol: Protocol::Http,
        balance,
    }
}

fn addresses(ports: &[u16]) -> Vec<SocketAddr> {
    ports.iter().map(|port| SocketAddr::from(([10, 0, 0, 1], *port))).collect()
}

fn picked(backend: &Backend, tries: usize) -> u16 {
    backend.pick(tries).map_or(0, |endpoint| endpoint.address.port())
}

#[test]
fn requests_go_round_and_tries_go_on() {
    let mut upstreams = Upstreams::default();
    let (backend, fresh) = upstreams.backend(&key(Balance::RoundRobin));
    assert!(fresh && !upstreams.backend(&key(Balance::RoundRobin)).1);
    assert_eq!(picked(&backend, 0), 0);
    upstreams.set_endpoints(&backend, &addresses(&[1, 2, 3]));
    let mut seen: Vec<u16> = (0..3).map(|_| picked(&backend, 0)).collect();
    let first = picked(&backend, 0);
    assert_ne!(picked(&backend, 1), first);
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn whoever_cannot_be_reached_is_asked_last_for_a_while() {
    let mut upstreams = Upstreams::default();
    let (backend, _) = upstreams.backend(&key(Balance::RoundRobin));
    upstreams.set_endpoints(&backend, &addresses(&[1, 2]));
    tokio::time::advance(Duration::from_secs(1)).await;
    backend.endpoints.load()[0].shun();
    assert!((0..4).all(|_| picked(&backend, 0) == 2));
    backend.endpoints.load()[1].shun();
    assert_ne!(picked(&backend, 0), 0, "all of them are better than none");
    tokio::time::advance(SHUNNED * 2).await;
    assert!((0..4).any(|_| picked(&backend, 0) == 1));
}

#[test]
fn less_busy_ones_are_preferred_on_request() {
    let mut upstreams = Upstreams::default();
    let (backend, _) = upstreams.backend(&key(Balance::LeastRequests));
    upstreams.set_endpoints(&backend, &addresses(&[1, 2]));
    let lease = Lease::new(backend.endpoints.load()[0].clone());
    assert!((0..4).all(|_| picked(&backend, 0) == 2));
    drop(lease);
    assert!((0..4).any(|_| picked(&backend, 0) == 1));
}

#[test]
fn endpoints_outlive_lists_and_end_with_their_last_use() {
    let mut upstreams = Upstreams::default();
    let (backend, _) = upstreams.backend(&key(Balance::RoundRobin));
    upstreams.set_endpoints(&backend, &addresses(&[1, 2]));
    let before = backend.endpoints.load()[1].clone();
    upstreams.set_endpoints(&backend, &addresses(&[2, 3]));
    assert!(Arc::ptr_eq(&before, &backend.endpoints.load()[0]));
    let weak = Arc::downgrade(&before);
    upstreams.set_endpoints(&backend, &addresses(&[3]));
    assert!(weak.upgrade().is_some(), "a request is under way");
    drop(before);
    assert!(weak.upgrade().is_none());
    drop(backend);
    upstreams.retain_used();
    assert!(upstreams.backends.is_empty() && upstreams.endpoints.is_empty());
}
