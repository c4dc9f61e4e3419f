//! Settings from the command line, and what they become.

use super::*;
use serde_json::json;

fn parsed(arguments: &[&str]) -> Result<Options, Error> {
    let all = ["server", "--config", "/nonexistent/config.yaml"].iter().chain(arguments);
    read(Role::Server, &command(Role::Server).get_matches_from(all))?.options()
}

#[test]
fn flags_become_settings() {
    let options =
        parsed(&["--tls-san", "a,b", "--tls-san=c", "--https-listen-port", "7443", "--debug"]).unwrap();
    assert_eq!(
        (options.tls_san, options.https_listen_port, options.debug),
        (vec!["a".into(), "b".into(), "c".into()], 7443, true)
    );
}

#[test]
fn arguments_of_the_kubelet_may_hold_commas() {
    let hard = "eviction-hard=memory.available<1Gi,nodefs.available<5%";
    let options = parsed(&["--kubelet-arg", hard, "--kubelet-arg=max-pods=5"]).unwrap();
    assert_eq!(options.kubelet_arg, [hard, "max-pods=5"]);
}

#[test]
fn paths_do_not_depend_on_the_working_folder() {
    let options = parsed(&["--data-dir", "data", "--write-kubeconfig", "/etc/own.yaml"]).unwrap();
    assert_eq!(options.data_dir, std::env::current_dir().unwrap().join("data"));
    assert_eq!(options.write_kubeconfig, Path::new("/etc/own.yaml"));
    assert!(parsed(&["--run-dir", ""]).is_err());
}

#[test]
fn parts_are_left_out_by_name() {
    let both = parsed(&["--disable", "ingress,servicelb"]).unwrap();
    assert!(both.is_disabled(Part::Ingress) && both.is_disabled(Part::ServiceLb));
    assert!(!parsed(&[]).unwrap().is_disabled(Part::Ingress));
    assert!(parsed(&["--disable=traefik"]).unwrap().is_disabled(Part::Ingress));
    for (name, why) in
        [("coredns", "cannot be left out: cluster DNS"), ("sails", "there is no part \"sails\"")]
    {
        let error = parsed(&["--disable", name]).unwrap_err().to_string();
        assert!(error.contains("--disable") && error.contains(why), "{error}");
    }
}

#[test]
fn names_of_k3s_are_understood_or_refused_with_the_reason() {
    let words = ["--disable-helm-controller", "--disable=servicelb", "--flannel-backend=wireguard-native"];
    let options = parsed(&words).unwrap();
    assert!(options.is_disabled(Part::HelmController) && options.is_disabled(Part::ServiceLb));
    assert_eq!(options.network_backend, overlay::Backend::Wireguard);
    let words =
        ["--etcd-disable-snapshots", "--etcd-s3-bucket", "b", "--protect-kernel-defaults", "-d", "/d"];
    let options = parsed(&words).unwrap();
    assert_eq!((options.snapshot_schedule_cron.as_str(), options.data_dir.to_str()), ("", Some("/d")));
    assert_eq!(options.kubelet_arg, ["protect-kernel-defaults=true"]);
    for (words, why) in [
        (&["--server", "https://192.0.2.1:6443"][..], "several servers share an etcd"),
        (&["--cluster-init"], "flag --cluster-init: there is no setting \"cluster-init\" here: several"),
        (&["--kube-apiserver-arg=v=2", "--kube-apiserver-arg=x=y"], "takes no flags for it"),
    ] {
        let error = parsed(words).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let words = ["agent", "--config", "/nonexistent/config.yaml", "--server", "https://192.0.2.1:6443"];
    let given = read(Role::Agent, &command(Role::Agent).get_matches_from(words)).unwrap();
    assert_eq!(given.options().unwrap().join.as_deref(), Some("https://192.0.2.1:6443"));
}

/// No two flags of a command have one name, short or long.
#[test]
fn all_commands_are_sound() {
    crate::command_line().debug_assert();
}

/// Each of the others' names is known once, and what it stands for is a setting.
#[test]
fn names_of_k3s_stand_for_settings() {
    for other in OTHERS {
        assert!(!SETTINGS.iter().any(|setting| setting.name == other.name), "{} is both", other.name);
        assert_eq!(OTHERS.iter().filter(|one| one.name == other.name).count(), 1, "{}", other.name);
        if let Meaning::Same(name) | Meaning::With(name, _) = other.meaning {
            assert!(SETTINGS.iter().any(|setting| setting.name == name), "there is no {name}");
        }
    }
}

#[test]
fn the_way_to_other_nodes_is_chosen_by_name() {
    let options = parsed(&["--network-backend", "host-gw", "--direct-routing"]).unwrap();
    assert!(options.network_backend == overlay::Backend::HostGw && options.direct_routing);
    let error = parsed(&["--network-backend", "ipip"]).unwrap_err().to_string();
    assert!(error.contains("--network-backend") && error.contains("`wireguard`"), "{error}");
    let options = parsed(&["--egress-selector-mode", "cluster"]).unwrap();
    assert_eq!(options.egress_selector_mode, Egress::Cluster);
    let error = parsed(&["--egress-selector-mode", "node"]).unwrap_err().to_string();
    assert!(error.contains("--egress-selector-mode") && error.contains("`disabled`"), "{error}");
}

#[test]
fn agents_have_what_the_cluster_has() {
    let cluster = |arguments: &[&str]| {
        let all = ["agent", "--config", "/nonexistent/config.yaml"].iter().chain(arguments);
        let given = read(Role::Agent, &command(Role::Agent).get_matches_from(all)).unwrap();
        let told = json!({"cluster-cidr": ["10.1.0.0/16"], "cluster-domain": "own.local"});
        given.shared(told.as_object().unwrap())
    };
    let options = cluster(&["--join", "https://192.0.2.1:6443", "--cluster-domain", "own.local"]).unwrap();
    assert_eq!(
        (options.cluster_cidr, options.cluster_domain),
        (vec!["10.1.0.0/16".to_owned()], "own.local".into())
    );
    assert_eq!(options.join.as_deref(), Some("https://192.0.2.1:6443"));
    let error = cluster(&["--cluster-cidr", "10.2.0.0/16"]).unwrap_err();
    assert_eq!(
        error,
        "flag --cluster-cidr: cluster-cidr is [\"10.2.0.0/16\"] here and [\"10.1.0.0/16\"] in the cluster: leave it out, or set what the cluster has"
    );
    assert!(command(Role::Agent).try_get_matches_from(["agent", "--disable-scheduler"]).is_err());
}

#[test]
fn tokens_are_read_and_not_shown() {
    let options = parsed(&["--token", " K10abc::server:swordfish "]).unwrap();
    assert_eq!(options.given_token().unwrap().unwrap(), "K10abc::server:swordfish");
    assert!(!format!("{options:?}").contains("swordfish"));
    let error = parsed(&["--token-file", "/nonexistent/token"]).unwrap().given_token().unwrap_err();
    assert!(error.starts_with("--token-file /nonexistent/token"), "{error}");
}

#[test]
fn mistakes_name_the_flag() {
    let error = parsed(&["--bind-address", "nowhere"]).unwrap_err().to_string();
    assert!(
        error.starts_with("flag --bind-address: setting \"bind-address\": invalid IP address syntax"),
        "{error}"
    );
    let error = parsed(&["--https-listen-port", "70000"]).unwrap_err().to_string();
    assert!(error.contains("https-listen-port"), "{error}");
}
