//! Images from a registry: mirrors, users, failures, and who may use what another pod has pulled.

use crate::support::cluster::{Cluster, SOON};
use crate::support::process::wait_for;
use crate::support::registry::{REGISTRY, Registry, USER};
use serde_json::Value;

/// The registry by its address, and as the mirror of another whose user the node knows.
const REGISTRIES: &str = r#"
mirrors:
  10.99.0.2:5000:
    endpoint: ["http://10.99.0.2:5000"]
  registry.test:
    endpoint: ["http://127.0.0.1:5000"]
  renamed.test:
    endpoint: ["http://127.0.0.1:5000"]
    rewrite: {"^team/(.*)$": "private/$1"}
configs:
  127.0.0.1:5000:
    auth: {username: captain, password: secret}
"#;

fn pod(name: &str, image: &str, secrets: &[&str]) -> String {
    let secrets: Vec<String> = secrets.iter().map(|name| format!("{{name: {name}}}")).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         imagePullSecrets: [{}]\n  containers:\n  - {{name: c, image: {image:?}, imagePullPolicy: IfNotPresent, \
         command: [sleep, \"10000\"]}}\n---\n",
        secrets.join(", ")
    )
}

#[test]
fn images_come_from_registries() {
    let mut cluster = Cluster::prepared(&[]);
    cluster
        .sandbox
        .sh(&format!("mkdir -p /etc/knarr; cat > /etc/knarr/registries.yaml <<'END'{REGISTRIES}END"))
        .ok();
    cluster.start();
    let registry = Registry::start(cluster.sandbox.network());
    one_pull_for_all(&cluster, &registry);
    users_of_registries(&cluster);
    other_names_at_mirrors(&cluster, &registry);
    only_who_may(&cluster);
    what_goes_wrong(&cluster);
}

/// Two pods want the same image at once.
fn one_pull_for_all(cluster: &Cluster, registry: &Registry) {
    let image = format!("{REGISTRY}/slow/app:1");
    cluster.apply(&(pod("first", &image, &[]) + &pod("second", &image, &[])));
    cluster.pod_ready("first");
    cluster.pod_ready("second");
    assert_eq!(registry.layers_of("slow/app"), 1);
    let message = cluster.event("first", "Pulled");
    assert!(message.starts_with(&format!("Successfully pulled image {image:?} in ")), "{message}");
    assert!(message.contains(" including waiting). Image size: "), "{message}");
}

fn users_of_registries(cluster: &Cluster) {
    cluster.apply(&pod("mirrored", "registry.test/private/mirrored:1", &[]));
    cluster.pod_ready("mirrored");
    let secret = |name: &str, password: &str| {
        let login = format!("--docker-username={} --docker-password={password}", USER.0);
        cluster.kubectl(&format!("create secret docker-registry {name} --docker-server={REGISTRY} {login}"));
    };
    secret("wrong", "guess");
    secret("right", USER.1);
    let image = format!("{REGISTRY}/private/app:1");
    cluster.apply(&pod("stranger", &image, &["missing"]));
    waits(cluster, "stranger", &["ErrImagePull", "ImagePullBackOff"], "failed to pull and unpack image");
    let message = cluster.event("stranger", "FailedToRetrieveImagePullSecret");
    assert_eq!(
        message,
        "Unable to retrieve some image pull secrets (missing); attempting to pull the image may not succeed."
    );
    // Both are tried in turn.
    cluster.apply(&pod("member", &image, &["wrong", "right"]));
    cluster.pod_ready("member");
}

/// The mirror has the image under another name, and its user is known.
fn other_names_at_mirrors(cluster: &Cluster, registry: &Registry) {
    cluster.apply(&pod("renamed", "renamed.test/team/renamed:1", &[]));
    cluster.pod_ready("renamed");
    assert_eq!(registry.manifests_of("private/renamed"), 1);
}

/// The image is there by now, for those who have what it was pulled with.
fn only_who_may(cluster: &Cluster) {
    let image = format!("{REGISTRY}/private/app:1");
    cluster.apply(&pod("guest", &image, &["wrong"]));
    waits(cluster, "guest", &["ErrImagePull", "ImagePullBackOff"], "");
    cluster.apply(&pod("other", &image, &["right"]));
    cluster.pod_ready("other");
    let expected =
        format!("Container image {image:?} already present on machine and can be accessed by the pod");
    assert_eq!(cluster.event("other", "Pulled"), expected);
    let never = pod("never", &image, &[]).replace("IfNotPresent", "Never");
    cluster.apply(&never);
    waits(cluster, "never", &["ErrImageNeverPull"], "is not present with pull policy of Never");
    let failed: Vec<String> = failures(cluster, "never");
    assert_eq!(failed, ["Error: ErrImageNeverPull"]);
}

fn what_goes_wrong(cluster: &Cluster) {
    let wrong = [("corrupt", "corrupt/app:1"), ("foreign", "foreign/app:1"), ("absent", "none/app:1")];
    wrong.iter().for_each(|(name, image)| {
        cluster.apply(&pod(name, &format!("{REGISTRY}/{image}"), &[]));
    });
    cluster.apply(&pod("misnamed", "knarr.test/Upper:1", &[]));
    let back_off = |name: &str| waits(cluster, name, &["ImagePullBackOff"], "Back-off pulling image");
    assert!(back_off("corrupt").contains("ErrImagePull: "), "the last failure is told");
    assert!(back_off("foreign").contains("no match for platform"));
    // What the mirror does not have is asked of the registry itself, which speaks no TLS.
    assert!(back_off("absent").contains("failed to resolve reference"));
    let message = waits(cluster, "misnamed", &["InvalidImageName"], "couldn't parse image name");
    assert!(message.ends_with("repository name (Upper) must be lowercase"), "{message}");
    wait_for("events", SOON, || {
        let all = failures(cluster, "absent");
        let is_told = |text: &str| all.iter().any(|message| message == text);
        (is_told("Error: ErrImagePull") && is_told("Error: ImagePullBackOff")).then_some(())
    });
}

fn failures(cluster: &Cluster, pod: &str) -> Vec<String> {
    cluster.event(pod, "Failed");
    cluster
        .events(pod)
        .into_iter()
        .filter(|(reason, _)| reason == "Failed")
        .map(|(_, message)| message)
        .collect()
}

/// Waits until the container waits for one of these reasons with such a message, and gives the message.
fn waits(cluster: &Cluster, pod: &str, reasons: &[&str], message: &str) -> String {
    cluster.wait(&format!("pod {pod}"), |pod: &Value| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let text = waiting["message"].as_str().unwrap_or_default();
        let fits = reasons.contains(&waiting["reason"].as_str()?) && text.contains(message);
        fits.then(|| text.to_owned())
    })
}
