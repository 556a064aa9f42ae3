//! `zoo plan`.

use super::{
    image::{RequestArguments, SubjectArguments, Wishes},
    show::Show,
    table::columns,
};
use crate::{
    Result,
    doctor::{self, Bytes},
};
use serde_json::json;

/// Shows what a request takes. Reads no weights.
pub fn run(arguments: &RequestArguments, show: &Show) -> Result<()> {
    // What a prompt says changes nothing here.
    let (prompts, subject) = ([String::new()], SubjectArguments::default());
    let asked = arguments.ask(&Wishes { prompts: &prompts, subject: &subject, size: None, previews: false })?;
    let plan = asked.generator.plan(&asked.request)?;
    let available = asked.request.memory.or_else(doctor::available_memory);
    let peak = plan.peak().map_or(0, |(bytes, _)| bytes);
    let parts = serde_json::to_value(&plan.parts).unwrap_or_default();
    let fits = available.is_none_or(|available| peak <= available);
    show.event("plan", json!({"parts": parts, "peak": peak, "available": available, "fits": fits}))?;
    let mut lines = vec![["component", "task", "weights", "beside them", "together"].map(String::from).to_vec()];
    for part in &plan.parts {
        let bytes = [part.weights, part.working, part.peak()].map(|bytes| Bytes(bytes).to_string());
        lines.push([[part.component, part.task].map(String::from).to_vec(), bytes.to_vec()].concat());
    }
    show.text(&columns(&lines))?;
    let free = available.map(|bytes| format!(" of {} that are free", Bytes(bytes))).unwrap_or_default();
    show.text(&format!("at most about {}{free}\n", Bytes(peak)))?;
    match available {
        Some(available) => plan.check(available, &asked.request),
        None => Ok(()),
    }
}
