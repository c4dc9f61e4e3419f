//! Charts of registries and repositories that want to be shown something, or have an authority of their own.

use super::{chart, condition, gone_wrong};
use crate::support::chart_server::{Asked, ChartServer};
use crate::support::cluster::{Cluster, SOON};
use crate::support::https::Https;
use crate::support::process::wait_for;
use crate::support::registry::USER;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The password is the one of Sprig's documentation.
const TEMPLATE: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata:\n  {{- if .Values.derive }}\n  password: {{ derivePassword 1 \"long\" \"password\" \"user\" \"example.com\" | quote }}\n  {{- end }}\n";

fn archive(cluster: &Cluster) -> Vec<u8> {
    let folder = cluster.sandbox.folder.join("charts");
    let templates = folder.join("web/templates");
    std::fs::create_dir_all(&templates).unwrap();
    std::fs::write(folder.join("web/Chart.yaml"), "apiVersion: v2\nname: web\nversion: 1.0.0\n").unwrap();
    std::fs::write(templates.join("map.yaml"), TEMPLATE).unwrap();
    cluster.sandbox.sh(&format!("tar -C {0} -czf {0}/web.tgz web", folder.display())).ok();
    std::fs::read(folder.join("web.tgz")).unwrap()
}

/// Who may read, as two kinds of Secrets, a wrong one, and the authority.
fn given(cluster: &Cluster, server: &ChartServer) {
    let (user, password) = USER;
    let auth = STANDARD.encode(format!("{user}:{password}"));
    let auths = |host: String, how: Value| json!({"auths": {host: how}}).to_string();
    let here = auths(format!("https://127.0.0.1:{}", server.port), json!({"auth": auth}));
    let plain =
        auths(format!("127.0.0.1:{}", server.plain_port), json!({"username": user, "password": password}));
    let secret = |name: &str, kind: &str, data: Value| {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind,
            "stringData": data});
        cluster.apply(&secret.to_string());
    };
    let docker = "kubernetes.io/dockerconfigjson";
    secret("docker", docker, json!({".dockerconfigjson": here}));
    secret("docker-plain", docker, json!({".dockerconfigjson": plain}));
    secret("login", "kubernetes.io/basic-auth", json!({"username": user, "password": password}));
    secret("wrong", "kubernetes.io/basic-auth", json!({"username": user, "password": "guessed"}));
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authority"},
        "data": {"ca.crt": server.authority}});
    cluster.apply(&map.to_string());
}

/// Waits until a chart is installed; gives what was asked for it.
fn installed(cluster: &Cluster, server: &ChartServer, name: &str, spec: &Value) -> Vec<Asked> {
    drop(server.seen());
    cluster.apply(&chart(name, spec));
    assert_eq!(condition(cluster, name, "Installed"), "web 1.0.0, revision 1", "{name}");
    server.seen()
}

/// The kinds of credentials that a host was shown, at paths that start like this.
fn shown<'a>(seen: &'a [Asked], host: &str, path: &str) -> Vec<&'a str> {
    let all = seen.iter().filter(|(at, asked, _)| at.starts_with(host) && asked.starts_with(path));
    all.map(|(.., kind)| kind.as_str()).collect()
}

#[test]
fn charts_come_from_where_something_has_to_be_shown() {
    let cluster = Cluster::control_plane();
    wait_for("the kinds of charts", SOON, || {
        (cluster.try_kubectl(&["get", "helmcharts"]).code == 0).then_some(())
    });
    let https = Https::new(&cluster);
    let server = ChartServer::start(&https, archive(&cluster));
    given(&cluster, &server);
    let authority = &server.authority;
    let oci = format!("oci://127.0.0.1:{}/team/web", server.port);
    // A registry that gives tokens; which tag it is, its two pages of tags say.
    let docker = json!({"chart": oci, "version": "<2", "valuesContent": "derive: true", "repoCA": authority, "dockerRegistrySecret": {"name": "docker"}});
    let seen = installed(&cluster, &server, "tagged", &docker);
    assert_eq!(shown(&seen, "127.0.0.1", "/token"), ["Basic"]);
    assert_eq!(shown(&seen, "127.0.0.1", "/v2/"), ["", "Bearer", "Bearer", "Bearer", "Bearer"]);
    assert_eq!(cluster.json("configmap tagged")["data"]["password"], "ZedaFaxcZaso9*");
    // The same in the clear, by another form of the Secret and of the address.
    let repo = format!("oci://127.0.0.1:{}/team", server.plain_port);
    let plain = json!({"repo": repo, "chart": "web", "version": "1.0.0", "plainHTTP": true,
        "dockerRegistrySecret": {"name": "docker-plain"}});
    installed(&cluster, &server, "plain", &plain);
    // A repository; its authority is in a ConfigMap.
    let private = |name: &str, more: &Value| {
        let mut spec = json!({"repo": format!("https://127.0.0.1:{}/private", server.port), "chart": name,
            "authSecret": {"name": "login"}, "repoCAConfigMap": {"name": "authority"}});
        api::patch::merge(&mut spec, more).unwrap();
        spec
    };
    let seen = installed(&cluster, &server, "kept", &private("web", &json!({})));
    assert_eq!(shown(&seen, "127.0.0.1", "/private/"), ["Basic", "Basic"]);
    // Other hosts that it leads to are shown nothing, unless that is asked for.
    let seen = installed(&cluster, &server, "far", &private("far", &json!({})));
    assert_eq!(shown(&seen, "localhost", "/far/"), [""]);
    let seen = installed(&cluster, &server, "passed", &private("far", &json!({"authPassCredentials": true})));
    assert_eq!(shown(&seen, "localhost", "/far/"), ["Basic"]);
    let seen = installed(&cluster, &server, "lent", &private("lent", &json!({"authPassCredentials": true})));
    assert_eq!(shown(&seen, "localhost", "/token"), ["Basic"]);
    cluster.apply(&chart("unlent", &private("lent", &json!({}))));
    assert!(gone_wrong(&cluster, "unlent").contains("no token is given"));
    assert_eq!(shown(&server.seen(), "localhost", "/token"), [""]);
    cluster.kubectl("delete helmchart unlent");
    whoever_is_not_known_is_refused(&cluster, &server, &private);
}

fn whoever_is_not_known_is_refused(
    cluster: &Cluster,
    server: &ChartServer,
    private: &dyn Fn(&str, &Value) -> Value,
) {
    let refused = |name: &str, more: Value, why: &str| {
        drop(server.seen());
        cluster.apply(&chart(name, &private("web", &more)));
        let told = gone_wrong(cluster, name);
        // What is not there is not tried again.
        cluster.kubectl(&format!("delete helmchart {name}"));
        assert!(told.contains(why) && !told.contains("guessed"), "{name}: {told}");
    };
    refused("guess", json!({"authSecret": {"name": "wrong"}}), "the server answers 401");
    refused("nobody", json!({"authSecret": null}), "the server answers 401");
    refused("unknown", json!({"repoCAConfigMap": null}), "invalid peer certificate: UnknownIssuer");
    refused(
        "missing",
        json!({"authSecret": {"name": "nowhere"}}),
        "reading Secret \"nowhere\" of spec.authSecret",
    );
    refused(
        "blind",
        json!({"insecureSkipTLSVerify": true}),
        "credentials are shown to nobody who is not verified",
    );
    assert_eq!(server.seen(), []);
    let open = json!({"repo": format!("https://127.0.0.1:{}/open", server.port), "insecureSkipTLSVerify": true, "chart": "web"});
    installed(cluster, server, "trusting", &open);
}
