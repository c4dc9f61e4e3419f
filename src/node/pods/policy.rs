//! What becomes of a container that ended: its pod's policy or its own, and the rules that come before both.

use super::spec::{self, Kind};
use api::core::{Container, ContainerRestartRule, Pod};

/// What a failed or finished container's restart follows where no rule says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Restart {
    Always,
    OnFailure,
    Never,
}

/// What holds for one container.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy<'a> {
    restart: Restart,
    /// KEP-5307: `restartPolicyRules`, of which the first that fits decides.
    rules: &'a [ContainerRestartRule],
}

/// The policy of a container: its own, or the pod's. A plain init container that finished is never run again,
/// so Always means OnFailure for it.
pub(crate) fn of<'a>(pod: &Pod, kind: Kind, container: &'a Container) -> Policy<'a> {
    let own = container.restart_policy.as_deref();
    let policy = own.or(spec::spec(pod).restart_policy.as_deref()).unwrap_or("Always");
    let restart = match (policy, kind) {
        (_, Kind::Ephemeral) | ("Never", _) => Restart::Never,
        ("OnFailure", _) => Restart::OnFailure,
        (_, Kind::Init) if !spec::is_sidecar(container) => Restart::OnFailure,
        _ => Restart::Always,
    };
    Policy { restart, rules: container.restart_policy_rules.as_deref().unwrap_or_default() }
}

fn fits(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    let Some(codes) = &rule.exit_codes else { return false };
    let named = codes.values.iter().flatten().any(|code| *code == exit_code);
    if codes.operator == "NotIn" { !named } else { named }
}

impl<'a> Policy<'a> {
    fn action(self, exit_code: i32) -> Option<&'a str> {
        self.rules.iter().find(|rule| fits(rule, exit_code)).map(|rule| rule.action.as_str())
    }

    /// Whether a container that ended with this code is started again.
    pub(crate) fn after(self, exit_code: i32) -> bool {
        if matches!(self.action(exit_code), Some("Restart" | "RestartAllContainers")) {
            return true;
        }
        match self.restart {
            Restart::Always => true,
            Restart::OnFailure => exit_code != 0,
            Restart::Never => false,
        }
    }

    /// KEP-5532: whether its end with this code makes all containers of the pod start over.
    pub(crate) fn restarts_all(self, exit_code: i32) -> bool {
        self.action(exit_code) == Some("RestartAllContainers")
    }

    /// Whether a container that is stopped for its probes stays so. Rules are about codes of those that ended.
    pub(crate) fn is_never(self) -> bool {
        self.restart == Restart::Never
    }
}

/// Whether some container's end may make all of them start over.
pub(crate) fn may_restart_all(pod: &Pod) -> bool {
    let all = spec::init_containers(pod).iter().chain(&spec::spec(pod).containers);
    let mut rules = all.flat_map(|container| container.restart_policy_rules.iter().flatten());
    rules.any(|rule| rule.action == "RestartAllContainers")
}
