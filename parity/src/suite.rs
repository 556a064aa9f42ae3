//! Many cases against many families: which cases there are, who answers to each, and how it all went.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::case::{Case, Reference};
use crate::report::Report;
use crate::run::check;
use crate::subject::Family;
use crate::{Error, Result};

/// A directory that holds a case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its path below the directory that was searched, or its own name if it is that directory.
    pub name: String,
    /// Where it is.
    pub dir: PathBuf,
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every result of both runs is within tolerance.
    Passed(Report),
    /// Some result is not.
    Failed(Report),
    /// The case or the model is unusable, for this reason.
    Broken(String),
    /// The case cannot run here, for this reason.
    Skipped(String),
}

/// One case's name and outcome.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checked {
    /// The case.
    pub case: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// The outcomes of many cases.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Summary {
    /// In the order of their names.
    pub cases: Vec<Checked>,
}

impl Summary {
    /// How many cases passed, failed (broken ones included) and were skipped.
    pub fn counts(&self) -> [usize; 3] {
        self.cases.iter().fold([0; 3], |[passed, failed, skipped], checked| match checked.outcome {
            Outcome::Passed(_) => [passed + 1, failed, skipped],
            Outcome::Failed(_) | Outcome::Broken(_) => [passed, failed + 1, skipped],
            Outcome::Skipped(_) => [passed, failed, skipped + 1],
        })
    }
}

/// The families that cases may be about.
#[derive(Default)]
pub struct Suite {
    families: Vec<Box<dyn Family>>,
}

impl Suite {
    /// A suite of these families.
    pub fn new<F: Family + 'static>(families: impl IntoIterator<Item = F>) -> Self {
        families.into_iter().fold(Self::default(), Self::with)
    }

    /// The suite with one family more.
    #[must_use]
    pub fn with<F: Family + 'static>(mut self, family: F) -> Self {
        self.families.push(Box::new(family));
        self
    }

    /// The family that implements a class, if there is one.
    ///
    /// # Errors
    /// When several do.
    pub fn family(&self, reference: &Reference) -> Result<Option<&dyn Family>> {
        let mut answering = self.families.iter().filter(|family| family.answers(reference));
        match (answering.next(), answering.count()) {
            (None, _) => Ok(None),
            (Some(family), 0) => Ok(Some(family.as_ref())),
            (_, more) => Err(Error::Ambiguous { class: reference.class.clone(), count: more + 1 }),
        }
    }

    /// Runs one case.
    pub fn check(&self, found: &Found) -> Outcome {
        match self.report(found) {
            Ok(Ok(report)) if report.passes() => Outcome::Passed(report),
            Ok(Ok(report)) => Outcome::Failed(report),
            Ok(Err(reason)) => Outcome::Skipped(reason),
            Err(error) => Outcome::Broken(error.to_string()),
        }
    }

    /// Runs every case in or below the directories.
    ///
    /// # Errors
    /// When a directory cannot be read or holds no case.
    pub fn run(&self, dirs: &[PathBuf]) -> Result<Summary> {
        let mut cases = Vec::new();
        for found in find(dirs)? {
            cases.push(Checked { outcome: self.check(&found), case: found.name });
        }
        Ok(Summary { cases })
    }

    /// The report, or why the case cannot run.
    fn report(&self, found: &Found) -> Result<Result<Report, String>> {
        let case = Case::open(&found.dir)?;
        let reference = &case.meta.reference;
        let Some(family) = self.family(reference)? else {
            return Ok(Err(format!("no family answers to {} of {}", reference.class, reference.package)));
        };
        if case.weights.is_none() && !case.is_pipeline() {
            return Ok(Err("there is neither weights.safetensors nor a folder of components".into()));
        }
        check(&case, family).map(|report| Ok(Report { case: found.name.clone(), ..report }))
    }
}

/// Every directory with a `case.json`, in or below the given ones, by name. Links below them are not followed.
///
/// # Errors
/// When a directory cannot be read or holds no case.
pub fn find(dirs: &[PathBuf]) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    for root in dirs {
        let mut found = Vec::new();
        search(root, root, &mut found)?;
        if found.is_empty() {
            return Err(Error::NoCases(root.clone()));
        }
        found.sort();
        all.extend(found);
    }
    Ok(all)
}

fn search(root: &Path, dir: &Path, found: &mut Vec<Found>) -> Result<()> {
    let io = |e| Error::io(dir, e);
    if dir.join("case.json").is_file() {
        let name = match dir.strip_prefix(root) {
            Ok(below) if below.as_os_str().is_empty() => {
                dir.canonicalize().map_err(io)?.file_name().unwrap_or_default().into()
            }
            Ok(below) => below.to_owned(),
            Err(_) => dir.to_owned(),
        };
        found.push(Found { name: name.to_string_lossy().into_owned(), dir: dir.to_owned() });
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.file_type().map_err(io)?.is_dir() {
            search(root, &entry.path(), found)?;
        }
    }
    Ok(())
}

/// `fixtures` and the directories in the environment variable `PARITY_CASES` (separated by colons).
pub fn directories(fixtures: impl Into<PathBuf>) -> Vec<PathBuf> {
    let more = std::env::var_os("PARITY_CASES").unwrap_or_default();
    let more = std::env::split_paths(&more).filter(|dir| !dir.as_os_str().is_empty());
    std::iter::once(fixtures.into()).chain(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::{self, Toy};

    #[test]
    fn cases_are_found_run_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        toy::write(&at("a/good"), 1, |_| {});
        toy::write(&at("a/strange"), 1, |case| case["reference"]["class"] = "Stranger".into());
        toy::write(&at("b/broken"), 1, |case| case["extra"] = 1.into());
        toy::write(&at("b/weightless"), 1, |_| {});
        fs::remove_file(at("b/weightless/weights.safetensors")).unwrap();
        toy::write(&at("b/worse"), 1, |case| case["config"]["eps"] = 1.into());
        let suite = Suite::default().with(Toy::default());
        let summary = suite.run(&[dir.path().to_owned(), at("a/good")]).unwrap();
        let names: Vec<&str> = summary.cases.iter().map(|checked| checked.case.as_str()).collect();
        assert_eq!(names, ["a/good", "a/strange", "b/broken", "b/weightless", "b/worse", "good"]);
        assert_eq!(summary.counts(), [2, 2, 2]);
        let Outcome::Skipped(reason) = &summary.cases[1].outcome else { panic!("not skipped") };
        assert_eq!(reason, "no family answers to Stranger of toys");
        let Outcome::Broken(reason) = &summary.cases[2].outcome else { panic!("not broken") };
        assert!(reason.contains("unknown keys: extra"), "{reason}");
        let Outcome::Failed(report) = &summary.cases[4].outcome else { panic!("not failed") };
        assert_eq!(report.case, "b/worse");
    }

    #[test]
    fn a_directory_without_a_case_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = Suite::default().run(&[dir.path().to_owned()]).unwrap_err();
        assert!(matches!(error, Error::NoCases(_)));
        assert!(matches!(find(&[dir.path().join("none")]), Err(Error::Io { .. })));
    }

    #[test]
    fn two_families_for_one_class_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        toy::write(dir.path(), 1, |_| {});
        let summary = Suite::new([Toy::default(), Toy::default()]).run(&[dir.path().to_owned()]).unwrap();
        assert!(matches!(&summary.cases[0].outcome, Outcome::Broken(why) if why.contains("2 families")));
    }
}
