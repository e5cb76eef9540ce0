//! What was found, as pictures.

use std::path::Path;

use anyhow::Result;
use nearwire_cli::comparison::{Bar, Content, Panel, Picture, Unit};

use crate::measure::What;
use crate::peers::{REFERENCE, YARDSTICK};
use crate::report::{Race, Report};

/// Draws all pictures that there is something for.
///
/// # Errors
/// If one cannot be written.
pub fn draw(report: &Report, directory: &Path) -> Result<()> {
    let times = |race: &&Race| matches!(race.what, What::RoundTrips { .. });
    let rates = |race: &&Race| matches!(race.what, What::Pipelined { .. } | What::Crowd { .. });
    let pictures: [(&str, &str, Vec<&Race>); 2] = [
        (
            "comparison-latency.svg",
            "Round trips: how many one connection makes per second, one after the other",
            report.races.iter().filter(times).collect(),
        ),
        (
            "comparison-throughput.svg",
            "Calls per second: many in flight, many clients",
            report.races.iter().filter(rates).collect(),
        ),
    ];
    for (file, title, races) in pictures {
        let panels: Vec<Panel> = races.into_iter().filter_map(panel).collect();
        if panels.is_empty() {
            continue;
        }
        let picture = Picture {
            title: title.to_owned(),
            notes: vec![
                report.machine.to_string(),
                "One colour for Nearwire's ways, one for others whose two sides spin, one for others \
                 that sleep, one for the floor. Longer is better."
                    .to_owned(),
            ],
            panels,
        };
        picture.write(&directory.join(file))?;
    }
    Ok(())
}

/// All that took part, the best first; times as what fits into a second, for a time of 200 ns beside
/// one of 200 µs is not to be seen.
fn panel(race: &Race) -> Option<Panel> {
    let mut bars: Vec<Bar> = race
        .entrants
        .iter()
        .filter_map(|entrant| {
            let figures = entrant.figures.as_ref()?;
            let per_second = |value: f64| match race.unit {
                Unit::Nanoseconds => 1e9 / value,
                _ => value,
            };
            let (one, other) = (per_second(figures.min), per_second(figures.max));
            let kind = if entrant.peer == YARDSTICK {
                "floor"
            } else if entrant.peer.starts_with(REFERENCE) {
                "Nearwire"
            } else if figures.cores.is_some() {
                "spins"
            } else {
                "sleeps"
            };
            Some(Bar {
                name: entrant.title.to_owned(),
                kind: kind.to_owned(),
                median: per_second(figures.median),
                min: one.min(other),
                max: one.max(other),
            })
        })
        .collect();
    bars.sort_by(|one, other| other.median.total_cmp(&one.median));
    (!bars.is_empty()).then(|| Panel {
        title: race.title.clone(),
        content: Content::Bars(Unit::PerSecond, bars),
    })
}
