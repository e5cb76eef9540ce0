//! The clock: deadlines and spinning read it often.

use super::Finding;
#[cfg(target_os = "linux")]
use super::system::System;
use crate::measure::clock_cost;

/// A clock that costs more asks the kernel, or slow hardware.
const SLOW_NS: f64 = 200.0;

pub fn examine(#[cfg(target_os = "linux")] system: &System) -> Finding {
    #[cfg(target_os = "linux")]
    let source = system.text("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    #[cfg(not(target_os = "linux"))]
    let source: Option<String> = None;
    judge(source.as_deref(), clock_cost())
}

fn judge(source: Option<&str>, cost: f64) -> Finding {
    const CHECK: &str = "clock";
    let source = source.unwrap_or("the system's");
    let found = format!("{source}: {cost:.0} ns for a reading");
    // What it costs decides; sources of these names are known to be slow even if they were not now.
    if cost > SLOW_NS || matches!(source, "hpet" | "acpi_pm" | "jiffies") {
        return Finding::warn(
            CHECK,
            format!("{found}, which every deadline and every spin pays"),
            "boot with clocksource=tsc if the processor's TSC is sound; on a virtual machine, ask \
             for the hypervisor's clock (kvm-clock, hyperv_clocksource_tsc_page)",
        );
    }
    Finding::ok(CHECK, found)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_slow_clock_is_told() {
        assert_eq!(judge(Some("tsc"), 20.0).level, Level::Ok);
        assert_eq!(judge(Some("xen"), 900.0).level, Level::Warn);
        assert_eq!(judge(Some("hpet"), 20.0).level, Level::Warn);
        assert_eq!(judge(None, 20.0).level, Level::Ok);
    }
}
