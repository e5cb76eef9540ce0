//! The documentation's table of metrics is that of the code.

use nearwire::metrics::{Kind, Unit, exported};
use std::fmt::Write;

const BEGIN: &str = "<!-- metrics -->\n";
const END: &str = "<!-- end of metrics -->\n";

fn table() -> String {
    let mut table = String::from("| name | kind | unit | |\n|---|---|---|---|\n");
    for metric in exported() {
        let label = match metric.label {
            Some((name, value)) => format!("{{{name}=\"{value}\"}}"),
            None => String::new(),
        };
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            _ => "histogram",
        };
        let unit = match metric.unit {
            Unit::Seconds => "seconds",
            Unit::Bytes => "bytes",
            _ => "",
        };
        let name = metric.exported_name();
        writeln!(
            table,
            "| `{name}{label}` | {kind} | {unit} | {} |",
            metric.help
        )
        .unwrap();
    }
    table
}

#[test]
fn the_documentation_lists_what_is_exported() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/METRICS.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once(BEGIN).unwrap();
    let (found, _) = rest.split_once(END).unwrap();
    let table = table();
    assert!(found == table, "docs/METRICS.md should have:\n{table}");
}
