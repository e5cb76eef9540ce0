//! What figures say about a goal.

use serde::Serialize;

/// A goal, and whether it was met.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// What was wanted, in words.
    pub goal: String,
    /// What was found, in words.
    pub found: String,
    /// Whether it is good enough.
    pub met: bool,
}

/// All verdicts, a line each.
pub fn verdict_lines(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for Verdict { goal, found, met } in verdicts {
        let word = if *met { "ok" } else { "MISSED" };
        text += &format!("{word}: {goal}; {found}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missed_stands_out() {
        let verdict = |met| Verdict {
            goal: "quick".into(),
            found: "1 ms".into(),
            met,
        };
        let lines = verdict_lines(&[verdict(true), verdict(false)]);
        assert_eq!(lines, "ok: quick; 1 ms\nMISSED: quick; 1 ms\n");
    }
}
