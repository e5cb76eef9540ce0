//! What was measured on.

use std::fmt;
#[cfg(unix)]
use std::fs;

use serde::Serialize;

#[cfg(unix)]
use crate::process::allowed_cpus;

/// The machine, as far as it bears on the figures.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// CPUs that this process may run on.
    pub cpus: usize,
    /// Whether a hypervisor stands between, so that CPUs may move.
    pub virtual_machine: bool,
    /// Kernel name and release.
    pub kernel: String,
    /// Architecture.
    pub architecture: String,
    /// The frequency governor of the first CPU, if there is one.
    pub governor: Option<String>,
    /// The load average over the last minute at the start: above 0, others were at work.
    pub load: Option<f64>,
}

impl Machine {
    /// Looks at this machine.
    #[cfg(windows)]
    pub fn here() -> Self {
        Self {
            cpu: std::env::var("PROCESSOR_IDENTIFIER")
                .unwrap_or_else(|_| "unknown processor".into()),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            virtual_machine: false,
            kernel: "Windows".into(),
            architecture: std::env::consts::ARCH.into(),
            governor: None,
            load: None,
        }
    }

    /// Looks at this machine.
    #[cfg(unix)]
    pub fn here() -> Self {
        let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            cpu_info
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().to_owned())
        };
        let uname = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let flags = field("flags").unwrap_or_default();
        Self {
            cpu: field("model name").unwrap_or_else(|| "unknown processor".into()),
            cpus: allowed_cpus().len(),
            virtual_machine: flags.split_whitespace().any(|flag| flag == "hypervisor"),
            kernel: format!("{} {}", text(uname.sysname()), text(uname.release())),
            architecture: text(uname.machine()),
            governor: read_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            load: read_line("/proc/loadavg")
                .and_then(|line| line.split_whitespace().next()?.parse().ok()),
        }
    }
}

#[cfg(unix)]
fn read_line(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.cpus == 1 { "" } else { "s" };
        write!(formatter, "{}, {} CPU{plural}", self.cpu, self.cpus)?;
        if self.virtual_machine {
            write!(formatter, " (virtual)")?;
        }
        write!(formatter, ", {} {}", self.kernel, self.architecture)?;
        if let Some(governor) = &self.governor {
            write!(formatter, ", governor {governor}")?;
        }
        if let Some(load) = self.load {
            write!(formatter, ", load {load:.2} at the start")?;
        }
        Ok(())
    }
}
