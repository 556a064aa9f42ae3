//! What a case's runs found: a row an activation in order of return, the first one out of tolerance as the headline.

use std::fmt::{self, Write};

use serde::Serialize;

use crate::case::Reference;
use crate::compare::{Comparison, Verdict};

/// How the model ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nothing was replaced.
    Free,
    /// Every observed output was compared and then replaced by the reference's.
    Forced,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Free => "free",
            Self::Forced => "forced",
        })
    }
}

/// What became of one result of the reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// It was compared.
    Compared(Comparison),
    /// The map says that nothing here stands for it. An error inside it shows up between its neighbours.
    Unobserved {
        /// The map's reason.
        reason: String,
        /// The last result compared before it.
        after: Option<String>,
        /// The first result compared after it.
        before: Option<String>,
    },
    /// It exists, but the case does not hold the reference's tensor.
    Unrecorded,
    /// There is nothing to compare it with.
    Missing(String),
    /// It was returned here once more than in the reference.
    Extra,
}

/// One result of the reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name, `path[@nth][#output]` or `output/<call>/<name>`.
    pub path: String,
    /// The outputs here that stand for it.
    pub here: Vec<String>,
    /// Whether they are named by an alias, or are several that are joined.
    pub aliased: bool,
    /// What became of it.
    pub finding: Finding,
}

impl Row {
    /// Whether nothing is wrong with it.
    pub fn passes(&self) -> bool {
        match &self.finding {
            Finding::Compared(comparison) => comparison.verdict.passes(),
            Finding::Unobserved { .. } | Finding::Unrecorded => true,
            Finding::Missing(_) | Finding::Extra => false,
        }
    }

    fn note(&self) -> String {
        match &self.finding {
            Finding::Compared(comparison) => comparison.verdict.to_string(),
            Finding::Unobserved { reason, after, before } => {
                let end = |path: &Option<String>, or: &str| path.clone().unwrap_or_else(|| or.into());
                let (after, before) = (end(after, "the inputs"), end(before, "the end"));
                format!("unobserved ({reason}); widens {after} .. {before}")
            }
            Finding::Unrecorded => "not recorded by the reference".into(),
            Finding::Missing(why) => why.clone(),
            Finding::Extra => "returned more often than in the reference".into(),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        let same = matches!(&self.here[..], [only] if *only == self.path);
        if !self.here.is_empty() && !same {
            write!(f, " (here {})", self.here.join(" + "))?;
        }
        write!(f, ": {}", self.note())?;
        match &self.finding {
            Finding::Compared(Comparison { shape, expected_shape, verdict: Verdict::Shape, .. }) => {
                write!(f, ": {shape:?}, expected {expected_shape:?}")
            }
            Finding::Compared(c) => write!(
                f,
                "; relative L2 {:.2e}, max-abs {:.2e} ({:.2e} of the peak), bound {:.2e}; dtype {}, expected {}",
                c.relative_l2, c.max_abs, c.max_over_peak, c.tolerance, c.dtype, c.expected_dtype
            ),
            _ => Ok(()),
        }
    }
}

/// How many results came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Compared, aliased ones included.
    pub compared: usize,
    /// Compared with outputs that an alias names or that are joined.
    pub aliased: usize,
    /// Without a counterpart here.
    pub unobserved: usize,
    /// Without a tensor of the reference.
    pub unrecorded: usize,
    /// Failed, for whatever reason.
    pub failed: usize,
}

/// One run of a case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// How the model ran.
    pub mode: Mode,
    /// Every result in the reference's order of return, each call's outputs after what it observed.
    pub rows: Vec<Row>,
    /// What stopped the model, if something did.
    pub error: Option<String>,
}

impl Run {
    /// The first result that is out of tolerance, in the reference's order of return.
    pub fn headline(&self) -> Option<&Row> {
        self.rows.iter().find(|row| !row.passes())
    }

    /// Whether every result is within tolerance and nothing stopped the model.
    pub fn passes(&self) -> bool {
        self.error.is_none() && self.headline().is_none()
    }

    /// How many results came to what.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for row in &self.rows {
            match &row.finding {
                Finding::Compared(_) => {
                    counts.compared += 1;
                    counts.aliased += usize::from(row.aliased);
                }
                Finding::Unobserved { .. } => counts.unobserved += 1,
                Finding::Unrecorded => counts.unrecorded += 1,
                Finding::Missing(_) | Finding::Extra => {}
            }
            counts.failed += usize::from(!row.passes());
        }
        counts
    }

    /// The rows as an aligned table of plain text.
    pub fn table(&self) -> String {
        let mut cells = vec![["path", "shape", "dtype", "max-abs", "rel L2", "cosine", ""].map(String::from)];
        cells.extend(self.rows.iter().map(row_cells));
        let mut widths = [0; 7];
        for row in &cells {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut table = String::new();
        for row in &cells {
            let padded: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            table.push_str(padded.join("  ").trim_end());
            table.push('\n');
        }
        table
    }
}

fn row_cells(row: &Row) -> [String; 7] {
    let empty = String::new;
    let Finding::Compared(c) = &row.finding else {
        return [row.path.clone(), empty(), empty(), empty(), empty(), empty(), row.note()];
    };
    let dims: Vec<String> = c.shape.iter().map(usize::to_string).collect();
    let expected = (c.dtype != c.expected_dtype).then(|| format!("/{}", c.expected_dtype));
    let number = |x: f64| {
        if x.is_nan() { "-".into() } else { format!("{x:.2e}") }
    };
    let cosine = if c.cosine.is_nan() { "-".into() } else { format!("{:.9}", c.cosine) };
    [
        row.path.clone(),
        format!("[{}]", dims.join(",")),
        format!("{}{}", c.dtype, expected.unwrap_or_default()),
        number(c.max_abs),
        number(c.relative_l2),
        cosine,
        row.note(),
    ]
}

/// Both runs of a case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The case's name.
    pub case: String,
    /// Who computed it.
    pub reference: Reference,
    /// The runs.
    pub runs: Vec<Run>,
}

impl Report {
    /// Whether every run passes.
    pub fn passes(&self) -> bool {
        self.runs.iter().all(Run::passes)
    }

    /// What failed, in a sentence; `None` when nothing did. The forced run speaks first, because there an error is charged to
    /// the module that made it.
    pub fn headline(&self) -> Option<String> {
        let failed = |mode| self.runs.iter().find(|run| run.mode == mode && !run.passes());
        let run = failed(Mode::Forced).or_else(|| failed(Mode::Free))?;
        let error = run.error.as_ref().map(|error| format!("the model stopped: {error}"));
        let row = run.headline().map(|row| format!("first out of tolerance: {row}"));
        let sentences: Vec<String> = error.into_iter().chain(row).collect();
        Some(format!("{} run, {}", run.mode, sentences.join("; ")))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reference { package, version, class, dtype, .. } = &self.reference;
        writeln!(f, "{}: {class} of {package} {version}, {dtype}", self.case)?;
        for run in &self.runs {
            let Counts { compared, aliased, unobserved, unrecorded, failed } = run.counts();
            let mut table = String::new();
            for line in run.table().lines() {
                writeln!(table, "  {line}")?;
            }
            write!(f, "{} run\n{table}", run.mode)?;
            writeln!(
                f,
                "  {compared} compared ({aliased} aliased), {unobserved} unobserved, {unrecorded} not recorded, {failed} failed"
            )?;
        }
        match self.headline() {
            None => writeln!(f, "PASS {}", self.case),
            Some(headline) => writeln!(f, "FAIL {}: {headline}", self.case),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::compare;
    use crate::tensor::{Data, Dtype, Tensor};

    fn row(path: &str, finding: Finding) -> Row {
        Row { path: path.into(), here: vec![path.into()], aliased: false, finding }
    }

    fn compared(got: f32, want: f32) -> Finding {
        let tensor = |x| Tensor::new(vec![1, 1], Dtype::Float32, Data::F32(vec![x])).unwrap();
        Finding::Compared(compare(&tensor(got), &tensor(want), None, 1e-5))
    }

    fn run(mode: Mode, rows: Vec<Row>) -> Run {
        Run { mode, rows, error: None }
    }

    fn report(runs: Vec<Run>) -> Report {
        let reference =
            Reference { package: "p".into(), version: "1".into(), class: "C".into(), seed: 0, dtype: Dtype::Float32 };
        Report { case: "c".into(), reference, runs }
    }

    fn unobserved() -> Finding {
        Finding::Unobserved { reason: "functional".into(), after: Some("a".into()), before: None }
    }

    #[test]
    fn the_table_is_aligned() {
        let other = Row { here: vec!["x#0".into()], ..row("layers.10", compared(2.0, 1.0)) };
        let run = run(Mode::Free, vec![row("a", compared(1.0, 1.0)), row("b", unobserved()), other]);
        let expected = "\
path       shape  dtype    max-abs  rel L2  cosine
a          [1,1]  float32  0.00e0   0.00e0  1.000000000  ok
b                                                        unobserved (functional); widens a .. the end
layers.10  [1,1]  float32  1.00e0   1.00e0  1.000000000  out of tolerance
";
        assert_eq!(run.table(), expected);
    }

    #[test]
    fn the_headline_is_the_first_failure_of_the_forced_run() {
        let good = || row("a", compared(1.0, 1.0));
        let bad = |path: &str| row(path, compared(2.0, 1.0));
        let free = run(Mode::Free, vec![good(), bad("b"), bad("c")]);
        assert_eq!(free.headline().unwrap().path, "b");
        let forced = run(Mode::Forced, vec![good(), good(), bad("c")]);
        let both = report(vec![free.clone(), forced]).headline().unwrap();
        assert!(
            both.starts_with("forced run, first out of tolerance: c: out of tolerance; relative L2 1.00e0"),
            "{both}"
        );
        let headline = report(vec![free, run(Mode::Forced, vec![good()])]).headline().unwrap();
        assert!(headline.starts_with("free run, first out of tolerance: b"), "{headline}");
        let passing = report(vec![run(Mode::Free, vec![good()])]);
        assert!(passing.passes());
        assert!(passing.to_string().ends_with("PASS c\n"), "{passing}");
    }

    #[test]
    fn a_model_that_stopped_fails_even_with_every_row_in_tolerance() {
        let stopped = Run { error: Some("why".into()), ..run(Mode::Forced, vec![row("a", compared(1.0, 1.0))]) };
        let report = report(vec![stopped]);
        assert!(!report.passes());
        assert_eq!(report.headline().unwrap(), "forced run, the model stopped: why");
    }

    #[test]
    fn everything_is_counted_once() {
        let rows = vec![
            Row { aliased: true, ..row("a", compared(1.0, 1.0)) },
            row("b", compared(2.0, 1.0)),
            row("c", unobserved()),
            row("d", Finding::Unrecorded),
            row("e", Finding::Missing("gone".into())),
            row("f", Finding::Extra),
        ];
        let counts = Counts { compared: 2, aliased: 1, unobserved: 1, unrecorded: 1, failed: 3 };
        assert_eq!(run(Mode::Free, rows).counts(), counts);
    }

    #[test]
    fn the_json_has_paths_numbers_and_verdicts() {
        let json = serde_json::to_value(report(vec![run(Mode::Free, vec![row("a", compared(2.0, 1.0))])])).unwrap();
        let row = &json["runs"][0]["rows"][0];
        assert_eq!(row["path"], "a");
        assert_eq!(row["finding"]["compared"]["max_abs"], 1.0);
        assert_eq!(row["finding"]["compared"]["verdict"], "out of tolerance");
        assert_eq!(json["runs"][0]["mode"], "free");
    }
}
