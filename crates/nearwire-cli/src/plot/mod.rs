//! Pictures of measurements, as SVG: readable on a light page and on a dark one, for the file
//! brings colours for both, and its own ground.

mod bars;
mod curves;
mod theme;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

pub use bars::Bar;
pub use curves::Curve;

use crate::measure::Unit;

/// Where shapes go.
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A panel beside another, in pixels; one alone is as wide as both.
const PANEL_WIDTH: u32 = 500;

/// A line of the heading.
const LINE: u32 = 18;

/// Longest line of the heading, in characters.
const LINE_LENGTH: usize = 150;

/// A picture: a heading and some panels.
#[derive(Debug, Clone)]
pub struct Picture {
    /// What was measured.
    pub title: String,
    /// On what and how.
    pub notes: Vec<String>,
    /// The figures.
    pub panels: Vec<Panel>,
}

/// A part of a picture, with axes of its own.
#[derive(Debug, Clone)]
pub struct Panel {
    /// What its figures have in common.
    pub title: String,
    /// The figures.
    pub content: Content,
}

/// What a panel shows.
#[derive(Debug, Clone)]
pub enum Content {
    /// How long operations took: a curve of percentiles for each kind.
    Curves(Vec<Curve>),
    /// How many fitted into a second: a bar for each kind.
    Bars(Unit, Vec<Bar>),
}

impl Picture {
    /// Writes an SVG file, replacing what is there.
    ///
    /// # Errors
    /// If there is nothing to show, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, self.svg()?).with_context(|| format!("cannot write {}", path.display()))
    }

    fn svg(&self) -> Result<String> {
        if self.panels.is_empty() {
            return Err(anyhow!("nothing was measured that could be drawn"));
        }
        let names = self.names();
        let columns = if self.panels.len() > 1 { 2 } else { 1 };
        let notes: Vec<String> = self.notes.iter().flat_map(|note| broken(note)).collect();
        let heading = 44 + LINE * notes.len() as u32;
        let rows: Vec<&[Panel]> = self.panels.chunks(columns).collect();
        let heights: Vec<u32> = rows
            .iter()
            .map(|row| row.iter().map(Panel::height).max().unwrap_or(0))
            .collect();
        let size = (2 * PANEL_WIDTH, heading + heights.iter().sum::<u32>() + 12);
        let mut svg = String::new();
        let failed = |error: &dyn std::fmt::Display| anyhow!("cannot draw: {error}");
        {
            let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            root.fill(&theme::GROUND).map_err(|e| failed(&e))?;
            let text = |text: &str, size: u32, colour, x: i32, y: i32| {
                root.draw(&Text::new(
                    text.to_owned(),
                    (x, y),
                    (theme::FONT, size).into_font().color(&colour),
                ))
            };
            text(&self.title, 22, theme::INK, 16, 12).map_err(|e| failed(&e))?;
            for (number, note) in notes.iter().enumerate() {
                let y = 40 + (LINE * number as u32) as i32;
                text(note, 13, theme::FAINT, 16, y).map_err(|e| failed(&e))?;
            }
            let mut top = heading as i32;
            for (row, height) in rows.iter().zip(&heights) {
                let width = 2 * PANEL_WIDTH / columns as u32;
                for (column, panel) in row.iter().enumerate() {
                    let left = column as i32 * width as i32;
                    let corner = (left + width as i32, top + *height as i32);
                    let area = root.clone().shrink((left, top), (width, *height));
                    debug_assert!(corner.0 <= size.0 as i32 && corner.1 <= size.1 as i32);
                    panel.draw(&area, &names).map_err(|e| failed(&e))?;
                }
                top += *height as i32;
            }
            root.present().map_err(|e| failed(&e))?;
        }
        Ok(theme::with_both_themes(&svg, &self.title))
    }

    /// Every name once, in order: a name has the same colour in all panels.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let mut add = |name: &String| {
            if !names.contains(name) {
                names.push(name.clone());
            }
        };
        for panel in &self.panels {
            match &panel.content {
                Content::Curves(curves) => curves.iter().for_each(|curve| add(&curve.name)),
                Content::Bars(_, bars) => bars.iter().for_each(|bar| add(&bar.kind)),
            }
        }
        names
    }
}

impl Panel {
    fn height(&self) -> u32 {
        match &self.content {
            Content::Curves(curves) => curves::height(curves.len()),
            Content::Bars(_, bars) => bars::height(bars.len()),
        }
    }

    fn draw(&self, area: &Area<'_>, names: &[String]) -> Result<()> {
        area.draw(&Text::new(
            self.title.clone(),
            (16, 14),
            (theme::FONT, 16).into_font().color(&theme::INK),
        ))
        .map_err(|error| anyhow!("{error}"))?;
        let colour = |name: &str| {
            let place = names.iter().position(|known| known == name);
            theme::series(place.unwrap_or(0))
        };
        match &self.content {
            Content::Curves(curves) => curves::draw(area, curves, colour),
            Content::Bars(unit, bars) => bars::draw(area, *unit, bars, colour),
        }
    }
}

/// A text in lines that fit into the heading.
fn broken(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always one");
        if !line.is_empty() && line.chars().count() + word.chars().count() >= LINE_LENGTH {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Picture {
        let curve = |name: &str, scale| Curve {
            name: name.into(),
            points: vec![(0.0, scale), (0.5, 2.0 * scale), (0.999, 9.0 * scale)],
        };
        let bar = |name: &str, median| Bar {
            name: name.into(),
            kind: name.into(),
            median,
            min: median / 2.0,
            max: median * 1.5,
        };
        Picture {
            title: "A <title> & more".into(),
            notes: vec!["a note".into()],
            panels: vec![
                Panel {
                    title: "64 B".into(),
                    content: Content::Curves(vec![curve("one", 150.0), curve("two", 9000.0)]),
                },
                Panel {
                    title: "calls".into(),
                    content: Content::Bars(Unit::PerSecond, vec![bar("one", 2e6), bar("two", 1e6)]),
                },
            ],
        }
    }

    #[test]
    fn axes_have_units_and_names_have_one_colour() {
        let svg = picture().svg().unwrap();
        for text in [
            "99.9 %",
            "µs",
            "M/s",
            "one",
            "two",
            "A &lt;title&gt; &amp; more",
        ] {
            assert!(svg.contains(text), "no {text} in {svg}");
        }
        assert!(svg.contains("prefers-color-scheme: dark"));
        // One curve and one bar each, and their legend.
        let blue = theme::css(&theme::series(0));
        assert!(svg.matches(&blue).count() >= 3, "{svg}");
    }

    #[test]
    fn every_colour_has_one_for_the_dark() {
        let svg = picture().svg().unwrap();
        let style = svg.split("</style>").next().unwrap();
        let shapes = &svg[style.len()..];
        for (at, _) in shapes.match_indices("=\"#") {
            let colour = &shapes[at + 2..at + 9];
            assert!(style.contains(colour), "{colour} is the same in the dark");
        }
    }

    #[test]
    fn nothing_is_no_picture() {
        let mut picture = picture();
        picture.panels.clear();
        assert!(picture.svg().is_err());
    }

    #[test]
    fn long_notes_are_broken() {
        let lines = broken(&"word ".repeat(100));
        assert!(lines.len() > 2);
        assert!(lines.iter().all(|line| line.len() <= LINE_LENGTH));
    }
}
