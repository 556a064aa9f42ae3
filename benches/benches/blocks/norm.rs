//! Norms of tokens and of pictures.

use crate::suite::Suite;
use framework::{GroupNorm, Init, LayerNorm, Norm, Result, RmsNorm};

pub fn measure(suite: &mut Suite) -> Result<()> {
    let mut init = Init::default();
    let tokens = init.normal(&[1, 512, 2048], 1.0)?.get();
    let picture = init.normal(&[1, 128, 128, 256], 1.0)?.get();
    let (rms, layer) = (RmsNorm::new(2048, 1e-6, &mut init)?, LayerNorm::new(2048, 1e-6, &mut init)?);
    let group = GroupNorm::new(32, 256, 1e-6, &mut init)?;
    suite.elementwise("norm", "RMS, 512 of 2048", &[&tokens], || rms.forward(&tokens));
    suite.elementwise("norm", "layer, 512 of 2048", &[&tokens], || layer.forward(&tokens));
    suite.elementwise("norm", "group, 128 x 128 of 256", &[&picture], || group.forward(&picture));
    Ok(())
}
