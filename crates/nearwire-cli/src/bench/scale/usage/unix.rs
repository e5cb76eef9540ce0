//! What Linux and macOS tell alike.

use rustix::process::{Resource, getrlimit};

pub(super) fn most_descriptors() -> Option<usize> {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map(|limit| limit as usize)
}
