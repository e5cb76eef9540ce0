//! Colours: drawn for a light page, exchanged for a dark one by a style that the file carries.

use plotters::style::RGBColor;

/// The font of all texts; the style names those of the reader's system.
pub const FONT: &str = "sans-serif";

/// What all stands on.
pub const GROUND: RGBColor = RGBColor(0xff, 0xff, 0xff);
/// Titles and figures.
pub const INK: RGBColor = RGBColor(0x1f, 0x23, 0x28);
/// Axes and notes.
pub const FAINT: RGBColor = RGBColor(0x59, 0x63, 0x6e);
/// Lines behind the figures.
pub const GRID: RGBColor = RGBColor(0xd1, 0xd9, 0xe0);

/// Colours of curves and bars, told apart by those who see few colours as well; in the dark: the
/// second.
const SERIES: [(RGBColor, RGBColor); 8] = [
    (RGBColor(0x09, 0x69, 0xda), RGBColor(0x58, 0xa6, 0xff)),
    (RGBColor(0xbc, 0x4c, 0x00), RGBColor(0xf0, 0x88, 0x3e)),
    (RGBColor(0x1a, 0x7f, 0x37), RGBColor(0x3f, 0xb9, 0x50)),
    (RGBColor(0x82, 0x50, 0xdf), RGBColor(0xbc, 0x8c, 0xff)),
    (RGBColor(0x6e, 0x77, 0x81), RGBColor(0x9e, 0xa7, 0xb3)),
    (RGBColor(0xbf, 0x39, 0x89), RGBColor(0xf7, 0x78, 0xba)),
    (RGBColor(0x9a, 0x67, 0x00), RGBColor(0xd2, 0x99, 0x22)),
    (RGBColor(0x0b, 0x7f, 0x86), RGBColor(0x39, 0xc5, 0xcf)),
];

const OTHERS: [(RGBColor, RGBColor); 4] = [
    (GROUND, RGBColor(0x0d, 0x11, 0x17)),
    (INK, RGBColor(0xe6, 0xed, 0xf3)),
    (FAINT, RGBColor(0x9a, 0xa4, 0xaf)),
    (GRID, RGBColor(0x30, 0x36, 0x3d)),
];

/// The colour of a name, given its place among the names.
pub fn series(place: usize) -> RGBColor {
    SERIES[place % SERIES.len()].0
}

/// A colour as the drawing has it.
pub fn css(colour: &RGBColor) -> String {
    format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2)
}

/// The drawing with a title for those who do not see it, and colours for a dark page.
pub fn with_both_themes(svg: &str, title: &str) -> String {
    let mut style = String::from(
        "<style>text { font-family: system-ui, -apple-system, \"Segoe UI\", sans-serif }\n\
         @media (prefers-color-scheme: dark) {\n",
    );
    for (light, dark) in OTHERS.iter().chain(&SERIES) {
        let (light, dark) = (css(light), css(dark));
        style += &format!(
            "[fill=\"{light}\"] {{ fill: {dark} }} [stroke=\"{light}\"] {{ stroke: {dark} }}\n"
        );
    }
    style += "}</style>\n";
    let title = title
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    // Behind the opening tag of the picture itself.
    let start = svg.find("<svg").unwrap_or(0);
    let inside = svg[start..].find('>').map_or(start, |end| start + end + 1);
    let (head, shapes) = svg.split_at(inside);
    format!("{head}\n<title>{title}</title>\n{style}{shapes}")
}
