//! What the screen looks like.

use nearwire::metrics::{Counter, Gauge, RingSnapshot, Snapshot};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::bar;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table};

use super::Screen;
use super::history;
use super::rows::rows;
use crate::rates::{ConnectionState, Interval, human_nanos, human_number, human_span};
use crate::stat::headline;

/// Sparklines of characters that every terminal has.
const ASCII_BARS: bar::Set<'static> = bar::Set {
    full: "#",
    seven_eighths: "#",
    three_quarters: "+",
    five_eighths: "+",
    half: "=",
    three_eighths: "-",
    one_quarter: "-",
    one_eighth: ".",
    empty: " ",
};

/// Cells of a bar that shows how full a ring is.
const BAR: usize = 8;

const LABEL: Style = Style::new().add_modifier(Modifier::DIM);
const WRONG: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const HEAD: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws it.
pub fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let areas = Layout::vertical([
        Constraint::Length(1), // who
        Constraint::Length(3), // rates
        Constraint::Length(4), // sparklines
        Constraint::Min(2),    // connections
        Constraint::Length(1), // keys
    ]);
    let [who, numbers, lines, table, keys] = areas.areas(frame.area());
    let Some(interval) = &screen.interval else {
        let text = screen.gone.clone();
        let text = text.unwrap_or_else(|| format!("looking at {} ...", screen.name));
        frame.render_widget(Paragraph::new(text), who);
        return;
    };
    let mut first = vec![Span::styled(
        fitting(&headline(&interval.now), screen.ascii),
        HEAD,
    )];
    if let Some(reason) = &screen.gone {
        first = vec![Span::styled(
            fitting(&format!("gone: {reason}"), screen.ascii),
            WRONG,
        )];
    }
    frame.render_widget(Line::from(first), who);
    frame.render_widget(Paragraph::new(rates(interval, screen)), numbers);
    sparklines(frame, lines, screen);
    connections(frame, table, interval, screen);
    let order = screen.order.word();
    let help = format!("q quit   s sort (by {order})   up/down scroll");
    frame.render_widget(Line::styled(help, LABEL), keys);
}

/// Text without what the terminal may not have.
fn fitting(text: &str, ascii: bool) -> String {
    match ascii {
        true => text
            .replace('·', "-")
            .replace('µ', "u")
            .replace(|c: char| !c.is_ascii(), "?"),
        false => text.to_owned(),
    }
}

fn pair(name: &str, value: String) -> [Span<'static>; 2] {
    [
        Span::styled(format!("{name} "), LABEL),
        Span::raw(format!("{value:<10}")),
    ]
}

fn rates(interval: &Interval, screen: &Screen) -> Vec<Line<'static>> {
    let now = &interval.now;
    let rate = |counter| human_number(interval.per_second(counter));
    let lines = [
        [
            pair("calls/s ", human_number(screen.history.calls.last() as f64)),
            pair(
                "errors/s",
                human_number(screen.history.errors.last() as f64),
            ),
            pair("bytes in/s", rate(Counter::BytesReceived)),
            pair("bytes out/s", rate(Counter::BytesSent)),
        ],
        [
            pair("active  ", now.gauge(Gauge::ConnectionsActive).to_string()),
            pair("in flight", now.gauge(Gauge::CallsInFlight).to_string()),
            pair("wakes/s", rate(Counter::WakeupsSent)),
            pair("saved/s", rate(Counter::WakeupsSaved)),
        ],
    ];
    let mut lines: Vec<_> = lines.map(|line| Line::from(line.concat())).into();
    lines.push(workers(now, interval));
    lines
}

/// Each worker: whether it runs, and how many connections it has.
fn workers(now: &Snapshot, interval: &Interval) -> Line<'static> {
    let held_up = now.held_up_since(&interval.earlier);
    let mut spans = vec![Span::styled("workers ", LABEL)];
    for (number, worker) in now.workers.iter().enumerate() {
        let (word, style) = match worker.gauge(Gauge::Awake) {
            _ if held_up.contains(&number) => ("HELD UP", WRONG),
            0 => ("asleep", LABEL),
            _ => ("awake", Style::new()),
        };
        let connections = worker.gauge(Gauge::Connections);
        spans.push(Span::raw(format!(" {number}:{connections} ")));
        spans.push(Span::styled(word, style));
    }
    let stalls = now.total(Counter::Stalls);
    spans.push(Span::styled("  stalls ", LABEL));
    spans.push(Span::raw(stalls.to_string()));
    Line::from(spans)
}

fn sparklines(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let history = &screen.history;
    let time = |line: &history::Line| match line.last() {
        0 => "-".to_owned(),
        nanos => fitting(&human_nanos(nanos), screen.ascii),
    };
    let lines = [
        (
            "calls/s",
            &history.calls,
            human_number(history.calls.last() as f64),
        ),
        (
            "errors/s",
            &history.errors,
            human_number(history.errors.last() as f64),
        ),
        ("handler p50", &history.median, time(&history.median)),
        ("handler p99", &history.p99, time(&history.p99)),
    ];
    let rows: [Rect; 4] = Layout::vertical([Constraint::Length(1); 4]).areas(area);
    for ((name, line, last), row) in lines.into_iter().zip(rows) {
        let columns = [
            Constraint::Length(12),
            Constraint::Length(11),
            Constraint::Min(1),
        ];
        let [label, value, graph] = Layout::horizontal(columns).areas(row);
        frame.render_widget(Span::styled(name, LABEL), label);
        frame.render_widget(Span::raw(last), value);
        let data = line.tail(graph.width.into());
        let bars = if screen.ascii {
            ASCII_BARS
        } else {
            bar::NINE_LEVELS
        };
        frame.render_widget(Sparkline::default().data(data).bar_set(bars), graph);
    }
}

/// How full a ring is: a bar and a percentage.
fn occupancy(ring: RingSnapshot) -> String {
    let share = ring.occupied() as f64 / ring.capacity.max(1) as f64;
    let full = ((share * BAR as f64).ceil() as usize).min(BAR);
    let (full, rest) = ("#".repeat(full), ".".repeat(BAR - full));
    format!("{full}{rest} {:>3.0}%", share * 100.0)
}

fn connections(frame: &mut Frame<'_>, area: Rect, interval: &Interval, screen: &Screen) {
    let visible = usize::from(area.height.saturating_sub(1));
    let rows = rows(interval, screen.order);
    let shown = rows.iter().skip(screen.skipped).take(visible).map(|row| {
        let connection = row.connection;
        let style = match row.state {
            ConnectionState::Stuck => WRONG,
            ConnectionState::Parked | ConnectionState::Throttled => LABEL,
            ConnectionState::Active => Style::new(),
        };
        Row::new([
            Cell::from(connection.id.to_string()),
            Cell::from(connection.pid.to_string()),
            Cell::from(row.state.word()),
            Cell::from(connection.worker.to_string()),
            Cell::from(human_number(row.rate)),
            Cell::from(connection.in_flight.to_string()),
            Cell::from(occupancy(connection.requests)),
            Cell::from(occupancy(connection.replies)),
            Cell::from(human_span(row.idle)),
            Cell::from(fitting(&connection.label, screen.ascii)),
        ])
        .style(style)
    });
    let widths = [6, 8, 7, 3, 9, 7, 13, 13, 8].map(Constraint::Length);
    let widths = widths.into_iter().chain([Constraint::Min(5)]);
    let head = [
        "id", "process", "state", "wkr", "msgs/s", "flight", "requests", "replies", "idle", "label",
    ];
    let table = Table::new(shown, widths).header(Row::new(head).style(HEAD));
    frame.render_widget(table, area);
}
