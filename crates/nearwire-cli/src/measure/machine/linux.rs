//! As `/proc` and `/sys` say.

use std::ffi::CStr;
use std::fs;

use super::Told;

pub(super) fn look() -> Told {
    let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        cpu_info
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim().to_owned())
    };
    let uname = rustix::system::uname();
    let text = |part: &CStr| part.to_string_lossy().into_owned();
    let load = read_line("/proc/loadavg");
    Told {
        cpu: field("model name"),
        // Arm's kernels do not say.
        virtual_machine: field("flags")
            .map(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor")),
        kernel: format!("{} {}", text(uname.sysname()), text(uname.release())),
        governor: read_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        load: load.and_then(|line| line.split_whitespace().next()?.parse().ok()),
    }
}

fn read_line(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}
