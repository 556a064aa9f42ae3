//! What this program finds on the machine it runs on.

mod mlx;
mod rate;

pub use mlx::{Allocator, Backend, Mlx};
pub use rate::Rate;

use crate::{Result, cache::Cache};
use mlx_rs::Dtype;
use serde::Serialize;
use std::{
    env, fmt, fs,
    num::NonZero,
    path::{Path, PathBuf},
    process, thread,
};

/// What a person needs to know, or to report, when something is slow or does not work.
#[derive(Clone, Debug, Serialize)]
pub struct Doctor {
    /// The version of this crate.
    pub version: &'static str,
    /// The tensor engine and its device.
    pub mlx: Mlx,
    /// The machine.
    pub machine: Machine,
    /// The library that multiplies f32 matrices on the CPU.
    pub blas: &'static str,
    /// Matrix products on the default device.
    pub rates: Vec<Rate>,
    /// MLX's memory after that.
    pub allocator: Allocator,
    /// Where models are kept.
    pub cache: Kept,
}

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Operating system and architecture: `linux x86_64`.
    pub platform: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory in bytes, within the limit of the process's control group; nothing where the system does not tell.
    pub memory: Option<u64>,
    /// How much of it is available.
    pub available: Option<u64>,
}

/// Where models are kept.
#[derive(Clone, Debug, Serialize)]
pub struct Kept {
    /// The directory; it need not exist yet.
    pub directory: Option<PathBuf>,
    /// Why nothing can be fetched into it, if so.
    pub problem: Option<String>,
    /// The ids of the models that are there.
    pub fetched: Vec<&'static str>,
}

/// Looks at everything; takes one to three seconds, for the matrix products.
///
/// # Errors
/// MLX refuses to compute.
pub fn report() -> Result<Doctor> {
    let mlx = Mlx::now()?;
    let blas = rate::blas()?;
    let rates = vec![rate::measure(Dtype::Float32, "f32")?, rate::measure(Dtype::Bfloat16, "bf16")?];
    Ok(Doctor {
        version: env!("CARGO_PKG_VERSION"),
        mlx,
        machine: Machine::now(),
        blas,
        rates,
        allocator: Allocator::now()?,
        cache: Kept::now()?,
    })
}

impl Machine {
    fn now() -> Self {
        let (memory, available) = memory().unzip();
        Self {
            platform: format!("{} {}", env::consts::OS, env::consts::ARCH),
            cores: thread::available_parallelism().map_or(1, NonZero::get),
            memory,
            available,
        }
    }
}

/// Bytes of the memory that models are computed in that are free, where that can be told.
pub(crate) fn available_memory() -> Option<u64> {
    let free = memory().map(|(_, available)| available);
    let mlx = Mlx::now().ok()?;
    let own = mlx.device_memory.map(|bytes| bytes.saturating_sub(mlx_rs::memory::active_memory().unwrap_or(0)) as u64);
    match mlx.backend {
        Backend::Cpu => free,
        Backend::Cuda => own,
        // The GPU and the processor share one memory.
        Backend::Metal => free.into_iter().chain(own).min(),
    }
}

/// Total and available memory in bytes.
pub(crate) fn memory() -> Option<(u64, u64)> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    let (total, available) = (system.total_memory(), system.available_memory());
    Some(match system.cgroup_limits() {
        Some(limits) => (total.min(limits.total_memory), available.min(limits.free_memory)),
        None => (total, available),
    })
}

impl Kept {
    fn now() -> Result<Self> {
        Ok(match Cache::from_environment() {
            Ok(cache) => Self {
                problem: refusal(cache.root()),
                fetched: cache.fetched()?.into_iter().map(|model| model.id.as_str()).collect(),
                directory: Some(cache.root().to_owned()),
            },
            Err(error) => Self { directory: None, problem: Some(error.to_string()), fetched: Vec::new() },
        })
    }
}

/// Why nothing can be written in a directory, or in the nearest one above it that exists; found out by writing.
fn refusal(directory: &Path) -> Option<String> {
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(directory);
    // The parent of a relative path of one part is the empty path.
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let trial = existing.join(format!(".zoo-{}", process::id()));
    let tried = fs::File::create_new(&trial).and_then(|_| fs::remove_file(&trial));
    tried.err().map(|error| format!("{}: {error}", existing.display()))
}

impl fmt::Display for Doctor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<12} {value}");
        line("zoo", &self.version)?;
        line("MLX", &self.mlx.version)?;
        if let Some(library) = &self.mlx.library {
            line("library", &library.display())?;
        }
        line("backend", &self.mlx.backend.name())?;
        let named = self.mlx.device_name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        line("device", &format_args!("{}{named}", self.mlx.device))?;
        if let Some(bytes) = self.mlx.device_memory {
            line("GPU memory", &Bytes(bytes as u64))?;
        }
        let Machine { platform, cores, memory, available } = &self.machine;
        line("machine", &format_args!("{platform}, {cores} {}", if *cores == 1 { "core" } else { "cores" }))?;
        if let (Some(total), Some(available)) = (memory, available) {
            line("memory", &format_args!("{}, {} available", Bytes(*total), Bytes(*available)))?;
        }
        let Allocator { active, peak, cache } = self.allocator;
        let [active, peak, cached] = [active, peak, cache].map(|bytes| Bytes(bytes as u64));
        line("MLX memory", &format_args!("{active} active, {peak} at most, {cached} kept for reuse"))?;
        line("BLAS on CPU", &self.blas)?;
        for Rate { dtype, size, gflops } in &self.rates {
            let (rate, unit) = if *gflops < 1e4 { (*gflops, "GFLOP/s") } else { (gflops / 1e3, "TFLOP/s") };
            line(&format!("{dtype} matmul"), &format_args!("{rate:.1} {unit} at {size} x {size}"))?;
        }
        let Kept { directory, problem, fetched } = &self.cache;
        let state = problem.as_ref().map_or("writable".to_owned(), |problem| format!("not writable: {problem}"));
        match directory {
            Some(directory) => line("models in", &format_args!("{} ({state})", directory.display()))?,
            None => line("models in", &state)?,
        }
        line("fetched", &if fetched.is_empty() { "none".to_owned() } else { fetched.join(", ") })
    }
}

/// A number of bytes, shown in the unit that suits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1_000_000 => write!(f, "{:.1} kB", bytes / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", bytes / 1e6),
            _ => write!(f, "{:.1} GB", bytes / 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    #[test]
    fn the_report_is_complete_and_reads_well() {
        let doctor = report().unwrap();
        assert!(doctor.mlx.version.starts_with("0."), "{}", doctor.mlx.version);
        assert_eq!(doctor.rates.iter().map(|rate| rate.dtype).collect::<Vec<_>>(), ["f32", "bf16"]);
        assert!(doctor.rates.iter().all(|rate| rate.gflops > 0.0 && rate.size >= 128));
        assert!(doctor.machine.memory > doctor.machine.available);
        #[cfg(target_os = "linux")]
        assert!(doctor.blas.contains("gemm") && doctor.mlx.library.is_some());
        let text = doctor.to_string();
        for line in text.lines() {
            let (name, value) = line.split_at(13);
            assert!(name.ends_with(' ') && !value.trim().is_empty(), "{line}");
        }
        let json = serde_json::to_value(&doctor).unwrap();
        assert!(json["rates"][0]["gflops"].as_f64().unwrap() > 0.0);
        assert_eq!(json["mlx"]["version"], doctor.mlx.version);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let folder = tempdir().unwrap();
        assert_eq!(refusal(&folder.path().join("not/yet")), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(refusal(&file.join("below")).unwrap().contains("file"));
    }

    #[test]
    fn bytes_are_written_in_their_unit() {
        let text = [512, 98_362_432, 24_700_000_000].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(text, ["0.5 kB", "98.4 MB", "24.7 GB"]);
    }
}
