//! knarr's kubectl beside the machine's: the same command lines against one server, each in a namespace of its
//! own, have to print the same and end the same way (`tests/data/kubectl`).

use crate::support::cluster::{COMMAND, Cluster};
use crate::support::process::{Output, run};
use crate::support::{binary, root};
use std::fs;
use std::path::{Path, PathBuf};

/// What the editor of both does.
const EDITOR: &str = "sed -i 's/replicas: 1/replicas: 4/'";

/// A command line, and why what it does may differ.
struct Line {
    words: String,
    reason: Option<String>,
}

/// The command lines of one file.
fn lines(path: &Path) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for text in fs::read_to_string(path).unwrap().lines() {
        match text.split_at_checked(2) {
            Some(("$ ", words)) => lines.push(Line { words: words.to_owned(), reason: None }),
            Some(("! ", reason)) => lines.last_mut().expect("a line").reason = Some(reason.to_owned()),
            _ => assert!(text.is_empty() || text.starts_with('#'), "what is {text:?}?"),
        }
    }
    lines
}

/// One client in its namespace and folder.
struct Side<'a> {
    cluster: &'a Cluster,
    program: Vec<String>,
    namespace: String,
    folder: PathBuf,
}

impl<'a> Side<'a> {
    fn new(cluster: &'a Cluster, namespace: String, program: &[&str]) -> Self {
        let folder = cluster.sandbox.folder.join(&namespace);
        fs::create_dir(&folder).unwrap();
        for file in fs::read_dir(root().join("tests/data/kubectl")).unwrap().flatten() {
            if file.path().is_dir() {
                continue;
            }
            let text = fs::read_to_string(file.path()).unwrap();
            fs::write(folder.join(file.file_name()), text.replace("{ns}", &namespace)).unwrap();
        }
        fs::copy(cluster.sandbox.folder.join("kubeconfig"), folder.join("kubeconfig")).unwrap();
        let program = program.iter().map(|word| (*word).to_owned()).collect();
        let side = Self { cluster, program, namespace, folder };
        side.run("kubectl", "create namespace {ns}").ok();
        side.run("kubectl", "config set-context --current --namespace {ns}").ok();
        side
    }

    /// Runs a line through a shell, which reads its quotes.
    fn run(&self, program: &str, line: &str) -> Output {
        let script = format!("exec {program} {}", line.replace("{ns}", &self.namespace));
        let mut command = self.cluster.sandbox.command(COMMAND, &["sh", "-c", &script]);
        command.current_dir(&self.folder).env("KUBECONFIG", "kubeconfig").env("KUBE_EDITOR", EDITOR);
        run(command, "")
    }

    /// What each line came to, in words that are the same for both sides.
    fn all(&self, lines: &[Line]) -> Vec<(i32, String, String)> {
        let program = self.program.join(" ");
        let one = |line: &Line| {
            let output = self.run(&program, &line.words);
            let (stdout, stderr) = (self.common(&output.stdout), self.common(&output.stderr));
            match line.words.starts_with("drain ") {
                true => (output.code, ordered(&stdout), ordered(&stderr)),
                false => (output.code, stdout, stderr),
            }
        };
        lines.iter().map(one).collect()
    }

    /// Without what differs from run to run or from build to build.
    fn common(&self, text: &str) -> String {
        // A library of kubectl's tells of each try to learn what the server has, over several lines at times.
        let mut is_told = false;
        let mut line = |line: &str| {
            // It also tells of watches that were short, as those of a moment are.
            if line.contains(" reflector.go:") {
                return None;
            }
            if is_told || line.contains(" memcache.go:") {
                is_told = (is_told && line != " >") || line.ends_with("err=<");
                return None;
            }
            // Later kubectls leave out a time that was never set, and preferences that there are not.
            let is_left_out = matches!(line.trim(), "creationTimestamp: null" | "preferences: {}");
            if is_left_out || line.starts_with("WARNING: version difference") {
                return None;
            }
            // One that held nothing else is empty now, and a form has come since.
            let line = line.replace("metadata: {}", "metadata:").replace(",kyaml", "");
            let line = line.replace(&self.namespace, "NAMESPACE");
            // The machine's kubectl may be a build that logs what others say.
            if let Some((_, said)) = line.split_once("\"command failed\" err=\"") {
                return Some(format!("error: {}\n", said.trim_end_matches('"').replace("\\\"", "\"")));
            }
            let line = line.strip_prefix("Error: ").map_or(line.clone(), |said| format!("error: {said}"));
            for field in ["uid: ", "resourceVersion: ", "creationTimestamp: "] {
                if let Some(start) = line.find(field) {
                    return Some(format!("{}{field}…\n", &line[..start]));
                }
            }
            Some(format!("{}\n", line.split(' ').map(ageless).collect::<Vec<_>>().join(" ")))
        };
        let common: String = text.lines().filter_map(&mut line).collect();
        // A column of ages grows with them, as one side takes longer.
        let is_aged = common.lines().any(|line| line.split_whitespace().any(|word| word == "AGE"));
        if is_aged {
            common.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
        } else {
            common
        }
    }
}

/// What a drain says, in one order: kubectl goes through what keeps pods by a map, whose order is any.
fn ordered(text: &str) -> String {
    let line = |line: &str| match (line.split_once('['), line.rsplit_once(']')) {
        (Some((before, rest)), Some((_, after))) => {
            let list = &rest[..rest.len() - after.len() - 1];
            let mut parts: Vec<&str> =
                list.split(", cannot ").map(|part| part.trim_start_matches("cannot ")).collect();
            parts.sort_unstable();
            format!("{before}[{}]{after}", parts.join(", cannot "))
        }
        _ => {
            let at = line.find("Warning: ").map_or(0, |at| at + "Warning: ".len());
            let (before, list) = line.split_at(at);
            let mut parts: Vec<&str> = list.split("; ").collect();
            parts.sort_unstable();
            format!("{before}{}", parts.join("; "))
        }
    };
    let mut lines: Vec<String> = text.lines().map(line).collect();
    lines.sort();
    lines.join("\n")
}

/// A word, or instead of an age of some seconds the same for all.
fn ageless(word: &str) -> &str {
    let seconds = word.strip_suffix('s').filter(|number| (1..=3).contains(&number.len()));
    if seconds.is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit())) { "0s" } else { word }
}

/// A test for each topic, so that they run beside each other.
macro_rules! topics {
    ($($topic:ident),*) => {
        $(
            #[test]
            fn $topic() {
                compare(stringify!($topic));
            }
        )*

        #[test]
        fn each_file_of_lines_is_a_topic() {
            let files = fs::read_dir(root().join("tests/data/kubectl/lines")).unwrap().flatten();
            let mut files: Vec<String> =
                files.map(|file| file.path().file_stem().unwrap().display().to_string()).collect();
            files.sort();
            assert_eq!(files, [$(stringify!($topic)),*]);
        }
    };
}

topics!(
    applying, changes, config, connect, describe, files, forms, front, get, kustomize, login, removing,
    rights, showing, streams, writing, wrong
);

/// Fails where what both do differs without a reason.
fn compare(topic: &str) {
    let cluster = Cluster::api_server();
    let path = root().join("tests/data/kubectl/lines").join(format!("{topic}.txt"));
    let wrong = differences(&cluster, topic, &lines(&path));
    assert!(wrong.is_empty(), "these differ without a reason:\n{wrong}");
}

/// Runs lines with both, each in a namespace that is named after their topic.
fn differences(cluster: &Cluster, topic: &str, lines: &[Line]) -> String {
    let binary = binary().display().to_string();
    let reference = Side::new(cluster, format!("one-{topic}"), &["kubectl"]);
    let own = Side::new(cluster, format!("two-{topic}"), &[&binary, "kubectl"]);
    let (ours, theirs) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| reference.all(lines));
        (own.all(lines), theirs.join().unwrap())
    });
    let mut wrong = String::new();
    for ((line, theirs), ours) in lines.iter().zip(&theirs).zip(&ours) {
        if theirs != ours && line.reason.is_none() {
            wrong.push_str(&format!("{topic}: $ {}\n  kubectl {theirs:?}\n  knarr   {ours:?}\n", line.words));
        }
    }
    wrong
}

/// One command of knarr's kubectl's in a namespace of the test's.
fn own<'a>(cluster: &'a Cluster, namespace: &str) -> impl Fn(&str) -> Output + use<'a> {
    let program = [binary().display().to_string(), "kubectl".to_owned()];
    let side = Side::new(cluster, namespace.to_owned(), &program.each_ref().map(String::as_str));
    move |line| side.run(&program.join(" "), line)
}

#[test]
fn what_a_drain_says_is_compared_in_one_order() {
    let one = "error: [cannot delete A: x, y, cannot delete B: z], continuing\nB: z\nA: x, y\nWarning: b: 1; a: 2\n";
    let other = "Warning: a: 2; b: 1\nerror: [cannot delete B: z, cannot delete A: x, y], continuing\nA: x, y\nB: z\n";
    assert_ne!(ordered(one), ordered("error: [cannot delete A: x, cannot delete B: z], continuing\n"));
    assert_eq!(ordered(one), ordered(other));
}

#[test]
fn what_a_cluster_is_is_shown() {
    let cluster = Cluster::api_server();
    let kubectl = own(&cluster, "shown");
    assert!(kubectl("api-versions").ok().lines().any(|line| line == "v1"));
    let info = kubectl("cluster-info").ok();
    assert!(info.starts_with("Kubernetes control plane is running at https://127.0.0.1:6443\n"), "{info}");
    let version = kubectl("version").ok();
    assert!(
        version.contains("Client Version: v1.36.") && version.contains("Server Version: v1.36."),
        "{version}"
    );
}

#[test]
fn what_would_change_is_shown_and_does_not_change() {
    let cluster = Cluster::api_server();
    let kubectl = own(&cluster, "would");
    kubectl("create serviceaccount default").ok();
    kubectl("create deployment httpd --image=example.org/httpd:1 --save-config").ok();
    kubectl("create deployment httpd --image=example.org/httpd:2 --dry-run=client -o yaml > changed.yaml")
        .ok();
    let diff = kubectl("diff -f changed.yaml");
    assert_eq!(diff.code, 1, "{}", diff.stderr);
    let has = |line: &str| diff.stdout.lines().any(|found| found.trim_start_matches(['-', '+', ' ']) == line);
    assert!(has("image: example.org/httpd:1") || has("- image: example.org/httpd:1"), "{}", diff.stdout);
    assert!(has("image: example.org/httpd:2") || has("- image: example.org/httpd:2"), "{}", diff.stdout);
    kubectl("run pod --image=example.org/httpd:1 --labels=run=pod").ok();
    let patch = r#"{"spec":{"containers":[{"name":"pod","image":"example.org/busybox:1"}]}}"#;
    let said = kubectl(&format!("patch pod pod -p '{patch}' --dry-run=server")).ok();
    assert_eq!(said, "pod/pod patched\n");
    let image = kubectl("get pod pod -o jsonpath={.spec.containers[0].image}").ok();
    assert_eq!(image, "example.org/httpd:1", "it was only tried");
}
