//! As the registry and the processor say, through a crate.

use std::path::Path;

use sysinfo::{CpuRefreshKind, RefreshKind, System};

use super::Told;

pub(super) fn look() -> Told {
    let kind = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing());
    let system = System::new_with_specifics(kind);
    let brand = system
        .cpus()
        .first()
        .map(|cpu| cpu.brand().trim().to_owned());
    let version = System::long_os_version().unwrap_or_else(|| "Windows".into());
    let build = System::kernel_version();
    let build = build.map_or_else(String::new, |build| format!(" build {build}"));
    let wine = if is_wine() { WINE } else { "" };
    Told {
        cpu: brand
            .filter(|brand| !brand.is_empty())
            .or_else(|| std::env::var("PROCESSOR_IDENTIFIER").ok()),
        virtual_machine: None,
        kernel: format!("{version}{build}{wine}"),
        governor: None,
        load: None,
    }
}

/// What is said of it: it passes calls for waiting and waking through a process of its own, and tells
/// the asking process's CPU time as that of any other.
const WINE: &str =
    " (wine: its times are not those of Windows, CPU times of other processes are wrong)";

/// Whether this is no Windows: it has a program that Windows has not.
fn is_wine() -> bool {
    let windows = std::env::var_os("SystemRoot").unwrap_or_else(|| r"C:\Windows".into());
    Path::new(&windows).join(r"system32\winecfg.exe").exists()
}
