//! Every case in `fixtures/` and below the directories in `PARITY_CASES`, one test a case.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use parity::suite::{Outcome, directories, find};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The tensor library is not thread-safe.
    arguments.test_threads.get_or_insert(1);
    let suite = Arc::new(parity::models());
    let trials = match find(&directories(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures"))) {
        Ok(cases) => cases.into_iter().map(|found| {
            let suite = Arc::clone(&suite);
            Trial::ignorable_test(found.name.clone(), move || match suite.check(&found) {
                Outcome::Passed(_) => Ok(Completion::Completed),
                Outcome::Skipped(reason) => Ok(Completion::ignored_with(reason)),
                Outcome::Failed(report) => Err(Failed::from(report.to_string())),
                Outcome::Broken(why) => Err(Failed::from(why)),
            })
        }),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
