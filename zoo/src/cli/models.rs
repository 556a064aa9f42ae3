//! `zoo models`.

use super::{
    show::Show,
    table::{columns, count},
};
use crate::{
    Error, Result,
    cache::Cache,
    published::{Published, find, published},
};
use serde_json::json;
use std::path::Path;

/// Prints the row of one model as JSON.
pub fn one(id: &str, show: &Show) -> Result<()> {
    if id.starts_with("hf:") || Path::new(id).exists() {
        return Err(Error::argument("id", format!("{id} has no row; `zoo inspect {id}` shows what it is")));
    }
    let row = find(id)?;
    show.event("model", serde_json::to_value(row).unwrap_or_default())?;
    show.text(&format!("{:#}\n", json!(row)))
}

/// Lists what runs.
pub fn run(markdown: bool, show: &Show) -> Result<()> {
    let rows = published()?;
    let here: Vec<&str> = Cache::from_environment()?.fetched()?.into_iter().map(|row| row.id.as_str()).collect();
    for row in rows {
        let mut fields = serde_json::to_value(row).unwrap_or_default();
        if let Some(fields) = fields.as_object_mut() {
            fields.insert("fetched".into(), json!(here.contains(&row.id.as_str())));
        }
        show.event("model", fields)?;
    }
    if markdown {
        return show.text(&readme_table(rows));
    }
    let mut lines =
        vec![["id", "parameters", "tasks", "context", "licence", "how to get it"].map(String::from).to_vec()];
    for row in rows {
        let get = if here.contains(&row.id.as_str()) { "on this machine".into() } else { row.how_to_get() };
        lines.push(vec![
            row.id.clone(),
            count(row.parameters),
            tasks(row),
            row.language.map_or_else(String::new, |language| language.context.to_string()),
            row.licence.clone(),
            get,
        ]);
    }
    show.text(&columns(&lines))
}

fn tasks(row: &Published) -> String {
    row.tasks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The table of the README, which a test holds against this.
fn readme_table(rows: &[Published]) -> String {
    let head = "| model | parameters | tasks | licence | how to get it |\n|---|---|---|---|---|\n";
    let line = |row: &Published| {
        let Published { id, parameters, licence, .. } = row;
        format!("| `{id}` | {} | {} | {licence} | `{}` |\n", count(*parameters), tasks(row), row.how_to_get())
    };
    head.to_owned() + &rows.iter().map(line).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_the_table_that_this_prints() {
        let readme = include_str!("../../../README.md");
        let table = readme_table(published().unwrap());
        assert!(readme.contains(&table), "put this into README.md (`zoo models --markdown`):\n{table}");
    }
}
