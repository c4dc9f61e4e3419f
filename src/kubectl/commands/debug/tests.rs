use super::*;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    debug: Debug,
}

fn parsed(line: &str) -> Debug {
    Line::parse_from(line.split(' ')).debug
}

fn refused(line: &str) -> String {
    let args = parsed(line);
    plan(&args).and_then(|plan| check(&args, &plan)).unwrap_err().to_string()
}

fn pod() -> Value {
    json!({"metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}, "uid": "u"}, "status": {"phase": "Running"},
        "spec": {"nodeName": "m", "initContainers": [{"name": "i"}], "ephemeralContainers": [{"name": "e"}],
            "containers": [{"name": "c", "image": "x", "args": ["y"], "livenessProbe": {}, "env": [{"name": "K", "value": "1"}]},
                {"name": "d", "image": "x"}]}})
}

#[test]
fn what_does_not_go_together_is_refused() {
    for (line, said) in [
        ("debug p", "you must specify --image when not using --copy-to."),
        ("debug p --image=a --replace", "--replace may only be used with --copy-to."),
        ("debug p --copy-to=q", "you must specify --image, --set-image or command arguments."),
        ("debug --image=a", "NAME or filename is required for debug"),
        ("debug p --image=A:b:c", "invalid image name \"A:b:c\": invalid reference format"),
        ("debug p --image=a -t", "-i/--stdin is required for containers with -t/--tty=true"),
        ("debug p --image=a --profile=all", "unknown profile: all"),
        ("debug p --image=a --env=K", "K must be formatted as key=value"),
    ] {
        assert_eq!(refused(line), format!("error: {said}"), "{line}");
    }
}

#[test]
fn a_copy_is_another_pod() {
    let args = parsed("debug p --copy-to=q --image=dbg -c dbg --env=A=1,B=2 -q -- sh -c true");
    let (copy, name) = plan(&args).unwrap().copy(&pod()).unwrap();
    assert_eq!(name, "dbg");
    assert_eq!(copy["metadata"], json!({"name": "q", "namespace": "n"}));
    let spec = &copy["spec"];
    assert!(spec["nodeName"].is_null() && spec["ephemeralContainers"].is_null());
    assert!(spec["containers"][0]["livenessProbe"].is_null());
    assert_eq!(spec["shareProcessNamespace"], true);
    assert_eq!(
        spec["containers"][2],
        json!({"name": "dbg", "image": "dbg", "terminationMessagePolicy": "File", "command": ["sh", "-c", "true"],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "stdin": false, "tty": false,
            "securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}})
    );
}

#[test]
fn images_and_commands_of_a_copy_are_changed() {
    let args = parsed("debug p --copy-to=q --set-image=*=all,d=own --same-node --keep-labels");
    let (copy, name) = plan(&args).unwrap().copy(&pod()).unwrap();
    assert_eq!((name.as_str(), &copy["spec"]["nodeName"]), ("", &json!("m")));
    assert_eq!(copy["spec"]["containers"][0]["image"], "all");
    assert_eq!(copy["spec"]["containers"][1]["image"], "own");
    let args = parsed("debug p --copy-to=q -c c --share-processes=false --keep-labels -- sh");
    let (copy, _) = plan(&args).unwrap().copy(&pod()).unwrap();
    assert_eq!(copy["spec"]["containers"][0]["command"], json!(["sh"]));
    assert!(copy["spec"]["containers"][0]["args"].is_null());
    assert_eq!(copy["spec"]["shareProcessNamespace"], false);
    assert_eq!(copy["metadata"]["labels"], json!({"a": "b"}));
}

#[test]
fn profiles_give_and_take_rights() {
    let keep = parsed("debug p").keep;
    let applied = |profile: &str, style: Style| {
        let mut pod = json!({"spec": {"containers": [{"name": "c", "securityContext": {"runAsUser": 1}}]}});
        Profile::parse(profile).unwrap().apply(&mut pod, "c", style, keep);
        pod["spec"].clone()
    };
    let node = applied("general", Style::Node);
    assert_eq!(node["hostPID"], true);
    assert_eq!(
        node["containers"][0],
        json!({"name": "c", "volumeMounts": [{"name": "host-root", "mountPath": "/host"}]})
    );
    assert_eq!(applied("baseline", Style::Node), json!({"containers": [{"name": "c"}]}));
    assert_eq!(
        applied("netadmin", Style::Ephemeral)["containers"][0]["securityContext"],
        json!({"runAsUser": 1, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}})
    );
    assert_eq!(applied("sysadmin", Style::Copy)["containers"][0]["securityContext"]["privileged"], true);
    let restricted = &applied("restricted", Style::Ephemeral)["containers"][0]["securityContext"];
    assert_eq!(restricted["capabilities"], json!({"drop": ["ALL"]}));
    assert!(restricted["runAsUser"].is_null());
}

#[test]
fn own_fields_are_merged_by_their_names() {
    let args = parsed("debug p --copy-to=q -c c --image=dbg");
    let mut plan = plan(&args).unwrap();
    plan.custom = Some(json!({"env": [{"name": "L", "value": "2"}], "securityContext": {"runAsUser": 0}}));
    let (copy, _) = plan.copy(&pod()).unwrap();
    let container = &copy["spec"]["containers"][0];
    let mut names: Vec<_> =
        container["env"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    names.sort_by_key(Value::to_string);
    assert_eq!(names, [json!("K"), json!("L")]);
    assert_eq!(container["securityContext"]["runAsUser"], 0);
    assert_eq!(container["securityContext"]["capabilities"]["add"], json!(["SYS_PTRACE"]));
    assert_eq!(copy["spec"]["containers"].as_array().unwrap().len(), 2);
}

#[test]
fn what_is_piped_ends_once() {
    let args = parsed("debug p --image=x -i");
    for (piped, once) in [(true, json!(true)), (false, Value::Null)] {
        let container = Plan { piped, ..plan(&args).unwrap() }.container("c");
        assert_eq!(container["stdinOnce"], once);
    }
    assert!(!plan(&parsed("debug p --image=x -it")).unwrap().piped);
}
