//! The framework's parts by themselves, at the widths of published models, in f32 unless their name says otherwise.
//!
//! ```sh
//! cargo bench -p benches                 # all, some minutes
//! cargo bench -p benches -- attention    # those whose name has it
//! cargo bench -p benches -- --test       # each once, to see that they run
//! ```
//!
//! What is timed ends when its result is there. Where products of matrices are most of the work, the table at the end
//! says how many operations a second that was, and the share of what `zoo doctor` measures for one large product; where
//! memory is, how many bytes a second, and the share of what one addition over a large array reaches.

mod attention;
mod decoder;
mod ffn;
mod matmul;
mod moe;
mod norm;
mod position;
mod suite;
mod text;
mod weights;

use suite::Suite;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut suite = Suite::new();
    attention::measure(&mut suite)?;
    position::measure(&mut suite)?;
    norm::measure(&mut suite)?;
    ffn::measure(&mut suite)?;
    moe::measure(&mut suite)?;
    matmul::measure(&mut suite)?;
    decoder::measure(&mut suite)?;
    weights::measure(&mut suite)?;
    text::measure(&mut suite)?;
    suite.finish()
}
