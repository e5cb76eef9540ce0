//! The versions of what was compared, as Cargo.lock has them.

/// The versions that this executable was built from.
const LOCK: &str = include_str!("../Cargo.lock");

/// A package's versions, if it is there at all.
pub fn of(package: &str) -> Option<String> {
    let mut lines = LOCK.lines();
    let mut versions = Vec::new();
    while let Some(line) = lines.next() {
        if line == format!("name = \"{package}\"") {
            let version = lines.next()?.strip_prefix("version = \"")?;
            versions.push(version.trim_end_matches('"'));
        }
    }
    (!versions.is_empty()).then(|| versions.join(" and "))
}

/// Packages with their versions, in one line.
pub fn line(packages: &[&str]) -> String {
    let named = |package: &&str| format!("{package} {}", of(package).unwrap_or_default());
    packages.iter().map(named).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use crate::peers;

    #[test]
    fn every_package_of_a_peer_has_a_version() {
        for entry in peers::all() {
            for package in entry.about.packages {
                assert!(super::of(package).is_some(), "{package}");
            }
        }
        assert_eq!(super::of("no-such-package"), None);
    }
}
