//! Several operations in turn: A B C, A B C, and so on.

use anyhow::{Context, Result};
use serde::Serialize;

use super::core_share::CoreShare;
use super::probe::alike;
use super::{Bracket, Distance, Measured, Probe, Unit, median};

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
    /// The median over the runs between near cores, if there are any.
    pub near: Option<f64>,
    /// The median over the runs between far cores, if there are any.
    pub far: Option<f64>,
    /// The runs, in order.
    pub runs: Vec<Run>,
}

impl Series {
    /// Runs that shared their cores with others, so that their figures say nothing.
    pub fn crowded(&self) -> usize {
        let crowded = |run: &&Run| run.probe.is_some_and(|p| p.distance == Distance::Crowded);
        self.runs.iter().filter(crowded).count()
    }

    /// Sums up some runs.
    ///
    /// # Errors
    /// If there are none.
    pub fn new(name: String, runs: Vec<Run>) -> Result<Self> {
        let first = runs.first().context("no rounds were asked for")?;
        let unit = first.measured.unit();
        let figures: Vec<f64> = runs.iter().map(|run| run.measured.figure()).collect();
        let at = |distance| {
            let there = |run: &&Run| run.probe.is_some_and(|probe| probe.distance == distance);
            let figures: Vec<f64> = runs
                .iter()
                .filter(there)
                .map(|run| run.measured.figure())
                .collect();
            (!figures.is_empty()).then(|| median(figures))
        };
        Ok(Self {
            name,
            unit,
            median: median(figures.iter().copied()),
            min: figures.iter().copied().fold(f64::INFINITY, f64::min),
            max: figures.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            near: at(Distance::Near),
            far: at(Distance::Far),
            runs,
        })
    }
}

/// Runs all contenders in turn, `rounds` times; the series come in the contenders' order.
///
/// A run during which the cores moved, or which had to share them with others, is repeated, but not
/// more often in all than there are rounds.
///
/// # Errors
/// The first error of a contender, or of the probe.
pub fn alternate(
    rounds: u32,
    mut contenders: Vec<Contender<'_>>,
    probe: &mut Probe,
) -> Result<Vec<Series>> {
    let mut runs: Vec<Vec<Run>> = contenders.iter().map(|_| Vec::new()).collect();
    probe.forget();
    let mut repeats = rounds;
    for _ in 0..rounds {
        for (contender, runs) in contenders.iter_mut().zip(&mut runs) {
            let run = loop {
                let run = one_run(contender, probe)
                    .with_context(|| format!("while measuring {}", contender.name))?;
                let spoilt = run.probe.is_some_and(|bracket| {
                    matches!(bracket.distance, Distance::Moved | Distance::Crowded)
                });
                if !spoilt || repeats == 0 {
                    break run;
                }
                repeats -= 1;
            };
            runs.push(run);
        }
    }
    contenders
        .into_iter()
        .zip(runs)
        .map(|(contender, runs)| Series::new(contender.name, runs))
        .collect()
}

/// How much better than its mean a run's median is at least, if it was interrupted but had a core for
/// each side in between.
pub const UNDISTURBED: f64 = 1.8;

fn one_run(contender: &mut Contender<'_>, probe: &mut Probe) -> Result<Run> {
    if !contender.spins {
        probe.forget();
        return Ok(Run {
            measured: (contender.run)()?,
            probe: None,
        });
    }
    let ((measured, was_small), mut bracket) = probe.bracket(|| {
        let share = CoreShare::start();
        let measured = (contender.run)()?;
        Ok((measured, share.was_small()))
    })?;
    // The probe looks only before and after, and may be luckier than the run. A side that others
    // kept waiting is no harm if the time in between was undisturbed: then the median over blocks is
    // far better than the mean.
    if was_small && measured.disturbance() < UNDISTURBED {
        bracket.distance = Distance::Crowded;
    }
    Ok(Run {
        measured,
        probe: Some(bracket),
    })
}

/// One series over another, round by round.
#[derive(Debug, Clone, Serialize)]
pub struct Ratio {
    /// What is compared.
    pub name: String,
    /// Over the pairs of runs that can be compared, if there are any.
    pub figures: Option<RatioFigures>,
    /// Pairs that can be compared: all four readings of the probe alike, or no run spun.
    pub comparable: usize,
    /// All pairs.
    pub pairs: usize,
}

/// How many times one is the other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RatioFigures {
    /// The median over the pairs.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl RatioFigures {
    /// The middle and the ends of some ratios.
    pub fn of(ratios: impl Iterator<Item = f64> + Clone) -> Self {
        Self {
            median: median(ratios.clone()),
            min: ratios.clone().fold(f64::INFINITY, f64::min),
            max: ratios.fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

impl Ratio {
    /// How many times `above` is `below`, figure by figure.
    pub fn of(name: &str, above: &Series, below: &Series) -> Self {
        let pairs = || above.runs.iter().zip(&below.runs);
        let ratios: Vec<f64> = pairs()
            .filter(|(above, below)| {
                let brackets = || [above.probe, below.probe].into_iter().flatten();
                brackets().all(|bracket| bracket.distance != Distance::Crowded)
                    && alike(brackets().flat_map(|bracket| [bracket.before_ns, bracket.after_ns]))
            })
            .map(|(above, below)| above.measured.figure() / below.measured.figure())
            .collect();
        Self {
            name: name.into(),
            figures: (!ratios.is_empty()).then(|| RatioFigures::of(ratios.iter().copied())),
            comparable: ratios.len(),
            pairs: pairs().count(),
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
            curve: Vec::new(),
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
    fn near_and_far_runs_are_summed_up_apart() {
        let (near, far) = (Some((50.0, 55.0)), Some((400.0, 420.0)));
        let series = series(vec![
            run(2.0, near),
            run(9.0, far),
            run(4.0, near),
            run(5.0, None),
        ]);
        assert_eq!((series.near, series.far), (Some(3.0), Some(9.0)));
    }

    fn figures(min: f64, median: f64, max: f64) -> Option<RatioFigures> {
        Some(RatioFigures { median, min, max })
    }

    #[test]
    fn runs_that_slept_are_all_compared() {
        let above = series(vec![run(4.0, None), run(9.0, None)]);
        let below = series(vec![run(2.0, None), run(3.0, None)]);
        let ratio = Ratio::of("ratio", &above, &below);
        assert_eq!(ratio.figures, figures(2.0, 2.5, 3.0));
        assert_eq!((ratio.comparable, ratio.pairs), (2, 2));
    }

    #[test]
    fn only_runs_of_like_placement_are_compared() {
        let (near, far) = (Some((50.0, 55.0)), Some((400.0, 420.0)));
        let above = series(vec![run(4.0, near), run(90.0, far)]);
        let below = series(vec![run(2.0, near), run(3.0, near)]);
        let ratio = Ratio::of("ratio", &above, &below);
        assert_eq!(ratio.figures, figures(2.0, 2.0, 2.0));
        assert_eq!((ratio.comparable, ratio.pairs), (1, 2));
    }

    #[test]
    fn crowded_runs_are_not_compared() {
        let (crowded, near) = (Some((1e7, 1e7)), Some((50.0, 50.0)));
        let mut above = series(vec![run(1e7, crowded), run(3.0, near), run(8.0, near)]);
        let below = series(vec![run(1e7, crowded), run(1.0, near), run(2.0, near)]);
        // Crowded in between, though the probe saw nothing of it.
        above.runs[2].probe.as_mut().unwrap().distance = Distance::Crowded;
        let ratio = Ratio::of("ratio", &above, &below);
        assert_eq!(ratio.figures, figures(3.0, 3.0, 3.0));
    }

    #[test]
    fn without_like_placements_nothing_is_compared() {
        let above = series(vec![run(4.0, Some((50.0, 400.0)))]);
        let below = series(vec![run(2.0, Some((50.0, 50.0)))]);
        let ratio = Ratio::of("ratio", &above, &below);
        assert_eq!((ratio.figures, ratio.comparable, ratio.pairs), (None, 0, 1));
    }
}
