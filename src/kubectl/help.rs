//! What help says besides a command's flags: how it is used, by examples.

use crate::tree::Place;

/// Examples of a command: what each does, and its line behind `kubectl `.
type Examples = &'static [(&'static str, &'static str)];

/// What stands below a command's help.
pub(crate) fn below(place: &Place<'_>) -> String {
    let path = place.path();
    let mut text = String::new();
    if let Some((_, examples)) = EXAMPLES.iter().find(|(known, _)| *known == path) {
        text.push_str("\nExamples:\n");
        for (what, line) in *examples {
            text.push_str(&format!("  # {what}\n  kubectl {line}\n\n"));
        }
    } else {
        text.push('\n');
    }
    if path.is_empty() {
        text.push_str("What a command takes is told by 'kubectl COMMAND --help'.\n");
    }
    text.push_str("Flags that all commands have are listed by 'kubectl options'.\n");
    text
}

const EXAMPLES: &[(&str, Examples)] = &[
    (
        "get",
        &[
            ("All pods of the namespace, with the nodes that they run on", "get pods -o wide"),
            (
                "Deployments of all namespaces with this label, and what becomes of them",
                "get deployments -A -l app=web --watch",
            ),
            ("Several kinds at once", "get deployments,services,ingresses"),
            ("One field of one object", "get pod web -o jsonpath={.status.podIP}"),
            (
                "Columns of one's own, the oldest first",
                "get pods --sort-by=.metadata.creationTimestamp -o custom-columns=NAME:.metadata.name,NODE:.spec.nodeName",
            ),
        ],
    ),
    (
        "describe",
        &[
            ("A pod with its events: why does it not run?", "describe pod web"),
            ("What a file names", "describe -f web.yaml"),
        ],
    ),
    (
        "apply",
        &[
            ("Make a cluster what files say, again and again", "apply -f web.yaml"),
            ("What a folder with a kustomization builds", "apply -k overlays/production"),
            (
                "Let the server merge, so that several may own parts of an object",
                "apply --server-side -f web.yaml",
            ),
            (
                "See what the server would make of it, without making it",
                "apply --dry-run=server -o yaml -f web.yaml",
            ),
        ],
    ),
    (
        "apply view-last-applied",
        &[("What was applied last", "apply view-last-applied deployment/web -o json")],
    ),
    (
        "apply set-last-applied",
        &[(
            "Say that a file was applied, without applying it",
            "apply set-last-applied -f web.yaml --create-annotation",
        )],
    ),
    ("apply edit-last-applied", &[("Mend what was applied last", "apply edit-last-applied deployment/web")]),
    (
        "diff",
        &[
            ("What an apply would change", "diff -f web.yaml"),
            ("Lines without their surroundings", "diff -k overlays/production --server-side"),
        ],
    ),
    (
        "create",
        &[
            ("Objects of a file, none of which may be there yet", "create -f web.yaml"),
            (
                "A Deployment, only as YAML",
                "create deployment web --image=nginx --replicas=2 --dry-run=client -o yaml",
            ),
            (
                "A ConfigMap of files and values",
                "create configmap settings --from-file=app.conf --from-literal=level=info",
            ),
        ],
    ),
    (
        "create clusterrole",
        &[(
            "Who has it may read pods everywhere",
            "create clusterrole reader --verb=get,list,watch --resource=pods",
        )],
    ),
    (
        "create clusterrolebinding",
        &[("Give it to somebody", "create clusterrolebinding ada --clusterrole=reader --user=ada")],
    ),
    (
        "create configmap",
        &[(
            "Of a folder's files and a value",
            "create configmap settings --from-file=conf.d --from-literal=level=info",
        )],
    ),
    (
        "create cronjob",
        &[("Every five minutes", "create cronjob tidy --image=busybox --schedule='*/5 * * * *' -- date")],
    ),
    (
        "create deployment",
        &[("Three pods of an image", "create deployment web --image=nginx --replicas=3 --port=80")],
    ),
    (
        "create ingress",
        &[(
            "A host's paths, with TLS",
            "create ingress web --class=knarr --rule='web.example.org/*=web:80,tls=web-tls'",
        )],
    ),
    (
        "create job",
        &[
            ("Once", "create job once --image=busybox -- date"),
            ("What a CronJob would do, now", "create job now --from=cronjob/tidy"),
        ],
    ),
    ("create namespace", &[("A place of its own", "create namespace web")]),
    (
        "create poddisruptionbudget",
        &[("Never less than two", "create poddisruptionbudget web --selector=app=web --min-available=2")],
    ),
    (
        "create priorityclass",
        &[("Before others", "create priorityclass urgent --value=1000 --description='before others'")],
    ),
    (
        "create quota",
        &[("How much a namespace may use", "create quota small --hard=cpu=2,memory=4Gi,pods=10")],
    ),
    (
        "create role",
        &[(
            "Who has it may read one ConfigMap",
            "create role settings --verb=get --resource=configmaps --resource-name=settings",
        )],
    ),
    (
        "create rolebinding",
        &[(
            "Give it to a service account",
            "create rolebinding web --role=settings --serviceaccount=web:default",
        )],
    ),
    (
        "create secret generic",
        &[("Of files and values", "create secret generic keys --from-file=key.pem --from-literal=user=ada")],
    ),
    (
        "create secret tls",
        &[("A certificate with its key", "create secret tls web-tls --cert=web.crt --key=web.key")],
    ),
    (
        "create secret docker-registry",
        &[(
            "What a registry asks for",
            "create secret docker-registry pull --docker-server=registry.example.org --docker-username=ada --docker-password=secret",
        )],
    ),
    ("create service clusterip", &[("Within the cluster", "create service clusterip web --tcp=80:8080")]),
    (
        "create service externalname",
        &[("Another name", "create service externalname db --external-name=db.example.org")],
    ),
    ("create service loadbalancer", &[("For others", "create service loadbalancer web --tcp=80:8080")]),
    (
        "create service nodeport",
        &[("On every node", "create service nodeport web --tcp=80:8080 --node-port=30080")],
    ),
    ("create serviceaccount", &[("An account for programs", "create serviceaccount robot")]),
    ("create token", &[("A token of an account, for an hour", "create token robot --duration=1h")]),
    (
        "delete",
        &[
            ("What a file names", "delete -f web.yaml"),
            ("Pods with a label, after a question", "delete pods -l app=web --interactive"),
            ("A pod whose node does not answer any more", "delete pod web --force --grace-period=0"),
        ],
    ),
    (
        "run",
        &[
            ("A pod", "run web --image=nginx --port=80"),
            (
                "A shell in the cluster that is gone afterwards",
                "run shell --rm -it --image=busybox --restart=Never -- sh",
            ),
        ],
    ),
    ("expose", &[("A Service of a Deployment", "expose deployment web --port=80 --target-port=8080")]),
    (
        "autoscale",
        &[(
            "Between two and ten pods, by what they use",
            "autoscale deployment web --min=2 --max=10 --cpu=80%",
        )],
    ),
    ("kustomize", &[("What a folder builds", "kustomize overlays/production")]),
    (
        "replace",
        &[
            ("An object as a whole", "replace -f web.yaml"),
            ("Delete it and make it anew", "replace --force -f web.yaml"),
        ],
    ),
    (
        "patch",
        &[
            ("One field", r#"patch deployment web -p '{"spec":{"replicas":3}}'"#),
            (
                "An item of a list, by a JSON patch",
                r#"patch pod web --type=json -p '[{"op":"replace","path":"/spec/containers/0/image","value":"nginx:2"}]'"#,
            ),
        ],
    ),
    (
        "edit",
        &[
            ("In the editor of KUBE_EDITOR or EDITOR", "edit deployment/web"),
            ("Only its status", "edit deployment/web --subresource=status"),
        ],
    ),
    (
        "label",
        &[
            ("A label, whatever it was", "label pods web tier=front --overwrite"),
            ("No label any more, of all pods", "label pods --all tier-"),
        ],
    ),
    ("annotate", &[("A note", "annotate deployment web example.org/owner=ada")]),
    (
        "taint",
        &[
            ("Only pods that tolerate it", "taint nodes worker-1 dedicated=db:NoSchedule"),
            ("All pods again", "taint nodes worker-1 dedicated-"),
        ],
    ),
    ("cordon", &[("No more pods onto a node", "cordon worker-1")]),
    ("uncordon", &[("Pods onto it again", "uncordon worker-1")]),
    ("drain", &[("Move everything off a node", "drain worker-1 --ignore-daemonsets --delete-emptydir-data")]),
    (
        "wait",
        &[
            (
                "Until a Deployment is there for its users",
                "wait deployment/web --for=condition=Available --timeout=2m",
            ),
            ("Until a field has a value", "wait pod/web --for=jsonpath={.status.phase}=Running"),
            ("Until something is gone", "wait pod/web --for=delete"),
        ],
    ),
    (
        "logs",
        &[
            ("The last hundred lines, and what comes", "logs web --tail=100 -f"),
            (
                "Of all pods with a label and all their containers, told apart",
                "logs -l app=web --all-containers --prefix",
            ),
            ("Why it was started again", "logs web --previous"),
        ],
    ),
    (
        "exec",
        &[
            ("A command", "exec web -- date"),
            ("A shell in one of its containers", "exec -it web -c app -- sh"),
        ],
    ),
    (
        "attach",
        &[
            ("What a container says from now on", "attach web -c app"),
            ("And what is typed goes to it", "attach -it web"),
        ],
    ),
    (
        "cp",
        &[
            ("A file into a container", "cp settings.conf web:/etc/app/settings.conf -c app"),
            ("A folder out of it", "cp web/app-0:/var/log ./log"),
        ],
    ),
    (
        "debug",
        &[
            ("A container with tools beside those of a pod", "debug -it web --image=busybox --target=app"),
            (
                "A copy of a pod with another command",
                "debug web -it --copy-to=web-debug --container=app -- sh",
            ),
            ("The node itself", "debug node/worker-1 -it --image=busybox"),
        ],
    ),
    ("proxy", &[("The API for programs without credentials", "proxy --port=8001")]),
    (
        "port-forward",
        &[
            ("A pod's port here", "port-forward web 8080:80"),
            ("Any free port of this machine to a Service's", "port-forward service/web :http"),
        ],
    ),
    ("set image", &[("Another image", "set image deployment/web app=nginx:2")]),
    (
        "set env",
        &[
            ("A variable", "set env deployment/web LEVEL=debug"),
            ("All that there are", "set env deployment/web --list"),
        ],
    ),
    (
        "set resources",
        &[(
            "What containers get",
            "set resources deployment web --requests=cpu=100m,memory=64Mi --limits=memory=128Mi",
        )],
    ),
    ("set selector", &[("Other pods behind a Service", "set selector service web app=web,tier=front")]),
    ("set serviceaccount", &[("Another account", "set serviceaccount deployment web robot")]),
    ("set subject", &[("One more who has a role", "set subject rolebinding web --user=ada")]),
    (
        "scale",
        &[
            ("Five pods", "scale deployment/web --replicas=5"),
            ("Only if there are two", "scale deployment/web --current-replicas=2 --replicas=5"),
        ],
    ),
    ("rollout status", &[("Until it is done", "rollout status deployment/web --timeout=5m")]),
    ("rollout history", &[("What there was", "rollout history deployment/web --revision=2")]),
    (
        "rollout undo",
        &[
            ("Back to the one before", "rollout undo deployment/web"),
            ("To a certain one", "rollout undo deployment/web --to-revision=3"),
        ],
    ),
    ("rollout pause", &[("Hold it, to change several things", "rollout pause deployment/web")]),
    ("rollout resume", &[("Go on", "rollout resume deployment/web")]),
    ("rollout restart", &[("All pods anew", "rollout restart deployment/web")]),
    (
        "events",
        &[("What went wrong with a pod, as it happens", "events --for=pod/web --types=Warning --watch")],
    ),
    ("top node", &[("The busiest first", "top node --sort-by=cpu")]),
    ("top pod", &[("Each container of all pods", "top pod -A --containers")]),
    (
        "explain",
        &[
            ("The fields of a kind", "explain pods.spec.containers"),
            ("All of them", "explain deployment --recursive"),
        ],
    ),
    (
        "cluster-info",
        &[
            ("Where everything is", "cluster-info"),
            ("All that helps to find a fault, in files", "cluster-info dump -A --output-directory=fault"),
        ],
    ),
    (
        "cluster-info dump",
        &[("All that helps to find a fault, in files", "cluster-info dump -A --output-directory=fault")],
    ),
    (
        "auth can-i",
        &[
            ("May I?", "auth can-i create deployments -n web"),
            ("What may an account do?", "auth can-i --list --as=system:serviceaccount:web:robot"),
        ],
    ),
    ("auth whoami", &[("Who the server takes me for", "auth whoami")]),
    ("auth reconcile", &[("Roles as a file says, no right less", "auth reconcile -f roles.yaml")]),
    ("certificate approve", &[("Let a request be signed", "certificate approve worker-1")]),
    ("certificate deny", &[("Refuse it", "certificate deny worker-1")]),
    (
        "api-resources",
        &[(
            "What can be listed in namespaces, with its short names",
            "api-resources --namespaced --verbs=list",
        )],
    ),
    ("api-versions", &[("Every group with its versions", "api-versions")]),
    ("version", &[("The client's alone", "version --client"), ("Both, for programs", "version -o json")]),
    (
        "config view",
        &[("What is in use, with its secrets, in one file", "config view --minify --flatten --raw")],
    ),
    ("config use-context", &[("Speak with another cluster from now on", "config use-context production")]),
    (
        "config set-context",
        &[("Another namespace from now on", "config set-context --current --namespace=web")],
    ),
    (
        "config set-cluster",
        &[(
            "A cluster by its address and authority",
            "config set-cluster production --server=https://k8s.example.org:6443 --certificate-authority=ca.crt --embed-certs",
        )],
    ),
    ("config set-credentials", &[("A user by a token", "config set-credentials ada --token=secret")]),
    ("config get-contexts", &[("All there are", "config get-contexts")]),
    (
        "config set",
        &[("A value by its path", "config set clusters.production.server https://k8s.example.org:6443")],
    ),
    ("config unset", &[("No user any more", "config unset users.ada")]),
    ("kuberc view", &[("What there is", "kuberc view")]),
    (
        "kuberc set",
        &[
            (
                "Ask before anything is deleted",
                "kuberc set --section=defaults --command=delete --option=interactive=true",
            ),
            (
                "A command of one's own: kubectl getn",
                "kuberc set --section=aliases --name=getn --command=get --prependarg=nodes --option=output=wide",
            ),
        ],
    ),
    (
        "completion",
        &[
            ("In this bash, and in every later one", "completion bash"),
            ("For zsh, by a file on its fpath", "completion zsh"),
        ],
    ),
    ("plugin list", &[("Programs kubectl-… on the PATH", "plugin list")]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Arguments;
    use crate::tree;
    use clap::{CommandFactory, Parser};

    /// A line's words, by the quotes that the examples have.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
        for sign in line.chars() {
            match sign {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(std::mem::take(&mut word)),
                other => word.push(other),
            }
        }
        words.push(word);
        words
    }

    #[test]
    fn examples_are_lines_that_are_understood() {
        let root = Arguments::command();
        for (path, examples) in EXAMPLES {
            for (_, line) in *examples {
                let words = words(line);
                let meant = tree::follow(&root, &words).path();
                assert!(meant == *path || meant.starts_with(path), "{line} is no example of {path}");
                let read = Arguments::try_parse_from(std::iter::once("kubectl".to_owned()).chain(words));
                assert!(
                    read.is_ok(),
                    "{line}: {}",
                    read.err().map(|error| error.to_string()).unwrap_or_default()
                );
            }
        }
    }

    #[test]
    fn nearly_every_command_has_examples() {
        fn leaves(command: &clap::Command, path: &str, all: &mut Vec<String>) {
            for sub in command.get_subcommands() {
                let path = format!("{path} {}", sub.get_name()).trim().to_owned();
                if sub.get_subcommands().next().is_none() {
                    all.push(path.clone());
                }
                leaves(sub, &path, all);
            }
        }
        let mut all = Vec::new();
        leaves(&Arguments::command(), "", &mut all);
        let bare: Vec<String> =
            all.into_iter().filter(|path| !EXAMPLES.iter().any(|(known, _)| known == path)).collect();
        // Their names are all there is to say.
        assert_eq!(
            bare,
            [
                "config current-context",
                "config delete-cluster",
                "config delete-context",
                "config delete-user",
                "config get-clusters",
                "config get-users",
                "config rename-context",
                "options"
            ]
        );
    }
}
