//! What all measurements share: how they are timed, and what their times are compared with.

use criterion::{Criterion, SamplingMode, Throughput};
use framework::{Array, Dtype, Result};
use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use zoo::doctor;

/// Measurements, and those among them that are products of matrices.
pub struct Suite {
    criterion: Criterion,
    began: SystemTime,
    products: Vec<Product>,
}

struct Product {
    group: &'static str,
    name: String,
    operations: u64,
    dtype: Dtype,
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
        Self { criterion, began: SystemTime::now(), products: Vec::new() }
    }

    /// Products of matrices: `operations` multiplications and additions of that dtype.
    pub fn product(
        &mut self,
        group: &'static str,
        name: &str,
        (operations, dtype): (u64, Dtype),
        run: impl FnMut() -> Result<Array>,
    ) {
        self.products.push(Product { group, name: name.to_owned(), operations, dtype });
        self.array(group, name, Throughput::Elements(operations), run);
    }

    /// Work that is bound by reading `[x, …]` and writing its result.
    pub fn elementwise(&mut self, group: &'static str, name: &str, read: &[&Array], run: impl Fn() -> Result<Array>) {
        let bytes = read.iter().map(|x| x.nbytes()).sum::<usize>() + run().map_or(0, |y| y.nbytes());
        self.array(group, name, Throughput::Bytes(bytes as u64), run);
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

    /// The table of the products that were measured.
    pub fn finish(self) -> std::result::Result<(), Box<dyn std::error::Error>> {
        self.criterion.final_summary();
        let measured: Vec<(&Product, f64)> =
            self.products.iter().filter_map(|product| Some((product, product.seconds(self.began)?))).collect();
        if measured.is_empty() {
            return Ok(());
        }
        let rates = doctor::report()?.rates;
        println!("{:<40} {:>12} {:>14} {:>12}", "product", "median", "GFLOP/s", "of a matmul");
        for (product, seconds) in measured {
            let dtype = if product.dtype == Dtype::Bfloat16 { "bf16" } else { "f32" };
            let ceiling = rates.iter().find(|rate| rate.dtype == dtype).map_or(f64::NAN, |rate| rate.gflops);
            let name = format!("{}/{}", product.group, product.name);
            let gflops = product.operations as f64 / seconds / 1e9;
            println!("{name:<40} {:>9.3} ms {gflops:>14.1} {:>10.0} %", seconds * 1e3, gflops / ceiling * 100.0);
        }
        for rate in rates {
            println!("matmul of {} x {} in {}: {:.1} GFLOP/s", rate.size, rate.size, rate.dtype, rate.gflops);
        }
        Ok(())
    }
}

impl Product {
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
