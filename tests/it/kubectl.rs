//! knarr's kubectl beside the machine's: the same command lines against one server, each in a namespace of its
//! own, have to print the same and end the same way (`tests/data/kubectl`).

use crate::support::cluster::{COMMAND, Cluster};
use crate::support::process::{Output, run};
use crate::support::{binary, root};
use std::fs;
use std::path::PathBuf;

/// Manifests that the lines speak of.
const MANIFESTS: [&str; 3] = ["objects.yaml", "web.yaml", "values.env"];

/// What the editor of both does.
const EDITOR: &str = "sed -i 's/replicas: 1/replicas: 4/'";

/// A command line, and why what it does may differ.
struct Line {
    words: String,
    reason: Option<String>,
}

fn lines() -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for text in fs::read_to_string(root().join("tests/data/kubectl/lines.txt")).unwrap().lines() {
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
    namespace: &'static str,
    folder: PathBuf,
}

impl<'a> Side<'a> {
    fn new(cluster: &'a Cluster, namespace: &'static str, program: &[&str]) -> Self {
        let folder = cluster.sandbox.folder.join(namespace);
        fs::create_dir(&folder).unwrap();
        for name in MANIFESTS {
            let text = fs::read_to_string(root().join("tests/data/kubectl").join(name)).unwrap();
            fs::write(folder.join(name), text.replace("{ns}", namespace)).unwrap();
        }
        fs::copy(cluster.sandbox.folder.join("kubeconfig"), folder.join("kubeconfig")).unwrap();
        let program = program.iter().map(|word| (*word).to_owned()).collect();
        let side = Self { cluster, program, namespace, folder };
        side.run("kubectl", &format!("create namespace {namespace}")).ok();
        side.run("kubectl", &format!("config set-context --current --namespace {namespace}")).ok();
        side
    }

    /// Runs a line through a shell, which reads its quotes.
    fn run(&self, program: &str, line: &str) -> Output {
        let script = format!("exec {program} {}", line.replace("{ns}", self.namespace));
        let mut command = self.cluster.sandbox.command(COMMAND, &["sh", "-c", &script]);
        command.current_dir(&self.folder).env("KUBECONFIG", "kubeconfig").env("KUBE_EDITOR", EDITOR);
        run(command, "")
    }

    /// What each line came to, in words that are the same for both sides.
    fn all(&self, lines: &[Line]) -> Vec<(i32, String, String)> {
        let program = self.program.join(" ");
        let one = |line: &Line| {
            let output = self.run(&program, &line.words);
            (output.code, self.common(&output.stdout), self.common(&output.stderr))
        };
        lines.iter().map(one).collect()
    }

    /// Without what differs from run to run or from build to build.
    fn common(&self, text: &str) -> String {
        let line = |line: &str| {
            // kubectl 1.34 and later leave out a time that was never set.
            if line.trim() == "creationTimestamp: null" || line.starts_with("WARNING: version difference") {
                return None;
            }
            // One that held nothing else is empty now.
            let line = line.replace("metadata: {}", "metadata:").replace(self.namespace, "NAMESPACE");
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
            Some(format!("{line}\n"))
        };
        text.lines().filter_map(line).collect()
    }
}

#[test]
fn knarrs_kubectl_does_what_the_machines_does() {
    let cluster = Cluster::api_server();
    let lines = lines();
    let binary = binary().display().to_string();
    let reference = Side::new(&cluster, "side-one", &["kubectl"]);
    let own = Side::new(&cluster, "side-two", &[&binary, "kubectl"]);
    let (ours, theirs) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| reference.all(&lines));
        (own.all(&lines), theirs.join().unwrap())
    });
    let mut wrong = String::new();
    for ((line, theirs), ours) in lines.iter().zip(&theirs).zip(&ours) {
        if theirs != ours && line.reason.is_none() {
            wrong.push_str(&format!("$ {}\n  kubectl {theirs:?}\n  knarr   {ours:?}\n", line.words));
        }
    }
    assert!(wrong.is_empty(), "these differ without a reason:\n{wrong}");
}
