//! What the comparison with other systems, a workspace of its own in `comparison/`, measures and
//! draws with. Not for others: it changes with what is compared.

pub use crate::baseline::blocking::{FrameReader, write_frame};
pub use crate::baseline::{HEADER, header, payload_length};
pub use crate::bench::scale::usage::{cpu_time, resident};
pub use crate::measure::{
    Bracket, Budget, CoreShare, Distance, Latency, Machine, Measured, Meter, Probe, Ratio,
    RatioFigures, Run, Series, Throughput, UNDISTURBED, Unit, human, instant_of, latency,
    latency_async, median, monotonic, plain_table, right_align, throughput,
};
pub use crate::plot::{Bar, Content, Panel, Picture};
pub use crate::process::{
    Channel, Child, Parent, Role, end_with_children, raise_descriptor_limit, run_on, two_cpus,
};

/// As [`play_role`](crate::play_role), with roles of one's own besides.
pub fn play_role(roles: impl FnOnce(&str) -> Option<Role>) -> Option<std::process::ExitCode> {
    crate::roles::play(roles)
}
