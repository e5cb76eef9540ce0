//! What the processes use, over time.

use crate::support::Process;

/// One thing that must not grow.
#[derive(Debug)]
struct Series {
    name: &'static str,
    values: Vec<f64>,
}

impl Series {
    /// The median of a quarter of the time, the first being 0: what happens to be under way at a
    /// moment, several MiB at times, moves it less than the mean.
    fn quarter(&self, number: usize) -> f64 {
        let len = self.values.len() / 4;
        let mut values = self.values[number * len..][..len].to_vec();
        values.sort_by(f64::total_cmp);
        values[len / 2]
    }
}

/// What the server and all clients together used.
#[derive(Debug, Default)]
pub struct Samples(Vec<Series>);

impl Samples {
    pub fn take(&mut self, server: &Process, clients: &[Process]) {
        let sum = |of: fn(&Process) -> u64| clients.iter().map(of).sum::<u64>();
        let resident = |process: &Process| process.resident();
        let descriptors = |process: &Process| process.descriptors() as u64;
        let threads = |process: &Process| process.cpu_times().len() as u64;
        let now = [
            ("server: resident KiB", resident(server) >> 10),
            ("server: descriptors", descriptors(server)),
            ("server: threads", threads(server)),
            ("clients: resident KiB", sum(resident) >> 10),
            ("clients: descriptors", sum(descriptors)),
            ("clients: threads", sum(threads)),
        ];
        if self.0.is_empty() {
            let series = |(name, _)| Series {
                name,
                values: Vec::new(),
            };
            self.0 = now.map(series).into();
        }
        for (series, (_, value)) in self.0.iter_mut().zip(now) {
            series.values.push(value as f64);
        }
    }

    /// Prints the quarters' medians, and panics if the last is more than so many per cent above the
    /// second.
    pub fn check(&self, most: f64) {
        let mut grown = Vec::new();
        for series in &self.0 {
            let quarters = [0, 1, 2, 3].map(|number| series.quarter(number));
            let change = (quarters[3] / quarters[1] - 1.0) * 100.0;
            eprintln!("{}: {quarters:.1?}, {change:+.2} %", series.name);
            if change > most {
                grown.push(format!("{} by {change:.1} %", series.name));
            }
        }
        assert!(grown.is_empty(), "these grew: {}", grown.join(", "));
    }
}
