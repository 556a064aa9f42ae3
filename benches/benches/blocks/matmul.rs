//! Linear layers by how their weights are stored, `[rows, 1024] → [rows, 3072]`.

use crate::suite::Suite;
use framework::{Dtype, Init, Linear, Result};

const INPUT: i32 = 1024;
const OUTPUT: i32 = 3072;

pub fn measure(suite: &mut Suite) -> Result<()> {
    for rows in [1, 8, 512] {
        for (name, dtype) in [("f32", Dtype::Float32), ("bf16", Dtype::Bfloat16)] {
            product(suite, &format!("{name}, {rows}"), dtype, rows, None)?;
        }
        for bits in [8, 4] {
            for group in [32, 64, 128] {
                let name = format!("{bits} bits by {group}, {rows}");
                product(suite, &name, Dtype::Float32, rows, Some((group, bits)))?;
            }
        }
    }
    Ok(())
}

fn product(suite: &mut Suite, name: &str, dtype: Dtype, rows: i32, packed: Option<(i32, i32)>) -> Result<()> {
    let mut init = Init::new(dtype, 0);
    let mut linear = Linear::new(INPUT, OUTPUT, false, &mut init)?;
    if let Some((group, bits)) = packed {
        linear.weight.quantise(group, bits)?;
    }
    let x = init.normal(&[rows, INPUT], 1.0)?.get();
    let operations = 2 * [rows, INPUT, OUTPUT].map(|length| length as u64).iter().product::<u64>();
    suite.product("matmul", name, (operations, dtype), || linear.forward(&x));
    Ok(())
}
