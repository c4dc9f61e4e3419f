//! What a configuration may say elsewhere and cannot be honoured here, and why.

use super::KubeletConfiguration;

/// The suites of TLS 1.2 that are served; those of 1.3 cannot be chosen, as in Kubernetes.
const SUITES: [&str; 6] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

const CERTIFICATES: &str = "the cluster's own authority signs the kubelet's certificates";
const ONE_PROCESS: &str = "knarr is one process, which stays where it was started";

/// One thing that is not honoured: whether it is asked for, the field, and why not.
type Refusal<'a> = (bool, &'a str, &'a str);

/// Every refusal, as a sentence.
pub(super) fn check(it: &KubeletConfiguration) -> Vec<String> {
    let all = serving(it).into_iter().chain(processes(it)).chain(others(it));
    all.filter(|(asked, ..)| *asked)
        .map(|(_, field, why)| format!("{field} cannot be honoured: {why}"))
        .collect()
}

fn serving(it: &KubeletConfiguration) -> Vec<Refusal<'static>> {
    let suites = &it.tls_cipher_suites;
    let fewer = !suites.is_empty() && !SUITES.iter().all(|suite| suites.iter().any(|other| other == suite));
    let x509 = &it.authentication.x509;
    vec![
        (it.read_only_port != 0, "readOnlyPort", "nothing is served without authentication"),
        (!it.tls_cert_file.is_empty(), "tlsCertFile", CERTIFICATES),
        (!it.tls_private_key_file.is_empty(), "tlsPrivateKeyFile", CERTIFICATES),
        (!x509.client_ca_file.is_empty(), "authentication.x509.clientCAFile", CERTIFICATES),
        (it.server_tls_bootstrap, "serverTLSBootstrap", CERTIFICATES),
        (
            fewer,
            "tlsCipherSuites",
            "the suites that are served are those of TLS 1.3 and the six of TLS 1.2 with ECDHE and AEAD, which have all to be in the list",
        ),
        (!it.tls_curve_preferences.is_empty(), "tlsCurvePreferences", "the curves are chosen by the library"),
        (
            !matches!(it.tls_min_version.as_str(), "" | "VersionTLS10" | "VersionTLS11" | "VersionTLS12"),
            "tlsMinVersion",
            "TLS 1.2 is served as well",
        ),
        (
            it.authentication.anonymous.enabled,
            "authentication.anonymous.enabled",
            "nobody is served without a name",
        ),
        (
            it.authorization.mode != "Webhook",
            "authorization.mode",
            "who may do what is asked of the API server",
        ),
        (it.healthz_port != 0, "healthzPort", "the API server's /healthz tells how knarr is"),
        (it.enable_system_log_query, "enableSystemLogQuery", "services' logs are not served"),
        (it.tracing.is_some(), "tracing", "no traces are exported"),
    ]
}

fn processes(it: &KubeletConfiguration) -> Vec<Refusal<'static>> {
    vec![
        (!it.kubelet_cgroups.is_empty(), "kubeletCgroups", ONE_PROCESS),
        (
            !it.system_cgroups.is_empty(),
            "systemCgroups",
            "processes that are not pods' are the machine's own",
        ),
        (!it.cgroups_per_qos, "cgroupsPerQOS", "pods are always in cgroups of their class"),
        (!it.qos_reserved.is_empty(), "qosReserved", "the feature gate QOSReserved is not there"),
        (
            it.memory_reservation_policy != "None",
            "memoryReservationPolicy",
            "the feature gate MemoryQoS is not there",
        ),
    ]
}

fn others(it: &KubeletConfiguration) -> Vec<Refusal<'static>> {
    let default = KubeletConfiguration::default();
    vec![
        (
            it.max_open_files != default.max_open_files,
            "maxOpenFiles",
            "the limit of open files is that of the service's unit",
        ),
        (
            it.runtime_request_timeout.get() != default.runtime_request_timeout.get(),
            "runtimeRequestTimeout",
            "each verb of the runtime has a limit of its own",
        ),
        (
            !it.static_pod_url.is_empty(),
            "staticPodURL",
            "static pods are read from the folder that staticPodPath names",
        ),
        (
            !it.enable_controller_attach_detach,
            "enableControllerAttachDetach",
            "volumes are attached by the controller",
        ),
        (
            it.volume_plugin_dir != KubeletConfiguration::default().volume_plugin_dir,
            "volumePluginDir",
            "FlexVolume has ended; drivers speak CSI",
        ),
        (
            !it.image_service_endpoint.is_empty()
                && it.image_service_endpoint != it.container_runtime_endpoint,
            "imageServiceEndpoint",
            "images are the container runtime's",
        ),
        (
            it.logging.format != "text" && it.logging.format != "json",
            "logging.format",
            "there are text and json",
        ),
    ]
}
