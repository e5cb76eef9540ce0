//! Percentiles of times: from the fastest on the left to the slowest on the right, where each step
//! of the axis is a tenth of what was left.

use anyhow::{Result, anyhow, ensure};
use plotters::prelude::*;

use super::{Area, theme};
use crate::measure::{Unit, human};

/// How long operations of one kind took.
#[derive(Debug, Clone)]
pub struct Curve {
    /// The kind.
    pub name: String,
    /// Shares of the operations (0 to below 1) and the nanoseconds within which they were done,
    /// ascending.
    pub points: Vec<(f64, f64)>,
}

/// Pixels of a legend's line.
const LEGEND_LINE: i32 = 18;

/// Pixels above the drawing, without the legend.
const TOP: i32 = 40;

/// The height of a panel in pixels.
pub fn height(curves: usize) -> u32 {
    (TOP + LEGEND_LINE * curves as i32) as u32 + 300
}

/// Where a share is on the axis: 0, 90 %, 99 %, … are one step apart.
fn step(share: f64) -> f64 {
    -(1.0 - share).log10()
}

/// The share of a step, for people.
fn share_of(step: f64) -> String {
    let whole = step.round();
    if (step - whole).abs() > 0.01 {
        return String::new();
    }
    match whole as u32 {
        0 => "0 %".into(),
        1 => "90 %".into(),
        2 => "99 %".into(),
        nines => format!("99.{} %", "9".repeat(nines as usize - 2)),
    }
}

pub fn draw(area: &Area<'_>, curves: &[Curve], colour: impl Fn(&str) -> RGBColor) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| anyhow!("{error}");
    let points = || curves.iter().flat_map(|curve| &curve.points);
    ensure!(points().next().is_some(), "no percentiles were taken");
    let times = || points().map(|(_, time)| time.max(1.0));
    let (least, most) = (
        times().fold(f64::INFINITY, f64::min),
        times().fold(1.0, f64::max),
    );
    // With a little room, so that a mark at the end is not lost to rounding.
    let last = points().map(|(share, _)| step(*share)).fold(1.0, f64::max) + 0.02;
    for (number, curve) in curves.iter().enumerate() {
        let y = TOP + number as i32 * LEGEND_LINE;
        let colour = colour(&curve.name);
        let line = vec![(16, y + 7), (40, y + 7)];
        area.draw(&PathElement::new(line, colour.stroke_width(3)))
            .and_then(|()| {
                area.draw(&Text::new(
                    curve.name.clone(),
                    (48, y),
                    (theme::FONT, 13).into_font().color(&theme::INK),
                ))
            })
            .map_err(|e| failed(&e))?;
    }
    let label = |size: u32| (theme::FONT, size).into_font().color(&theme::FAINT);
    let mut chart = ChartBuilder::on(area)
        .margin_top(TOP + curves.len() as i32 * LEGEND_LINE + 4)
        .margin_left(12)
        .margin_right(24)
        .margin_bottom(8)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..last, (least * 0.8..most * 1.25).log_scale())
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .bold_line_style(theme::GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(theme::FAINT)
        .label_style(label(12))
        .axis_desc_style(label(13))
        .x_desc("share of the operations that were done within this time")
        .y_desc("time of one (log scale)")
        .x_labels(last.floor() as usize + 1)
        .x_label_formatter(&|step| share_of(*step))
        .y_labels(8)
        .y_label_formatter(&|time| human(*time, Unit::Nanoseconds))
        .draw()
        .map_err(|e| failed(&e))?;
    for curve in curves {
        let colour = colour(&curve.name);
        let points = || {
            curve
                .points
                .iter()
                .map(|(share, time)| (step(*share), time.max(1.0)))
        };
        chart
            .draw_series(LineSeries::new(points(), colour.stroke_width(2)))
            .map_err(|e| failed(&e))?;
        // Dots where readers look; the first so that a curve of one point is seen as well.
        let marks = curve
            .points
            .iter()
            .filter(|(share, _)| [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999].contains(share))
            .map(|(share, time)| Circle::new((step(*share), time.max(1.0)), 3, colour.filled()));
        chart.draw_series(marks).map_err(|e| failed(&e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_nines() {
        assert!((step(0.999) - 3.0).abs() < 1e-9);
        assert_eq!(share_of(0.0), "0 %");
        assert_eq!(share_of(3.0), "99.9 %");
        assert_eq!(share_of(4.0), "99.99 %");
        assert_eq!(share_of(1.5), "");
    }
}
