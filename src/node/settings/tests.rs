//! Settings from files, folders and flags.

use super::*;
use serde_json::json;

fn read(arguments: &[&str]) -> Result<Settings, String> {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    Settings::read(&arguments).map_err(|error| error.to_string())
}

/// The configuration that a document describes.
fn of(fields: Value) -> Result<KubeletConfiguration, String> {
    let Value::Object(fields) = fields else { panic!("not a map") };
    decode(fields)
}

#[test]
fn nothing_said_is_the_defaults() {
    let kubelet = read(&[]).unwrap().kubelet;
    assert_eq!(*kubelet, KubeletConfiguration::default());
    assert_eq!((kubelet.max_pods, kubelet.pod_pids_limit), (110, -1));
    assert_eq!(kubelet.node_lease_duration_seconds, 40);
    assert!(rules::check(&kubelet).is_empty() && unsupported::check(&kubelet).is_empty());
}

#[test]
fn files_are_patched_by_drop_ins_and_flags() {
    let folder = std::env::temp_dir().join(format!("knarr-settings-{}", std::process::id()));
    let drops = folder.join("conf.d");
    std::fs::create_dir_all(&drops).unwrap();
    let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
    let write = |path: &Path, text: &str| std::fs::write(path, format!("{head}{text}")).unwrap();
    write(
        &folder.join("kubelet.yaml"),
        "maxPods: 20\nkubeReserved: {cpu: 100m, memory: 1Gi}\npodsPerCore: 3\n",
    );
    write(&drops.join("10-a.conf"), "kubeReserved: {cpu: 200m}\nevictionHard: {memory.available: 1Gi}\n");
    write(&drops.join("20-b.conf"), "maxPods: 30\nfeatureGates: {NodeSwap: true}\n");
    write(&drops.join("30-c.yaml"), "maxPods: 99\n");
    let (file, drops) = (folder.join("kubelet.yaml"), drops);
    let settings = read(&[
        &format!("config={}", file.display()),
        &format!("config-dir={}", drops.display()),
        "pods-per-core=5",
        "feature-gates=MemoryQoS=false",
        "node-labels=a=b,c=d",
    ])
    .unwrap();
    let kubelet = &settings.kubelet;
    assert_eq!((kubelet.max_pods, kubelet.pods_per_core), (30, 5));
    assert_eq!(json!(kubelet.kube_reserved), json!({"cpu": "200m", "memory": "1Gi"}));
    assert_eq!(json!(kubelet.eviction_hard), json!({"memory.available": "1Gi"}));
    assert_eq!(json!(kubelet.feature_gates), json!({"NodeSwap": true, "MemoryQoS": false}));
    assert_eq!(json!(settings.node_labels), json!({"a": "b", "c": "d"}));
    assert_eq!(settings.credential_providers, None);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn fields_follow_one_another() {
    let several = of(json!({"maxParallelImagePulls": 3})).unwrap();
    assert_eq!((several.serialize_image_pulls, several.max_parallel_image_pulls), (false, Some(3)));
    let one = of(json!({"serializeImagePulls": true})).unwrap();
    assert_eq!((one.serialize_image_pulls, one.max_parallel_image_pulls), (true, None));
    let often = of(json!({"nodeStatusUpdateFrequency": "20s"})).unwrap();
    assert_eq!(often.node_status_report_frequency, GoDuration::secs(20));
    let merged = json!({"mergeDefaultEvictionSettings": true, "evictionHard": {"nodefs.available": "1Gi"}});
    let merged = of(merged).unwrap().eviction_hard;
    assert_eq!((merged["nodefs.available"].as_str(), merged["memory.available"].as_str()), ("1Gi", "100Mi"));
    // Nothing is the default, but where it is a value.
    let zero = of(json!({"maxPods": 0, "syncFrequency": "0s", "registryPullQPS": 0})).unwrap();
    assert_eq!((zero.max_pods, zero.registry_pull_qps), (110, 0));
    assert_eq!(zero.sync_frequency, GoDuration::secs(60));
    assert_eq!(of(json!({"reservedSystemCPUs": "0"})).unwrap().document()["reservedSystemCPUs"], "0");
    let inner = of(json!({"authentication": {"webhook": {"cacheTTL": "1m"}}})).unwrap();
    assert!(inner.authentication.webhook.enabled);
}

#[test]
fn reading_is_strict() {
    let told = |fields| of(fields).unwrap_err();
    assert_eq!(told(json!({"maxPod": 1})), "strict decoding error: unknown field \"maxPod\"");
    let wrong = told(json!({"syncFrequency": "1m", "maxPods": "many"}));
    assert!(wrong.starts_with("strict decoding error: field \"maxPods\": invalid type: string"), "{wrong}");
    let nested = told(json!({"memorySwap": {"swap": "x"}}));
    assert!(
        nested.starts_with("strict decoding error: field \"memorySwap\": unknown field `swap`"),
        "{nested}"
    );
    let duration = told(json!({"syncFrequency": "soon"}));
    assert_eq!(duration, "strict decoding error: field \"syncFrequency\": time: invalid duration \"soon\"");
    let twice = parse(b"apiVersion: kubelet.config.k8s.io/v1beta1\nmaxPods: 1\nmaxPods: 2\n").unwrap_err();
    assert_eq!(twice, "strict decoding error: line 3: key \"maxPods\" already set in map");
    assert!(parse(b"maxPods: 1").unwrap_err().starts_with("apiVersion and kind have to be"));
}

#[test]
fn mistakes_are_told_in_kubernetes_words() {
    let cases = [
        ("max-pods=-1", "invalid configuration: maxPods (--max-pods) -1 must not be a negative number"),
        (
            "image-gc-low-threshold=90",
            "invalid configuration: imageGCLowThresholdPercent (--image-gc-low-threshold) 90 must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) 85",
        ),
        ("container-log-max-files=1", "invalid configuration: containerLogMaxFiles must be greater than 1"),
        ("feature-gates=Foo=true", "unrecognized feature gate: Foo"),
        ("eviction-hard=mem<1", "unsupported eviction signal mem"),
        (
            "enforce-node-allocatable=pods,kube-reserved",
            "invalid configuration: kubeReservedCgroup (--kube-reserved-cgroup) must be specified when \"kube-reserved\" or \"kube-reserved-compressible\" included in enforceNodeAllocatable (--enforce-node-allocatable)",
        ),
        ("read-only-port=10255", "readOnlyPort cannot be honoured: nothing is served without authentication"),
        ("reserved-cpus=x", "invalid configuration: unable to parse reservedSystemCPUs (--reserved-cpus) x"),
        ("kube-reserved=gpu=1", "invalid configuration: kube-reserved: cannot reserve \"gpu\" resource"),
    ];
    for (argument, told) in cases {
        assert_eq!(read(&[argument]).unwrap_err(), format!("--kubelet-arg: {told}"), "{argument}");
    }
}

#[test]
fn what_hardening_guides_say_is_accepted() {
    let all = [
        "streaming-connection-idle-timeout=5m",
        "event-qps=0",
        "make-iptables-util-chains=true",
        "protect-kernel-defaults=true",
        "anonymous-auth=false",
        "authorization-mode=Webhook",
        "pod-max-pids=4096",
        "tls-min-version=VersionTLS12",
        "tls-cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    ];
    assert_eq!(read(&all).map(|settings| settings.kubelet.pod_pids_limit), Ok(4096));
}

#[test]
fn the_document_says_what_the_kubelet_would() {
    let document = KubeletConfiguration::default().document();
    assert_eq!(document["maxPods"], 110);
    assert_eq!(document["nodeStatusUpdateFrequency"], "10s");
    assert_eq!(document["failSwapOn"], false);
    assert!(document.get("staticPodPath").is_none() && document.get("kubeReserved").is_none());
    assert!(document.get("tracing").is_none());
}
