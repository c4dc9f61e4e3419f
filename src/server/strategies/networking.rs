//! Ingresses, network policies, and the addresses of services.

use super::{Changes, Generation, PLAIN, Strategy, default, items, items_mut, services};
use api::validate::{
    At, dns_label, dns_subdomain, domain_prefixed_path, label_selector, legacy_cidr, legacy_ip, lenient_cidr,
    lenient_ip, network_of, path_segment, port_name, strict_cidr, strict_ip, wildcard_subdomain,
};
use serde_json::{Value, json};

pub(super) const INGRESS: Strategy = Strategy {
    validate: |ingress| {
        let spec = ingress.get("spec");
        let (rules, backend) = (spec.get("rules"), spec.get("defaultBackend"));
        if rules.empty() && !backend.present() {
            spec.invalid_as(rules.value().clone(), "either `defaultBackend` or `rules` must be specified");
        }
        backend.on_self(self::backend);
        rules.each(rule);
        spec.get("tls").each(|tls| {
            tls.get("hosts").each(|host| {
                host.named(if host.text().contains('*') { wildcard_subdomain } else { dns_subdomain });
            });
            tls.get("secretName").named_if_set(dns_subdomain);
        });
        spec.on("ingressClassName", |name| name.named(dns_subdomain));
    },
    validate_new: |ingress| {
        let annotations = ingress.get("metadata.annotations");
        let (old, class) = (annotations.key(CLASS), ingress.get("spec.ingressClassName"));
        if old.present() && class.present() && old.value() != class.value() {
            let shown = ingress.get("annotations");
            shown.view(CLASS, old.value()).invalid("must match `ingressClassName` when both are specified");
        }
    },
    validate_status: |new, old| {
        let before = items(&old["status"]["loadBalancer"], "ingress");
        new.get("status.loadBalancer.ingress").each(|ingress| {
            if !before.iter().any(|one| one["ip"] == *ingress.get("ip").value()) {
                ingress.get("ip").named_if_set(legacy_ip);
            }
            services::balancer_host(&ingress.get("hostname"));
        });
    },
    prepare_create: |ingress| ingress["status"] = json!({"loadBalancer": {}}),
    generation: Generation::Counted,
    status_meta: true,
    ..PLAIN
};

const CLASS: &str = "kubernetes.io/ingress.class";

fn rule(rule: &At) {
    let host = rule.get("host");
    if !host.empty() {
        if lenient_ip(host.text()).is_some() {
            host.invalid("must be a DNS name, not an IP address");
        }
        host.named(if host.text().contains('*') { wildcard_subdomain } else { dns_subdomain });
    }
    rule.on("http", |http| {
        http.get("paths").need();
        http.get("paths").each(|path| {
            let (kind, text) = (path.get("pathType"), path.get("path"));
            match kind.text() {
                "" if !kind.present() => return kind.required("pathType must be specified"),
                "Exact" | "Prefix" => plain_path(&text),
                "ImplementationSpecific" if !text.empty() && !text.text().starts_with('/') => {
                    text.invalid("must be an absolute path");
                }
                "ImplementationSpecific" => {}
                _ => kind.one_of(&["Exact", "ImplementationSpecific", "Prefix"]),
            }
            backend(&path.get("backend"));
        });
    });
}

fn plain_path(at: &At) {
    let text = at.text();
    if !text.starts_with('/') {
        at.invalid_as(text, "must be an absolute path");
    }
    for part in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|part| text.contains(part)) {
        at.invalid(format!("must not contain '{part}'"));
    }
    for end in ["/..", "/."].into_iter().filter(|end| text.ends_with(end)) {
        at.invalid(format!("cannot end with '{end}'"));
    }
}

fn backend(at: &At) {
    let (resource, service) = (at.get("resource"), at.get("service"));
    match (resource.present(), service.present()) {
        (true, true) => at.invalid_as("", "cannot set both resource and service backends"),
        (false, false) => at.invalid_as("", "resource or service backend is required"),
        (true, false) => reference(&resource),
        (false, true) => {
            service.get("name").need_named(dns_label);
            let (name, number) = (service.get("port.name"), service.get("port.number"));
            match (!name.empty(), number.int() != 0) {
                (true, true) => at.invalid_as("", "cannot set both port name & port number"),
                (true, false) => name.named(port_name),
                (false, true) => number.port(),
                (false, false) => at.required("port name or number is required"),
            }
        }
    }
}

fn reference(at: &At) {
    at.on("apiGroup", |group| group.named(dns_subdomain));
    at.get("kind").need_named(path_segment);
    at.get("name").need_named(path_segment);
}

const MOST_CONTROLLER_BYTES: usize = 250;

pub(super) const INGRESS_CLASS: Strategy = Strategy {
    default: |class| {
        if let Some(parameters) = class.pointer_mut("/spec/parameters") {
            default(parameters, "scope", "Cluster");
        }
    },
    validate: |class| {
        let controller = class.get("spec.controller");
        controller.no_longer_than(MOST_CONTROLLER_BYTES);
        controller.need_named(domain_prefixed_path);
        class.get("spec").on("parameters", |parameters| {
            reference(parameters);
            let (scope, space) = (parameters.get("scope"), parameters.get("namespace"));
            match scope.text() {
                "Namespace" if !space.present() => {
                    space.required("`parameters.scope` is set to 'Namespace'");
                }
                "Namespace" => space.named(dns_label),
                "Cluster" => space.never("`parameters.scope` is set to 'Cluster'"),
                _ => scope.one_of(&["Cluster", "Namespace"]),
            }
        });
    },
    validate_update: |new, old| new.get("spec").unchanged_fields(&old["spec"], &["controller"]),
    changes: Changes::Before,
    generation: Generation::Counted,
    ..PLAIN
};

pub(super) const NETWORK_POLICY: Strategy = Strategy {
    default: |policy| {
        let Some(spec) = policy.get_mut("spec") else { return };
        default(spec, "podSelector", json!({}));
        let out = !items(spec, "egress").is_empty();
        default(spec, "policyTypes", if out { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
        for direction in ["ingress", "egress"] {
            for rule in items_mut(spec, direction) {
                items_mut(rule, "ports").for_each(|port| default(port, "protocol", "TCP"));
            }
        }
    },
    validate: |policy| network_policy(policy, &Value::Null),
    validate_update: network_policy,
    changes: Changes::Only,
    generation: Generation::Counted,
    ..PLAIN
};

fn network_policy(policy: &At, old: &Value) {
    let spec = policy.get("spec");
    label_selector(&spec.get("podSelector"));
    let known: Vec<&Value> = [("ingress", "from"), ("egress", "to")]
        .into_iter()
        .flat_map(|(list, peers)| items(&old["spec"], list).iter().flat_map(move |rule| items(rule, peers)))
        .flat_map(|peer| items(&peer["ipBlock"], "except").iter().chain([&peer["ipBlock"]["cidr"]]))
        .collect();
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        spec.get(list).each(|rule| {
            rule.get("ports").each(policy_port);
            rule.get(peers).each(|one| peer(one, &known));
        });
    }
    let types = spec.get("policyTypes");
    if types.items().len() > 2 {
        types.invalid("may not specify more than two policyTypes");
    }
    types.each(|one| one.one_of(&["Ingress", "Egress"]));
}

fn policy_port(at: &At) {
    at.get("protocol").one_of_if_set(&["TCP", "UDP", "SCTP"]);
    let (port, end) = (at.get("port"), at.get("endPort"));
    match port.value() {
        Value::Null if end.present() => end.invalid("may not be specified when `port` is not specified"),
        Value::Null => {}
        Value::String(_) => {
            if end.present() {
                end.invalid("may not be specified when `port` is non-numeric");
            }
            port.named(port_name);
        }
        _ => {
            port.port();
            if end.present() {
                if end.int() < port.int() {
                    end.invalid_as(port.int(), "must be greater than or equal to `port`");
                }
                end.port();
            }
        }
    }
}

fn peer(at: &At, known: &[&Value]) {
    let block = at.get("ipBlock");
    let selectors = ["podSelector", "namespaceSelector"];
    let mut count = 0;
    for selector in selectors {
        at.on(selector, |selector| {
            label_selector(selector);
            count += 1;
        });
    }
    block.on_self(|block| ip_block(block, known));
    if count == 0 && !block.present() {
        at.required("must specify a peer");
    } else if count > 0 && block.present() {
        at.forbidden("may not specify both ipBlock and another peer");
    }
}

fn ip_block(at: &At, known: &[&Value]) {
    let cidr = at.get("cidr");
    let check = |one: &At| {
        if !known.contains(&one.value()) {
            one.named(legacy_cidr);
        }
    };
    if !cidr.need() {
        return;
    }
    check(&cidr);
    let Some((whole, bits)) = lenient_cidr(cidr.text()) else { return };
    at.get("except").each(|except| {
        check(except);
        let Some((address, length)) = lenient_cidr(except.text()) else { return };
        let inside =
            whole.is_ipv4() == address.is_ipv4() && network_of(address, bits) == network_of(whole, bits);
        if !inside || bits >= length {
            except.invalid("must be a strict subset of `cidr`");
        }
    });
}

pub(super) const IP_ADDRESS: Strategy = Strategy {
    name_rule: strict_ip,
    validate: |address| {
        let parent = address.get("spec.parentRef");
        if !parent.need_present() {
            return;
        }
        parent.get("group").named_if_set(dns_subdomain);
        parent.get("resource").need_named(path_segment);
        parent.get("name").need_named(path_segment);
        parent.get("namespace").named_if_set(path_segment);
    },
    validate_update: |new, old| {
        let (spec, before) = (new.get("spec"), &old["spec"]["parentRef"]);
        spec.get("parentRef").unchanged_type(before, "api.networking.v1.ParentReference");
    },
    ..PLAIN
};

pub(super) const SERVICE_CIDR: Strategy = Strategy {
    validate: cidrs,
    validate_update: |new, old| {
        let (spec, before) = (new.get("spec"), items(&old["spec"], "cidrs"));
        let list = spec.get("cidrs");
        match (before.len(), list.items().len()) {
            (was, is) if was == is => {
                for (index, old) in before.iter().enumerate() {
                    list.index(index).unchanged(old);
                }
            }
            (1, 2) => {
                list.index(0).unchanged(&before[0]);
                cidrs(new);
            }
            _ => list.invalid("field is immutable"),
        }
    },
    changes: Changes::Only,
    ..PLAIN
};

fn cidrs(object: &At) {
    let spec = object.get("spec");
    let list = spec.get("cidrs");
    list.need_because("at least one CIDR required");
    if list.items().len() > 2 {
        list.invalid_as(json!({"CIDRs": list.value()}), "may only hold up to 2 values");
    }
    list.each(|cidr| cidr.named(strict_cidr));
    let family = |cidr: &Value| cidr.as_str().and_then(lenient_cidr).map(|(address, _)| address.is_ipv4());
    if let [first, second] = list.items()
        && family(first).is_some()
        && family(first) == family(second)
    {
        list.invalid(
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        );
    }
}
