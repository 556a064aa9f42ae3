//! Lets the binary find `libmlx` by itself: what a dependency asks of the linker does not reach its dependents.

fn main() {
    if let Ok(argument) = std::env::var("DEP_MLX_RPATH") {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
