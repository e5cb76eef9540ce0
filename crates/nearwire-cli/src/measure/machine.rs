//! What was measured on.

use std::fmt;

use serde::Serialize;

use crate::process::allowed_cpus;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(target_os = "macos", test))]
mod macos;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
use linux as os;
#[cfg(target_os = "macos")]
use macos as os;
#[cfg(windows)]
use windows as os;

/// The machine, as far as it bears on the figures, and as far as the system tells.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// CPUs that this process may run on. (Those of the machine, where nobody can choose.)
    pub cpus: usize,
    /// Whether a hypervisor stands between, so that CPUs may move.
    pub virtual_machine: Option<bool>,
    /// Kernel name and release.
    pub kernel: String,
    /// Architecture.
    pub architecture: String,
    /// The frequency governor of the first CPU, if there is one.
    pub governor: Option<String>,
    /// The load average over the last minute at the start: above 0, others were at work.
    pub load: Option<f64>,
}

/// What each system tells in its own way.
#[derive(Debug, Default, PartialEq)]
struct Told {
    cpu: Option<String>,
    virtual_machine: Option<bool>,
    kernel: String,
    governor: Option<String>,
    load: Option<f64>,
}

impl Machine {
    /// Looks at this machine.
    pub fn here() -> Self {
        let told = os::look();
        Self {
            cpu: told.cpu.unwrap_or_else(|| "unknown processor".into()),
            cpus: allowed_cpus().len(),
            virtual_machine: told.virtual_machine,
            kernel: told.kernel,
            architecture: std::env::consts::ARCH.into(),
            governor: told.governor,
            load: told.load,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.cpus == 1 { "" } else { "s" };
        write!(formatter, "{}, {} CPU{plural}", self.cpu, self.cpus)?;
        if self.virtual_machine == Some(true) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_name() {
        let machine = Machine::here();
        assert!(machine.cpus > 0);
        let line = machine.to_string();
        assert!(line.starts_with(&machine.cpu), "{line}");
        assert!(line.contains(std::env::consts::ARCH), "{line}");
        let known = match std::env::consts::OS {
            "linux" => "Linux ",
            "macos" => "Darwin ",
            _ => "Windows ",
        };
        assert!(machine.kernel.contains(known), "{line}");
        // Arm's kernels name no processors.
        if cfg!(target_arch = "x86_64") {
            assert_ne!(machine.cpu, "unknown processor");
        }
    }
}
