//! Columns of text.

/// Lines whose cells stand below each other, two spaces apart.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  "));
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// A number with a unit: `1.2 M`, `345 k`.
pub fn count(number: u64) -> String {
    scale(number as f64, 1000.0, &["", " k", " M", " B", " T"])
}

/// A size: `1.2 MB`, `345 kB`.
pub fn bytes(number: u64) -> String {
    scale(number as f64, 1000.0, &[" B", " kB", " MB", " GB", " TB"])
}

fn scale(mut number: f64, step: f64, units: &[&str]) -> String {
    let mut unit = "";
    for next in units {
        unit = next;
        if number < step {
            break;
        }
        if Some(next) != units.last() {
            number /= step;
        }
    }
    let digits = if number < 10.0 && number.fract() != 0.0 { 1 } else { 0 };
    format!("{number:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_get_units() {
        assert_eq!(count(999), "999");
        assert_eq!(count(134_515_008), "135 M");
        assert_eq!(count(6_738_415_616), "6.7 B");
        assert_eq!(bytes(98_362_432), "98 MB");
    }

    #[test]
    fn cells_align() {
        let rows = [vec!["a".to_owned(), "b".into()], vec!["long".into(), "c".into()]];
        assert_eq!(columns(&rows), "a     b\nlong  c\n");
    }
}
