//! Lets the binary find `libmlx` by itself; see `framework/mlx-sys`.

fn main() {
    if let Ok(argument) = std::env::var("DEP_MLX_RPATH") {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
