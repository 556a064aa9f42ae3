//! Angles of consecutive positions, computed ahead.

use crate::{Angles, Positions, Result, Rope};
use std::{cell::RefCell, ops::Range};

/// How many positions are computed at once where a call has fewer.
const AHEAD: i32 = 256;

/// The angles of one rope at consecutive positions, kept on the device: to send a token's angles there takes longer than
/// to turn by them.
///
/// ```
/// use framework::{AngleTable, Layout, Positions, Rope};
/// let (rope, table) = (Rope::new(8, 1e4, Layout::HalfSplit), AngleTable::default());
/// for place in 0..1000 {
///     table.angles(&rope, &Positions::range(place, 1))?;
/// }
/// # Ok::<(), framework::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct AngleTable(RefCell<Option<Table>>);

#[derive(Debug)]
struct Table {
    first: i32,
    angles: Angles,
}

impl AngleTable {
    /// As [`Rope::angles`]; the rope has to be the same in every call.
    ///
    /// # Errors
    /// As [`Rope::angles`].
    pub fn angles(&self, rope: &Rope, positions: &Positions) -> Result<Angles> {
        let Some(range) = positions.as_range().filter(|range| range.len() < AHEAD as usize) else {
            return rope.angles(positions);
        };
        let mut table = self.0.borrow_mut();
        if let Some(angles) = table.as_ref().and_then(|table| table.slice(&range).transpose()) {
            return angles;
        }
        let ahead = Positions::range(range.start, AHEAD);
        if !rope.has_one_frequency_at(positions, &ahead)? {
            return rope.angles(positions);
        }
        let new = Table { first: range.start, angles: rope.angles(&ahead)? };
        new.angles.eval()?;
        let angles = new.angles.slice(0, range.len() as i32);
        table.replace(new);
        angles
    }
}

impl Table {
    /// Those of a range, if they are there.
    fn slice(&self, range: &Range<i32>) -> Result<Option<Angles>> {
        let (start, end) = (range.start.saturating_sub(self.first), range.end.saturating_sub(self.first));
        (start >= 0 && end <= AHEAD).then(|| self.angles.slice(start, end)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layout, Scaling, testing::difference};

    fn check(rope: &Rope, ranges: &[(i32, i32)]) {
        let table = AngleTable::default();
        for &(start, length) in ranges {
            let positions = Positions::range(start, length);
            let [kept, computed] =
                [table.angles(rope, &positions), rope.angles(&positions)].map(|angles| angles.unwrap().of_first);
            assert_eq!(difference(&kept, &computed), 0.0, "{start} {length}");
        }
    }

    #[test]
    fn what_is_kept_is_what_would_be_computed() {
        let plain = Rope::new(8, 1e4, Layout::HalfSplit);
        let ranges = [(0, 1), (1, 1), (2, 7), (255, 1), (256, 1), (250, 10), (3, 300), (3, 1), (600, 2), (602, 255)];
        check(&plain, &ranges);
        check(&Rope { layout: Layout::Interleaved, ..plain }, &ranges);
    }

    /// Frequencies change with the length of the text.
    #[test]
    fn nothing_is_kept_where_frequencies_change() {
        let scaling = serde_json::from_str::<Scaling>(
            r#"{"rope_type": "dynamic", "factor": 2.0, "max_position_embeddings": 100.0}"#,
        );
        let rope = Rope { scaling: scaling.unwrap(), ..Rope::new(8, 1e4, Layout::HalfSplit) };
        check(&rope, &[(0, 3), (3, 1), (98, 1), (99, 1), (100, 1), (101, 1), (400, 1), (401, 1), (2, 1)]);
    }

    #[test]
    fn other_positions_are_computed() {
        let (rope, table) = (Rope::new(8, 1e4, Layout::HalfSplit), AngleTable::default());
        for rows in [vec![vec![5, 7]], vec![vec![0, 1], vec![0, 0]]] {
            let positions = Positions::rows(&rows).unwrap();
            let [kept, computed] =
                [table.angles(&rope, &positions), rope.angles(&positions)].map(|angles| angles.unwrap().of_second);
            assert_eq!(difference(&kept, &computed), 0.0);
        }
    }
}
