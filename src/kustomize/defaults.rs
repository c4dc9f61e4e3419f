//! The fields that are known without being told: kustomize's default configuration, which its documentation
//! lists under `transformerconfigs`.

use crate::config::{Config, References};
use crate::kustomization::Place;
use crate::order;
use std::rc::Rc;

/// Kinds with pods, and where the pods' specification is.
const PODS: [(&str, &str); 9] = [
    ("Pod", "spec"),
    ("PodTemplate", "template/spec"),
    ("Deployment", "spec/template/spec"),
    ("ReplicaSet", "spec/template/spec"),
    ("DaemonSet", "spec/template/spec"),
    ("StatefulSet", "spec/template/spec"),
    ("Job", "spec/template/spec"),
    ("CronJob", "spec/jobTemplate/spec/template/spec"),
    ("ReplicationController", "spec/template/spec"),
];

/// Those of them that name ConfigMaps and Secrets.
const CONFIGURED: [&str; 8] =
    ["Pod", "PodTemplate", "Deployment", "ReplicaSet", "DaemonSet", "StatefulSet", "Job", "CronJob"];
/// Those that name accounts, claims and priorities.
const PLACED: [&str; 7] =
    ["Pod", "StatefulSet", "Deployment", "ReplicationController", "CronJob", "Job", "DaemonSet"];
/// Those in which variables stand.
const VARIABLE: [&str; 7] = ["CronJob", "DaemonSet", "Deployment", "Job", "Pod", "ReplicaSet", "StatefulSet"];

const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";

/// The fields of all kinds, made once a thread.
pub(crate) fn config() -> Rc<Config> {
    thread_local! {
        static CONFIG: Rc<Config> = Rc::new(make());
    }
    CONFIG.with(Rc::clone)
}

fn make() -> Config {
    let mut name_reference = references();
    name_reference.sort_by(|a, b| order::compare(&a.gvk(), &b.gvk()));
    let template_labels = template_labels();
    let claim_labels =
        vec![created("apps", "", "StatefulSet", "spec/volumeClaimTemplates[]/metadata/labels")];
    let common_labels =
        selectors().into_iter().chain(template_labels.clone()).chain(claim_labels.clone()).collect();
    Config {
        name_prefix: vec![place("", "metadata/name")],
        name_suffix: vec![place("", "metadata/name")],
        namespace: vec![
            created("", "", "Namespace", "metadata/name"),
            created("apiregistration.k8s.io", "", "APIService", "spec/service/namespace"),
            grouped(
                "apiextensions.k8s.io",
                "CustomResourceDefinition",
                "spec/conversion/webhook/clientConfig/service/namespace",
            ),
        ],
        common_labels,
        labels: Vec::new(),
        template_labels,
        claim_labels,
        common_annotations: annotations(),
        name_reference,
        var_reference: variables(),
        images: images(),
        replicas: ["Deployment", "StatefulSet", "ReplicaSet", "ReplicationController"]
            .map(|kind| created("", "", kind, "spec/replicas"))
            .to_vec(),
    }
}

fn place(kind: &str, path: &str) -> Place {
    Place { kind: kind.to_owned(), path: path.to_owned(), ..Place::default() }
}

fn grouped(group: &str, kind: &str, path: &str) -> Place {
    Place { group: group.to_owned(), ..place(kind, path) }
}

fn created(group: &str, version: &str, kind: &str, path: &str) -> Place {
    Place { version: version.to_owned(), create: true, ..grouped(group, kind, path) }
}

/// These fields of the pods of these kinds.
fn of_pods(kinds: &[&str], fields: &[&str]) -> Vec<Place> {
    let pods = PODS.iter().filter(|(kind, _)| kinds.contains(kind));
    pods.flat_map(|(kind, spec)| fields.iter().map(move |field| place(kind, &format!("{spec}/{field}"))))
        .collect()
}

/// Where the metadata of templates is.
const TEMPLATES: [(&str, &str, &str, &str); 8] = [
    ("", "v1", "ReplicationController", "spec/template/metadata"),
    ("", "", "Deployment", "spec/template/metadata"),
    ("", "", "ReplicaSet", "spec/template/metadata"),
    ("", "", "DaemonSet", "spec/template/metadata"),
    ("apps", "", "StatefulSet", "spec/template/metadata"),
    ("batch", "", "Job", "spec/template/metadata"),
    ("batch", "", "CronJob", "spec/jobTemplate/metadata"),
    ("batch", "", "CronJob", "spec/jobTemplate/spec/template/metadata"),
];

fn template_labels() -> Vec<Place> {
    let templates = TEMPLATES
        .iter()
        .map(|(group, version, kind, path)| created(group, version, kind, &format!("{path}/labels")));
    std::iter::once(created("", "", "", "metadata/labels")).chain(templates).collect()
}

fn annotations() -> Vec<Place> {
    let templates = TEMPLATES.iter().map(|(group, version, kind, path)| {
        // StatefulSets of any group, unlike with labels.
        let group = if *kind == "StatefulSet" { "" } else { group };
        created(group, version, kind, &format!("{path}/annotations"))
    });
    std::iter::once(created("", "", "", "metadata/annotations")).chain(templates).collect()
}

fn selectors() -> Vec<Place> {
    let mut places = vec![
        created("", "v1", "Service", "spec/selector"),
        created("", "v1", "ReplicationController", "spec/selector"),
        created("", "", "Deployment", "spec/selector/matchLabels"),
        created("", "", "ReplicaSet", "spec/selector/matchLabels"),
        created("", "", "DaemonSet", "spec/selector/matchLabels"),
        created("apps", "", "StatefulSet", "spec/selector/matchLabels"),
        grouped("batch", "Job", "spec/selector/matchLabels"),
        grouped("batch", "CronJob", "spec/jobTemplate/spec/selector/matchLabels"),
        grouped("policy", "PodDisruptionBudget", "spec/selector/matchLabels"),
        grouped("networking.k8s.io", "NetworkPolicy", "spec/podSelector/matchLabels"),
        grouped("networking.k8s.io", "NetworkPolicy", "spec/ingress/from/podSelector/matchLabels"),
        grouped("networking.k8s.io", "NetworkPolicy", "spec/egress/to/podSelector/matchLabels"),
    ];
    for kind in ["Deployment", "StatefulSet"] {
        for affinity in ["podAffinity", "podAntiAffinity"] {
            for term in [
                "preferredDuringSchedulingIgnoredDuringExecution/podAffinityTerm",
                "requiredDuringSchedulingIgnoredDuringExecution",
            ] {
                let path = format!("spec/template/spec/affinity/{affinity}/{term}/labelSelector/matchLabels");
                places.push(grouped("apps", kind, &path));
            }
        }
        let path = "spec/template/spec/topologySpreadConstraints/labelSelector/matchLabels";
        places.push(grouped("apps", kind, path));
    }
    places
}

fn images() -> Vec<Place> {
    let fields = ["containers[]/image", "initContainers[]/image", "volumes[]/image/reference"];
    let specs = ["spec", "spec/template/spec"];
    specs
        .iter()
        .flat_map(|spec| fields.iter().map(move |field| created("", "", "", &format!("{spec}/{field}"))))
        .collect()
}

fn variables() -> Vec<Place> {
    let fields = ["args", "command", "env/value", "volumeMounts/mountPath"];
    let of_containers: Vec<String> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| fields.iter().map(move |field| format!("{list}/{field}")))
        .collect();
    let of_containers: Vec<&str> = of_containers.iter().map(String::as_str).collect();
    let mut places = of_pods(&VARIABLE, &of_containers);
    places.extend(of_pods(&["DaemonSet", "Deployment", "Job", "Pod", "ReplicaSet"], &["volumes/nfs/server"]));
    places.extend([
        place("CronJob", "spec/jobTemplate/spec/template/volumes/nfs/server"),
        place("Deployment", "spec/template/metadata/annotations"),
        place("Ingress", "spec/rules/host"),
        place("Ingress", "spec/tls/hosts"),
        place("Ingress", "spec/tls/secretName"),
        place("Service", "spec/ports/port"),
        place("Service", "spec/ports/targetPort"),
        place("StatefulSet", "spec/volumeClaimTemplates/spec/nfs/server"),
        place("PersistentVolume", "spec/nfs/server"),
        place("", "metadata/labels"),
        place("", "metadata/annotations"),
    ]);
    places
}

fn named(group: &str, version: &str, kind: &str, field_specs: Vec<Place>) -> References {
    let (group, version, kind) = (group.to_owned(), version.to_owned(), kind.to_owned());
    References { group, version, kind, field_specs }
}

fn references() -> Vec<References> {
    let scaled = || vec![place("HorizontalPodAutoscaler", "spec/scaleTargetRef/name")];
    let mut all: Vec<References> = ["Deployment", "ReplicationController", "ReplicaSet", "StatefulSet"]
        .map(|kind| named("", "", kind, scaled()))
        .to_vec();
    all.push(named("", "v1", "ConfigMap", of_config_maps()));
    all.push(named("", "v1", "Secret", of_secrets()));
    all.push(named("", "v1", "Service", of_services()));
    all.extend(of_roles());
    let accounts = ["RoleBinding", "ClusterRoleBinding"].map(|kind| grouped(RBAC, kind, "subjects"));
    let accounts = accounts.into_iter().chain(of_pods(&PLACED, &["serviceAccountName"])).collect();
    all.push(named("", "v1", "ServiceAccount", accounts));
    all.push(named(
        "",
        "v1",
        "PersistentVolumeClaim",
        of_pods(&PLACED, &["volumes/persistentVolumeClaim/claimName"]),
    ));
    let volumes =
        vec![place("PersistentVolumeClaim", "spec/volumeName"), place("ClusterRole", "rules/resourceNames")];
    all.push(named("", "v1", "PersistentVolume", volumes));
    let classes = vec![
        place("PersistentVolume", "spec/storageClassName"),
        place("PersistentVolumeClaim", "spec/storageClassName"),
        place("StatefulSet", "spec/volumeClaimTemplates/spec/storageClassName"),
    ];
    all.push(named("storage.k8s.io", "v1", "StorageClass", classes));
    let priorities = of_pods(&PLACED, &["priorityClassName"]);
    all.push(named("scheduling.k8s.io", "v1", "PriorityClass", priorities));
    // So written that it selects nothing, in kustomize too: whoever counts on it would be surprised.
    let ingresses = vec![place("Ingress", "spec/ingressClassName")];
    all.push(named("networking.k8s.io/v1", "v1", "IngressClass", ingresses));
    let policies = vec![grouped(ADMISSION, "ValidatingAdmissionPolicyBinding", "spec/policyName")];
    all.push(named(ADMISSION, "", "ValidatingAdmissionPolicy", policies));
    all
}

fn of_config_maps() -> Vec<Place> {
    let fields = [
        "volumes/configMap/name",
        "containers/env/valueFrom/configMapKeyRef/name",
        "initContainers/env/valueFrom/configMapKeyRef/name",
        "containers/envFrom/configMapRef/name",
        "initContainers/envFrom/configMapRef/name",
        "volumes/projected/sources/configMap/name",
    ];
    let mut places = of_pods(&CONFIGURED, &fields);
    places.extend([
        place("Node", "spec/configSource/configMap"),
        place("Role", "rules/resourceNames"),
        place("ClusterRole", "rules/resourceNames"),
        place("Ingress", "metadata/annotations/nginx.ingress.kubernetes.io\\/fastcgi-params-configmap"),
    ]);
    places
}

fn of_secrets() -> Vec<Place> {
    let fields = [
        "volumes/secret/secretName",
        "containers/env/valueFrom/secretKeyRef/name",
        "initContainers/env/valueFrom/secretKeyRef/name",
        "containers/envFrom/secretRef/name",
        "initContainers/envFrom/secretRef/name",
        "imagePullSecrets/name",
        "volumes/projected/sources/secret/name",
    ];
    let mut places = of_pods(&CONFIGURED, &fields);
    places.extend([
        place("Ingress", "spec/tls/secretName"),
        place("Ingress", "metadata/annotations/ingress.kubernetes.io\\/auth-secret"),
        place("Ingress", "metadata/annotations/nginx.ingress.kubernetes.io\\/auth-secret"),
        place("Ingress", "metadata/annotations/nginx.ingress.kubernetes.io\\/auth-tls-secret"),
        place("ServiceAccount", "imagePullSecrets/name"),
        place("StorageClass", "parameters/secretName"),
        place("StorageClass", "parameters/adminSecretName"),
        place("StorageClass", "parameters/userSecretName"),
        place("StorageClass", "parameters/secretRef"),
        place("Role", "rules/resourceNames"),
        place("ClusterRole", "rules/resourceNames"),
        Place {
            version: "v1".to_owned(),
            ..grouped(
                "serving.knative.dev",
                "Service",
                "spec/template/spec/containers/env/valueFrom/secretKeyRef/name",
            )
        },
        place("PersistentVolume", "spec/azureFile/secretName"),
    ]);
    places
}

fn of_services() -> Vec<Place> {
    vec![
        grouped("apps", "StatefulSet", "spec/serviceName"),
        place("Ingress", "spec/rules/http/paths/backend/serviceName"),
        place("Ingress", "spec/backend/serviceName"),
        place("Ingress", "spec/rules/http/paths/backend/service/name"),
        place("Ingress", "spec/defaultBackend/service/name"),
        grouped("apiregistration.k8s.io", "APIService", "spec/service/name"),
        grouped(ADMISSION, "ValidatingWebhookConfiguration", "webhooks/clientConfig/service"),
        grouped(ADMISSION, "MutatingWebhookConfiguration", "webhooks/clientConfig/service"),
    ]
}

fn of_roles() -> [References; 2] {
    let bound = |kind: &str| grouped(RBAC, kind, "roleRef/name");
    [
        named(RBAC, "", "Role", vec![bound("RoleBinding")]),
        named(RBAC, "", "ClusterRole", vec![bound("RoleBinding"), bound("ClusterRoleBinding")]),
    ]
}
