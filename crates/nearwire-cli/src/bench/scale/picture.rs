//! What is drawn about a server at scale: calls per second, by the number of connections.

use super::report::{Point, Report, shape_name};
use crate::arguments::human_size;
use crate::measure::Unit;
use crate::plot::{Bar, Content, Panel, Picture};

impl Report {
    /// The report as a picture: bars of what fits into a second.
    pub(super) fn picture(&self) -> Picture {
        let mut panels: Vec<Panel> = Vec::new();
        for point in &self.points {
            let title = title(point);
            let place = panels.iter().position(|panel| panel.title == title);
            let place = place.unwrap_or_else(|| {
                let content = Content::Bars(Unit::PerSecond, Vec::new());
                panels.push(Panel { title, content });
                panels.len() - 1
            });
            if let Content::Bars(_, shown) = &mut panels[place].content {
                shown.extend(bars(point));
            }
        }
        let (title, notes) = self.heading();
        Picture {
            title,
            notes,
            panels,
        }
    }
}

/// What the points of a panel have in common.
fn title(point: &Point) -> String {
    format!(
        "{}, {}, {} in flight on each",
        shape_name(point.shape),
        human_size(point.bytes),
        point.window
    )
}

fn bars(point: &Point) -> impl Iterator<Item = Bar> {
    let connections = point.connections;
    point.placed.iter().flat_map(move |placed| {
        let cores = placed.cores;
        placed.found.sides().map(move |(over, figures)| {
            let calls = figures.calls_per_second;
            Bar {
                name: format!("{connections} connections, {over}, cores {cores}"),
                kind: over.to_owned(),
                median: calls.median,
                min: calls.min,
                max: calls.max,
            }
        })
    })
}
