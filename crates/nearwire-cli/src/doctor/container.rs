//! Containers and sandboxes: what keeps two processes of one machine from meeting.

use super::Finding;
use super::system::System;

pub fn examine(system: &System) -> Vec<Finding> {
    vec![container(system), user_namespace(system), seccomp(system)]
}

fn container(system: &System) -> Finding {
    const CHECK: &str = "container";
    let kind = if system.has("/.dockerenv") {
        Some("Docker".to_owned())
    } else if system.has("/run/.containerenv") {
        Some("Podman".to_owned())
    } else if system.has("/run/secrets/kubernetes.io") {
        Some("Kubernetes".to_owned())
    } else {
        // systemd and LXC tell their first process; only root may read it.
        system.text("/proc/1/environ").and_then(|environment| {
            let mut variables = environment.split('\0');
            let kind = variables.find_map(|variable| variable.strip_prefix("container="))?;
            Some(kind.to_owned())
        })
    };
    match kind {
        None => Finding::ok(CHECK, "no sign of one"),
        Some(kind) => Finding::ok(
            CHECK,
            format!(
                "{kind}: to meet a process outside, or in another container, share the directory \
                 of the socket (a volume, NEARWIRE_DIR) and run as the same user id; memory needs \
                 no sharing (no --ipc, no --shm-size): its descriptors travel over the socket"
            ),
        ),
    }
}

fn user_namespace(system: &System) -> Finding {
    const CHECK: &str = "user namespace";
    let Some(map) = system.text("/proc/self/uid_map") else {
        return Finding::ok(CHECK, "this kernel has none");
    };
    let words: Vec<&str> = map.split_whitespace().collect();
    if words == ["0", "0", "4294967295"] {
        return Finding::ok(CHECK, "the first: user ids are the machine's");
    }
    if words.is_empty() {
        return Finding::warn(
            CHECK,
            "one that maps no user: every user looks like the same nobody",
            "map at least the user who runs server and clients (unshare --map-root-user, the \
             container's userns)",
        );
    }
    Finding::ok(
        CHECK,
        "an own one: a user who is not mapped here looks like nobody, and is turned away",
    )
}

fn seccomp(system: &System) -> Finding {
    const CHECK: &str = "seccomp";
    match system.value("/proc/self/status", "Seccomp") {
        Some(0) | None => Finding::ok(CHECK, "no filter"),
        Some(_) => Finding::ok(
            CHECK,
            "a filter; the checks above were made behind it, what they found holds",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::doctor::system::Files;

    #[test]
    fn containers_are_known_by_what_they_leave_about() {
        let found = |path, text| container(&Files::new([(path, text)])).found;
        assert!(found("/.dockerenv", "").starts_with("Docker"));
        assert!(found("/run/.containerenv", "").starts_with("Podman"));
        assert!(found("/proc/1/environ", "A=b\0container=lxc\0").starts_with("lxc"));
        assert!(found("/proc/1/environ", "A=b\0").starts_with("no sign"));
    }

    #[test]
    fn a_namespace_without_users_is_told() {
        let judge = |map| user_namespace(&Files::new([("/proc/self/uid_map", map)])).level;
        assert_eq!(judge("         0          0 4294967295\n"), Level::Ok);
        assert_eq!(judge("         0       1000          1\n"), Level::Ok);
        assert_eq!(judge(""), Level::Warn);
    }
}
