//! Lets binaries and benchmarks find `libmlx` by themselves; see `framework/mlx-sys`.

fn main() {
    if let Ok(argument) = std::env::var("DEP_MLX_RPATH") {
        println!("cargo:rustc-link-arg-bins={argument}");
        println!("cargo:rustc-link-arg-benches={argument}");
    }
}
