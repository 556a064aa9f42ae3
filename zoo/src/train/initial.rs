//! How parameters begin where a recipe says otherwise than their layers.

use super::recipe::Initial;
use crate::{Error, Result};
use framework::{Init, Module, params};

/// Draws the parameters that the rules name; the last rule that names one counts.
///
/// # Errors
/// When a rule names none.
pub(super) fn begin(module: &dyn Module, rules: &[Initial], seed: u64) -> Result<()> {
    let params = params(module);
    let mut init = Init::new(framework::Dtype::Float32, seed ^ 0x5eed);
    for rule in rules {
        let pattern = rule.pattern()?;
        let mut named = params.iter().filter(|(path, _)| pattern.matches(path)).peekable();
        if named.peek().is_none() {
            let problem = format!("`{}` names no parameter of the model; `zoo inspect` shows their paths", rule.paths);
            return Err(Error::argument("training.initial.paths", problem));
        }
        for (_, param) in named {
            param.replace(init.normal(&param.shape(), rule.deviation)?.get());
        }
    }
    Ok(())
}
