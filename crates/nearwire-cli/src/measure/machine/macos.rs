//! As `sysctl` says.
#![cfg_attr(
    not(target_os = "macos"),
    expect(dead_code, reason = "its tests run elsewhere, too")
)]

use std::process::Command;

use super::Told;

/// What is asked for. Of what a system does not have there is no line.
const NAMES: [&str; 5] = [
    "machdep.cpu.brand_string",
    "kern.hv_vmm_present",
    "kern.ostype",
    "kern.osrelease",
    "vm.loadavg",
];

pub(super) fn look() -> Told {
    let output = Command::new("sysctl").args(NAMES).output();
    let said = output.map(|output| output.stdout).unwrap_or_default();
    parse(&String::from_utf8_lossy(&said))
}

fn parse(said: &str) -> Told {
    let value = |name: &str| {
        let mut lines = said.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim().to_owned())
    };
    let [cpu, virtual_machine, system, release, load] = NAMES.map(value);
    Told {
        cpu,
        virtual_machine: virtual_machine.map(|present| present != "0"),
        kernel: [system.unwrap_or_else(|| "Darwin".into())]
            .into_iter()
            .chain(release)
            .collect::<Vec<_>>()
            .join(" "),
        governor: None,
        // { 1.52 1.40 1.31 }
        load: load.and_then(|load| load.split_whitespace().nth(1)?.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sysctl_says_is_understood() {
        let said = "machdep.cpu.brand_string: Apple M1\nkern.hv_vmm_present: 1\n\
                    kern.ostype: Darwin\nkern.osrelease: 23.2.0\nvm.loadavg: { 1.52 1.40 1.31 }\n";
        let told = Told {
            cpu: Some("Apple M1".into()),
            virtual_machine: Some(true),
            kernel: "Darwin 23.2.0".into(),
            governor: None,
            load: Some(1.52),
        };
        assert_eq!(parse(said), told);
        let nothing = Told {
            kernel: "Darwin".into(),
            ..Told::default()
        };
        assert_eq!(parse(""), nothing);
        assert_eq!(parse("kern.hv_vmm_present: 0").virtual_machine, Some(false));
    }
}
