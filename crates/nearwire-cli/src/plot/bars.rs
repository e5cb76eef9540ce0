//! Bars: how much fits into a second, from zero, with the least and the most of all runs.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Area, theme};
use crate::measure::{Unit, human};

/// How much of one kind fitted into a second.
#[derive(Debug, Clone)]
pub struct Bar {
    /// What stands above it.
    pub name: String,
    /// What its colour stands for.
    pub kind: String,
    /// The middle one of its runs.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

/// Pixels of a bar and its name.
const ROW: i32 = 42;
/// Pixels above the first.
const TOP: i32 = 44;
/// Pixels below the last, for the axis.
const BOTTOM: i32 = 56;
/// Pixels on either side.
const LEFT: i32 = 20;
const RIGHT: i32 = 90;

/// The height of a panel in pixels.
pub fn height(bars: usize) -> u32 {
    (TOP + ROW * bars as i32 + BOTTOM) as u32
}

/// A step of the axis that gives at most five of them: 1, 2 or 5 and zeros.
fn axis_step(most: f64) -> f64 {
    let rough = most / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|step| step * power >= rough * 0.999)
        .unwrap_or(10.0);
    step * power
}

pub fn draw(
    area: &Area<'_>,
    unit: Unit,
    bars: &[Bar],
    colour: impl Fn(&str) -> RGBColor,
) -> Result<()> {
    shapes(area, unit, bars, colour).map_err(|error| anyhow!("{error}"))
}

fn shapes(
    area: &Area<'_>,
    unit: Unit,
    bars: &[Bar],
    colour: impl Fn(&str) -> RGBColor,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let most = bars
        .iter()
        .map(|bar| bar.max)
        .fold(f64::MIN_POSITIVE, f64::max);
    let width = area.dim_in_pixel().0 as i32 - LEFT - RIGHT;
    let x = |value: f64| LEFT + (value / most * f64::from(width)).round() as i32;
    let bottom = TOP + ROW * bars.len() as i32;
    let font = |size: u32, colour: &RGBColor, horizontal| {
        let style = (theme::FONT, size).into_font().color(colour);
        style.pos(Pos::new(horizontal, VPos::Center))
    };
    let step = axis_step(most);
    for tick in 0..=(most / step).floor() as i32 {
        let value = f64::from(tick) * step;
        let line = vec![(x(value), TOP), (x(value), bottom + 4)];
        area.draw(&PathElement::new(line, theme::GRID.stroke_width(1)))?;
        let text = if tick == 0 {
            "0".into()
        } else {
            human(value, unit)
        };
        let style = font(12, &theme::FAINT, HPos::Center);
        area.draw(&Text::new(text, (x(value), bottom + 14), style))?;
    }
    let what = match unit {
        Unit::PerSecond => "operations per second (line: least to most of all runs)",
        Unit::BytesPerSecond => "bytes per second (line: least to most of all runs)",
        Unit::Nanoseconds => "time of one (line: least to most of all runs)",
    };
    let style = font(13, &theme::FAINT, HPos::Left);
    area.draw(&Text::new(what, (LEFT, bottom + 36), style))?;
    for (row, bar) in bars.iter().enumerate() {
        let top = TOP + row as i32 * ROW;
        let colour = colour(&bar.kind);
        let style = font(13, &theme::INK, HPos::Left);
        area.draw(&Text::new(bar.name.clone(), (LEFT + 2, top + 10), style))?;
        let corners = [(x(0.0), top + 20), (x(bar.median), top + 36)];
        area.draw(&Rectangle::new(corners, colour.filled()))?;
        let middle = top + 28;
        let line = vec![(x(bar.min), middle), (x(bar.max), middle)];
        area.draw(&PathElement::new(line, theme::INK.stroke_width(1)))?;
        for end in [bar.min, bar.max] {
            let line = vec![(x(end), middle - 4), (x(end), middle + 4)];
            area.draw(&PathElement::new(line, theme::INK.stroke_width(1)))?;
        }
        let place = (x(bar.max.max(bar.median)) + 8, middle);
        let style = font(13, &theme::INK, HPos::Left);
        area.draw(&Text::new(human(bar.median, unit), place, style))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_steps() {
        for (most, step) in [
            (5.0, 1.0),
            (4.2e6, 1e6),
            (7e6, 2e6),
            (24.0, 5.0),
            (0.9, 0.2),
        ] {
            let found = axis_step(most);
            assert!((found / step - 1.0).abs() < 1e-9, "{most}: {found}");
        }
    }
}
