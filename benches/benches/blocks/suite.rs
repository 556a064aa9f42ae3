//! What all measurements share: how they are timed, and what their times are compared with.

use criterion::{Criterion, SamplingMode, Throughput};
use framework::{Array, Dtype, Result, math};
use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};
use zoo::doctor;

/// Measurements, and those among them that have a ceiling.
pub struct Suite {
    criterion: Criterion,
    began: SystemTime,
    bounded: Vec<Bounded>,
}

struct Bounded {
    group: &'static str,
    name: String,
    by: Bound,
}

/// What cannot be faster than the machine.
enum Bound {
    /// Multiplications and additions.
    Operations(u64, Dtype),
    /// Bytes that are read and written.
    Bytes(u64),
}

impl Suite {
    /// As the command line says.
    pub fn new() -> Self {
        let criterion = Criterion::default()
            .output_directory(&results())
            .sample_size(10)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(2))
            .configure_from_args();
        Self { criterion, began: SystemTime::now(), bounded: Vec::new() }
    }

    /// Products of matrices: `operations` multiplications and additions of that dtype.
    pub fn product(
        &mut self,
        group: &'static str,
        name: &str,
        (operations, dtype): (u64, Dtype),
        run: impl FnMut() -> Result<Array>,
    ) {
        self.bounded.push(Bounded { group, name: name.to_owned(), by: Bound::Operations(operations, dtype) });
        self.array(group, name, Throughput::Elements(operations), run);
    }

    /// Work that is bound by reading `[x, …]` and writing its result.
    pub fn elementwise(&mut self, group: &'static str, name: &str, read: &[&Array], run: impl Fn() -> Result<Array>) {
        let bytes = (read.iter().map(|x| x.nbytes()).sum::<usize>() + run().map_or(0, |y| y.nbytes())) as u64;
        self.bounded.push(Bounded { group, name: name.to_owned(), by: Bound::Bytes(bytes) });
        self.array(group, name, Throughput::Bytes(bytes), run);
    }

    fn array(
        &mut self,
        group: &'static str,
        name: &str,
        throughput: Throughput,
        mut run: impl FnMut() -> Result<Array>,
    ) {
        self.any(group, name, throughput, || Ok::<_, framework::Error>(run()?.eval()?));
    }

    /// Anything that is done when `run` returns.
    pub fn any<T, E: Display>(
        &mut self,
        group: &'static str,
        name: &str,
        throughput: Throughput,
        mut run: impl FnMut() -> std::result::Result<T, E>,
    ) {
        let mut group_of = self.criterion.benchmark_group(group);
        group_of.throughput(throughput).sampling_mode(SamplingMode::Flat);
        group_of.bench_function(name, |bencher| {
            bencher.iter(|| run().unwrap_or_else(|error| panic!("{group}/{name}: {error}")));
        });
        group_of.finish();
    }

    /// The table of what was measured and has a ceiling.
    pub fn finish(self) -> std::result::Result<(), Box<dyn std::error::Error>> {
        self.criterion.final_summary();
        let measured: Vec<(&Bounded, f64)> =
            self.bounded.iter().filter_map(|bounded| Some((bounded, bounded.seconds(self.began)?))).collect();
        if measured.is_empty() {
            return Ok(());
        }
        let (rates, memory) = (doctor::report()?.rates, memory_rate()?);
        println!("{:<40} {:>12} {:>14} {:>12}", "", "median", "rate", "of the most");
        for (Bounded { group, name, by }, seconds) in measured {
            let (rate, unit, most) = match *by {
                Bound::Operations(operations, dtype) => {
                    let dtype = if dtype == Dtype::Bfloat16 { "bf16" } else { "f32" };
                    let most = rates.iter().find(|rate| rate.dtype == dtype).map_or(f64::NAN, |rate| rate.gflops);
                    (operations as f64 / seconds / 1e9, "GFLOP/s", most)
                }
                Bound::Bytes(bytes) => (bytes as f64 / seconds / 1e9, "GB/s", memory),
            };
            let name = format!("{group}/{name}");
            println!("{name:<40} {:>9.3} ms {rate:>8.1} {unit:<7} {:>9.0} %", seconds * 1e3, rate / most * 100.0);
        }
        for rate in rates {
            println!("matmul of {} x {} in {}: {:.1} GFLOP/s", rate.size, rate.size, rate.dtype, rate.gflops);
        }
        println!("addition over {} MB: {memory:.1} GB/s", STREAM >> 18);
        Ok(())
    }
}

/// Numbers of an array that no processor's cache holds.
const STREAM: i32 = 1 << 26;

/// Bytes a nanosecond that adding to a large array reads and writes: the best of five.
fn memory_rate() -> Result<f64> {
    let x = Array::zeros::<f32>(&[STREAM])?;
    x.eval()?;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let begin = Instant::now();
        math::offset(&x, 1.0)?.eval()?;
        best = best.min(begin.elapsed().as_secs_f64());
    }
    Ok(2.0 * x.nbytes() as f64 / best / 1e9)
}

impl Bounded {
    /// The median that was written since `began`.
    fn seconds(&self, began: SystemTime) -> Option<f64> {
        let file = results().join(self.group).join(&self.name).join("new/estimates.json");
        let new = fs::metadata(&file).ok()?.modified().ok()? >= began;
        let estimates: serde_json::Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        estimates["median"]["point_estimate"].as_f64().filter(|_| new).map(|nanoseconds| nanoseconds / 1e9)
    }
}

/// Where criterion keeps what it measured.
fn results() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("criterion")
}
