//! Processors: how many there are for how many threads that may spin.

use super::{Finding, Plan};

#[cfg(target_os = "linux")]
pub fn examine(system: &super::system::System, plan: Plan) -> Vec<Finding> {
    use super::cgroup;

    let allowed = crate::process::allowed_cpus().len();
    let online = system.text("/sys/devices/system/cpu/online");
    vec![
        processors(allowed, online.as_deref()),
        quota(
            cgroup::processor_quota(system),
            cgroup::times_throttled(system),
        ),
        workers(allowed, plan),
    ]
}

#[cfg(not(target_os = "linux"))]
pub fn examine(plan: Plan) -> Vec<Finding> {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    vec![processors(allowed, None), workers(allowed, plan)]
}

fn processors(allowed: usize, online: Option<&str>) -> Finding {
    const CHECK: &str = "CPUs";
    let of = online.map_or_else(String::new, |online| format!("; online: {online}"));
    match allowed {
        0 => Finding::warn(
            CHECK,
            format!("the system does not say which may be used{of}"),
            "a server takes one worker unless it is told otherwise (workers)",
        ),
        1 => Finding::warn(
            CHECK,
            format!("this process may use 1{of}: no call goes without a change of process"),
            "give client and server two CPUs or more (taskset, cpuset, the container's CPU set); \
             if there is but one, do not spin (spin: NEVER)",
        ),
        many => Finding::ok(CHECK, format!("this process may use {many}{of}")),
    }
}

#[cfg(target_os = "linux")]
fn quota(quota: Option<f64>, throttled: Option<u64>) -> Finding {
    const CHECK: &str = "CPU quota";
    let held_up = match throttled {
        Some(times) if times > 0 => format!("; this group was held up {times} times"),
        _ => String::new(),
    };
    match quota {
        None => Finding::ok(CHECK, "none"),
        Some(quota) if quota < 2.0 => Finding::warn(
            CHECK,
            format!("{quota:.2} CPUs{held_up}: what spins uses it up, and then all stand still"),
            "raise the group's cpu.max to two CPUs or more, or spin less (spin: 0 to 20 us)",
        ),
        Some(quota) if !held_up.is_empty() => Finding::warn(
            CHECK,
            format!(
                "{quota:.2} CPUs{held_up}: a call that is under way then waits for milliseconds"
            ),
            "raise the group's cpu.max, or let fewer threads spin (workers, spin)",
        ),
        Some(quota) => Finding::ok(CHECK, format!("{quota:.2} CPUs")),
    }
}

fn workers(allowed: usize, plan: Plan) -> Finding {
    const CHECK: &str = "workers";
    let usual = allowed.div_ceil(4).max(1);
    let workers = plan.workers.unwrap_or(usual);
    let whose = if plan.workers.is_some() {
        "as planned"
    } else {
        "as usual, one for every four CPUs"
    };
    let found = format!("{workers} for {allowed} CPUs, {whose}");
    if allowed > 0 && workers > allowed {
        return Finding::warn(
            CHECK,
            format!("{found}: they take turns, and a spinning one keeps another waiting"),
            format!("at most {allowed}; best leave CPUs to the clients: {usual}"),
        );
    }
    if allowed > 1 && workers == allowed {
        return Finding::warn(
            CHECK,
            format!("{found}: none is left for clients"),
            format!("fewer: {usual} is the usual number"),
        );
    }
    Finding::ok(CHECK, found)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn one_cpu_is_too_few() {
        assert_eq!(processors(1, Some("0-7")).level, Level::Warn);
        assert_eq!(processors(2, None).level, Level::Ok);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_small_quota_is_told() {
        assert_eq!(quota(None, Some(3)).level, Level::Ok);
        assert_eq!(quota(Some(0.5), None).level, Level::Warn);
        assert_eq!(quota(Some(4.0), Some(0)).level, Level::Ok);
        assert_eq!(quota(Some(4.0), Some(7)).level, Level::Warn);
    }

    #[test]
    fn workers_leave_cpus_to_clients() {
        let level = |allowed, workers| {
            let plan = Plan {
                connections: 1,
                workers,
            };
            super::workers(allowed, plan).level
        };
        assert_eq!(level(8, None), Level::Ok);
        assert_eq!(level(1, None), Level::Ok);
        assert_eq!(level(8, Some(8)), Level::Warn);
        assert_eq!(level(8, Some(9)), Level::Warn);
        assert_eq!(level(8, Some(4)), Level::Ok);
    }
}
