//! From two reports to what is used.

use crate::scrape::Scrape;
use crate::usage::{Rates, Usage};
use base::clock;
use std::time::Duration;

const BEFORE: &str = r#"
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total 100.5 1000000
node_memory_working_set_bytes 1048576 1000000
container_cpu_usage_seconds_total{container="main",namespace="ns",pod="web"} 4 1000000
container_cpu_usage_seconds_total{container="side",namespace="ns",pod="web"} 1 1000000
container_cpu_usage_seconds_total{container="main",namespace="ns",pod="again"} 9 1000000
container_memory_working_set_bytes{container="main",namespace="ns",pod="web"} 2048
container_memory_working_set_bytes{container="side",namespace="ns",pod="web"} 1024
nonsense
container_cpu_usage_seconds_total{container="main"
"#;
const AFTER: &str = r#"
node_cpu_usage_seconds_total 103 1010000
node_memory_working_set_bytes 2097152 1010000
container_cpu_usage_seconds_total{container="main",namespace="ns",pod="web"} 4.5 1005000
container_cpu_usage_seconds_total{container="side",namespace="ns",pod="web"} 1 1005000
container_cpu_usage_seconds_total{container="main",namespace="ns",pod="again"} 1 1010000
container_cpu_usage_seconds_total{container="main",namespace="ns",pod="new"} 1 1010000
container_memory_working_set_bytes{container="main",namespace="ns",pod="web"} 4096
container_memory_working_set_bytes{container="side",namespace="ns",pod="web"} 1024
"#;

#[test]
fn use_is_the_difference_of_two_reports() {
    let start = clock::instant();
    let before = Scrape::read(BEFORE, start);
    let after = Scrape::read(AFTER, start + Duration::from_secs(11));
    let rates = Rates::between(&before, &after).unwrap();
    assert_eq!(rates.window_ms, 11_000);
    // The times that the node tells count, not when its answer came.
    assert_eq!(rates.node, Usage { cpu_nanocores: 250_000_000, memory_bytes: 2 << 20 });
    let web = &rates.pods[&("ns".to_owned(), "web".to_owned())];
    assert_eq!(web["main"], Usage { cpu_nanocores: 100_000_000, memory_bytes: 4096 });
    assert_eq!(web["side"], Usage { cpu_nanocores: 0, memory_bytes: 1024 });
    // What was started again or has just come is not known yet.
    assert_eq!(rates.pods.len(), 1);
    assert_eq!(Rates::between(&after, &before), None);
}
