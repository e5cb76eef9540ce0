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
    /// moment moves it less than the mean.
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
    /// What must not grow while they call.
    pub fn take(&mut self, server: &Process, clients: &[Process]) {
        let sum = |of: fn(&Process) -> u64| clients.iter().map(of).sum::<u64>();
        let descriptors = |process: &Process| process.descriptors() as u64;
        let threads = |process: &Process| process.cpu_times().len() as u64;
        self.add(&[
            ("server: descriptors", descriptors(server)),
            ("server: threads", threads(server)),
            ("clients: descriptors", sum(descriptors)),
            ("clients: threads", sum(threads)),
        ]);
    }

    /// Memory: what must not grow while nobody calls, and is printed only while they do, for then what
    /// happens to be under way is most of it. `heap` is what the server has allocated, in blocks and
    /// in bytes, if that was asked.
    pub fn take_memory(&mut self, server: &Process, clients: &[Process], heap: Option<(u64, u64)>) {
        let of_clients = clients.iter().map(|client| client.resident() >> 10);
        let mut now = vec![
            ("server: resident KiB", server.resident() >> 10),
            ("clients: resident KiB", of_clients.sum()),
        ];
        if let Some((blocks, bytes)) = heap {
            now.push(("server: blocks allocated", blocks));
            now.push(("server: bytes allocated", bytes));
        }
        self.add(&now);
    }

    fn add(&mut self, now: &[(&'static str, u64)]) {
        if self.0.is_empty() {
            let series = |&(name, _): &(&'static str, u64)| Series {
                name,
                values: Vec::new(),
            };
            self.0 = now.iter().map(series).collect();
        }
        for (series, (_, value)) in self.0.iter_mut().zip(now) {
            series.values.push(*value as f64);
        }
    }

    /// Prints the quarters' medians. Returns what is more than so many per cent higher in the last than
    /// in the second.
    pub fn grown(&self, most: f64) -> Vec<String> {
        let mut grown = Vec::new();
        for series in &self.0 {
            let quarters = [0, 1, 2, 3].map(|number| series.quarter(number));
            let change = (quarters[3] / quarters[1] - 1.0) * 100.0;
            eprintln!("{}: {quarters:.1?}, {change:+.2} %", series.name);
            if change > most {
                grown.push(format!("{} by {change:.1} %", series.name));
            }
        }
        grown
    }
}
