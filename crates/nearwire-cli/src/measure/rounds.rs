//! Several operations in turn: A B C, A B C, and so on.

use anyhow::{Context, Result};
use serde::Serialize;

use super::probe::alike;
use super::{Distance, Measured, Probe, Unit, median};

/// An operation that takes part.
pub struct Contender<'a> {
    name: String,
    spins: bool,
    run: Box<dyn FnMut() -> Result<Measured> + 'a>,
}

impl<'a> Contender<'a> {
    /// An operation whose two sides both spin: its runs are bracketed by the probe.
    pub fn spinning(name: &str, run: impl FnMut() -> Result<Measured> + 'a) -> Self {
        Self {
            name: name.into(),
            spins: true,
            run: Box::new(run),
        }
    }

    /// An operation that sleeps, or has one side only.
    pub fn other(name: &str, run: impl FnMut() -> Result<Measured> + 'a) -> Self {
        Self {
            name: name.into(),
            spins: false,
            run: Box::new(run),
        }
    }
}

/// The probe's readings around a run, in nanoseconds per round trip of a cache line.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Bracket {
    /// Just before.
    pub before_ns: f64,
    /// Just after.
    pub after_ns: f64,
    /// What they say.
    pub distance: Distance,
}

/// One run of one operation.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// What it gave.
    pub measured: Measured,
    /// What the probe said around it, if it spun.
    pub probe: Option<Bracket>,
}

/// All runs of one operation.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// The operation.
    pub name: String,
    /// Unit of the figures.
    pub unit: Unit,
    /// The median over the runs.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// The runs, in order.
    pub runs: Vec<Run>,
}

impl Series {
    fn new(name: String, runs: Vec<Run>) -> Result<Self> {
        let first = runs.first().context("no rounds were asked for")?;
        let unit = first.measured.unit();
        let figures: Vec<f64> = runs.iter().map(|run| run.measured.figure()).collect();
        Ok(Self {
            name,
            unit,
            median: median(figures.iter().copied()),
            min: figures.iter().copied().fold(f64::INFINITY, f64::min),
            max: figures.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            runs,
        })
    }
}

/// Runs all contenders in turn, `rounds` times; the series come in the contenders' order.
///
/// # Errors
/// The first error of a contender, or of the probe.
pub fn alternate(
    rounds: u32,
    mut contenders: Vec<Contender<'_>>,
    probe: &mut Probe,
) -> Result<Vec<Series>> {
    let mut runs: Vec<Vec<Run>> = contenders.iter().map(|_| Vec::new()).collect();
    // One reading serves the run that it follows and the run that it precedes.
    let mut reading = None;
    for _ in 0..rounds {
        for (contender, runs) in contenders.iter_mut().zip(&mut runs) {
            let in_context = || format!("while measuring {}", contender.name);
            if !contender.spins {
                let measured = (contender.run)().with_context(in_context)?;
                runs.push(Run {
                    measured,
                    probe: None,
                });
                reading = None;
                continue;
            }
            let before_ns = match reading.take() {
                Some(reading) => reading,
                None => probe.read()?,
            };
            let measured = (contender.run)().with_context(in_context)?;
            let after_ns = probe.read()?;
            reading = Some(after_ns);
            let distance = Distance::between(before_ns, after_ns);
            runs.push(Run {
                measured,
                probe: Some(Bracket {
                    before_ns,
                    after_ns,
                    distance,
                }),
            });
        }
    }
    contenders
        .into_iter()
        .zip(runs)
        .map(|(contender, runs)| Series::new(contender.name, runs))
        .collect()
}

/// One series over another, round by round.
#[derive(Debug, Clone, Serialize)]
pub struct Ratio {
    /// What is compared.
    pub name: String,
    /// The median over the pairs of runs that count.
    pub median: f64,
    /// The least of them.
    pub min: f64,
    /// The greatest of them.
    pub max: f64,
    /// Pairs that count: all four readings of the probe alike, or no run spun.
    pub pairs: usize,
    /// All pairs. If none counts, the figures are over all of them.
    pub of: usize,
}

impl Ratio {
    /// How many times `above` is `below`, figure by figure.
    pub fn of(name: &str, above: &Series, below: &Series) -> Self {
        let pairs: Vec<(f64, bool)> = above
            .runs
            .iter()
            .zip(&below.runs)
            .map(|(above, below)| {
                let readings = [above.probe, below.probe]
                    .into_iter()
                    .flatten()
                    .flat_map(|bracket| [bracket.before_ns, bracket.after_ns]);
                (
                    above.measured.figure() / below.measured.figure(),
                    alike(readings),
                )
            })
            .collect();
        let like = pairs.iter().filter(|(_, alike)| *alike).count();
        let counted: Vec<f64> = pairs
            .iter()
            .filter(|(_, alike)| *alike || like == 0)
            .map(|(ratio, _)| *ratio)
            .collect();
        Self {
            name: name.into(),
            median: median(counted.iter().copied()),
            min: counted.iter().copied().fold(f64::INFINITY, f64::min),
            max: counted.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            pairs: like,
            of: pairs.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Latency;
    use super::*;

    fn run(typical_ns: f64, readings: Option<(f64, f64)>) -> Run {
        let measured = Measured::Latency(Latency {
            operations: 1,
            typical_ns,
            mean_ns: typical_ns,
            p50_ns: 0,
            p90_ns: 0,
            p99_ns: 0,
            p999_ns: 0,
            min_ns: 0,
            max_ns: 0,
            clock_ns: 0.0,
        });
        let probe = readings.map(|(before_ns, after_ns)| Bracket {
            before_ns,
            after_ns,
            distance: Distance::between(before_ns, after_ns),
        });
        Run { measured, probe }
    }

    fn series(runs: Vec<Run>) -> Series {
        Series::new("series".into(), runs).unwrap()
    }

    #[test]
    fn a_series_knows_its_middle_and_its_ends() {
        let series = series(vec![run(3.0, None), run(1.0, None), run(2.0, None)]);
        assert_eq!((series.min, series.median, series.max), (1.0, 2.0, 3.0));
    }

    #[test]
    fn runs_that_slept_are_all_compared() {
        let above = series(vec![run(4.0, None), run(9.0, None)]);
        let below = series(vec![run(2.0, None), run(3.0, None)]);
        let ratio = Ratio::of("ratio", &above, &below);
        assert_eq!((ratio.min, ratio.median, ratio.max), (2.0, 2.5, 3.0));
        assert_eq!((ratio.pairs, ratio.of), (2, 2));
    }

    #[test]
    fn only_runs_of_like_placement_are_compared() {
        let near = Some((50.0, 55.0));
        let far = Some((400.0, 420.0));
        let above = series(vec![run(4.0, near), run(90.0, far)]);
        let below = series(vec![run(2.0, near), run(3.0, near)]);
        let ratio = Ratio::of("ratio", &above, &below);
        assert_eq!((ratio.median, ratio.pairs, ratio.of), (2.0, 1, 2));
    }

    #[test]
    fn without_like_placements_all_are_compared_and_none_counts() {
        let above = series(vec![run(4.0, Some((50.0, 400.0)))]);
        let below = series(vec![run(2.0, Some((50.0, 50.0)))]);
        let ratio = Ratio::of("ratio", &above, &below);
        assert_eq!((ratio.median, ratio.pairs, ratio.of), (2.0, 0, 1));
    }
}
