//! What the system lets a process have (`ulimit`).

use rustix::process::{Resource, getrlimit};

use super::{Finding, Plan};

/// Descriptors of a connection, on either side: the socket, this side's doorbell and the peer's.
const PER_CONNECTION: u64 = 3;
/// Descriptors of a server without connections, with some to spare for the program itself.
const BASE: u64 = 32;

pub fn examine(plan: Plan) -> Vec<Finding> {
    let descriptors = getrlimit(Resource::Nofile);
    vec![
        self::descriptors(descriptors.current, descriptors.maximum, plan),
        locked_memory(getrlimit(Resource::Memlock).current),
    ]
}

/// `None` stands for no limit.
fn descriptors(soft: Option<u64>, hard: Option<u64>, plan: Plan) -> Finding {
    const CHECK: &str = "descriptors";
    let need = plan.connections * PER_CONNECTION + BASE;
    let fitting = |limit: Option<u64>| match limit {
        None => "any number of connections".to_owned(),
        Some(limit) => format!(
            "{} connections",
            limit.saturating_sub(BASE) / PER_CONNECTION
        ),
    };
    let limit = |limit: Option<u64>| limit.map_or_else(|| "unlimited".into(), |l| l.to_string());
    let found = format!(
        "the limit is {}, enough for {} of a server; it may be raised to {}",
        limit(soft),
        fitting(soft),
        limit(hard),
    );
    if hard.is_some_and(|hard| hard < need) {
        return Finding::fail(
            CHECK,
            format!("{found}: too few for {}", plan.connections),
            format!(
                "{need} or more: ulimit -Hn, LimitNOFILE= of a systemd unit, --ulimit nofile= of a container"
            ),
        );
    }
    if soft.is_some_and(|soft| soft < need) {
        return Finding::warn(
            CHECK,
            format!("{found}: too few for {}", plan.connections),
            format!(
                "`nearwire serve` raises it by itself; for a server of your own: ulimit -n {need}"
            ),
        );
    }
    Finding::ok(CHECK, found)
}

fn locked_memory(limit: Option<u64>) -> Finding {
    let limit = match limit {
        None => "unlimited".to_owned(),
        Some(limit) => bytesize::ByteSize(limit).display().iec().to_string(),
    };
    Finding::ok(
        "locked memory",
        format!("the limit is {limit}; Nearwire locks none, reserved huge pages need none"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn the_plan_must_fit_into_the_limit() {
        let level = |soft, hard| {
            let plan = Plan {
                connections: 100,
                workers: None,
            };
            descriptors(soft, hard, plan).level
        };
        let need = 100 * PER_CONNECTION + BASE;
        assert_eq!(level(None, None), Level::Ok);
        assert_eq!(level(Some(need), Some(need)), Level::Ok);
        assert_eq!(level(Some(need - 1), Some(need)), Level::Warn);
        assert_eq!(level(Some(need - 1), None), Level::Warn);
        assert_eq!(level(Some(need - 1), Some(need - 1)), Level::Fail);
    }
}
