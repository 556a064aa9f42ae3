//! Runs a case: free, then forced, comparing every observed output as it is returned.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use framework::weights::ActivationLayout;

use crate::case::{Activation, Case, label, output_label};
use crate::compare::compare;
use crate::npy::Stored;
use crate::pipeline;
use crate::report::{Finding, Mode, Report, Row, Run};
use crate::subject::{Family, Outputs, Place, Subject};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// A low-precision model may be off by this many times the reference's own error.
const NOISE_ALLOWANCE: f64 = 2.0;

/// Runs a case twice, each time on a model built anew: free, and forced. A pipeline runs free alone, since nothing inside it
/// can be replaced.
///
/// # Errors
/// When the model cannot be built, or a file of the case cannot be read. A model that stops while it runs is a failed report.
pub fn check(case: &Case, family: &dyn Family) -> Result<Report> {
    let mut widths = Widths::new();
    let mut runs = Vec::new();
    let modes: &[Mode] = if case.is_pipeline() { &[Mode::Free] } else { &[Mode::Free, Mode::Forced] };
    for &mode in modes {
        let mut subject = family.open(case)?;
        runs.push(run(case, subject.as_mut(), mode, &mut widths)?);
    }
    let name = case.dir.file_name().unwrap_or(case.dir.as_os_str());
    Ok(Report { case: name.to_string_lossy().into_owned(), reference: case.meta.reference.clone(), runs })
}

/// The extent of the last axis of outputs here, by path and number of return. The free run fills it, so that the forced run
/// knows where in a fused output of the reference each part lies before all parts have been returned.
type Widths = HashMap<(String, usize), usize>;

fn run(case: &Case, subject: &mut dyn Subject, mode: Mode, widths: &mut Widths) -> Result<Run> {
    let plan = Plan::new(case, subject);
    let mut observer = Observer::new(case, &plan, mode, widths);
    let mut stopped = None;
    let mut returned: Vec<(Option<usize>, Vec<Row>)> = Vec::new();
    for (index, call) in case.meta.calls.iter().enumerate() {
        let Some(arguments) = case.arguments(index) else { break };
        let result = subject.call(&call.method, arguments, &mut |path, read| observer.offer(path, read));
        if let Some(error) = observer.error.take() {
            return Err(error);
        }
        match result {
            Ok(outputs) => returned.push((observer.last, output_rows(case, index, &outputs, mode)?)),
            Err(error) => {
                stopped = Some(error.to_string());
                break;
            }
        }
    }
    if let (None, Some((after, _))) = (&stopped, returned.last_mut()) {
        *after = case.activations.len().checked_sub(1);
    }
    let mut rows: Vec<Row> = Vec::new();
    let mut results = returned.into_iter().peekable();
    while let Some((_, outputs)) = results.next_if(|(after, _)| after.is_none()) {
        rows.extend(outputs);
    }
    let (found, extra) = observer.rows(stopped.is_some());
    for (index, row) in found.into_iter().enumerate() {
        rows.push(row);
        while let Some((_, outputs)) = results.next_if(|(after, _)| *after == Some(index)) {
            rows.extend(outputs);
        }
    }
    rows.extend(extra);
    widen(&mut rows);
    Ok(Run { mode, rows, error: stopped })
}

/// What stands here for each activation of the reference.
struct Plan {
    checks: Vec<Check>,
    /// Path here → number of return → the checks that it takes part in.
    index: HashMap<String, BTreeMap<usize, Vec<usize>>>,
}

/// One activation of the reference, and the outputs here that stand for it.
struct Check {
    here: Vec<String>,
    cut: Cut,
    aliased: bool,
    layout: ActivationLayout,
    /// What is known without running.
    known: Option<Finding>,
}

enum Cut {
    Whole,
    Columns(Range<usize>),
    Join,
}

impl Plan {
    fn new(case: &Case, subject: &dyn Subject) -> Self {
        let checks: Vec<Check> = case.activations.iter().map(|activation| Check::new(activation, subject)).collect();
        let mut index: HashMap<String, BTreeMap<usize, Vec<usize>>> = HashMap::new();
        for (id, (check, activation)) in checks.iter().zip(&case.activations).enumerate() {
            for path in &check.here {
                index.entry(path.clone()).or_default().entry(activation.nth).or_default().push(id);
            }
        }
        Self { checks, index }
    }
}

impl Check {
    fn new(activation: &Activation, subject: &dyn Subject) -> Self {
        let location = subject.locate(&activation.path);
        let mut known = activation.stored.is_none().then_some(Finding::Unrecorded);
        let mut aliased = false;
        let (here, cut) = match location.place {
            Place::Same(path) => (vec![label(&path, 0, activation.key.as_deref())], Cut::Whole),
            Place::Slice { path, columns } => (vec![path], Cut::Columns(columns)),
            Place::Join(outputs) => {
                aliased = true;
                (outputs, Cut::Join)
            }
            Place::Alias(outputs) => {
                aliased = true;
                let count = outputs.len();
                let output = outputs.into_iter().nth(activation.output);
                if output.is_none() {
                    known = Some(Finding::Missing(format!("the alias names {count} outputs")));
                }
                (output.into_iter().collect(), Cut::Whole)
            }
            Place::Unobserved(reason) => {
                known = Some(Finding::Unobserved { reason, after: None, before: None });
                (Vec::new(), Cut::Whole)
            }
            Place::Unknown { because, nearest } => {
                let nearest = nearest.map(|path| format!("; the nearest here is {path}")).unwrap_or_default();
                known = Some(Finding::Missing(format!("the map does not cover it: {because}{nearest}")));
                (Vec::new(), Cut::Whole)
            }
        };
        Self { here, cut, aliased, layout: location.layout, known }
    }
}

/// Watches one run.
struct Observer<'a> {
    case: &'a Case,
    plan: &'a Plan,
    mode: Mode,
    widths: &'a mut Widths,
    /// How often each path here has returned.
    returns: BTreeMap<String, usize>,
    /// The parts of outputs that the reference returns as one.
    parts: HashMap<usize, Vec<Option<Tensor>>>,
    findings: Vec<Option<Finding>>,
    extra: Vec<Row>,
    /// The furthest activation in the reference's order that has been observed.
    last: Option<usize>,
    /// A file of the case that could not be read, or an output that could not be computed.
    error: Option<Error>,
}

impl<'a> Observer<'a> {
    fn new(case: &'a Case, plan: &'a Plan, mode: Mode, widths: &'a mut Widths) -> Self {
        Self {
            case,
            plan,
            mode,
            widths,
            returns: BTreeMap::new(),
            parts: HashMap::new(),
            findings: plan.checks.iter().map(|check| check.known.clone()).collect(),
            extra: Vec::new(),
            last: None,
            error: None,
        }
    }

    /// Compares an output with everything that it stands for, and gives what takes its place.
    fn offer(&mut self, path: &str, read: &dyn Fn() -> Result<Tensor>) -> Option<Tensor> {
        let count = self.returns.entry(path.to_owned()).or_insert(0);
        let nth = *count;
        *count += 1;
        let checks = self.plan.index.get(path)?;
        let Some(checks) = checks.get(&nth) else {
            self.note_extra(path, nth);
            return None;
        };
        self.last = self.last.max(checks.iter().max().copied());
        if self.error.is_some() {
            return None;
        }
        let observed = read().and_then(|tensor| {
            let mut replacement = None;
            for &id in checks {
                let now = replacement.as_ref().unwrap_or(&tensor);
                replacement = self.observe(id, path, nth, &tensor, now)?.or(replacement);
            }
            Ok(replacement)
        });
        match observed {
            Ok(replacement) => replacement,
            Err(error) => {
                self.error = Some(error);
                None
            }
        }
    }

    /// Compares an output with one activation; in a forced run gives `now` with the reference's values in it, where they fit.
    fn observe(&mut self, id: usize, path: &str, nth: usize, got: &Tensor, now: &Tensor) -> Result<Option<Tensor>> {
        let (Some(check), Some(activation)) = (self.plan.checks.get(id), self.case.activations.get(id)) else {
            return Ok(None);
        };
        let Some(stored) = &activation.stored else { return Ok(None) };
        let want = stored.read()?;
        let want = match check.layout {
            ActivationLayout::ChannelsFirst => want.channels_last(),
            ActivationLayout::HeadsFirst => want.heads_beside_channels(),
            ActivationLayout::ChannelsLast => want,
        };
        let forced = self.mode == Mode::Forced;
        match &check.cut {
            Cut::Whole => {
                self.settle(id, activation, got, &want)?;
                Ok((forced && got.shape == want.shape).then(|| want.cast_like(now).ok()).flatten())
            }
            Cut::Columns(columns) => {
                match got.columns(columns.clone()) {
                    Ok(part) => self.settle(id, activation, &part, &want)?,
                    Err(error) => self.miss(id, &error),
                }
                Ok(forced.then(|| now.with_columns(columns.start, &want).ok()).flatten())
            }
            Cut::Join => {
                let width = got.shape.last().copied().unwrap_or(0);
                self.widths.insert((path.to_owned(), nth), width);
                self.join(id, activation, path, got, &want)?;
                if !forced {
                    return Ok(None);
                }
                let before = check.here.iter().take_while(|other| *other != path);
                let start: Option<usize> = before.map(|other| self.widths.get(&(other.clone(), nth))).sum();
                let own = start.and_then(|start| want.columns(start..start + width).ok());
                Ok(own.filter(|own| own.shape == now.shape).and_then(|own| own.cast_like(now).ok()))
            }
        }
    }

    /// Keeps a part, and compares when all are there.
    fn join(&mut self, id: usize, activation: &Activation, path: &str, got: &Tensor, want: &Tensor) -> Result<()> {
        let Some(check) = self.plan.checks.get(id) else { return Ok(()) };
        let parts = self.parts.entry(id).or_insert_with(|| vec![None; check.here.len()]);
        for (part, other) in parts.iter_mut().zip(&check.here) {
            if other == path {
                *part = Some(got.clone());
            }
        }
        let Some(parts) = parts.iter().map(Option::as_ref).collect::<Option<Vec<_>>>() else {
            return Ok(());
        };
        match Tensor::joined(&parts) {
            Ok(whole) => self.settle(id, activation, &whole, want)?,
            Err(error) => self.miss(id, &error),
        }
        self.parts.remove(&id);
        Ok(())
    }

    fn settle(&mut self, id: usize, activation: &Activation, got: &Tensor, want: &Tensor) -> Result<()> {
        let mask = self.case.mask(activation).map(Stored::read).transpose()?;
        let bound = tolerance(self.case, self.mode, self.case.noise(activation));
        let comparison = compare(got, want, mask.as_ref(), bound);
        if let Some(finding) = self.findings.get_mut(id) {
            *finding = Some(Finding::Compared(comparison));
        }
        Ok(())
    }

    fn miss(&mut self, id: usize, error: &Error) {
        if let Some(finding) = self.findings.get_mut(id) {
            *finding = Some(Finding::Missing(error.to_string()));
        }
    }

    fn note_extra(&mut self, path: &str, nth: usize) {
        let ids = self.plan.index.get(path).into_iter().flat_map(BTreeMap::values).flatten();
        if let Some(activation) = ids.last().and_then(|&id| self.case.activations.get(id)) {
            self.extra.push(Row {
                path: label(&activation.path, nth, activation.key.as_deref()),
                here: vec![path.to_owned()],
                aliased: false,
                finding: Finding::Extra,
            });
        }
    }

    /// A row for each activation, then one for each return that the reference did not make.
    fn rows(self, stopped: bool) -> (Vec<Row>, Vec<Row>) {
        let Self { case, plan, returns, findings, extra, .. } = self;
        let row = |((finding, check), activation): ((Option<Finding>, &Check), &Activation)| Row {
            path: activation.label(),
            here: check.here.clone(),
            aliased: check.aliased,
            finding: finding.unwrap_or_else(|| Finding::Missing(absence(check, activation, &returns, stopped))),
        };
        let rows = findings.into_iter().zip(&plan.checks).zip(&case.activations).map(row);
        (rows.collect(), extra)
    }
}

/// Why an output was not seen.
fn absence(check: &Check, activation: &Activation, returns: &BTreeMap<String, usize>, stopped: bool) -> String {
    if stopped {
        return "not reached".into();
    }
    let seen = |path: &str| returns.get(path).copied().unwrap_or(0);
    let Some(absent) = check.here.iter().find(|path| seen(path) <= activation.nth) else {
        return "its parts were not returned together".into();
    };
    match seen(absent) {
        0 => {
            let module = absent.split('#').next().unwrap_or(absent);
            let same = |path: &&String| path.split('#').next() == Some(module);
            let others: Vec<&str> = returns.keys().filter(same).map(String::as_str).collect();
            match others.is_empty() {
                true => format!("{absent} was never returned here"),
                false => format!("{absent} was never returned here; {} was", others.join(", ")),
            }
        }
        times => format!("{absent} was returned only {times} times here"),
    }
}

/// The bound for a result: the case's, or where the case states the reference's own error, twice that.
fn tolerance(case: &Case, mode: Mode, noise: Option<f64>) -> f64 {
    match (noise, mode) {
        (Some(noise), _) => NOISE_ALLOWANCE * noise,
        (None, Mode::Free) => case.meta.tolerance.free,
        (None, Mode::Forced) => case.meta.tolerance.forced,
    }
}

/// Compares what a call returned, by name, or by position where the reference numbers its outputs. Rows are in the order in
/// which the call returned them; what it did not return comes last.
fn output_rows(case: &Case, call: usize, returned: &Outputs, mode: Mode) -> Result<Vec<Row>> {
    let unrecorded = |(name, _): &(String, Tensor)| output_row(call, name, Finding::Unrecorded);
    let mut rows: Vec<Row> = returned.iter().map(unrecorded).collect();
    for output in case.outputs.get(call).into_iter().flatten() {
        let named = returned.iter().position(|(name, _)| *name == output.name);
        let at = named.or_else(|| output.name.parse().ok());
        let finding = match at.and_then(|at| returned.get(at)) {
            Some((_, got)) => {
                let (want, name) = (output.stored.read()?, &output.name);
                let mask = case.output_mask(call, name).map(Stored::read).transpose()?;
                let bound = tolerance(case, mode, case.output_noise(call, name));
                Finding::Compared(match case.is_pipeline() {
                    true => pipeline::compared(name, got, &want, mask.as_ref(), bound),
                    false => compare(got, &want, mask.as_ref(), bound),
                })
            }
            None => {
                let names: Vec<&str> = returned.iter().map(|(name, _)| name.as_str()).collect();
                Finding::Missing(format!("the call returned {names:?}"))
            }
        };
        let row = output_row(call, &output.name, finding);
        match at.and_then(|at| rows.get_mut(at)).filter(|row| row.finding == Finding::Unrecorded) {
            Some(place) => *place = row,
            None => rows.push(row),
        }
    }
    Ok(rows)
}

fn output_row(call: usize, name: &str, finding: Finding) -> Row {
    Row { path: output_label(call, name), here: Vec::new(), aliased: false, finding }
}

/// Tells every unobserved row between which compared ones an error inside it would show.
fn widen(rows: &mut [Row]) {
    let compared = |row: &&Row| matches!(row.finding, Finding::Compared(_));
    for at in 0..rows.len() {
        let (earlier, later) = rows.split_at(at);
        let last = earlier.iter().rfind(compared).map(|row| row.path.clone());
        let next = later.iter().find(compared).map(|row| row.path.clone());
        if let Some(Row { finding: Finding::Unobserved { after, before, .. }, .. }) = rows.get_mut(at) {
            (*after, *before) = (last, next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Counts;
    use crate::tensor::Dtype;
    use crate::toy::{self, Toy};

    fn report_of(calls: usize, toy: Toy) -> Report {
        let dir = tempfile::tempdir().unwrap();
        toy::write(dir.path(), calls, |_| {});
        check(&Case::open(dir.path()).unwrap(), &toy).unwrap()
    }

    fn headlines(report: &Report) -> Vec<Option<&str>> {
        report.runs.iter().map(|run| run.headline().map(|row| row.path.as_str())).collect()
    }

    fn failing(run: &Run) -> Vec<&str> {
        run.rows.iter().filter(|row| !row.passes()).map(|row| row.path.as_str()).collect()
    }

    #[test]
    fn a_faithful_model_passes_both_runs() {
        let report = report_of(2, Toy::default());
        assert!(report.passes(), "{report}");
        assert_eq!(report.headline(), None);
        let counts = Counts { compared: 2 * (1 + 2 * 6 + 2), aliased: 12, unobserved: 4, unrecorded: 2, failed: 0 };
        assert_eq!(report.runs.iter().map(Run::counts).collect::<Vec<_>>(), [counts; 2]);
    }

    #[test]
    fn rows_are_in_the_order_of_return_with_outputs_after_their_call() {
        let report = report_of(2, Toy::default());
        let paths: Vec<&str> = report.runs[0].rows.iter().map(|row| row.path.as_str()).collect();
        assert_eq!(paths[0], "embed");
        assert_eq!(paths[5..8], ["layers.0.drop", "layers.0#0", "layers.0#1"]);
        assert_eq!(
            paths[15..20],
            ["output/0/sample", "output/0/calls", "output/0/spare", "embed@1", "layers.0.norm@1"]
        );
        assert_eq!(paths.last(), Some(&"output/1/spare"));
    }

    #[test]
    fn a_forced_run_charges_the_module_that_errs() {
        for (here, reference) in [
            ("embed", vec!["embed"]),
            ("blocks.0.norm", vec!["layers.0.norm"]),
            ("blocks.0.qk", vec!["layers.0.q", "layers.0.k"]),
            ("blocks.1.up", vec!["layers.1.ff"]),
            ("blocks.1#0", vec!["layers.1#1"]),
            ("blocks.1#1", vec!["layers.1#0"]),
        ] {
            let report = report_of(1, Toy { scaled: Some((here, 1.01)), ..Toy::default() });
            assert_eq!(headlines(&report), [Some(reference[0]); 2], "{report}");
            assert_eq!(failing(&report.runs[1]), reference, "{report}");
        }
    }

    #[test]
    fn a_free_run_accumulates() {
        let report = report_of(1, Toy { scaled: Some(("blocks.1.gate", 1.01)), ..Toy::default() });
        assert_eq!(failing(&report.runs[0]), ["layers.1.ff", "layers.1#0", "output/0/sample"]);
    }

    #[test]
    fn an_unobserved_module_names_the_span_that_it_widens() {
        let report = report_of(1, Toy::default());
        let row = report.runs[1].rows.iter().find(|row| row.path == "layers.0.drop").unwrap();
        let Finding::Unobserved { reason, after, before } = &row.finding else { panic!("{row}") };
        assert_eq!(reason, "identity in evaluation");
        assert_eq!((after.as_deref(), before.as_deref()), (Some("layers.0.ff"), Some("layers.0#0")));
    }

    #[test]
    fn a_path_that_the_map_does_not_cover_fails() {
        let report = report_of(1, Toy { unknown: Some("layers.0.norm"), ..Toy::default() });
        assert_eq!(headlines(&report), [Some("layers.0.norm"); 2]);
        assert!(report.headline().unwrap().contains("embed"), "{report}");
    }

    #[test]
    fn one_return_too_many_fails() {
        let report = report_of(2, Toy { repeats: Some("blocks.0.norm"), ..Toy::default() });
        let extra: Vec<&str> = failing(&report.runs[1]);
        assert!(extra.ends_with(&["layers.0.norm@2", "layers.0.norm@3"]), "{report}");
    }

    #[test]
    fn a_model_that_stops_fails_with_its_reason() {
        let report = report_of(1, Toy { stops: Some("blocks.1.norm"), ..Toy::default() });
        assert_eq!(headlines(&report), [Some("layers.1.norm"); 2]);
        assert!(report.headline().unwrap().contains("out of cheese"), "{report}");
    }

    #[test]
    fn another_element_type_fails_at_the_first_output_that_has_it() {
        let report = report_of(1, Toy { dtype: Some(Dtype::Bfloat16), ..Toy::default() });
        assert_eq!(headlines(&report), [Some("embed"); 2]);
        assert!(report.to_string().contains("bfloat16/float32"), "{report}");
    }

    #[test]
    fn ignored_rows_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        toy::write(dir.path(), 1, |_| {});
        let file = dir.path().join("reference/layers.0.ff.npy");
        let mut tensor = crate::npy::read(&file).unwrap();
        let crate::tensor::Data::F32(values) = &mut tensor.data else { panic!("not f32") };
        *values.last_mut().unwrap() = 1e6;
        crate::npy::write(&file, &tensor).unwrap();
        let case = Case::open(dir.path()).unwrap();
        assert_eq!(headlines(&check(&case, &Toy::default()).unwrap())[0], Some("layers.0.ff"));
        toy::edit_json(dir.path(), |case| case["ignore"] = serde_json::json!({"layers.0.ff": "inputs/0/mask"}));
        let case = Case::open(dir.path()).unwrap();
        assert_eq!(headlines(&check(&case, &Toy::default()).unwrap())[0], None);
    }

    #[test]
    fn noise_replaces_the_tolerance() {
        let dir = tempfile::tempdir().unwrap();
        toy::write(dir.path(), 1, |_| {});
        let case = Case::open(dir.path()).unwrap();
        let labels = case.activations.iter().map(Activation::label);
        let labels: Vec<String> = labels.chain(["output/0/sample", "output/0/calls"].map(String::from)).collect();
        let mut noise: serde_json::Map<_, _> = labels.into_iter().map(|label| (label, 0.1.into())).collect();
        noise["layers.1.norm"] = 1e-3.into();
        toy::edit_json(dir.path(), |case| case["noise"] = noise.into());
        let case = Case::open(dir.path()).unwrap();
        let with = |factor| Toy { scaled: Some(("blocks.1.norm", factor)), ..Toy::default() };
        assert_eq!(headlines(&check(&case, &with(1.0019)).unwrap()), [None; 2]);
        assert_eq!(headlines(&check(&case, &with(1.0021)).unwrap()), [Some("layers.1.norm"); 2]);
    }

    #[test]
    fn a_tensor_that_nobody_stored_is_reported_and_passes() {
        let dir = tempfile::tempdir().unwrap();
        toy::write(dir.path(), 1, |_| {});
        std::fs::remove_file(dir.path().join("reference/layers.1#0.npy")).unwrap();
        let report = check(&Case::open(dir.path()).unwrap(), &Toy::default()).unwrap();
        assert!(report.passes());
        assert_eq!(report.runs[1].counts().unrecorded, 2);
        let row = report.runs[1].rows.iter().find(|row| row.path == "layers.1#0").unwrap();
        assert_eq!(row.finding, Finding::Unrecorded);
    }
}
