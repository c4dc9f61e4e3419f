//! knarr's kubectl as a person uses it: commands that talk, in a real terminal, with a real node behind them.
//! Command lines that need no pod to run are beside kubectl's own in `tests/it/kubectl.rs` (`streams.txt` with
//! `streams.yaml` and `custom.yaml`).

use crate::support::binary;
use crate::support::cluster::{COMMAND, Cluster, IMAGE, SOON};
use crate::support::process::{Output, run, wait_for};
use crate::support::terminal::Terminal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// What is described, and by which commands with what lines.
const DESCRIBED: &str = include_str!("../data/described.txt");

/// Asks the person what to put in.
const EDITOR: &str = "#!/bin/sh\nprintf 'which word? '\nread word\nsed -i s/before/$word/ \"$1\"\n";

struct Person {
    cluster: Cluster,
    kubectl: String,
}

impl Person {
    fn new() -> Self {
        Self { cluster: Cluster::new(), kubectl: binary().display().to_string() }
    }

    fn command(&self, front: &[&str], line: &str) -> Command {
        let words =
            [front, &[&self.kubectl, "kubectl"], &line.split_whitespace().collect::<Vec<_>>()].concat();
        let folder = &self.cluster.sandbox.folder;
        let mut command = self.cluster.sandbox.command(COMMAND, &words);
        command.env("KUBECONFIG", folder.join("kubeconfig")).env("KUBE_EDITOR", folder.join("editor"));
        command
    }

    /// A command in a terminal of its own.
    fn types(&self, line: &str) -> Terminal {
        Terminal::new(self.command(&["setsid", "--ctty", "--wait"], line))
    }

    /// A command without a terminal.
    fn runs(&self, line: &str, input: &str) -> Output {
        run(self.command(&[], line), input)
    }
}

#[test]
fn commands_that_talk_do_so_in_a_terminal() {
    let person = Person::new();
    let manifest = format!(
        r#"{{"apiVersion": "v1", "kind": "List", "items": [
        {{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "shell", "labels": {{"app": "shell"}}}},
          "spec": {{"terminationGracePeriodSeconds": 0, "containers": [
            {{"name": "main", "image": "{IMAGE}", "command": ["sh"], "stdin": true, "tty": true}},
            {{"name": "web", "image": "{IMAGE}", "command": ["httpd", "-f", "-p", "8080", "-h", "/www"],
              "ports": [{{"name": "http", "containerPort": 8080}}]}},
            {{"name": "teller", "image": "{IMAGE}", "command": ["sh", "-c", "echo first; echo last; exec sleep 9999"]}}]}}}},
        {{"apiVersion": "v1", "kind": "Service", "metadata": {{"name": "web"}},
          "spec": {{"selector": {{"app": "shell"}}, "ports": [{{"name": "www", "port": 80, "targetPort": "http"}}]}}}},
        {{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {{"name": "words"}}, "data": {{"word": "before"}}}}]}}"#
    );
    person.cluster.apply(&manifest);
    edits(&person);
    person.cluster.pod_ready("shell");
    executes(&person);
    is_ended_by_a_signal(&person);
    attaches(&person);
    runs_once(&person);
    debugs(&person);
    forwards(&person);
    copies(&person);
    tells_logs(&person);
    colours(&person);
    serves(&person);
    runs_an_image(&person);
    describes(&person);
}

fn edits(person: &Person) {
    let editor = person.cluster.sandbox.folder.join("editor");
    fs::write(&editor, EDITOR).unwrap();
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).unwrap();
    let mut terminal = person.types("edit configmap words");
    terminal.expect("which word? ");
    terminal.send("after\n");
    terminal.expect("configmap/words edited");
    assert_eq!(terminal.end(), 0);
    assert_eq!(person.cluster.json("configmap words")["data"]["word"], "after");
}

fn executes(person: &Person) {
    let mut terminal = person.types("exec -it shell -- sh");
    terminal.expect("Defaulted container \"main\" out of: main, web, teller");
    terminal.send("stty size; echo $((6 * 7))\r");
    terminal.expect("24 80");
    terminal.expect("42");
    assert!(terminal.is_raw());
    terminal.resize(50, 99);
    // It takes its way; what was asked for before may be told first.
    terminal.send("until stty size | grep '50 99'; do sleep 0.1; done\r");
    terminal.expect("\n50 99");
    // The shell takes keys as they are until it runs something.
    terminal.send("echo sl$((0))eeps; sleep 1000\r");
    terminal.expect("sl0eeps");
    terminal.send("\u{3}");
    terminal.send("echo still $((1 + 1)) here\r");
    terminal.expect("still 2 here");
    terminal.send("exit 7\r");
    terminal.expect("command terminated with exit code 7");
    assert_eq!(terminal.end(), 7);
    let piped = person.runs("exec -i shell -c web -q -- cat", "piped\n");
    assert_eq!((piped.code, piped.stdout.as_str(), piped.stderr.as_str()), (0, "piped\n", ""));
    let apart = person.runs("exec svc/web -c web -- ls /www /nowhere", "");
    assert_eq!((apart.code, apart.stdout.trim()), (1, "/www:\nindex.html"));
    assert!(apart.stderr.contains("/nowhere: No such file"), "{}", apart.stderr);
}

fn is_ended_by_a_signal(person: &Person) {
    let mut terminal = person.types("exec -it shell -c main -- sh -c sleep${IFS}4242");
    wait_for("raw terminal", SOON, || terminal.is_raw().then_some(()));
    terminal.send("x");
    person.cluster.sandbox.sh("kill -TERM $(pgrep -f 'kubectl exec -i[t] shell -c main' | tail -1)").ok();
    assert_eq!(terminal.end(), 1);
}

fn attaches(person: &Person) {
    let mut terminal = person.types("attach -it shell -c main");
    terminal.expect("If you don't see a command prompt, try pressing enter.");
    terminal.send("echo at$((1 + 1))tached\r");
    terminal.expect("at2tached");
    terminal.send("\u{10}\u{11}");
    terminal.expect("Session ended, resume using 'kubectl attach shell -c main -n default -i -t' command");
    assert_eq!(terminal.end(), 0);
    let pod = person.cluster.json("pod shell");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "the shell goes on");
}

fn runs_once(person: &Person) {
    let mut terminal = person.types(&format!("run once -it --rm --restart=Never --image={IMAGE} -- sh"));
    terminal.expect("If you don't see a command prompt, try pressing enter.");
    terminal.send("echo on$((0))ce; exit 5\r");
    terminal.expect("on0ce");
    terminal.expect("pod \"once\" deleted from default namespace");
    terminal.expect("pod default/once terminated (Error)");
    assert_eq!(terminal.end(), 5);
}

fn debugs(person: &Person) {
    let mut terminal = person.types(&format!("debug -it shell -c look --image={IMAGE} --target=web -- sh"));
    terminal.expect("Targeting container \"web\"");
    terminal.expect("If you don't see a command prompt, try pressing enter.");
    terminal.send("tr '\\0' ' ' < /proc/1/cmdline; exit\r");
    terminal.expect("httpd -f -p 8080");
    terminal.expect("Session ended, the ephemeral container will not be restarted but may be reattached");
    assert_eq!(terminal.end(), 0);
    let piped = person.runs(&format!("debug shell -i -q --image={IMAGE} -- cat"), "piped\n").ok();
    assert_eq!(piped, "piped\n");
}

fn forwards(person: &Person) {
    let mut terminal = person.types("port-forward svc/web :www 18080:80 --address=127.0.0.1");
    terminal.expect("Forwarding from 127.0.0.1:");
    terminal.expect("Forwarding from 127.0.0.1:18080 -> 8080");
    for _ in 0..2 {
        assert_eq!(person.cluster.fetch("http://127.0.0.1:18080").as_deref(), Some("version 1\n"));
        terminal.expect("Handling connection for 18080");
    }
    terminal.send("\u{3}");
    assert_eq!(terminal.end(), 0);
}

fn copies(person: &Person) {
    let folder = person.cluster.sandbox.folder.join("sent");
    fs::create_dir_all(folder.join("deep/er")).unwrap();
    let content: Vec<u8> = (0u32..200_000).flat_map(u32::to_le_bytes).collect();
    fs::write(folder.join("deep/er/na:me"), &content).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.join("link")).unwrap();
    person.runs("cp sent shell:/tmp -c web", "").ok();
    let back = person.runs("cp default/shell:/tmp/sent back -c web --retries=1", "");
    assert_eq!(back.code, 0, "{back:?}");
    assert!(back.stderr.contains("warning: skipping symlink: \"back/link\""), "{back:?}");
    let back = person.cluster.sandbox.folder.join("back");
    assert_eq!(fs::read(back.join("deep/er/na:me")).unwrap(), content);
    let missing = person.runs("cp shell:/nowhere here -c web", "");
    assert!(
        missing.code != 0 && missing.stderr.contains("command terminated with exit code 1"),
        "{missing:?}"
    );
}

fn tells_logs(person: &Person) {
    let told = |flags: &str| person.runs(&format!("logs shell teller {flags}"), "").ok();
    assert_eq!((told("").as_str(), told("--tail=1").as_str()), ("first\nlast\n", "last\n"));
    assert_eq!((told("--limit-bytes=1").as_str(), told("--since=24h").as_str()), ("f", "first\nlast\n"));
    assert_eq!(told("--since=1s"), "");
    let stamped = told("--tail=1 --timestamps");
    let (time, line) = stamped.split_once(' ').unwrap();
    assert!(time.parse::<jiff::Timestamp>().is_ok() && line == "last\n", "{stamped}");
    let prefixed = person.runs("logs svc/web -c teller --prefix", "").ok();
    assert_eq!(prefixed, "[pod/shell/teller] first\n[pod/shell/teller] last\n");
    let all = person.runs("logs -l app=shell --all-containers --tail=-1", "").ok();
    assert!(all.contains("at2tached") && all.contains("first"), "{all}");
    let many = person.runs("logs -f shell --all-containers --max-log-requests=1", "").err();
    assert!(many.contains("you are attempting to follow 5 log streams"), "{many}");
}

/// Colours are for people who want them.
fn colours(person: &Person) {
    let shown = |variable: (&str, &str)| {
        let mut command = person.command(&["setsid", "--ctty", "--wait"], "get pods shell");
        command.env("TERM", "xterm").env_remove("NO_COLOR").env(variable.0, variable.1);
        let mut terminal = Terminal::new(command);
        let shown = terminal.expect("Running");
        assert_eq!(terminal.end(), 0);
        shown
    };
    assert!(shown(("TERM", "xterm")).starts_with("\u{1b}[1mNAME"));
    assert!(shown(("NO_COLOR", "1")).starts_with("NAME"));
    assert!(shown(("TERM", "dumb")).starts_with("NAME"));
    assert!(person.runs("get pods shell", "").ok().starts_with("NAME"));
}

/// The API for who has no credentials, on a port that is free and on a socket.
fn serves(person: &Person) {
    let mut terminal = person.types("proxy --port=0");
    terminal.expect("Starting to serve on 127.0.0.1:");
    let port = terminal.expect("\n").trim().to_owned();
    let versions = person.cluster.fetch(&format!("http://127.0.0.1:{port}/api/")).unwrap();
    assert!(versions.contains("\"v1\""), "{versions}");
    let path = "api/v1/namespaces/default/pods/shell/exec?command=id";
    assert_eq!(person.cluster.fetch(&format!("http://127.0.0.1:{port}/{path}")), None);
    terminal.send("\u{3}");
    terminal.end();
    let mut terminal = person.types("proxy --unix-socket=proxy.sock");
    terminal.expect("Starting to serve on proxy.sock");
    let curl = ["curl", "-sf", "--max-time", "5", "--unix-socket", "proxy.sock", "http://localhost/api/"];
    let versions = person.cluster.sandbox.run(&curl).ok();
    assert!(versions.contains("\"v1\""), "{versions}");
    terminal.send("\u{3}");
    terminal.end();
}

/// Pods of an image, whether somebody talks to them or not.
fn runs_an_image(person: &Person) {
    let said = person.runs(&format!("run plain --restart=Never --image={IMAGE} -- true"), "").ok();
    assert_eq!(said, "pod/plain created\n");
    let spec = &person.cluster.json("pod plain")["spec"];
    assert_eq!(spec["containers"].as_array().map(Vec::len), Some(1));
    assert_eq!(spec["containers"][0]["image"], IMAGE);
    assert_eq!(spec["restartPolicy"], "Never");
}

/// A controller's pod, it itself, its Service, the node and the namespace, as people look for what is wrong: pages
/// have lines that begin so, whatever is between their words.
fn describes(person: &Person) {
    let (manifest, pages) = DESCRIBED.split_once("\n$ ").unwrap();
    person.cluster.apply(manifest);
    let pod = person.cluster.pods_ready("app=store", 1).remove(0);
    let text = |pointer: &str| pod.pointer(pointer).unwrap().as_str().unwrap();
    person.cluster.wait("rc primary", |rc| (rc["status"]["readyReplicas"] == 1).then_some(()));
    let pages = pages
        .replace("POD", text("/metadata/name"))
        .replace("NODE", text("/spec/nodeName"))
        .replace("ADDRESS", text("/status/podIP"));
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    for page in pages.split("\n$ ") {
        let (line, wanted) = page.split_once('\n').unwrap();
        let shown = person.runs(line, "").ok();
        let lines: Vec<String> = shown.lines().map(words).collect();
        for wanted in wanted.lines() {
            assert!(lines.iter().any(|own| own.starts_with(wanted)), "{wanted:?} is not in\n{shown}");
        }
    }
}
