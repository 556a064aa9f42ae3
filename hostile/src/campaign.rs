//! Many inputs, in a process that may die of them.

use crate::{Bench, Tally, Target, run};
use std::{
    env,
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long one input may take before its process is ended: a process of low priority waits for others most of the time.
const PATIENCE: Duration = Duration::from_secs(600);

/// How often the process is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Inputs of a range of numbers for one target.
pub struct Campaign {
    /// The reader.
    pub target: &'static Target,
    /// The numbers of the inputs.
    pub numbers: Range<u64>,
}

impl Campaign {
    /// Runs all inputs in other processes of this program, one after the other: one that dies or hangs is followed by another
    /// that begins with the next input. The number of each input that was not answered as it should be is printed.
    ///
    /// # Errors
    /// When processes cannot be started or watched.
    pub fn run(&self) -> io::Result<Tally> {
        let record = tempfile::NamedTempFile::new()?;
        let mut total = Tally::default();
        let mut next = self.numbers.start;
        while next < self.numbers.end {
            note(record.as_file(), next, &Tally::default())?;
            let mut child = Command::new(env::current_exe()?)
                .args(["--work", "--target", self.target.name])
                .args(["--from", &next.to_string(), "--inputs", &(self.numbers.end - next).to_string()])
                .arg("--record")
                .arg(record.path())
                .stdin(Stdio::null())
                .spawn()?;
            let died = watch(&mut child, record.as_file())?;
            let (at, mut tally) = noted(record.as_file())?;
            next = at;
            if died && at < self.numbers.end {
                println!("{} {at} ended its process", self.target.name);
                tally.aborts += 1;
                next += 1;
            }
            total += tally;
        }
        Ok(total)
    }

    /// The work of such a process: keeps `record` up to date.
    ///
    /// # Errors
    /// When the fixtures cannot be read or the record cannot be written.
    pub fn work(&self, record: &Path) -> io::Result<()> {
        // Panics are counted; nobody reads a million reports of them.
        std::panic::set_hook(Box::new(|_| {}));
        let record = File::options().write(true).open(record)?;
        let mut before = Tally::default();
        run(self.target, &Bench::new()?, self.numbers.clone(), &mut |number, tally| {
            if tally.faults() > before.faults() {
                let fault = if tally.panics > before.panics { "panicked" } else { "allocated too much" };
                println!("{} {} {fault}", self.target.name, number - 1);
            }
            before = *tally;
            note(&record, number, tally)
        })?;
        Ok(())
    }
}

/// Waits for a process to end; whether it died, or had to be ended.
fn watch(child: &mut Child, record: &File) -> io::Result<bool> {
    let mut since = (u64::MAX, Instant::now());
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(!status.success());
        }
        let (at, _) = noted(record)?;
        if at != since.0 {
            since = (at, Instant::now());
        } else if since.1.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Ok(true);
        }
        thread::sleep(LOOK);
    }
}

/// Records the number of the input that is worked on, and what became of those before.
fn note(record: &File, number: u64, tally: &Tally) -> io::Result<()> {
    let [a, b, c, d, e, f] = tally.fields();
    let fields = [number, a, b, c, d, e, f].map(u64::to_le_bytes);
    record.write_all_at(&fields.concat(), 0)
}

fn noted(record: &File) -> io::Result<(u64, Tally)> {
    let mut bytes = [0; 56];
    record.read_exact_at(&mut bytes, 0)?;
    let field = |i: usize| bytes[8 * i..].first_chunk().map_or(0, |field| u64::from_le_bytes(*field));
    Ok((field(0), Tally::of_fields(std::array::from_fn(|i| field(i + 1)))))
}
