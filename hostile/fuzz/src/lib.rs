//! A target of `hostile` for libFuzzer.

/// Gives libFuzzer's inputs to the target of that name, and fails when it takes too much memory.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        thread_local! {
            static BENCH: hostile::Bench = {
                // Panics that a reader catches and reports are answers; libFuzzer aborts on those that it does not catch.
                let _ = std::panic::take_hook();
                hostile::Bench::new().expect("the fixtures can be read")
            };
        }
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
            let target = hostile::target($name).expect("there is a target of this name");
            let ((), peak) = hostile::peak_of(|| BENCH.with(|bench| drop(target.reads(bench, bytes))));
            assert!(peak <= bytes.len() + hostile::SLACK, "{peak} bytes for {}", bytes.len());
        });
    };
}
