//! Python wheels as a source of native libraries: pip downloads, pip checks the checksum, Python unpacks.

use crate::{
    cache::Cache,
    fail::{Result, run},
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Lines of `package==version sha256 platform`.
const PINNED: &str = include_str!("wheels.txt");

pub struct Wheel {
    folder: &'static str,
    specification: String,
    checksums: Vec<&'static str>,
}

pub fn pinned(folder: &'static str, package: &str, version: &str) -> Result<Wheel> {
    let specification = format!("{package}=={version}");
    let checksums: Vec<_> =
        PINNED.lines().filter_map(|line| line.strip_prefix(&specification)?.split_whitespace().next()).collect();
    if checksums.is_empty() {
        return Err(format!("no checksum is known for the wheel {specification}"));
    }
    Ok(Wheel { folder, specification, checksums })
}

/// Downloads and unpacks the wheel into the cache; returns the folder that holds its content.
pub fn install(wheel: Wheel, cache: &Cache) -> Result<PathBuf> {
    let key = format!("{} {}", wheel.specification, wheel.checksums.join(" "));
    cache.folder(wheel.folder, &key, |draft| {
        let download = cache.path(&format!("{}.download", wheel.folder));
        fs::create_dir_all(&download).map_err(|error| format!("cannot write {}: {error}", download.display()))?;
        let file = fetch(&wheel, &download)?;
        let unpack = format!("Python could not unpack {}; delete it and build again", file.display());
        run(python().args(["-m", "zipfile", "-e"]).arg(&file).arg(draft), &unpack)?;
        fs::remove_dir_all(&download).map_err(|error| format!("cannot remove {}: {error}", download.display()))
    })
}

fn fetch(wheel: &Wheel, download: &Path) -> Result<PathBuf> {
    let name = &wheel.specification;
    run(python().arg("--version"), "Python 3 is needed to fetch MLX: install python3, or set PYTHON to its path")?;
    run(
        python().args(["-m", "pip", "--version"]),
        "pip is needed to fetch MLX: install python3-pip (Debian, Ubuntu) or run `python3 -m ensurepip`",
    )?;
    let requirement = download.join("requirements.txt");
    let hashes: String = wheel.checksums.iter().map(|sum| format!(" --hash=sha256:{sum}")).collect();
    fs::write(&requirement, format!("{name}{hashes}\n")).map_err(|error| error.to_string())?;
    let advice = format!(
        "pip could not download the wheel {name} with the expected checksum; is the network up, and does this \
         platform have a wheel (glibc 2.35 or newer, or macOS 14 on Apple Silicon)?"
    );
    run(
        python()
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
            .args(["--only-binary=:all:", "--require-hashes", "--requirement"])
            .arg(&requirement)
            .arg("--dest")
            .arg(download),
        &advice,
    )?;
    fs::read_dir(download)
        .map_err(|error| error.to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| format!("pip reported success but left no wheel of {name}"))
}

fn python() -> Command {
    Command::new(env::var_os("PYTHON").unwrap_or_else(|| "python3".into()))
}
